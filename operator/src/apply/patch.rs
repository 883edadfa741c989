//! Small changes of pods and volumes: merge patches that name the uid.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource as _};
use kvnode_api::LogFilter;
use serde_json::{Map, Value, json};

use crate::build::labels::{LIVE_CONFIG, MANAGER};
use crate::context::Context;
use crate::error::{Error, asked, asked_opt};
use crate::name::ClusterName;
use crate::observe::Sight;
use crate::plan::{LabelChange, LiveChange, VolumeChange};

fn params() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() }
}

/// Absent values become null, which is how a merge patch removes.
fn values(changes: &BTreeMap<String, Option<String>>) -> Map<String, Value> {
    changes.iter().map(|(key, value)| (key.clone(), json!(value))).collect()
}

/// Labels and annotations of a pod. A pod that is gone, or another one by now, needs none.
///
/// # Errors
/// The API server refused otherwise, or did not answer.
pub async fn labels(ctx: &Context, name: &ClusterName, change: &LabelChange) -> Result<(), Error> {
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let patch = json!({ "metadata": {
        "uid": change.uid,
        "labels": values(&change.labels),
        "annotations": values(&change.annotations),
    } });
    let (params, patch) = (params(), Patch::Merge(&patch));
    asked_opt(format!("label pod {}", change.pod), api.patch(&change.pod, &params, &patch)).await.map(|_| ())
}

/// Size, records and owner of a volume.
///
/// # Errors
/// The API server refused, or did not answer.
pub(super) async fn volume(
    ctx: &Context,
    name: &ClusterName,
    sight: &Sight,
    change: &VolumeChange,
) -> Result<(), Error> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let doing = format!("change volume {}", change.name);
    let mut metadata = json!({ "uid": change.uid, "annotations": values(&change.annotations) });
    if let Some(owned) = change.owned {
        // A merge patch replaces the list of owners, so it is read, and the version that was read is named.
        let claim = asked(doing.clone(), api.get(&change.name)).await?;
        let mut owners = claim.metadata.owner_references.unwrap_or_default();
        owners.retain(|owner| Some(&owner.uid) != sight.object.metadata.uid.as_ref());
        if owned {
            // Not the controller: the StatefulSet may want to be that.
            owners.extend(sight.object.owner_ref(&()));
        }
        metadata["ownerReferences"] = json!(owners);
        metadata["resourceVersion"] = json!(claim.metadata.resource_version);
    }
    let mut patch = json!({ "metadata": metadata });
    if let Some(request) = &change.request {
        patch["spec"] = json!({ "resources": { "requests": { "storage": request } } });
    }
    asked(doing, api.patch(&change.name, &params(), &Patch::Merge(&patch))).await.map(|_| ())
}

/// Settings that a running node takes, then the annotation that remembers it. A node that does not answer gets them in
/// a later pass: it is no reason to hold the others up.
///
/// # Errors
/// The API server refused, or did not answer.
pub(super) async fn live(
    ctx: &Context,
    name: &ClusterName,
    sight: &Sight,
    change: &LiveChange,
) -> Result<(), Error> {
    let Some(addr) = sight.addresses.get(&change.pod) else { return Ok(()) };
    let filter = LogFilter { filter: change.log_filter.clone() };
    if let Err(error) = ctx.nodes.set_log_filter(addr, &filter).await {
        ctx.metrics.node_errors.with_label_values(&[error.kind()]).inc();
        tracing::warn!(cluster = %name, pod = change.pod, %error, "set the log filter");
        return Ok(());
    }
    let annotations = [(LIVE_CONFIG.to_owned(), Some(change.hash.clone()))].into();
    let remembered = LabelChange {
        pod: change.pod.clone(),
        uid: change.uid.clone(),
        labels: BTreeMap::new(),
        annotations,
    };
    labels(ctx, name, &remembered).await
}
