//! The Secrets of a Managed cluster: made when they are missing, the certificate anew when it is due. Passwords are in
//! users.rs.
//!
//! They are no children like the others: what they hold is not made from the spec alone. The authority is exchanged step by
//! step (authority.rs). Who deletes it gets a new one, which signs as soon as every pod trusts it; until then the pods show
//! what the lost one signed.

use std::sync::Arc;

use futures_util::future::join_all;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Resource as _};
use serde_json::json;

use super::rotation::Spread;
use super::{authority, cert_manager, users};
use crate::admin_client::{AdminClient, Deadlines, trust};
use crate::build::labels::{self, MANAGER};
use crate::clock;
use crate::context::Context;
use crate::crd::KvCluster;
use crate::crd::reason::EventReason;
use crate::crd::tls::{ClientTls, TlsMode};
use crate::error::{Error, asked};
use crate::name::ClusterName;
use crate::observe::Sight;
use crate::observe::secrets::PairSeen;
use crate::observed::SetSeen;
use crate::pki::{self, Chain, Pair};
use crate::plan::Note;

/// Sees to it that the Secrets are there and good for a while.
///
/// # Errors
/// The API server refused, or did not answer; or a name cannot stand in a certificate.
pub(super) async fn keep(
    ctx: &Context,
    name: &ClusterName,
    sight: &Sight,
    now: Timestamp,
) -> Result<(), Error> {
    let mut ca = sight.secrets.pods.as_ref().map(|seen| seen.ca.clone()).filter(|ca| !ca.is_empty());
    match sight.object.spec.tls.mode {
        TlsMode::Managed => ca = certificates(ctx, name, sight, now).await?.or(ca),
        TlsMode::CertManager => {
            let names = names(&sight.object, name);
            cert_manager::ask(ctx, name, &sight.object, &names).await?;
        }
        TlsMode::Secret | TlsMode::Disabled => {}
    }
    // Made once, so what clients trust must be known by then.
    let is_complete = ca.is_some() || !by_tls(&sight.object);
    if is_complete {
        users::keep(ctx, name, sight, (ca.as_deref(), now)).await?;
    }
    match &sight.secrets.clients_fault {
        None => Ok(()),
        Some(fault) => Err(Error::Given { what: fault.clone(), blocks: needs_clients(sight) }),
    }
}

/// Pods are to mount the authorities of clients, which cannot be used, and do not yet: new ones would not start.
pub(super) fn needs_clients(sight: &Sight) -> bool {
    let asked = sight.object.spec.tls.client_auth.as_ref().map(|asked| asked.secret_name.as_str());
    let volumes = |set: &SetSeen| {
        let spec = set.template.as_ref().and_then(|template| template.spec.as_ref());
        let volumes = spec.into_iter().flat_map(|spec| spec.volumes.iter().flatten());
        let mut secrets = volumes.filter_map(|volume| volume.secret.as_ref()?.secret_name.as_deref());
        secrets.any(|secret| Some(secret) == asked)
    };
    let sets = &sight.observed.sets;
    sight.secrets.clients_fault.is_some() && (sets.is_empty() || !sets.values().all(volumes))
}

/// Makes the certificate of a cluster that is otherwise left alone (paused, only looked at, wrong) anew when it is due: at its
/// end the pods would refuse each other.
///
/// # Errors
/// As [`keep`].
pub(super) async fn renew(
    ctx: &Context,
    name: &ClusterName,
    sight: &Sight,
    now: Timestamp,
) -> Result<(), Error> {
    let (Some(authority), Some(pods)) = (&sight.secrets.authority, &sight.secrets.pods) else {
        return Ok(());
    };
    if authority.anothers || pods.anothers || !pki::is_due(&pods.pair.cert, now) {
        return Ok(());
    }
    let names = names(&sight.object, name);
    let signed_for = signed_for(&authority.chain.current, &names);
    let pair = pki::of_pods(&authority.chain.current, names, now)?;
    write(ctx, name, sight, &pair, (&authority.chain.trusted(), signed_for)).await
}

