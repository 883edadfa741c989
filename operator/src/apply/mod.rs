//! What a plan says, done: children, volumes, labels, live settings, and at most one step.
//!
//! ```text
//! secrets     authority and certificate of a Managed cluster, when they are missing or due, or what cert-manager is asked
//!             for; passwords, the ACL file. Where nothing may be changed a certificate is renewed all the same
//! children    server-side apply, forced, by the manager kvnode-operator; none that is as it was applied
//! volumes     merge patches with the uid
//! labels      merge patches with the uid
//! live        PUT /v1/log-filter, then the annotation that remembers it
//! step        see step.rs; after the status that announces it is written
//! ```
//!
//! Invariants
//! - Each write names what it expects (uid, resource version, membership), so a second operator or an old view does
//!   nothing instead of harm.
//! - In a settled cluster nothing is written.

mod authority;
mod cert_manager;
mod manifest;
pub mod memory;
mod patch;
mod rotation;
mod secrets;
mod step;
mod users;

pub use step::take;

use crate::clock;
use crate::context::Context;
use crate::error::Error;
use crate::name::ClusterName;
use crate::observe::Sight;
use crate::plan::Plan;

/// Everything of the plan but its step.
///
/// # Errors
/// The first write that failed; what follows it waits for the next pass. What follows the Secrets does not.
pub async fn settle(ctx: &Context, name: &ClusterName, sight: &Sight, plan: &Plan) -> Result<(), Error> {
    // Labels first: they cost nothing, wait for nothing, and clients of the Services feel them.
    for change in &plan.labels {
        patch::labels(ctx, name, change).await?;
    }
    let now = clock::wall();
    let mut kept = Ok(());
    if let Some(children) = &plan.children {
        // A pod waits for what it mounts; whatever is wrong with that, the rest of the cluster is looked after.
        kept = secrets::keep(ctx, name, sight, now).await;
        // But a pod that would wait for ever is not made of one that runs.
        if !secrets::needs_clients(sight) {
            manifest::apply(ctx, name, sight, children).await?;
        }
    } else {
        secrets::renew(ctx, name, sight, now).await?;
    }
    for change in &plan.volumes {
        patch::volume(ctx, name, sight, change).await?;
    }
    for change in &plan.live {
        patch::live(ctx, name, sight, change).await?;
    }
    kept
}

pub use patch::labels as label;
