//! PodDisruptionBudget and NetworkPolicy.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

use super::{Named, labels, metadata, typed};
use crate::backup::duty::job::{BACKUP_OF, PROGRESS_PORT};
use crate::crd::tls::ClientTls;
use crate::observed::SetRole;
use crate::validate::Cluster;

/// One voter at a time. A voter that is not ready counts, also one that is still joining: then a drain waits, which is
/// right, since the data of the others is what it is copying. Learners may go together; they have no vote.
pub(super) fn disruption_budget(cluster: &Cluster) -> Named<PodDisruptionBudget> {
    let name = cluster.name.clone();
    if cluster.spec.replicas < 3 {
        return Named { name, manifest: None };
    }
    let manifest = typed(json!({
        "metadata": metadata(cluster, &name),
        "spec": {
            "maxUnavailable": 1,
            // A pod that is broken anyway may go once the others are well.
            "unhealthyPodEvictionPolicy": "IfHealthyBudget",
            "selector": { "matchLabels": labels::set_selector(&cluster.name, SetRole::Voter) },
        },
    }));
    Named { name, manifest: Some(manifest) }
}

/// Clients from everywhere, peers from the cluster, the admin port from the cluster, the operator and who may scrape; the
/// progress of a restore for the operator.
pub(super) fn network(cluster: &Cluster) -> Named<NetworkPolicy> {
    let name = cluster.name.clone();
    if !cluster.spec.network_policy.enabled {
        return Named { name, manifest: None };
    }
    let own = json!({ "podSelector": { "matchLabels": labels::selector(&cluster.name) } });
    let mut admin = vec![own.clone(), from_operator(cluster)];
    if cluster.spec.backup.is_some() {
        // The Jobs that move backups.
        admin.push(json!({ "podSelector": { "matchLabels": { BACKUP_OF: cluster.name } } }));
    }
    admin.extend(cluster.spec.network_policy.scrape_namespaces.iter().map(|name| from_namespace(name)));
    let clients = match cluster.client_tls() {
        ClientTls::Disabled => vec![port("redis")],
        ClientTls::Optional => vec![port("redis"), port("redis-tls")],
        ClientTls::Required => vec![port("redis-tls")],
    };
    let mut ingress = vec![
        json!({ "ports": clients }),
        json!({ "ports": [port("peer")], "from": [own] }),
        json!({ "ports": [port("admin")], "from": admin }),
    ];
    if cluster.spec.bootstrap.is_some() && !cluster.formed {
        // How far the founder is with what it fetches. No container of it has the port by name.
        let progress = json!({ "protocol": "TCP", "port": PROGRESS_PORT });
        ingress.push(json!({ "ports": [progress], "from": [from_operator(cluster)] }));
    }
    let manifest = typed(json!({
        "metadata": metadata(cluster, &name),
        "spec": {
            "podSelector": { "matchLabels": labels::selector(&cluster.name) },
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }));
    Named { name, manifest: Some(manifest) }
}

fn port(name: &str) -> Value {
    json!({ "protocol": "TCP", "port": name })
}

fn from_operator(cluster: &Cluster) -> Value {
    json!({
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": cluster.operator.namespace } },
        "podSelector": { "matchLabels": { "app.kubernetes.io/name": labels::MANAGER } },
    })
}

fn from_namespace(name: &str) -> Value {
    json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": name } } })
}
