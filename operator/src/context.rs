//! What every pass works with.

use std::sync::Arc;

use kube::Client;

use crate::admin_client::AdminClient;
use crate::admin_client::sessions::Sessions;
use crate::admin_client::trust::Trust;
use crate::apply::memory::Memory;
use crate::backoff::Failures;
use crate::events::Recorder;
use crate::health::Probes;
use crate::metrics::Metrics;
use crate::name::ClusterName;
use crate::observe::secrets;
use crate::observe::surroundings::Surroundings;
use crate::stores::Stores;
use crate::validate::Operator;
use crate::watch::Watches;

/// The operator's one value of its parts. What is kept in it between passes saves calls; losing it loses nothing.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The nodes.
    pub nodes: AdminClient,
    /// Which of them speak TLS; the same that `nodes` dials by.
    pub trust: Trust,
    /// What we show them.
    pub sessions: Sessions,
    /// The open streams.
    pub watches: Watches,
    /// Events.
    pub recorder: Recorder,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Probes.
    pub probes: Arc<Probes>,
    /// What this operator brings along.
    pub operator: Operator,
    /// What the watches have brought.
    pub stores: Stores,
    /// Certificates and passwords of clusters at rest.
    pub secrets: secrets::Kept,
    /// Kubernetes nodes, volumes and classes, as they were last read.
    pub surroundings: Surroundings,
    /// Children, as they were after they were last applied.
    pub memory: Memory,
    /// Failures in a row.
    pub failures: Failures<ClusterName>,
}

impl Context {
    /// With everything at its beginning. `instance` is the name of this process in Events.
    #[must_use]
    pub fn new(
        (client, nodes, trust, watches): (Client, AdminClient, Trust, Watches),
        metrics: Arc<Metrics>,
        probes: Arc<Probes>,
        operator: Operator,
        instance: &str,
    ) -> Self {
        Self {
            recorder: Recorder::new(client.clone(), instance, metrics.clone()),
            client,
            nodes,
            trust,
            sessions: Sessions::default(),
            watches,
            metrics,
            probes,
            operator,
            stores: Stores::default(),
            secrets: secrets::Kept::default(),
            surroundings: Surroundings::default(),
            memory: Memory::default(),
            failures: Failures::default(),
        }
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, cluster: &ClusterName) {
        self.watches.forget(cluster);
        self.trust.forget(cluster);
        self.sessions.forget(cluster);
        self.secrets.forget(cluster);
        self.memory.forget(cluster);
        self.failures.forget(cluster);
    }
}
