//! A bed: one KvCluster `cart` in the namespace `shop`, and operators that can be started anew at any time.

use std::sync::Arc;

use kvnode_operator::admin_client::trust::Trust;
use kvnode_operator::admin_client::{AdminClient, Deadlines};
use kvnode_operator::backup::duty::job::Images;
use kvnode_operator::context::Context;
use kvnode_operator::error::Error;
use kvnode_operator::health::Probes;
use kvnode_operator::metrics::Metrics;
use kvnode_operator::name::ClusterName;
use kvnode_operator::reconcile::{Again, reconcile};
use kvnode_operator::validate::Operator;
use kvnode_operator::watch::Watches;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::kubelet;
use super::nodes::Nodes;
use super::objects::Key;
use super::server::Server;

pub(crate) const CLUSTERS: &str = "kvnode.dev/kvclusters";

/// Passes that a change may take before the test gives up.
const PASSES_MAX: usize = 60;

pub(crate) struct Bed {
    pub(crate) server: Server,
    pub(crate) nodes: Nodes,
    pub(crate) stop: CancellationToken,
}

impl Bed {
    pub(crate) fn new(spec: &Value) -> Self {
        let bed = Self { server: Server::default(), nodes: Nodes::default(), stop: CancellationToken::new() };
        let mut objects = bed.server.objects.lock();
        let cluster = json!({ "apiVersion": "kvnode.dev/v1alpha1", "kind": "KvCluster", "spec": spec });
        objects.create(&cart(), cluster).expect("a new cluster");
        kubelet::machines(&mut objects);
        drop(objects);
        bed
    }

    /// An operator that has just started. It hears nodes only if `listens`.
    pub(crate) fn operator(&self, listens: bool) -> Arc<Context> {
        let metrics = Metrics::new();
        let nodes = AdminClient::new(self.nodes.dial(Some(self.server.wire.clone())), Deadlines::default());
        let stop = if listens { self.stop.child_token() } else { cancelled() };
        let ears = AdminClient::new(self.nodes.dial(None), Deadlines::default());
        let watches = Watches::new(ears, metrics.clone(), stop);
        let operator = Operator {
            image: "kvnode-server:0.1.0".into(),
            namespace: "kvnode".into(),
            images: Images::default(),
        };
        let parts = (self.server.client(), nodes, Trust::default(), watches);
        Arc::new(Context::new(parts, metrics, Arc::new(Probes::default()), operator, "op-0"))
    }

    /// One pass, then everything else of the world.
    pub(crate) async fn pass(&self, ctx: &Arc<Context>) -> Result<Again, Error> {
        let ended = reconcile(ctx, &name()).await;
        self.turn();
        ended
    }

    /// A minute goes by: the operator looks at the Secrets of a cluster at rest again.
    pub(crate) fn minute(ctx: &Context) {
        ctx.secrets.forget(&name());
    }

    pub(crate) fn turn(&self) {
        kubelet::turn(&mut self.server.objects.lock(), &self.nodes);
    }

    /// Passes until nothing changes any more and the cluster is Ready. Errors are as good as passes.
    pub(crate) async fn settle(&self, ctx: &Arc<Context>) {
        let mut last = String::new();
        for _ in 0..PASSES_MAX {
            let before = self.server.objects.lock().version();
            match self.pass(ctx).await {
                Err(error) => last = error.to_string(),
                Ok(_)
                    if self.server.objects.lock().version() == before
                        && self.condition("Ready") == "True" =>
                {
                    return;
                }
                Ok(_) => {}
            }
        }
        panic!(
            "not Ready after {PASSES_MAX} passes; last error {last:?}; status {:#}",
            self.cluster()["status"]
        );
    }

    pub(crate) fn cluster(&self) -> Value {
        self.server.objects.lock().get(&cart()).expect("the cluster is there")
    }

    /// Status of a condition, "" if there is none.
    pub(crate) fn condition(&self, kind: &str) -> String {
        let cluster = self.cluster();
        let conditions = cluster["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|condition| condition["type"] == kind);
        found.map(|condition| kubelet::text(&condition["status"])).unwrap_or_default()
    }

    /// Changes the spec as a user does.
    pub(crate) fn edit(&self, spec: &Value) {
        let patch = json!({ "spec": spec });
        self.server.objects.lock().merge(&cart(), &patch, false).expect("an edit");
    }

    /// Reasons of all Events, in the order of their names.
    pub(crate) fn events(&self) -> Vec<String> {
        let events = self.server.objects.lock().list("events.k8s.io/events", "shop", &[]);
        events.iter().map(|event| kubelet::text(&event["reason"])).collect()
    }

    /// Every object, without what differs from run to run: versions, times, addresses, Events; of Secrets only which keys
    /// they have.
    pub(crate) fn state(&self) -> Vec<String> {
        let resources = [
            CLUSTERS,
            "apps/statefulsets",
            kubelet::PODS,
            kubelet::CLAIMS,
            "/services",
            "/configmaps",
            "/serviceaccounts",
            "networking.k8s.io/networkpolicies",
            "policy/poddisruptionbudgets",
        ];
        let objects = self.server.objects.lock();
        let all = resources.iter().flat_map(|resource| objects.list(resource, "", &[]));
        let all = all.map(|mut object| {
            strip(&mut object);
            object.to_string()
        });
        let secrets = objects.list("/secrets", "", &[]).into_iter().map(|secret| {
            let keys = secret["data"].as_object().map(|data| data.keys().cloned().collect::<Vec<_>>());
            format!("{} {keys:?}", secret["metadata"]["name"])
        });
        all.chain(secrets).collect()
    }
}

fn strip(value: &mut Value) {
    const VARYING: &[&str] = &[
        "resourceVersion",
        "generation",
        "observedGeneration",
        "lastTransitionTime",
        "since",
        "formedAt",
        "creationTimestamp",
        "notAfter",
        "podIP",
    ];
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !VARYING.contains(&name.as_str()));
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

pub(crate) fn name() -> ClusterName {
    ClusterName { namespace: "shop".into(), name: "cart".into() }
}

pub(crate) fn cart() -> Key {
    Key::new(CLUSTERS, "shop", "cart")
}

fn cancelled() -> CancellationToken {
    let token = CancellationToken::new();
    token.cancel();
    token
}