/// Authority and certificate of a Managed cluster. Returns the authority's certificate.
async fn certificates(
    ctx: &Context,
    name: &ClusterName,
    sight: &Sight,
    now: Timestamp,
) -> Result<Option<String>, Error> {
    let seen = &sight.secrets;
    if seen.authority.as_ref().is_some_and(|seen| seen.anothers)
        || seen.pods.as_ref().is_some_and(|seen| seen.anothers)
    {
        return Ok(None);
    }
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let (chain, word) = chain(ctx, name, sight, (&api, now)).await?;
    let trusted = chain.trusted();
    let names = names(&sight.object, name);
    let mut signed_for = signed_for(&chain.current, &names);
    let mut old = seen.pods.as_ref().filter(|seen| !is_due(Some(seen), &signed_for, now));
    if old.is_none() && chain.previous.is_some() {
        // Of the authority before, which pods trust whatever they have read by now.
        let shown = seen.pods.as_ref().filter(|seen| is_usable(seen, now));
        let spread = accepted(ctx, sight, &chain, &chain.current).await?;
        if let Some(shown) = shown.filter(|_| !authority::signs(word.as_deref(), spread, now)) {
            old = Some(shown);
            signed_for = shown.signed_for.clone().unwrap_or_default();
        }
    }
    if old.is_some_and(|seen| seen.ca == trusted) {
        return Ok(Some(trusted));
    }
    let pair = match old {
        Some(seen) => seen.pair.clone(),
        None => pki::of_pods(&chain.current, names, now)?,
    };
    write(ctx, name, sight, &pair, (&trusted, signed_for)).await?;
    Ok(Some(trusted))
}

/// Writes what the pods mount.
async fn write(
    ctx: &Context,
    name: &ClusterName,
    sight: &Sight,
    pair: &Pair,
    (trusted, signed_for): (&str, String),
) -> Result<(), Error> {
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let secret = labels::tls_secret(&name.name);
    let body = secret_of(&sight.object, name, &secret, pair, (trusted, Some(signed_for)));
    let params = PatchParams { field_manager: Some(MANAGER.into()), force: true, ..PatchParams::default() };
    ctx.secrets.forget(name);
    asked(format!("apply Secret {secret}"), api.patch(&secret, &params, &Patch::Apply(&body))).await?;
    ctx.metrics.child_writes.inc();
    let renewed = sight.secrets.pods.as_ref().is_none_or(|seen| seen.pair != *pair);
    tracing::info!(cluster = %name, secret, renewed, "certificate written");
    Ok(())
}

/// The authority, made if there is none, and one step further if it is being exchanged; and the word that says how far.
async fn chain(
    ctx: &Context,
    name: &ClusterName,
    sight: &Sight,
    (api, now): (&Api<Secret>, Timestamp),
) -> Result<(Chain, Option<String>), Error> {
    let secret = labels::ca_secret(&name.name);
    let Some(seen) = &sight.secrets.authority else {
        let shown = sight.secrets.pods.as_ref().filter(|seen| is_usable(seen, now));
        let previous = shown.map(|seen| seen.ca.clone()).filter(|ca| !ca.is_empty());
        let chain = Chain { current: pki::authority(name, now)?, next: None, previous };
        let word = chain.previous.is_some().then(|| format!("moving {now}"));
        let object = authority_of(&sight.object, name, &chain, word.as_deref());
        // Created, not applied: of two operators one makes it, and the other finds it.
        ctx.secrets.forget(name);
        asked(format!("create Secret {secret}"), api.create(&PostParams::default(), &object)).await?;
        tracing::info!(cluster = %name, secret, "authority made");
        return Ok((chain, word));
    };
    let moment = authority::Moment {
        time: now,
        accepted: match &seen.chain.next {
            Some(next) => accepted(ctx, sight, &seen.chain, next).await?,
            None => Spread::Behind,
        },
        served: served(sight, name, &seen.chain),
    };
    let turned = authority::next(seen.rotate.as_deref(), &seen.chain, moment, || pki::authority(name, now))?;
    let Some((chain, word)) = turned else { return Ok((seen.chain.clone(), seen.rotate.clone())) };
    let text = |text: &str| json!(ByteString(text.as_bytes().to_vec()));
    let patch = json!({
        "metadata": { "resourceVersion": seen.version, "annotations": { labels::ROTATE: word } },
        "data": {
            "tls.crt": text(&chain.current.cert),
            "tls.key": text(&chain.current.key),
            "ca.crt": text(&chain.trusted()),
            "next.crt": chain.next.as_ref().map(|next| text(&next.cert)),
            "next.key": chain.next.as_ref().map(|next| text(&next.key)),
            "previous.crt": chain.previous.as_deref().map(text),
        },
    });
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    ctx.secrets.forget(name);
    asked(format!("change Secret {secret}"), api.patch(&secret, &params, &Patch::Merge(&patch))).await?;
    ctx.metrics.child_writes.inc();
    let message = authority::told(&secret, word.as_deref());
    let note = Note { reason: EventReason::AuthorityRotating, warning: false, message };
    ctx.recorder.tell(&*sight.object, &[note]).await;
    Ok((chain, word))
}

