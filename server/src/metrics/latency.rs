//! A histogram of durations whose hot path is two relaxed atomics.
//!
//! The library's own histogram pays four sequentially consistent operations and a compare-and-swap loop per
//! observation. This one counts a bucket and adds nanoseconds; the number of observations is the sum of the buckets,
//! so the exposition is always consistent in itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::RwLock;
use prometheus::Opts;
use prometheus::core::{Collector, Desc, Describer as _};
use prometheus::proto;

/// Upper bounds of the buckets in microseconds, inclusive; the last bucket has none. Modules that count durations by
/// themselves use the same ones, so that [`Latency::raise`] loses nothing.
pub const BOUNDS_US: [u64; 20] = [
    25,
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    60_000_000,
    300_000_000,
];

#[derive(Default)]
struct Cells {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

struct Family {
    desc: Desc,
    label: Option<String>,
    children: RwLock<BTreeMap<&'static str, Arc<Cells>>>,
}

/// Histograms of durations by one label.
#[derive(Clone)]
pub struct LatencyVec(Arc<Family>);

/// One histogram of durations.
#[derive(Clone)]
pub struct Latency {
    cells: Arc<Cells>,
    family: LatencyVec,
}

impl LatencyVec {
    pub(super) fn new(opts: &Opts, labels: &[&str]) -> prometheus::Result<Self> {
        let mut opts = opts.clone();
        opts.variable_labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let label = opts.variable_labels.first().cloned();
        Ok(Self(Arc::new(Family { desc: opts.describe()?, label, children: RwLock::default() })))
    }

    /// The histogram of a label value; made at the first call.
    #[must_use]
    pub fn with(&self, value: &'static str) -> Latency {
        let cells = Arc::clone(self.0.children.write().entry(value).or_default());
        Latency { cells, family: self.clone() }
    }
}

impl Latency {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        // Up, not to the nearest: a bound is inclusive.
        let micros = u64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < micros);
        if let Some(cell) = self.cells.buckets.get(bucket) {
            cell.fetch_add(1, Relaxed);
        }
        self.cells.sum_ns.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Brings the cells up to what another module has counted: observations per bucket of [`BOUNDS_US`] (not
    /// cumulative, the last one for slower ones), and their sum. What is lower is left.
    pub fn raise(&self, buckets: &[u64; BOUNDS_US.len() + 1], sum: Duration) {
        for (cell, count) in self.cells.buckets.iter().zip(buckets) {
            cell.fetch_max(*count, Relaxed);
        }
        self.cells.sum_ns.fetch_max(u64::try_from(sum.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Observations so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.cells.buckets.iter().map(|cell| cell.load(Relaxed)).sum()
    }

    /// Sum of the observations so far.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.cells.sum_ns.load(Relaxed))
    }
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

impl Cells {
    fn histogram(&self) -> proto::Histogram {
        let mut out = proto::Histogram::default();
        let mut total = 0;
        let mut buckets = Vec::with_capacity(self.buckets.len());
        for (cell, bound) in self.buckets.iter().zip(BOUNDS_US) {
            total += cell.load(Relaxed);
            let mut bucket = proto::Bucket::default();
            bucket.set_cumulative_count(total);
            bucket.set_upper_bound(seconds(bound));
            buckets.push(bucket);
        }
        // The encoder writes the last bucket, `+Inf`, from the count.
        total += self.buckets.last().map_or(0, |cell| cell.load(Relaxed));
        out.set_bucket(buckets);
        out.set_sample_count(total);
        out.set_sample_sum(Duration::from_nanos(self.sum_ns.load(Relaxed)).as_secs_f64());
        out
    }
}

impl Collector for LatencyVec {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let mut metrics = Vec::new();
        for (value, cells) in self.0.children.read().iter() {
            let mut labels = self.0.desc.const_label_pairs.clone();
            if let Some(label) = &self.0.label {
                let mut pair = proto::LabelPair::default();
                pair.set_name(label.clone());
                pair.set_value((*value).to_owned());
                labels.push(pair);
            }
            let mut metric = proto::Metric::from_label(labels);
            metric.set_histogram(cells.histogram());
            metrics.push(metric);
        }
        let mut family = proto::MetricFamily::default();
        family.set_name(self.0.desc.fq_name.clone());
        family.set_help(self.0.desc.help.clone());
        family.set_field_type(proto::MetricType::HISTOGRAM);
        family.set_metric(metrics);
        vec![family]
    }
}

impl Collector for Latency {
    fn desc(&self) -> Vec<&Desc> {
        self.family.desc()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        self.family.collect()
    }
}
