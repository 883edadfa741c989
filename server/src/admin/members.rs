//! The membership routes, founding, and the log.

use axum::Json;
use axum::extract::{Path, Query, State};
use kvnode_api::members::{
    AddMember, Done, Initialize, Initialized, MembershipChanged, PromoteMember, RemoveMember, SetVoters,
    Transfer,
};
use kvnode_api::status::Membership;
use serde::Deserialize;

use super::answer::{Body64, BodyOrDefault, Refusal};
use super::{Admin, ControlError};
use crate::config::units;

/// The condition, where a request has no body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct If {
    if_membership: Option<String>,
}

/// Query parameters, with our own error body.
fn condition(
    query: Result<Query<If>, axum::extract::rejection::QueryRejection>,
) -> Result<Option<String>, Refusal> {
    match query {
        Ok(Query(found)) => Ok(found.if_membership),
        Err(e) => Err(ControlError::Invalid(format!("the query is wrong: {}", e.body_text())).into()),
    }
}

type IfQuery = Result<Query<If>, axum::extract::rejection::QueryRejection>;

/// An address that cannot be one is refused here, before the cluster hears of it.
fn checked(addr: &str) -> Result<(), Refusal> {
    units::dial_addr(addr)
        .map(|_| ())
        .map_err(|problem| ControlError::Invalid(format!("address {addr:?}: {problem}")).into())
}

/// A node id in hex, or an address.
fn checked_target(target: &str) -> Result<(), Refusal> {
    if target.parse::<kvnode_api::Id>().is_ok() || units::dial_addr(target).is_ok() {
        return Ok(());
    }
    let shown: String = target.chars().take(80).collect();
    Err(ControlError::Invalid(format!("{shown:?} is neither a node id in hex nor host:port")).into())
}

pub(super) async fn list(State(admin): State<Admin>) -> Json<Membership> {
    Json(admin.node.status().membership)
}

pub(super) async fn add(
    State(admin): State<Admin>,
    Body64(request): Body64<AddMember>,
) -> Result<Json<MembershipChanged>, Refusal> {
    checked(&request.addr)?;
    Ok(Json(admin.node.add_member(request).await?))
}

pub(super) async fn remove(
    State(admin): State<Admin>,
    Path(target): Path<String>,
    query: IfQuery,
) -> Result<Json<MembershipChanged>, Refusal> {
    checked_target(&target)?;
    let if_membership = condition(query)?;
    Ok(Json(admin.node.remove_member(RemoveMember { target, if_membership }).await?))
}

pub(super) async fn promote(
    State(admin): State<Admin>,
    Path(target): Path<String>,
    query: IfQuery,
) -> Result<Json<MembershipChanged>, Refusal> {
    checked_target(&target)?;
    let if_membership = condition(query)?;
    Ok(Json(admin.node.promote(PromoteMember { target, if_membership }).await?))
}

pub(super) async fn set_voters(
    State(admin): State<Admin>,
    Body64(request): Body64<SetVoters>,
) -> Result<Json<MembershipChanged>, Refusal> {
    Ok(Json(admin.node.set_voters(request).await?))
}

pub(super) async fn transfer(
    State(admin): State<Admin>,
    BodyOrDefault(request): BodyOrDefault<Transfer>,
) -> Result<Json<Done>, Refusal> {
    if let Some(to) = &request.to {
        checked_target(to)?;
    }
    Ok(Json(admin.node.transfer(request).await?))
}

pub(super) async fn initialize(
    State(admin): State<Admin>,
    BodyOrDefault(request): BodyOrDefault<Initialize>,
) -> Result<Json<Initialized>, Refusal> {
    for addr in &request.members {
        checked(addr)?;
    }
    Ok(Json(admin.node.initialize(request).await?))
}

pub(super) async fn shrink_log(State(admin): State<Admin>) -> Result<Json<Done>, Refusal> {
    Ok(Json(admin.node.shrink_log().await?))
}
