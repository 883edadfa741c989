//! The four Services and the ServiceAccount.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use serde_json::{Value, json};

use super::{Named, labels, metadata, put, typed};
use crate::crd::tls::ClientTls;
use crate::crd::{ServiceSpec, ServiceType};
use crate::validate::Cluster;

/// `<name>`: data pods talk to no API server, so it has no token.
pub(super) fn account(cluster: &Cluster) -> ServiceAccount {
    typed(json!({
        "metadata": metadata(cluster, &cluster.name),
        "automountServiceAccountToken": false,
    }))
}

/// `<name>-raft`: names for the pods, also before they are ready: they must find each other to become it.
pub(super) fn raft(cluster: &Cluster) -> Service {
    typed(json!({
        "metadata": metadata(cluster, &labels::raft_service(&cluster.name)),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": labels::selector(&cluster.name),
            "ports": raft_ports(cluster),
        },
    }))
}

fn raft_ports(cluster: &Cluster) -> Vec<Value> {
    let mut ports = match cluster.client_tls() {
        ClientTls::Disabled => vec![port("redis", labels::CLIENT_PORT, "redis")],
        ClientTls::Optional => vec![
            port("redis", labels::CLIENT_PORT, "redis"),
            port("redis-tls", labels::TLS_PORT, "redis-tls"),
        ],
        ClientTls::Required => vec![port("redis-tls", labels::CLIENT_PORT, "redis-tls")],
    };
    ports.extend([port("peer", labels::PEER_PORT, "peer"), port("admin", labels::ADMIN_PORT, "admin")]);
    ports
}

/// `<name>`: any ready node.
pub(super) fn any(cluster: &Cluster) -> Named<Service> {
    client(cluster, cluster.name.clone(), &cluster.spec.services.any, None)
}

/// `<name>-leader`: the pod that the operator labels. Empty for a moment after an election; `<name>` serves meanwhile.
pub(super) fn leader(cluster: &Cluster) -> Named<Service> {
    let name = labels::leader_service(&cluster.name);
    client(cluster, name, &cluster.spec.services.leader, Some(labels::LEADER))
}

/// `<name>-read`: the pods that the operator labels.
pub(super) fn read(cluster: &Cluster) -> Named<Service> {
    let name = labels::read_service(&cluster.name);
    client(cluster, name, &cluster.spec.services.read, Some(labels::READ))
}

fn port(name: &str, port: i32, target: &str) -> Value {
    json!({ "name": name, "port": port, "targetPort": target, "protocol": "TCP" })
}

fn client_ports(cluster: &Cluster) -> Vec<Value> {
    let plain = port("redis", labels::SERVICE_PORT, "redis");
    let tls = port("redis-tls", labels::SERVICE_TLS_PORT, "redis-tls");
    match cluster.client_tls() {
        ClientTls::Disabled => vec![plain],
        ClientTls::Optional => vec![plain, tls],
        ClientTls::Required => vec![tls],
    }
}

fn client(cluster: &Cluster, name: String, spec: &ServiceSpec, mark: Option<&str>) -> Named<Service> {
    if !spec.enabled {
        return Named { name, manifest: None };
    }
    let mut selector: BTreeMap<String, String> = labels::selector(&cluster.name);
    if let Some(mark) = mark {
        selector.insert(mark.to_owned(), labels::TRUE.to_owned());
    }
    let mut meta = metadata(cluster, &name);
    if !spec.annotations.is_empty() {
        put(&mut meta, "annotations", json!(spec.annotations));
    }
    let mut body = json!({
        "type": spec.type_.as_str(),
        "selector": selector,
        "ports": client_ports(cluster),
    });
    if let Some(distribution) = &spec.traffic_distribution {
        put(&mut body, "trafficDistribution", json!(distribution));
    }
    if spec.type_ == ServiceType::LoadBalancer {
        if let Some(class) = &spec.load_balancer_class {
            put(&mut body, "loadBalancerClass", json!(class));
        }
        if !spec.load_balancer_source_ranges.is_empty() {
            put(&mut body, "loadBalancerSourceRanges", json!(spec.load_balancer_source_ranges));
        }
    }
    Named { name, manifest: Some(typed(json!({ "metadata": meta, "spec": body }))) }
}
