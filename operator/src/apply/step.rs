//! The one step of a plan, taken.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kvnode_api::members::{AddMember, Initialize, SetVoters};
use serde_json::json;

use super::patch;
use crate::build::labels::{MANAGER, RESIZE};
use crate::clock;
use crate::context::Context;
use crate::error::{Error, asked, asked_opt};
use crate::name::ClusterName;
use crate::observe::Sight;
use crate::plan::{LabelChange, Step};

/// Of the reason of a refusal, characters.
const RESIZE_WHY_MAX: usize = 400;

/// Takes the step. True if something was done that was not done before.
///
/// # Errors
/// It was refused, failed, or its end was not seen. The next pass looks before it decides anew.
pub async fn take(ctx: &Context, name: &ClusterName, sight: &Sight, step: &Step) -> Result<bool, Error> {
    if !step.is_act() {
        return Ok(false);
    }
    let taken = carry_out(ctx, name, sight, step).await;
    let count = if taken.is_ok() { &ctx.metrics.steps } else { &ctx.metrics.step_failures };
    count.with_label_values(&[step.kind()]).inc();
    if let Err(Error::Node(error)) = &taken {
        ctx.metrics.node_errors.with_label_values(&[error.kind()]).inc();
    }
    let kind = step.kind();
    match &taken {
        Ok(changed) => {
            tracing::info!(cluster = %name, kind, changed, step = %step, "step");
        }
        Err(error) => {
            tracing::warn!(cluster = %name, kind, %error, step = %step, "step failed");
        }
    }
    taken
}

async fn carry_out(ctx: &Context, name: &ClusterName, sight: &Sight, step: &Step) -> Result<bool, Error> {
    let at = |pod: &str| address(sight, step, pod);
    match step {
        Step::Settled | Step::Wait(_) => Ok(false),
        // The write of the status, which has happened, is the step.
        Step::RecordClusterId { .. } => Ok(true),
        Step::Initialize { pod, cluster_id, members } => {
            let request = Initialize { cluster_id: Some(*cluster_id), members: members.clone() };
            Ok(ctx.nodes.initialize(&at(pod)?, &request).await?.changed)
        }
        Step::AddLearner { addr, via, if_membership, .. } => {
            let if_membership = if_membership.clone();
            let request = AddMember { addr: addr.clone(), if_membership, promote: false };
            Ok(ctx.nodes.add_member(&at(via)?, &request).await?.changed)
        }
        Step::SetVoters { voters, via, if_membership, .. } => {
            let voters = voters.iter().copied().collect();
            let request = SetVoters { voters, if_membership: if_membership.clone() };
            Ok(ctx.nodes.set_voters(&at(via)?, &request).await?.changed)
        }
        Step::RemoveMember { id, via, if_membership, .. } => {
            let (addr, target) = (at(via)?, id.to_string());
            Ok(ctx.nodes.remove_member(&addr, &target, if_membership.as_deref()).await?.changed)
        }
        Step::Transfer { to, via, .. } => {
            Ok(ctx.nodes.transfer(&at(via)?, Some(&to.to_string())).await?.changed)
        }
        Step::DeletePod { pod, uid, force, .. } => {
            let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &name.namespace);
            let mut params = only(uid, PropagationPolicy::Background);
            params.grace_period_seconds = force.then_some(0);
            delete(format!("delete pod {pod}"), api, pod, &params).await
        }
        Step::ResizePod { .. } => resize(ctx, name, step).await,
        Step::DeleteVolume { volume, uid, .. } => {
            let api: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), &name.namespace);
            let params = only(uid, PropagationPolicy::Background);
            delete(format!("delete volume {volume}"), api, volume, &params).await
        }
        Step::Shrink { name: set, from, to, .. } => shrink(ctx, name, set, (*from, *to)).await,
        Step::RecreateSet { name: set, uid, .. } => {
            let api: Api<StatefulSet> = Api::namespaced(ctx.client.clone(), &name.namespace);
            let params = only(uid, PropagationPolicy::Orphan);
            delete(format!("delete StatefulSet {set} without its pods"), api, set, &params).await
        }
    }
}

fn address(sight: &Sight, step: &Step, pod: &str) -> Result<String, Error> {
    let missing = || Error::NoAddress { doing: step.to_string(), pod: pod.to_owned() };
    sight.addresses.get(pod).cloned().ok_or_else(missing)
}

/// Written down, then asked for. A refusal is no failure: it is written down, too, and the pod is restarted.
async fn resize(ctx: &Context, name: &ClusterName, step: &Step) -> Result<bool, Error> {
    let Step::ResizePod { pod, uid, revision, asked: told, container, resources } = step else {
        return Ok(false);
    };
    let record = async |text: String| {
        let annotations = [(RESIZE.to_owned(), Some(text))].into();
        let change = LabelChange { pod: pod.clone(), uid: uid.clone(), annotations, labels: BTreeMap::new() };
        patch::labels(ctx, name, &change).await
    };
    if !told {
        record(format!("asked {revision} {}", clock::wall())).await?;
    }
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let body = json!({
        "metadata": { "uid": uid },
        "spec": { "containers": [{ "name": container, "resources": resources }] },
    });
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    let body = Patch::Strategic(&body);
    let call = api.patch_subresource("resize", pod, &params, &body);
    match asked(format!("resize pod {pod}"), call).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_refusal() => {
            tracing::info!(cluster = %name, pod, %error, "not resized in place");
            let why: String = error.to_string().chars().take(RESIZE_WHY_MAX).collect();
            record(format!("refused {revision} {why}")).await?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn only(uid: &str, propagation: PropagationPolicy) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        propagation_policy: Some(propagation),
        ..DeleteParams::default()
    }
}

/// False if it is gone already.
async fn delete<K>(doing: String, api: Api<K>, name: &str, params: &DeleteParams) -> Result<bool, Error>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    Ok(asked_opt(doing, api.delete(name, params)).await?.is_some())
}

/// `spec.replicas`, only if it is `from`: read, compared, and written against the version that was read.
async fn shrink(ctx: &Context, name: &ClusterName, set: &str, (from, to): (i32, i32)) -> Result<bool, Error> {
    let api: Api<StatefulSet> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let doing = format!("scale StatefulSet {set} to {to}");
    let current = asked(doing.clone(), api.get(set)).await?;
    let replicas = current.spec.as_ref().and_then(|spec| spec.replicas);
    if replicas != Some(from) {
        return Ok(false);
    }
    let patch = json!({
        "metadata": { "resourceVersion": current.metadata.resource_version },
        "spec": { "replicas": to },
    });
    // Under the name of the applies, so that the field stays theirs.
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    asked(doing, api.patch(set, &params, &Patch::Merge(&patch))).await?;
    Ok(true)
}
