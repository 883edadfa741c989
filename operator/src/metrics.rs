//! Every metric of the operator, declared once, in a registry of our own.
//!
//! Names are `kvnode_operator_<noun>_<unit>[_total]`. Label values come from closed lists only (`kind()` of an error,
//! the name of a step), never from names of objects, so that their number is bounded whatever users create.

use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

/// Upper bounds of durations, seconds.
const SECONDS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The metrics.
pub struct Metrics {
    registry: Registry,
    /// Passes of the reconciler that ended, by `result`: `ok` or the kind of the error.
    pub reconciles: IntCounterVec,
    /// Seconds that a pass took.
    pub reconcile_seconds: Histogram,
    /// Passes that run now.
    pub reconciles_running: IntGauge,
    /// Disruptive steps taken, by `step`.
    pub steps: IntCounterVec,
    /// Disruptive steps that failed, by `step`.
    pub step_failures: IntCounterVec,
    /// Writes of children to the API server.
    pub child_writes: IntCounter,
    /// Writes of a status to the API server.
    pub status_writes: IntCounter,
    /// Events told, by `reason`.
    pub events: IntCounterVec,
    /// Calls of a node's admin API that failed, by `kind`.
    pub node_errors: IntCounterVec,
    /// Seconds from the word of a node about a new leader to the label on its pod.
    pub leader_label_seconds: Histogram,
    /// Changes of a leader's label.
    pub leader_changes: IntCounter,
    /// Streams to nodes that are open now.
    pub watch_streams: IntGauge,
    /// Clusters that are cared for.
    pub clusters: IntGauge,
    /// 1 while this operator holds the lease.
    pub leading: IntGauge,
    /// Backups that ended, by `result`: complete, failed or wrong.
    pub backup_runs: IntCounterVec,
    /// Seconds that a backup took, proof included.
    pub backup_seconds: Histogram,
    /// Clusters whose condition BackupHealthy is false.
    pub backups_unhealthy: IntGauge,
    /// Clusters whose condition BackupVerified is false.
    pub backups_unverified: IntGauge,
}

/// One more of something while it lives.
pub struct Counted(IntGauge);

impl Counted {
    /// Counts one up.
    #[must_use]
    pub fn up(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A registry that only ever gets constant names: the first test would find a bad or repeated one.
struct Declare<'a>(&'a Registry);

impl Declare<'_> {
    fn keep<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let kept = made.and_then(|metric| self.0.register(Box::new(metric.clone())).map(|()| metric));
        kept.unwrap_or_else(|error| panic!("a metric of the operator: {error}"))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.keep(IntCounter::new(format!("kvnode_operator_{name}"), help))
    }

    fn counters(&self, name: &str, label: &str, help: &str) -> IntCounterVec {
        let opts = Opts::new(format!("kvnode_operator_{name}"), help);
        self.keep(IntCounterVec::new(opts, &[label]))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.keep(IntGauge::new(format!("kvnode_operator_{name}"), help))
    }

    fn seconds(&self, name: &str, help: &str) -> Histogram {
        let opts = HistogramOpts::new(format!("kvnode_operator_{name}"), help).buckets(SECONDS.to_vec());
        self.keep(Histogram::with_opts(opts))
    }
}

impl Metrics {
    /// All metrics, at zero.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let registry = Registry::new();
        let to = Declare(&registry);
        let build = to.keep(IntGauge::with_opts(
            Opts::new("kvnode_operator_build_info", "Version of the operator, always 1")
                .const_label("version", env!("CARGO_PKG_VERSION")),
        ));
        build.set(1);
        let metrics = Self {
            reconciles: to.counters("reconciles_total", "result", "Passes that ended, ok or kind of error"),
            reconcile_seconds: to.seconds("reconcile_seconds", "Seconds that a pass took"),
            reconciles_running: to.gauge("reconciles_running", "Passes that run now"),
            steps: to.counters("steps_total", "step", "Disruptive steps taken"),
            step_failures: to.counters("step_failures_total", "step", "Disruptive steps that failed"),
            child_writes: to.counter("child_writes_total", "Writes of children to the API server"),
            status_writes: to.counter("status_writes_total", "Writes of a status to the API server"),
            events: to.counters("events_total", "reason", "Events told"),
            node_errors: to.counters("node_errors_total", "kind", "Calls of a node's admin API that failed"),
            leader_label_seconds: to.seconds(
                "leader_label_seconds",
                "Seconds from a node's word about a new leader to the label on its pod",
            ),
            leader_changes: to.counter("leader_changes_total", "Changes of a leader's label"),
            watch_streams: to.gauge("watch_streams", "Streams to nodes that are open now"),
            clusters: to.gauge("clusters", "Clusters that are cared for"),
            leading: to.gauge("leading", "1 while this operator holds the lease"),
            backup_runs: to.counters(
                "backup_runs_total",
                "result",
                "Backups that ended: complete, failed or wrong",
            ),
            backup_seconds: to.seconds("backup_seconds", "Seconds that a backup took, proof included"),
            backups_unhealthy: to.gauge("backups_unhealthy", "Clusters with BackupHealthy=False"),
            backups_unverified: to.gauge("backups_unverified", "Clusters with BackupVerified=False"),
            registry: registry.clone(),
        };
        // An increase is only seen from a series that was there before.
        for result in ["complete", "failed", "wrong"] {
            metrics.backup_runs.with_label_values(&[result]);
        }
        Arc::new(metrics)
    }

    /// The Prometheus text format, version 0.0.4.
    ///
    /// # Errors
    /// The encoder's words; none is known to happen.
    pub fn render(&self) -> Result<String, String> {
        TextEncoder::new().encode_to_string(&self.registry.gather()).map_err(|error| error.to_string())
    }

    /// Counts the end of a pass. `result` is from a closed list.
    pub fn reconciled(&self, result: &str, took: Duration) {
        self.reconciles.with_label_values(&[result]).inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_declared_once_and_rendered() {
        let metrics = Metrics::new();
        metrics.reconciled("ok", Duration::from_millis(30));
        metrics.steps.with_label_values(&["initialize"]).inc();
        metrics.leading.set(1);
        let text = metrics.render().unwrap();
        for line in [
            "kvnode_operator_reconciles_total{result=\"ok\"} 1",
            "kvnode_operator_reconcile_seconds_bucket{le=\"0.05\"} 1",
            "kvnode_operator_steps_total{step=\"initialize\"} 1",
            "kvnode_operator_leading 1",
            "kvnode_operator_build_info{version=\"",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
