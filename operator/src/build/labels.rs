//! Every label, annotation, port and name that the operator gives.

use std::collections::BTreeMap;

use crate::observed::SetRole;

/// Value of `app.kubernetes.io/name` and `managed-by`, name of the field manager.
pub const APP: &str = "kvnode";
/// Field manager of server-side apply, and value of `app.kubernetes.io/managed-by`.
pub const MANAGER: &str = "kvnode-operator";

/// Label: name of the KvCluster. On every child, pod and volume; part of every selector.
pub const CLUSTER: &str = "kvnode.dev/cluster";
/// Label: [`SetRole::as_str`]. On pods and volumes; part of the selectors of the StatefulSets.
pub const SET: &str = "kvnode.dev/set";
/// Label of a pod: role of its member as the newest pass saw it, `leader`, `follower` or `learner`. For people.
pub const ROLE: &str = "kvnode.dev/role";
/// Label of a pod: `true` on the one that leads. Selector of `<name>-leader`.
pub const LEADER: &str = "kvnode.dev/leader";
/// Label of a pod: `true` where reads should go. Selector of `<name>-read`.
pub const READ: &str = "kvnode.dev/read";
/// Annotation of a pod: `<cluster id>/<term>` that its role labels were decided by; an older term never overwrites it.
pub const TERM: &str = "kvnode.dev/term";
/// Value of [`LEADER`] and [`READ`].
pub const TRUE: &str = "true";

/// Annotation of a StatefulSet: hash of what the user's spec asks of pods. Does not depend on the operator's version.
pub const POD_INTENT: &str = "kvnode.dev/pod-intent";
/// Annotation of a StatefulSet: hash of the pod template as the operator that applied it built it.
pub const POD_TEMPLATE: &str = "kvnode.dev/pod-template";
/// Annotation of a pod template: hash of the settings that need a restart.
pub const CONFIG: &str = "kvnode.dev/config";
/// Annotation of a pod template: hash of everything in it but the server's `resources`.
pub const POD_SHAPE: &str = "kvnode.dev/pod-shape";
/// Annotation of a pod: `asked`, `done` or `refused`, the revision that it was to get in place, and more.
pub const RESIZE: &str = "kvnode.dev/resize";
/// Annotation of a pod: hash of the live settings that were applied to it.
pub const LIVE_CONFIG: &str = "kvnode.dev/live-config";
/// Annotation of a child: hash of the manifest that was applied; nothing is written while it is the same.
pub const INTENT: &str = "kvnode.dev/intent";
/// Annotation of a volume: node id of the data on it.
pub const NODE_ID: &str = "kvnode.dev/node-id";
/// Annotation of a volume: cluster id of the data on it.
pub const CLUSTER_ID: &str = "kvnode.dev/cluster-id";
/// Annotation of a volume: node id of a removed member whose data it still holds.
pub const RETIRED: &str = "kvnode.dev/retired";
/// Annotation of a KvCluster, set by people: `show` puts the next steps into the status and does none of them.
pub const PLAN: &str = "kvnode.dev/plan";
/// Annotation of a KvCluster, set by people: revision that a manual rollout may finish.
pub const APPROVE: &str = "kvnode.dev/approve-rollout";

/// Name of the server container.
pub const CONTAINER: &str = "server";
/// Name of the volume claim template; a claim is `data-<pod>`.
pub const VOLUME: &str = "data";
/// Name of the pod's volume with the certificate.
pub const TLS_VOLUME: &str = "tls";
/// Name of the pod's volume with the passwords.
pub const AUTH_VOLUME: &str = "auth";
/// Client port of a pod.
pub const CLIENT_PORT: i32 = 4920;
/// Peer port of a pod.
pub const PEER_PORT: i32 = 14920;
/// Admin port of a pod.
pub const ADMIN_PORT: i32 = 24920;
/// Port of a pod for clients by TLS, where [`CLIENT_PORT`] is in the clear; else that one speaks TLS.
pub const TLS_PORT: i32 = 4921;
/// Client port of the Services for TLS.
pub const SERVICE_TLS_PORT: i32 = 6380;
/// Client port of the Services.
pub const SERVICE_PORT: i32 = 6379;

/// Annotation of the Secret with the certificate: hash of the authority and the names that it was signed for.
pub const SIGNED_FOR: &str = "kvnode.dev/signed-for";

/// Name of the Secret of the authority.
#[must_use]
pub fn ca_secret(cluster: &str) -> String {
    format!("{cluster}-ca")
}

/// Name of the Secret of the pods' certificate.
#[must_use]
pub fn tls_secret(cluster: &str) -> String {
    format!("{cluster}-tls")
}

/// Annotation of a Secret with a password: how far its rotation is; `begin` and `finish` are set by people.
pub const ROTATE: &str = "kvnode.dev/rotate";

/// Annotation of a Secret with a password: since when it has been handed out.
pub const PASSWORD_SINCE: &str = "kvnode.dev/password-since";

