//! Backups of KvClusters: schedules become KvBackups, KvBackups become Jobs, and what Jobs say becomes status.
//!
//! ```text
//! KvCluster.spec.backup --cron--> KvBackup --its turn--> Job --progress over HTTP, end as a message--> KvBackup.status
//!         |                                                                                                 |
//!         +--new settings--> probe Job --> BackupHealthy        KvCluster.status.backup, BackupHealthy/Verified
//!
//! KvCluster.spec.bootstrap --the founder's pod fetches and loads--> KvCluster.status.restore, Restored
//! ```
//!
//! Invariants
//! - Everything is decided from what the API server says in this pass. Names follow from what is due, so a repeat, or
//!   a second operator, makes nothing twice.
//! - One run at a time per cluster. A run that waits beyond its deadline fails.
//! - A cluster that is to be backed up before it goes is held until then ([`farewell`]).
//! - What a KvBackup stored is deleted only if its `deletionPolicy` says so ([`deletion`]).
//! - This is the only writer of a KvBackup's status, of `status.backup` and `status.restore` of a KvCluster, and of
//!   the conditions BackupHealthy, BackupVerified and Restored.

pub mod deletion;
pub mod farewell;
pub mod job;
mod look;
pub mod pass;
pub mod restoring;
pub mod state;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{controller, watcher};
use kube::{Api, Resource, ResourceExt as _};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use self::job::{BACKUP_OF, Images};
use crate::context::Context;
use crate::crd::KvCluster;
use crate::crd::backup::KvBackup;
use crate::error::Error;
use crate::name::ClusterName;

/// Passes at once.
const CONCURRENCY: u16 = 4;
/// Triggers within this time are one pass.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// What every pass works with.
pub struct Duty {
    /// The operator's parts.
    pub ctx: Arc<Context>,
    /// Images of Jobs.
    pub images: Images,
    /// Clusters whose backups are not as they should be: (healthy, verified).
    verdicts: Mutex<BTreeMap<ClusterName, (bool, bool)>>,
}

impl Duty {
    /// With everything at its beginning.
    #[must_use]
    pub fn new(ctx: Arc<Context>, images: Images) -> Arc<Self> {
        Arc::new(Self { ctx, images, verdicts: Mutex::default() })
    }

    fn judged(&self, name: &ClusterName, verdict: Option<(bool, bool)>) {
        let mut verdicts = self.verdicts.lock();
        match verdict {
            Some(verdict) => verdicts.insert(name.clone(), verdict),
            None => verdicts.remove(name),
        };
        let count = |wrong: &dyn Fn(&(bool, bool)) -> bool| {
            i64::try_from(verdicts.values().filter(|verdict| wrong(verdict)).count()).unwrap_or(i64::MAX)
        };
        self.ctx.metrics.backups_unhealthy.set(count(&|verdict| !verdict.0));
        self.ctx.metrics.backups_unverified.set(count(&|verdict| !verdict.1));
    }
}

/// Runs until `stop` is cancelled; one controller per namespace, or one for all.
pub async fn run(duty: Arc<Duty>, namespaces: Vec<Option<String>>, stop: CancellationToken) {
    let each = namespaces.into_iter().map(|namespace| one(duty.clone(), namespace, stop.clone()));
    futures_util::future::join_all(each).await;
}

async fn one(duty: Arc<Duty>, namespace: Option<String>, stop: CancellationToken) {
    let client = duty.ctx.client.clone();
    let clusters: Api<KvCluster> = within(&client, namespace.as_deref());
    let backups: Api<KvBackup> = within(&client, namespace.as_deref());
    let jobs: Api<Job> = within(&client, namespace.as_deref());
    let config = controller::Config::default().debounce(DEBOUNCE).concurrency(CONCURRENCY);
    let going = Controller::new(backups.clone(), watcher::Config::default()).with_config(config.clone()).run(
        going,
        left,
        duty.clone(),
    );
    let passes = Controller::new(clusters, watcher::Config::default())
        .with_config(config)
        .watches(backups, watcher::Config::default(), |backup: KvBackup| {
            Some(ObjectRef::new(&backup.spec.cluster).within(&backup.namespace()?))
        })
        .watches(jobs, watcher::Config::default().labels(BACKUP_OF), |job: Job| {
            Some(ObjectRef::new(job.labels().get(BACKUP_OF)?).within(&job.namespace()?))
        })
        .run(passed, failed, duty);
    let work = async { tokio::join!(passes.for_each(async |_| {}), going.for_each(async |_| {})) };
    tokio::select! {
        _ = work => {}
        // A pass that is cut off is done again by the next operator.
        () = stop.cancelled() => {}
    }
}

fn within<K>(client: &kube::Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

async fn passed(object: Arc<KvCluster>, duty: Arc<Duty>) -> Result<Action, Error> {
    let name = ClusterName::of(&object);
    farewell::prepare(&duty, &object).await?;
    let told = object.status.as_ref().is_some_and(|status| status.restore.is_some());
    let restoring =
        if object.spec.bootstrap.is_some() || told { restoring::pass(&duty, &name).await? } else { None };
    let again = pass::pass(&duty, &name).await?;
    let soonest = again.into_iter().chain(restoring).min();
    Ok(soonest.map_or_else(Action::await_change, Action::requeue))
}

async fn going(backup: Arc<KvBackup>, duty: Arc<Duty>) -> Result<Action, Error> {
    let again = deletion::pass(&duty, &backup).await?;
    Ok(again.map_or_else(Action::await_change, Action::requeue))
}

// The signature is the library's.
#[allow(clippy::needless_pass_by_value, reason = "kube's Controller hands both over")]
fn left(backup: Arc<KvBackup>, error: &Error, _: Arc<Duty>) -> Action {
    let name = backup.name_any();
    tracing::warn!(backup = name, %error, "a pass over a KvBackup failed");
    Action::requeue(crate::backoff::jittered(Duration::from_secs(5)))
}

// The signature is the library's.
#[allow(clippy::needless_pass_by_value, reason = "kube's Controller hands both over")]
fn failed(object: Arc<KvCluster>, error: &Error, _: Arc<Duty>) -> Action {
    let name = ClusterName::of(&object);
    tracing::warn!(cluster = %name, %error, "a pass over backups failed");
    Action::requeue(crate::backoff::jittered(Duration::from_secs(5)))
}
