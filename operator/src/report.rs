//! What users read: the one writer of a KvCluster's status, and its Events.
//!
//! Status goes out by server-side apply on the status subresource, against the resource version that the pass saw: a
//! pass on an old view, or a second operator, is refused (409) instead of writing yesterday's record over today's. It
//! is written before the step that it announces, since parts of it are write-ahead records, and only if it differs.

use kube::api::{Patch, PatchParams};
use kube::{Api, Resource as _};
use serde_json::json;

use crate::context::Context;
use crate::crd::KvCluster;
use crate::crd::reason::{EventReason, is_of_backups};
use crate::crd::status::KvClusterStatus;
use crate::error::{Error, asked};
use crate::name::ClusterName;
use crate::plan::{Note, Step};

/// Field manager of the status.
const MANAGER: &str = "kvnode-operator-status";

/// Writes the status if it is another one, after the Events that the change is made of.
///
/// # Errors
/// The API server refused (409: the object has changed since it was looked at), or did not answer.
pub async fn status(
    ctx: &Context,
    name: &ClusterName,
    seen: &KvCluster,
    status: &KvClusterStatus,
    notes: &[Note],
) -> Result<(), Error> {
    // Events first: their names make a repeat harmless, while a status that is written tells its change no more.
    ctx.recorder.tell(seen, notes).await;
    if seen.status.as_ref().unwrap_or(&KvClusterStatus::default()) == status {
        return Ok(());
    }
    let api: Api<KvCluster> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let patch = json!({
        "apiVersion": KvCluster::api_version(&()),
        "kind": KvCluster::kind(&()),
        "metadata": { "name": name.name, "resourceVersion": seen.metadata.resource_version },
        "status": own(status),
    });
    let params = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(&patch);
    let call = api.patch_status(&name.name, &params, &patch);
    asked(format!("write the status of KvCluster {}", name.name), call).await?;
    ctx.metrics.status_writes.inc();
    Ok(())
}

/// The part that is written here. A field with two owners stays when one of them takes it away, so what the backups write
/// is left to them, although the status that is compared has it.
fn own(status: &KvClusterStatus) -> KvClusterStatus {
    let conditions = status.conditions.iter().filter(|condition| !is_of_backups(&condition.type_));
    KvClusterStatus {
        backup: None,
        restore: None,
        conditions: conditions.cloned().collect(),
        ..status.clone()
    }
}

/// Tells that a step was taken.
pub async fn taken(ctx: &Context, seen: &KvCluster, step: &Step) {
    if let Some(note) = step.event() {
        ctx.recorder.tell(seen, &[note]).await;
    }
}

/// Tells that something failed. Repeats of the same failure on the same state of the object are told once.
pub async fn failed(ctx: &Context, seen: &KvCluster, what: &str, error: &Error) {
    if error.is_conflict() {
        return;
    }
    let message = format!("{what} failed: {error}. It is tried again.");
    ctx.recorder.tell(seen, &[Note { reason: EventReason::StepFailed, warning: true, message }]).await;
}
