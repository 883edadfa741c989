//! Which locks are in effect: recorded in `status.doors`; before that, what the pods of an older cluster have.
//!
//! Everything behind `observe` sees a spec that says what is in effect.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::Api;

use crate::build::labels;
use crate::context::Context;
use crate::crd::KvCluster;
use crate::crd::doors::{Doors, PodsHave};
use crate::error::{Error, asked_opt};
use crate::name::ClusterName;
use crate::observed::{DoorsSeen, SetRole};

/// Makes the spec say what is in effect.
pub(super) async fn resolve(
    ctx: &Context,
    name: &ClusterName,
    object: &mut KvCluster,
) -> Result<DoorsSeen, Error> {
    let status = object.status.as_ref();
    let recorded = status.and_then(|status| status.doors);
    let is_older = recorded.is_none() && status.is_some_and(|status| status.cluster_id.is_some());
    let pods = if is_older { pods_have(ctx, name).await? } else { None };
    let doors = Doors::of(&object.spec, recorded, pods);
    let kept_open = doors.kept_open(object.spec.tls.mode);
    doors.open(&mut object.spec);
    Ok(DoorsSeen { doors, kept_open })
}

async fn pods_have(ctx: &Context, name: &ClusterName) -> Result<Option<PodsHave>, Error> {
    let api: Api<StatefulSet> = Api::namespaced(ctx.client.clone(), &name.namespace);
    let set = labels::stateful_set(&name.name, SetRole::Voter);
    let found = asked_opt(format!("get StatefulSet {set}"), api.get(&set)).await?;
    Ok(found.as_ref().and_then(have))
}

fn have(set: &StatefulSet) -> Option<PodsHave> {
    let pod = set.spec.as_ref()?.template.spec.as_ref()?;
    let mounts = |name: &str| pod.volumes.iter().flatten().any(|volume| volume.name == name);
    Some(PodsHave { tls: mounts(labels::TLS_VOLUME), auth: mounts(labels::AUTH_VOLUME) })
}
