//! Children by server-side apply.

use std::fmt::Debug;
use std::fmt::Write as _;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::apply::memory::ChildKey;
use crate::build::labels::{INTENT, MANAGER};
use crate::build::{Children, Named};
use crate::context::Context;
use crate::error::{Error, asked, asked_opt};
use crate::name::ClusterName;
use crate::observe::{Sight, mark};

/// What one child is applied with.
struct Applier<'a> {
    ctx: &'a Context,
    name: &'a ClusterName,
    sight: &'a Sight,
}

/// All children, in the order of their struct.
pub(super) async fn apply(
    ctx: &Context,
    name: &ClusterName,
    sight: &Sight,
    children: &Children,
) -> Result<(), Error> {
    let all = Applier { ctx, name, sight };
    let Children {
        service_account,
        config_map,
        raft_service,
        any_service,
        leader_service,
        read_service,
        network_policy,
        disruption_budget,
        voters,
        learners,
    } = children;
    all.one("ServiceAccount", service_account).await?;
    all.one("ConfigMap", config_map).await?;
    all.one("Service", raft_service).await?;
    all.named("Service", any_service).await?;
    all.named("Service", leader_service).await?;
    all.named("Service", read_service).await?;
    all.named("NetworkPolicy", network_policy).await?;
    all.named("PodDisruptionBudget", disruption_budget).await?;
    all.one("StatefulSet", voters).await?;
    all.named("StatefulSet", learners).await
}

/// What a child is: an object of a namespace that can be read, changed and sent.
trait Child:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + Clone + DeserializeOwned + Debug
{
}

impl<K> Child for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Serialize
        + Clone
        + DeserializeOwned
        + Debug
{
}

impl Applier<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.ctx.client.clone(), &self.name.namespace)
    }

    async fn named<K>(&self, kind: &'static str, child: &Named<K>) -> Result<(), Error>
    where
        K: Child,
    {
        match &child.manifest {
            Some(manifest) => self.one(kind, manifest).await,
            None => self.none::<K>(kind, &child.name).await,
        }
    }

    /// Applies a child, unless it stands as it was applied last.
    async fn one<K>(&self, kind: &'static str, manifest: &K) -> Result<(), Error>
    where
        K: Child,
    {
        let (mut body, intent) = intent(manifest);
        let key: ChildKey = (kind, manifest.name_any());
        let memory = &self.ctx.memory;
        let seen = self.sight.children.get(&key);
        // One that is being deleted cannot be kept; it is made anew once it is gone.
        if seen.is_some_and(|seen| seen.deleting || seen.anothers) {
            return Ok(());
        }
        let same = seen.filter(|seen| seen.intent.as_ref() == Some(&intent));
        if same.is_some_and(|seen| memory.is_untouched(self.name, &key, &seen.mark)) {
            return Ok(());
        }
        body["metadata"]["annotations"][INTENT] = Value::String(intent);
        if let Some(seen) = seen {
            // Never over one that took the name since the look.
            body["metadata"]["uid"] = Value::String(seen.uid.clone());
        }
        let params =
            PatchParams { field_manager: Some(MANAGER.into()), force: true, ..PatchParams::default() };
        let call = async {
            let api = self.api::<K>();
            api.patch_metadata(&key.1, &params, &Patch::Apply(&body)).await
        };
        let applied = asked(format!("apply {kind} {}", key.1), call).await?;
        self.ctx.metrics.child_writes.inc();
        tracing::debug!(cluster = %self.name, kind, child = key.1, "applied");
        memory.applied(self.name, key, mark(&applied.metadata));
        Ok(())
    }

    /// Deletes a child that should not be, if it is ours.
    async fn none<K>(&self, kind: &'static str, child: &str) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let Some(seen) = self.sight.children.get(&(kind, child.to_owned())) else { return Ok(()) };
        if seen.anothers || seen.deleting {
            return Ok(());
        }
        let preconditions = Preconditions { uid: Some(seen.uid.clone()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        let api = self.api::<K>();
        asked_opt(format!("delete {kind} {child}"), api.delete(child, &params)).await?;
        self.ctx.metrics.child_writes.inc();
        Ok(())
    }
}

/// A manifest as it is sent, and the hash of it: the same for the same manifest, in every process and version.
fn intent<K: Serialize>(manifest: &K) -> (Value, String) {
    // Objects of the API are structs, maps and numbers: making values of them cannot fail. Maps of values are sorted.
    let body = serde_json::to_value(manifest).unwrap_or_default();
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(body.to_string()) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    (body, text)
}
