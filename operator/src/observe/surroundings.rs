//! What a cluster stands on: Kubernetes nodes, volumes, storage classes. They change rarely and belong to everybody,
//! so they are read by name and kept for a while; before a dangerous step they are read anew.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::clock;
use crate::error::{Asked, Error, asked_if};
use crate::observed::HostSeen;

/// How long a Kubernetes node or a class is believed to be as it was.
const KEPT: Duration = Duration::from_secs(15);
/// How long something that we may not read is not asked for again.
const FORBIDDEN_KEPT: Duration = Duration::from_mins(5);
/// Entries of one kind that are kept; beyond it, old ones go.
const ENTRIES_MAX: usize = 4096;

/// How fresh a look must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// What is kept will do.
    Usual,
    /// A dangerous step follows.
    Fresh,
}

/// What was read of one thing, and when.
type Kept<T> = Mutex<BTreeMap<String, (Instant, Asked<T>)>>;

/// What is kept between passes.
#[derive(Debug, Default)]
pub struct Surroundings {
    hosts: Kept<HostSeen>,
    classes: Kept<bool>,
    /// The Kubernetes node that a volume is bound to never changes: by name of the PersistentVolume.
    volumes: Kept<Option<String>>,
}

impl Surroundings {
    /// The Kubernetes nodes of these names that exist; `None` if they may not be read.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn hosts(
        &self,
        client: &Client,
        names: BTreeSet<String>,
        look: Look,
    ) -> Result<Option<BTreeMap<String, HostSeen>>, Error> {
        let api: Api<Node> = Api::all(client.clone());
        let mut found = BTreeMap::new();
        for name in names {
            let read = async { Ok(map(asked_if(format!("get node {name}"), api.get(&name)).await?, host)) };
            match kept(&self.hosts, &name, KEPT, look, read).await? {
                Asked::Found(host) => _ = found.insert(name, host),
                Asked::Gone => {}
                Asked::Forbidden => return Ok(None),
            }
        }
        Ok(Some(found))
    }

    /// The only Kubernetes node that the claim's volume can be used on, if there is such a bond and it may be read.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn bound_to_host(
        &self,
        client: &Client,
        claim: &PersistentVolumeClaim,
    ) -> Result<Option<String>, Error> {
        let Some(name) = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()) else {
            return Ok(None);
        };
        let api: Api<PersistentVolume> = Api::all(client.clone());
        let read =
            async { Ok(map(asked_if(format!("get volume {name}"), api.get(&name)).await?, only_host)) };
        match kept(&self.volumes, &name, FORBIDDEN_KEPT, Look::Usual, read).await? {
            Asked::Found(host) => Ok(host),
            Asked::Gone | Asked::Forbidden => Ok(None),
        }
    }

    /// Whether the claim's class can grow volumes, if that may be read.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn expandable(
        &self,
        client: &Client,
        claim: &PersistentVolumeClaim,
    ) -> Result<Option<bool>, Error> {
        let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone());
        let Some(name) = class.filter(|name| !name.is_empty()) else { return Ok(None) };
        let api: Api<StorageClass> = Api::all(client.clone());
        let read = async {
            let class = asked_if(format!("get storage class {name}"), api.get(&name)).await?;
            Ok(map(class, |class| class.allow_volume_expansion.unwrap_or(false)))
        };
        match kept(&self.classes, &name, KEPT, Look::Usual, read).await? {
            Asked::Found(expandable) => Ok(Some(expandable)),
            Asked::Gone | Asked::Forbidden => Ok(None),
        }
    }
}

