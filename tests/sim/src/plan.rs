//! What a seed decides before the first round: the cluster, its clocks, how its reads are confirmed.

use kvnode_server::config::ReadPolicy;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Parts per million by which a clock may be fast or slow in an extreme run. Two clocks that differ by twice this still
/// run within the bound that lease reads trust: a leader uses 0.8 of the lease that its followers grant.
const DRIFT_PPM_MAX: i64 = 100_000;
/// As in a machine of today whose clock is not disciplined.
const DRIFT_PPM_USUAL: i64 = 200;

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything else follows from it.
    pub seed: u64,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// How reads are confirmed.
    pub read_policy: ReadPolicy,
    /// Milliseconds of faults.
    pub chaos_ms: u64,
    /// How fast each node's clock is, in parts per million.
    pub drift_ppm: Vec<i64>,
    /// Machines may be suspended together with their clocks, which lease reads do not claim to bear.
    pub clocks_stop: bool,
    /// A bug that is planted, for proof that it is found.
    pub planted: Option<&'static str>,
}

impl Plan {
    /// The plan of a seed. Even seeds read by ReadIndex, odd ones by lease; every third has five nodes.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x706c_616e);
        let nodes = if seed % 3 == 2 { 5 } else { 3 };
        let drift_max = if random.random_bool(0.5) { DRIFT_PPM_MAX } else { DRIFT_PPM_USUAL };
        let plan = Self {
            seed,
            nodes,
            read_policy: ReadPolicy::Strict,
            clocks_stop: true,
            chaos_ms: 30_000,
            drift_ppm: (0..nodes).map(|_| random.random_range(-drift_max..=drift_max)).collect(),
            planted: None,
        };
        if seed % 2 == 1 { plan.reading_by(ReadPolicy::Lease) } else { plan }
    }

    /// Whether reads go by lease.
    #[must_use]
    pub fn reads_by_lease(&self) -> bool {
        self.read_policy == ReadPolicy::Lease
    }

    /// The same with this confirmation of reads, and the clocks that it claims to bear.
    #[must_use]
    pub fn reading_by(self, read_policy: ReadPolicy) -> Self {
        Self { read_policy, clocks_stop: read_policy == ReadPolicy::Strict, ..self }
    }
}
