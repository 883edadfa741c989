//! A question to every node that leads, again and again: from which entry on would a read be served here?
//!
//! Whatever any node had applied before the question must be at or below the answer, else a read would miss it. Clients
//! ask the same by reading, but seldom at the moment that matters, and a client whose write hangs asks nothing at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::node::SimNode;

/// Rounds between two questions to one node.
const ASK_EVERY_MS: u64 = 10;
/// A leader that cannot confirm that it leads looks for a way for longer than anyone wants to know.
const PATIENCE: Duration = Duration::from_millis(300);

/// Questions under way, by node.
#[derive(Default)]
pub struct Probes {
    open: BTreeMap<usize, Open>,
    /// How many were answered with an index.
    pub answered: u64,
}

struct Open {
    /// Last entry that somebody had applied when it was put.
    committed: u64,
    /// `Some` once it is answered; the other reference is the question's.
    answer: Arc<Mutex<Option<Option<u64>>>>,
}

impl Probes {
    /// Judges the answers, and asks those who lead.
    ///
    /// # Errors
    /// A node would serve a read that misses what was committed.
    pub fn round(&mut self, now_ms: u64, nodes: &[SimNode], committed: Option<u64>) -> Result<()> {
        for (number, node) in nodes.iter().enumerate() {
            self.judge(number)?;
            if !now_ms.is_multiple_of(ASK_EVERY_MS) || self.open.contains_key(&number) {
                continue;
            }
            let (Some(committed), Some(group)) = (committed, node.group()) else { continue };
            if !group.inspect().leads {
                continue;
            }
            let answer = Arc::new(Mutex::new(None));
            let told = answer.clone();
            node.spawn(async move {
                let index = timeout(PATIENCE, group.read_index()).await.unwrap_or_default();
                *told.lock() = Some(index);
            });
            self.open.insert(number, Open { committed, answer });
        }
        Ok(())
    }

    fn judge(&mut self, number: usize) -> Result<()> {
        let Some(open) = self.open.get(&number) else { return Ok(()) };
        let answer = *open.answer.lock();
        let is_lost = Arc::strong_count(&open.answer) == 1;
        if answer.is_none() && !is_lost {
            return Ok(());
        }
        let committed = open.committed;
        self.open.remove(&number);
        if let Some(Some(index)) = answer {
            self.answered += 1;
            if index < committed {
                bail!(
                    "node {number} would serve a read from entry {index} on, though {committed} was committed before"
                );
            }
        }
        Ok(())
    }
}