/// What is kept, or what `read` brings, which is kept then.
async fn kept<T: Clone>(
    all: &Kept<T>,
    name: &str,
    time: Duration,
    look: Look,
    read: impl Future<Output = Result<Asked<T>, Error>>,
) -> Result<Asked<T>, Error> {
    let now = clock::monotonic();
    if let Some((since, found)) = all.lock().get(name) {
        let forbidden = matches!(found, Asked::Forbidden);
        let time = if forbidden { FORBIDDEN_KEPT } else { time };
        if (look == Look::Usual || forbidden) && now.saturating_duration_since(*since) < time {
            return Ok(found.clone());
        }
    }
    let found = read.await?;
    let mut all = all.lock();
    if all.len() >= ENTRIES_MAX {
        all.retain(|_, (since, _)| now.saturating_duration_since(*since) < KEPT);
    }
    if all.len() < ENTRIES_MAX {
        all.insert(name.to_owned(), (now, found.clone()));
    }
    Ok(found)
}

fn map<T, U>(asked: Asked<T>, f: impl FnOnce(T) -> U) -> Asked<U> {
    match asked {
        Asked::Found(found) => Asked::Found(f(found)),
        Asked::Gone => Asked::Gone,
        Asked::Forbidden => Asked::Forbidden,
    }
}

fn host(node: Node) -> HostSeen {
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let labels = node.metadata.labels.unwrap_or_default();
    HostSeen {
        ready: conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        out_of_service: taints.iter().any(|taint| taint.key == "node.kubernetes.io/out-of-service"),
        zone: labels.get("topology.kubernetes.io/zone").cloned(),
    }
}

/// The one host name that a node affinity requires; `None` if it requires none, several, or something else.
fn only_host(volume: PersistentVolume) -> Option<String> {
    let affinity = volume.spec?.node_affinity?.required?;
    let [term] = affinity.node_selector_terms.as_slice() else { return None };
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let named = expressions.iter().filter(|need| need.key == "kubernetes.io/hostname");
    let mut named = named.chain(fields.iter().filter(|need| need.key == "metadata.name"));
    let need = named.next().filter(|need| need.operator == "In")?;
    match need.values.as_deref() {
        Some([host]) => Some(host.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_local_volume_names_its_host_and_others_do_not() {
        let volume = |terms| {
            let affinity = json!({ "required": { "nodeSelectorTerms": terms } });
            only_host(from_value(json!({ "spec": { "nodeAffinity": affinity } })).unwrap())
        };
        let need = |key: &str, values: &[&str]| json!({ "matchExpressions": [{ "key": key, "operator": "In", "values": values }] });
        assert_eq!(volume(json!([need("kubernetes.io/hostname", &["n1"])])), Some("n1".into()));
        assert_eq!(volume(json!([need("kubernetes.io/hostname", &["n1", "n2"])])), None);
        assert_eq!(volume(json!([need("topology.kubernetes.io/zone", &["z"])])), None);
        let two = json!([need("kubernetes.io/hostname", &["n1"]), need("kubernetes.io/hostname", &["n2"])]);
        assert_eq!(volume(two), None, "either of two terms will do");
        assert_eq!(only_host(PersistentVolume::default()), None);
    }

    #[test]
    fn a_host_is_what_its_conditions_taints_and_labels_say() {
        let node = json!({
            "metadata": { "name": "n1", "labels": { "topology.kubernetes.io/zone": "z1" } },
            "spec": { "taints": [{ "key": "node.kubernetes.io/out-of-service", "effect": "NoExecute" }] },
            "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] },
        });
        let seen = host(from_value(node).unwrap());
        assert_eq!(seen, HostSeen { ready: false, out_of_service: true, zone: Some("z1".into()) });
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_is_kept_for_a_while_and_read_anew_before_danger() {
        let all = Kept::default();
        let read = async |value: u32, look| {
            kept(&all, "n1", KEPT, look, async move { Ok(Asked::Found(value)) }).await.unwrap()
        };
        assert_eq!(read(1, Look::Usual).await, Asked::Found(1));
        assert_eq!(read(2, Look::Usual).await, Asked::Found(1));
        assert_eq!(read(3, Look::Fresh).await, Asked::Found(3));
        tokio::time::advance(KEPT).await;
        assert_eq!(read(4, Look::Usual).await, Asked::Found(4));
    }
}