/// Which pods let a certificate in that this authority signed: tried by a handshake and a question, for its word alone would
/// not tell.
async fn accepted(ctx: &Context, sight: &Sight, chain: &Chain, signer: &Pair) -> Result<Spread, Error> {
    let own = pki::of_operator(signer, clock::wall())?;
    let Ok(client) = trust::client(&chain.trusted(), &own) else { return Ok(Spread::Behind) };
    let asks = AdminClient::new(Arc::new(ctx.trust.shown_as(client)), Deadlines::default());
    let pods = sight.observed.pods.values().filter(|pod| !pod.deleting);
    let asked = pods.map(async |pod| {
        let addr = sight.addresses.get(&pod.name).filter(|_| pod.node.status().is_some())?;
        Some(asks.status(addr).await.is_ok())
    });
    Ok(Spread::of(&join_all(asked).await))
}

/// Which pods showed the certificate of the Secret, if the authority that signs now has signed that.
fn served(sight: &Sight, name: &ClusterName, chain: &Chain) -> Spread {
    let signed_for = signed_for(&chain.current, &names(&sight.object, name));
    let is_new =
        sight.secrets.pods.as_ref().is_some_and(|seen| seen.signed_for.as_ref() == Some(&signed_for));
    match &sight.observed.tls {
        Some(seen) if is_new && seen.served == seen.running => {
            if seen.running > 0 && seen.running >= seen.pods { Spread::Everywhere } else { Spread::Untold }
        }
        _ => Spread::Behind,
    }
}

/// Whether clients can connect by TLS.
pub(super) fn by_tls(object: &KvCluster) -> bool {
    object.spec.tls.mode != TlsMode::Disabled && object.spec.tls.clients != ClientTls::Disabled
}

