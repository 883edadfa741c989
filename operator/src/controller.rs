//! The wiring: what makes a pass run, for which cluster, and how often.
//!
//! ```text
//! KvCluster          spec, annotations or deletion changed (not its status, which we write)
//! children           StatefulSets, Services, ... that belong to one: anything changed    (metadata only)
//! pods, volumes      by label                                                            (metadata only)
//! Watches            a node told of another leader
//!    |  debounce 200 ms, at most 8 at once, never two of one cluster
//!    v
//! reconcile  -> again after ... | on change | back-off 1 s .. 5 min per cluster, with jitter
//! ```
//!
//! What the watches bring is kept ([`crate::stores`]), so that a pass over a cluster at rest lists nothing.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::PartialObjectMeta;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, controller, watcher};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::build::labels;
use crate::context::Context;
use crate::crd::KvCluster;
use crate::error::Error;
use crate::metrics::Counted;
use crate::name::ClusterName;
use crate::reconcile::{Again, reconcile};
use crate::stores::Scoped;
use crate::{clock, labeller};

/// Triggers of one cluster within this time are one pass.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Passes at once, per watched namespace setting.
const CONCURRENCY: u16 = 8;
/// Clusters that wait for a pass because a node told something.
const NEWS_MAX: usize = 1024;

/// Which namespaces are cared for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All.
    All,
    /// These; rights in them are enough.
    Only(Vec<String>),
}

/// Runs until `stop` is cancelled, then lets running passes end.
pub async fn run(ctx: Arc<Context>, scope: Scope, stop: CancellationToken) {
    let namespaces: Vec<Option<String>> = match scope {
        Scope::All => vec![None],
        Scope::Only(names) => names.into_iter().map(Some).collect(),
    };
    let mut news = Vec::new();
    let mut controllers: Vec<BoxFuture<'_, ()>> = Vec::new();
    for namespace in namespaces {
        let (tell, told) = mpsc::channel(NEWS_MAX);
        news.push((namespace.clone(), tell));
        controllers.push(one(ctx.clone(), namespace, told, stop.clone()).boxed());
    }
    let labelling = labeller::run(ctx.clone(), news, stop.clone());
    tokio::join!(join_all(controllers), labelling);
}

/// The controller of one namespace, or of all.
async fn one(
    ctx: Arc<Context>,
    namespace: Option<String>,
    told: mpsc::Receiver<ClusterName>,
    stop: CancellationToken,
) {
    let within = Within { ctx: ctx.clone(), namespace };
    let (clusters, reader) = within.clusters();
    let (sets, set_events) = within.children::<StatefulSet>();
    let (accounts, account_events) = within.metadata::<ServiceAccount>();
    let (maps, map_events) = within.metadata::<ConfigMap>();
    let (services, service_events) = within.metadata::<Service>();
    let (policies, policy_events) = within.metadata::<NetworkPolicy>();
    let (budgets, budget_events) = within.metadata::<PodDisruptionBudget>();
    let (pods, pod_events) = within.labelled::<Pod>();
    let (claims, claim_events) = within.labelled::<PersistentVolumeClaim>();
    let namespace = within.namespace.clone();
    ctx.stores.add(Scoped { namespace, sets, pods, claims, accounts, maps, services, policies, budgets });
    let news = stream::unfold(told, |mut told| async { told.recv().await.map(|name| (name.to_ref(), told)) });
    let never_ready = stopped_before(reader.clone(), stop.clone());
    let config = controller::Config::default().debounce(DEBOUNCE).concurrency(CONCURRENCY);
    let passes = Controller::for_stream(clusters, reader)
        .with_config(config)
        .owns_stream(set_events)
        .owns_stream(service_events)
        .owns_stream(map_events)
        .owns_stream(account_events)
        .owns_stream(policy_events)
        .owns_stream(budget_events)
        .watches_stream(pod_events, owner_by_label)
        .watches_stream(claim_events, owner_by_label)
        .reconcile_on(news)
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(pass, failed, ctx);
    let work = passes.for_each(async |ended| {
        if let Err(error) = ended {
            log(&error);
        }
    });
    tokio::select! {
        () = work => {}
        () = never_ready => {}
    }
}

/// Ends when a stop is asked for before the first list of KvClusters has arrived. kube's controller would wait for it
/// for ever, though nothing can be running.
async fn stopped_before(reader: Store<KvCluster>, stop: CancellationToken) {
    stop.cancelled().await;
    if reader.wait_until_ready().now_or_never().is_some() {
        std::future::pending::<()>().await;
    }
}

/// Watches in one namespace, or in all.
struct Within {
    ctx: Arc<Context>,
    namespace: Option<String>,
}

