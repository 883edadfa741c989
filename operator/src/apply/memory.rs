//! What children were like after they were last applied: the way to see that somebody else changed one.
//!
//! The annotation `kvnode.dev/intent` says what was applied; it does not say that it still is so. After each apply the
//! generation of the object (or, for kinds without one, its resource version) is kept here; if it moves without us,
//! the child is applied again. A process that has just started believes what it finds.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::name::ClusterName;

/// A child of a cluster: kind and name.
pub type ChildKey = (&'static str, String);

/// The marks of all children.
#[derive(Debug, Default)]
pub struct Memory(Mutex<BTreeMap<ClusterName, BTreeMap<ChildKey, String>>>);

impl Memory {
    /// Whether the child stands as it was applied last. `mark` is what it has now. The first question about a child is
    /// answered with yes, and remembered.
    pub fn is_untouched(&self, cluster: &ClusterName, child: &ChildKey, mark: &str) -> bool {
        let mut marks = self.0.lock();
        let known = marks.entry(cluster.clone()).or_default();
        if let Some(remembered) = known.get(child) {
            return remembered == mark;
        }
        known.insert(child.clone(), mark.to_owned());
        true
    }

    /// The child was applied and is like that now.
    pub fn applied(&self, cluster: &ClusterName, child: ChildKey, mark: String) {
        self.0.lock().entry(cluster.clone()).or_default().insert(child, mark);
    }

    /// The cluster is gone.
    pub fn forget(&self, cluster: &ClusterName) {
        self.0.lock().remove(cluster);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_moves_without_us_is_seen() {
        let memory = Memory::default();
        let cluster = ClusterName { namespace: "shop".into(), name: "cart".into() };
        let child = ("Service", "cart".to_owned());
        assert!(memory.is_untouched(&cluster, &child, "7"), "believed at first sight");
        assert!(memory.is_untouched(&cluster, &child, "7"));
        assert!(!memory.is_untouched(&cluster, &child, "8"));
        memory.applied(&cluster, child.clone(), "9".into());
        assert!(memory.is_untouched(&cluster, &child, "9"));
        memory.forget(&cluster);
        assert!(memory.is_untouched(&cluster, &child, "8"));
    }
}
