//! How this process names a cluster: in maps and log lines.

use std::fmt;

use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;

use crate::crd::KvCluster;

/// Namespace and name of a KvCluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ClusterName {
    /// Of an object. The kind is namespaced: the API server never gives one without.
    #[must_use]
    pub fn of(object: &KvCluster) -> Self {
        Self { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }

    /// As kube-runtime wants it.
    #[must_use]
    pub fn to_ref(&self) -> ObjectRef<KvCluster> {
        ObjectRef::new(&self.name).within(&self.namespace)
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
