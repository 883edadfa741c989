//! The open ears: one `GET /v1/watch` stream per pod, so that a new leader is known within milliseconds.
//!
//! ```text
//! observe  --follow(cluster, id, pods)-->  Watches
//!                                            |  one task per pod: connect, hear, reconnect with back-off
//!                                            v
//!                                         Leading (per cluster)   newest (term, leader)
//!                                            |  changed
//!                                            v
//!                                         Heard: which cluster  -->  labeller, controller
//! ```
//!
//! Invariants
//! - A speed-up only. All that is heard here is observed again by the next pass; a node that cannot be heard costs
//!   time, never truth.
//! - Bounded: one stream per pod of a known cluster, one state per cluster, one pending word per cluster.

pub mod frames;
pub mod leading;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvnode_api::Id;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::leading::{Leader, Leading};
use crate::admin_client::AdminClient;
use crate::backoff::jittered;
use crate::clock;
use crate::metrics::{Counted, Metrics};
use crate::name::ClusterName;
use crate::observed::Handover;

/// First and longest pause before a stream is opened again.
const REOPEN_MIN: Duration = Duration::from_millis(100);
const REOPEN_MAX: Duration = Duration::from_secs(5);

/// A word that has not been acted on yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Of which cluster.
    pub cluster: ClusterName,
    /// Its recorded id.
    pub id: Id,
    /// Who leads it.
    pub leader: Leader,
    /// When the word came.
    pub at: Instant,
}

#[derive(Default)]
struct Cluster {
    leading: Leading,
    /// Address and end of the stream of each pod.
    pods: BTreeMap<String, (String, CancellationToken)>,
}

struct Shared {
    client: AdminClient,
    metrics: Arc<Metrics>,
    clusters: Mutex<BTreeMap<ClusterName, Cluster>>,
    /// Clusters with news, and since when. A second word before the first was taken replaces it.
    news: Mutex<BTreeMap<ClusterName, Instant>>,
    news_came: Notify,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// All streams of this operator. Cheap to clone.
#[derive(Clone)]
pub struct Watches(Arc<Shared>);

impl Watches {
    /// No streams yet; `stop` ends all that will be.
    #[must_use]
    pub fn new(client: AdminClient, metrics: Arc<Metrics>, stop: CancellationToken) -> Self {
        Self(Arc::new(Shared {
            client,
            metrics,
            clusters: Mutex::default(),
            news: Mutex::default(),
            news_came: Notify::new(),
            tasks: TaskTracker::new(),
            stop,
        }))
    }

    /// Listens to exactly these pods (name, `host:port` of the admin API) of a cluster, and believes words about the
    /// cluster id `id` only. Streams that are open and wanted stay open.
    pub fn follow(&self, cluster: &ClusterName, id: Option<Id>, pods: &BTreeMap<String, String>) {
        let mut clusters = self.0.clusters.lock();
        let known = clusters.entry(cluster.clone()).or_default();
        known.leading.expect(id);
        known.pods.retain(|pod, (addr, end)| {
            let wanted = pods.get(pod) == Some(addr);
            if !wanted {
                end.cancel();
            }
            wanted
        });
        for (pod, addr) in pods {
            if !known.pods.contains_key(pod) {
                let end = self.0.stop.child_token();
                known.pods.insert(pod.clone(), (addr.clone(), end.clone()));
                let listening = listen(self.0.clone(), cluster.clone(), addr.clone(), end.clone());
                self.0.tasks.spawn(async move {
                    tokio::select! {
                        () = end.cancelled() => {}
                        () = listening => {}
                    }
                });
            }
        }
        self.0.metrics.clusters.set(i64::try_from(clusters.len()).unwrap_or(i64::MAX));
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, cluster: &ClusterName) {
        let mut clusters = self.0.clusters.lock();
        if let Some(known) = clusters.remove(cluster) {
            for (_, end) in known.pods.into_values() {
                end.cancel();
            }
        }
        self.0.news.lock().remove(cluster);
        self.0.metrics.clusters.set(i64::try_from(clusters.len()).unwrap_or(i64::MAX));
    }

    /// Forgets all clusters of a namespace (`None` = of all) but these.
    pub fn keep_only(&self, namespace: Option<&str>, alive: &BTreeSet<ClusterName>) {
        let known: Vec<_> = self.0.clusters.lock().keys().cloned().collect();
        let within = |cluster: &&ClusterName| namespace.is_none_or(|one| one == cluster.namespace);
        for gone in known.iter().filter(within).filter(|cluster| !alive.contains(cluster)) {
            self.forget(gone);
        }
    }

    /// The newest change of leader that was heard.
    #[must_use]
    pub fn handover(&self, cluster: &ClusterName) -> Option<Handover> {
        self.0.clusters.lock().get(cluster)?.leading.handover().cloned()
    }

    /// The newest leader that was heard of, and the id of its cluster.
    #[must_use]
    pub fn leader(&self, cluster: &ClusterName) -> Option<(Id, Leader)> {
        let clusters = self.0.clusters.lock();
        let leading = &clusters.get(cluster)?.leading;
        Some((leading.cluster()?, leading.leader()?.clone()))
    }

    /// The next news of any cluster.
    ///
    /// Cancel safety: no news is lost.
    pub async fn next(&self) -> Heard {
        loop {
            let came = self.0.news_came.notified();
            let news = self.0.news.lock().pop_first();
            if let Some((cluster, at)) = news {
                if let Some((id, leader)) = self.leader(&cluster) {
                    return Heard { cluster, id, leader, at };
                }
                continue;
            }
            came.await;
        }
    }

    /// Waits until all streams have ended, once `stop` is cancelled.
    pub async fn ended(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

/// Listens to one node for ever.
async fn listen(shared: Arc<Shared>, cluster: ClusterName, addr: String, end: CancellationToken) {
    let mut pause = REOPEN_MIN;
    loop {
        let open = Counted::up(&shared.metrics.watch_streams);
        let mut heard = false;
        let why = shared.client.follow(&addr, |event| {
            heard = true;
            if end.is_cancelled() {
                return;
            }
            let now = clock::monotonic();
            let mut clusters = shared.clusters.lock();
            let Some(known) = clusters.get_mut(&cluster) else { return };
            if known.leading.hear(&event, now) {
                shared.news.lock().entry(cluster.clone()).or_insert(now);
                shared.news_came.notify_one();
            }
        });
        let why = why.await;
        drop(open);
        tracing::debug!(%cluster, addr, error = %why, "watch of a node ended");
        pause = if heard { REOPEN_MIN } else { (pause * 2).min(REOPEN_MAX) };
        sleep(jittered(pause)).await;
    }
}
