//! The StatefulSets: one for voters, one for learners.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::json;

use super::{hash, labels, metadata, pod, put, typed};
use crate::crd::OperatorUpgrade;
use crate::observed::{SetRole, SetSeen};
use crate::validate::Cluster;

/// The template that a set is to have, and where it comes from.
pub(super) struct Template {
    pub(super) pod: PodTemplateSpec,
    pub(super) intent: String,
    pub(super) hash: String,
    /// This operator would make another one, and was not allowed to.
    pub(super) kept: bool,
}

/// The template that exists stays as it is while the user asks for the same and the operator may not roll by itself.
pub(super) fn template(cluster: &Cluster, role: SetRole, seen: Option<&SetSeen>) -> Template {
    let intent = pod::intent(cluster, role);
    let fresh = pod::template(cluster, role);
    let fresh_hash = hash(&json!(fresh));
    let may_roll = cluster.spec.rollout.operator_upgrade == OperatorUpgrade::RollPods;
    if let Some(SetSeen {
        template: Some(old),
        pod_intent: Some(old_intent),
        template_hash: Some(old_hash),
        ..
    }) = seen
        && !may_roll
        && *old_intent == intent
        && *old_hash != fresh_hash
    {
        return Template { pod: old.clone(), intent, hash: old_hash.clone(), kept: true };
    }
    Template { pod: fresh, intent, hash: fresh_hash, kept: false }
}

/// One set. The volume claim template stays as it is seen: it cannot be changed, only made anew with the set.
pub(super) fn build(
    cluster: &Cluster,
    role: SetRole,
    seen: Option<&SetSeen>,
    template: &Template,
    replicas: i32,
) -> StatefulSet {
    let name = labels::stateful_set(&cluster.name, role);
    let selector = labels::set_selector(&cluster.name, role);
    let mut meta = metadata(cluster, &name);
    put(
        &mut meta,
        "annotations",
        json!({ labels::POD_INTENT: template.intent, labels::POD_TEMPLATE: template.hash }),
    );
    let size = match seen.and_then(|set| set.claim_bytes) {
        Some(bytes) if bytes != cluster.storage_bytes => bytes.to_string(),
        _ => cluster.spec.storage.size.0.clone(),
    };
    let mut claim = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": size } },
    });
    if let Some(class) = &cluster.spec.storage.storage_class_name {
        put(&mut claim, "storageClassName", json!(class));
    }
    typed(json!({
        "metadata": meta,
        "spec": {
            "replicas": replicas,
            "serviceName": labels::raft_service(&cluster.name),
            "podManagementPolicy": "Parallel",
            "updateStrategy": { "type": "OnDelete" },
            "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Retain", "whenScaled": "Retain" },
            "revisionHistoryLimit": 5,
            "selector": { "matchLabels": selector },
            "template": template.pod,
            "volumeClaimTemplates": [{
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": { "name": labels::VOLUME, "labels": selector },
                "spec": claim,
            }],
        },
    }))
}