/// Metadata of a Secret of ours.
pub(super) fn metadata(object: &KvCluster, name: &ClusterName, secret: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(secret.to_owned()),
        namespace: Some(name.namespace.clone()),
        labels: Some(labels::common(&name.name)),
        owner_references: object.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// Whether the certificate of the pods is to be made (anew).
fn is_due(seen: Option<&PairSeen>, signed_for: &str, now: Timestamp) -> bool {
    seen.is_none_or(|seen| {
        seen.signed_for.as_deref() != Some(signed_for)
            || seen.pair.key.is_empty()
            || pki::is_due(&seen.pair.cert, now)
    })
}

/// Whether pods can go on showing it for now.
fn is_usable(seen: &PairSeen, now: Timestamp) -> bool {
    !seen.anothers
        && !seen.pair.key.is_empty()
        && pki::life(&seen.pair.cert).is_some_and(|(_, end)| now < end)
}

/// Everything that pods are called by: each other, their Services, and what the user adds.
fn names(object: &KvCluster, name: &ClusterName) -> Vec<String> {
    let (base, namespace) = (&name.name, &name.namespace);
    let pods = format!("*.{}.{namespace}.svc", labels::raft_service(base));
    let mut names =
        vec![format!("{pods}.cluster.local"), pods, "localhost".into(), "127.0.0.1".into(), "::1".into()];
    for service in [base.clone(), labels::leader_service(base), labels::read_service(base)] {
        let inside = format!("{service}.{namespace}");
        names.extend([format!("{inside}.svc.cluster.local"), format!("{inside}.svc"), inside, service]);
    }
    names.extend(object.spec.tls.names.iter().map(|name| name.0.clone()));
    names
}

/// Authority and names of a certificate, as a hash.
fn signed_for(authority: &Pair, names: &[String]) -> String {
    crate::build::hash(&json!({ "authority": authority.cert, "names": names }))
}

fn secret_of(
    object: &KvCluster,
    name: &ClusterName,
    secret: &str,
    pair: &Pair,
    (ca, signed_for): (&str, Option<String>),
) -> Secret {
    let data = [("tls.crt", pair.cert.as_str()), ("tls.key", &pair.key), ("ca.crt", ca)];
    let bytes = |(key, text): (&str, &str)| (key.to_owned(), ByteString(text.as_bytes().to_vec()));
    Secret {
        metadata: ObjectMeta {
            annotations: signed_for.map(|mark| [(labels::SIGNED_FOR.to_owned(), mark)].into()),
            ..metadata(object, name, secret)
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data.map(bytes).into()),
        ..Secret::default()
    }
}

/// `<name>-ca`, new.
fn authority_of(object: &KvCluster, name: &ClusterName, chain: &Chain, word: Option<&str>) -> Secret {
    let mut secret =
        secret_of(object, name, &labels::ca_secret(&name.name), &chain.current, (&chain.trusted(), None));
    let previous = chain
        .previous
        .as_ref()
        .map(|cert| ("previous.crt".to_owned(), ByteString(cert.clone().into_bytes())));
    secret.data.get_or_insert_default().extend(previous);
    secret.metadata.annotations = word.map(|word| [(labels::ROTATE.to_owned(), word.to_owned())].into());
    secret
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::KvClusterSpec;

    fn cluster() -> (KvCluster, ClusterName) {
        let spec: KvClusterSpec =
            serde_json::from_value(json!({ "tls": { "mode": "Managed", "names": ["cart.example.com"] } }))
                .unwrap();
        (KvCluster::new("cart", spec), ClusterName { namespace: "shop".into(), name: "cart".into() })
    }

    #[test]
    fn a_certificate_is_made_anew_when_it_is_old_or_for_something_else() {
        let (object, name) = cluster();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let authority = pki::authority(&name, now).unwrap();
        let names = names(&object, &name);
        assert!(
            names.contains(&"cart.example.com".to_owned()) && names.contains(&"cart.shop.svc".to_owned())
        );
        let signed_for = signed_for(&authority, &names);
        let made = pki::of_pods(&authority, names.clone(), now).unwrap();
        let good = PairSeen {
            pair: made,
            ca: authority.cert.clone(),
            signed_for: Some(signed_for.clone()),
            anothers: false,
        };
        assert!(!is_due(Some(&good), &signed_for, now));
        assert!(is_due(None, &signed_for, now));
        let later = Timestamp::from_second(now.as_second() + 61 * 86_400).unwrap();
        assert!(is_due(Some(&good), &signed_for, later));
        let other = pki::authority(&name, now).unwrap();
        assert!(is_due(Some(&good), &super::signed_for(&other, &names), now));
        assert!(is_due(Some(&good), &super::signed_for(&authority, &names[1..]), now));
        let keyless = PairSeen { pair: Pair { cert: good.pair.cert.clone(), key: String::new() }, ..good };
        assert!(is_due(Some(&keyless), &signed_for, now));
    }
}