/// What a watch brings is kept in the store before it makes a pass.
type Kept<K> = (Store<K>, BoxStream<'static, Result<K, watcher::Error>>);

impl Within {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.ctx.client.clone(), namespace),
            None => Api::all(self.ctx.client.clone()),
        }
    }

    /// The KvClusters: a change of spec or annotations makes a pass; a deletion makes us forget.
    fn clusters(
        &self,
    ) -> (impl Stream<Item = Result<KvCluster, watcher::Error>> + Send + 'static, Store<KvCluster>) {
        let (reader, writer) = reflector::store();
        let ctx = self.ctx.clone();
        let events = watcher(self.api::<KvCluster>(), watcher::Config::default()).default_backoff();
        let namespace = self.namespace.clone();
        let known = reader.clone();
        let changes = events
            .reflect(writer)
            .inspect(move |event| match event {
                Ok(watcher::Event::Delete(gone)) => ctx.forget(&ClusterName::of(gone)),
                // What was deleted while nobody looked is not in the new list.
                Ok(watcher::Event::InitDone) => {
                    ctx.probes.api_answered();
                    let alive = known.state().iter().map(|object| ClusterName::of(object)).collect();
                    ctx.watches.keep_only(namespace.as_deref(), &alive);
                }
                _ => {}
            })
            .applied_objects()
            .filter_map(async |event| without_errors("KvCluster", event))
            .predicate_filter(changed, kube::runtime::PredicateConfig::default());
        (changes, reader)
    }

    /// Children with our label in full; whose they are is in their ownerReference.
    fn children<K>(&self) -> Kept<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Watched,
    {
        touched(self.api(), &format!("app.kubernetes.io/managed-by={}", labels::MANAGER))
    }

    /// The metadata of children with our label.
    fn metadata<K>(&self) -> Kept<PartialObjectMeta<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Send + Sync + 'static,
    {
        touched(self.api(), &format!("app.kubernetes.io/managed-by={}", labels::MANAGER))
    }

    /// Pods and volumes in full, which the StatefulSets make.
    fn labelled<K>(&self) -> Kept<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Watched,
    {
        touched(self.api(), labels::CLUSTER)
    }
}

/// What can be watched and kept.
trait Watched: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}

impl<K> Watched for K where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

/// All events of objects with these labels, and the store that they fill. For an `Api` of metadata nothing else is
/// asked for.
fn touched<K: Watched>(api: Api<K>, selector: &str) -> Kept<K> {
    let (reader, writer) = reflector::store();
    let events = watcher(api, watcher::Config::default().labels(selector))
        .default_backoff()
        // Half of an object's size, and nobody here reads them.
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer)
        .touched_objects()
        .filter_map(async |event| without_errors(&K::kind(&()), event))
        .boxed();
    (reader, events)
}

/// Each watch has a back-off of its own and begins again by itself. An error that got further would make the
/// controller pause *all* its triggers, so that one missing permission would slow everything down.
fn without_errors<T>(kind: &str, event: Result<T, watcher::Error>) -> Option<Result<T, watcher::Error>> {
    match event {
        Ok(object) => Some(Ok(object)),
        Err(error) => {
            tracing::warn!(kind, %error, "watch the API server");
            None
        }
    }
}

/// What of a KvCluster makes a pass: everything that people write.
fn changed(object: &KvCluster) -> Option<u64> {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    let meta = &object.metadata;
    (meta.generation, &meta.annotations, &meta.uid).hash(&mut hasher);
    meta.deletion_timestamp.is_some().hash(&mut hasher);
    Some(hasher.finish())
}

#[allow(clippy::needless_pass_by_value, reason = "kube's Controller hands the object over")]
fn owner_by_label<K: Resource>(object: K) -> Option<ObjectRef<KvCluster>> {
    let name = object.labels().get(labels::CLUSTER)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

async fn pass(object: Arc<KvCluster>, ctx: Arc<Context>) -> Result<Action, Error> {
    let name = ClusterName::of(&object);
    let begun = clock::monotonic();
    let running = Counted::up(&ctx.metrics.reconciles_running);
    let ended = reconcile(&ctx, &name).await;
    drop(running);
    let result = ended.as_ref().map_or_else(Error::kind, |_| "ok");
    ctx.metrics.reconciled(result, clock::monotonic().saturating_duration_since(begun));
    let again = ended?;
    ctx.failures.forget(&name);
    Ok(match again {
        Again::After(pause) => Action::requeue(crate::backoff::jittered(pause)),
        Again::OnChange => Action::await_change(),
    })
}

// The signature is the library's.
#[allow(clippy::needless_pass_by_value, reason = "kube's Controller hands both over")]
fn failed(object: Arc<KvCluster>, error: &Error, ctx: Arc<Context>) -> Action {
    let name = ClusterName::of(&object);
    let pause = ctx.failures.failed(&name);
    tracing::warn!(cluster = %name, %error, kind = error.kind(), again_ms = pause.as_millis(), "pass failed");
    Action::requeue(pause)
}

fn log(error: &controller::Error<Error, watcher::Error>) {
    match error {
        // Told where it happened.
        // The other: gone between the trigger and the pass.
        controller::Error::ReconcilerFailed(..) | controller::Error::ObjectNotFound(_) => {}
        other => tracing::warn!(error = %other, "controller"),
    }
}