/// Name of the Secret with the ACL file of the users.
#[must_use]
pub fn acl_secret(cluster: &str) -> String {
    format!("{cluster}-acl")
}

/// Name of the Secret with the password of a user.
#[must_use]
pub fn user_secret(cluster: &str, user: &str) -> String {
    format!("{cluster}-user-{user}")
}

/// Name of the Secret with the password.
#[must_use]
pub fn auth_secret(cluster: &str) -> String {
    format!("{cluster}-auth")
}

/// Name of the headless Service.
#[must_use]
pub fn raft_service(cluster: &str) -> String {
    format!("{cluster}-raft")
}

/// Name of the Service of the leader.
#[must_use]
pub fn leader_service(cluster: &str) -> String {
    format!("{cluster}-leader")
}

/// Name of the Service for reads.
#[must_use]
pub fn read_service(cluster: &str) -> String {
    format!("{cluster}-read")
}

/// Name of the ConfigMap.
#[must_use]
pub fn config_map(cluster: &str) -> String {
    format!("{cluster}-config")
}

/// Name of a StatefulSet.
#[must_use]
pub fn stateful_set(cluster: &str, role: SetRole) -> String {
    match role {
        SetRole::Voter => cluster.to_owned(),
        SetRole::Learner => format!("{cluster}-learner"),
    }
}

/// Name of a pod.
#[must_use]
pub fn pod(cluster: &str, role: SetRole, ordinal: i32) -> String {
    format!("{}-{ordinal}", stateful_set(cluster, role))
}

/// Name of a pod's volume claim.
#[must_use]
pub fn claim(pod: &str) -> String {
    format!("{VOLUME}-{pod}")
}

/// Role and ordinal of a pod by its name; `None` for a name that no set of this cluster makes.
#[must_use]
pub fn parse_pod(cluster: &str, pod: &str) -> Option<(SetRole, i32)> {
    let ordinal = |set: SetRole| {
        let digits = pod.strip_prefix(&stateful_set(cluster, set))?.strip_prefix('-')?;
        let plain = digits == "0" || !digits.starts_with('0');
        (plain && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?.map(|n| (set, n))
    };
    ordinal(SetRole::Voter).or_else(|| ordinal(SetRole::Learner))
}

/// Client address of a pod, as its node advertises it: stable over restarts, resolved anew at each dial.
#[must_use]
pub fn client_addr(cluster: &str, namespace: &str, pod: &str) -> String {
    format!("{pod}.{}.{namespace}.svc:{CLIENT_PORT}", raft_service(cluster))
}

/// Host of a pod within the Kubernetes cluster.
#[must_use]
pub fn pod_host(cluster: &str, namespace: &str, pod: &str) -> String {
    format!("{pod}.{}.{namespace}.svc", raft_service(cluster))
}

/// Pod that a client address names, if it is one of this cluster.
#[must_use]
pub fn pod_of_addr<'a>(cluster: &str, namespace: &str, addr: &'a str) -> Option<&'a str> {
    let host = addr.strip_suffix(&format!(":{CLIENT_PORT}"))?;
    host.strip_suffix(&format!(".{}.{namespace}.svc", raft_service(cluster)))
}

/// Labels that select the objects of a cluster.
#[must_use]
pub fn selector(cluster: &str) -> BTreeMap<String, String> {
    [("app.kubernetes.io/name", APP), (CLUSTER, cluster)].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// Labels that select the pods of a set.
#[must_use]
pub fn set_selector(cluster: &str, role: SetRole) -> BTreeMap<String, String> {
    let mut labels = selector(cluster);
    labels.insert(SET.to_owned(), role.as_str().to_owned());
    labels
}

/// The same as the text form of a selector.
#[must_use]
pub fn selector_text(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Labels of a child that is no pod.
#[must_use]
pub fn common(cluster: &str) -> BTreeMap<String, String> {
    let mut labels = selector(cluster);
    labels.insert("app.kubernetes.io/instance".to_owned(), cluster.to_owned());
    labels.insert("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for (set, ordinal) in [(SetRole::Voter, 0), (SetRole::Voter, 12), (SetRole::Learner, 3)] {
            let name = pod("cart", set, ordinal);
            assert_eq!(parse_pod("cart", &name), Some((set, ordinal)), "{name}");
            let addr = client_addr("cart", "shop", &name);
            assert_eq!(pod_of_addr("cart", "shop", &addr), Some(name.as_str()));
            assert_eq!(pod_of_addr("cart", "other", &addr), None);
        }
        for wrong in ["cart", "cart-", "cart-01", "cart-a", "carts-0", "cart-learner", "cart-+1"] {
            assert_eq!(parse_pod("cart", wrong), None, "{wrong}");
        }
        // A cluster may have a name that looks like a pod.
        assert_eq!(parse_pod("cart-1", "cart-1-0"), Some((SetRole::Voter, 0)));
    }
}
