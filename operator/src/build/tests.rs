//! Every child as YAML, compared with reviewed files; and the promises that the files alone do not show.
//!
//! `KVNODE_GOLDEN=write cargo test -p kvnode-operator golden` writes the files anew; review the difference.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Value, json};

use super::{Built, Named, Sizes, build, config_map, labels};
use crate::backup::duty::job::Images;
use crate::crd::{KvCluster, KvClusterSpec};
use crate::observed::{SetRole, SetSeen};
use crate::validate::{Cluster, OWNED_KEYS, Operator, validate};

fn cluster(spec: Value) -> Cluster {
    let spec: KvClusterSpec = serde_json::from_value(spec).unwrap();
    let mut object = KvCluster::new("cart", spec);
    object.metadata.namespace = Some("shop".into());
    object.metadata.uid = Some("7d1f2c3a-0000-4000-8000-000000000001".into());
    object.metadata.generation = Some(1);
    let operator = Operator {
        image: "kvnode-server:0.1.0".into(),
        namespace: "kvnode-system".into(),
        images: Images::default(),
    };
    validate(&object, &operator).unwrap()
}

fn built(spec: Value, voters: i32, learners: Option<i32>) -> Built {
    build(&cluster(spec), &BTreeMap::new(), Sizes { voters, learners })
}

fn open() -> Value {
    json!({ "tls": { "mode": "Disabled" }, "auth": { "enabled": false } })
}

/// Everything that an interface of the spec can turn.
fn production() -> Value {
    json!({
        "replicas": 5,
        "learners": 1,
        "image": "registry.example/kvnode-server:0.2.0",
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{ "name": "registry" }],
        "storage": { "size": "50Gi", "storageClassName": "fast" },
        "config": { "durability": "high", "clients_max": "20000", "log_filter": "debug" },
        "services": {
            "any": { "annotations": { "example.com/lb": "inside" }, "trafficDistribution": "PreferClose" },
            "leader": {
                "type": "LoadBalancer",
                "loadBalancerClass": "example.com/nlb",
                "loadBalancerSourceRanges": ["10.0.0.0/8"],
            },
            "read": { "enabled": false },
        },
        "scheduling": {
            "perNode": "Required",
            "perZone": "Required",
            "nodeSelector": { "disk": "nvme" },
            "tolerations": [{ "key": "dedicated", "operator": "Exists" }],
            "priorityClassName": "high",
        },
        "resources": { "requests": { "cpu": "1", "memory": "2Gi" }, "limits": { "memory": "2Gi" } },
        "networkPolicy": { "scrapeNamespaces": ["monitoring"] },
        "podTemplate": {
            "metadata": { "annotations": { "example.com/team": "shop" } },
            "spec": {
                "containers": [
                    { "name": "server", "env": [{ "name": "TZ", "value": "UTC" }] },
                    { "name": "sidecar", "image": "sidecar:1" },
                ],
            },
        },
    })
}

fn golden<T: Serialize>(name: &str, object: &T) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/build/golden").join(name);
    let text = serde_yaml::to_string(object).unwrap();
    if std::env::var_os("KVNODE_GOLDEN").is_some_and(|word| word == "write") {
        std::fs::write(&path, &text).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == want,
        "{} differs; KVNODE_GOLDEN=write writes it anew. It is now:\n{text}",
        path.display()
    );
}

fn golden_named<T: Serialize>(name: &str, object: &Named<T>) {
    match &object.manifest {
        Some(manifest) => golden(name, manifest),
        None => golden(name, &json!({ "none": object.name })),
    }
}

fn golden_all(prefix: &str, built: &Built) {
    let children = &built.children;
    golden(&format!("{prefix}-service-account.yaml"), &children.service_account);
    golden(&format!("{prefix}-config-map.yaml"), &children.config_map);
    golden(&format!("{prefix}-service-raft.yaml"), &children.raft_service);
    golden_named(&format!("{prefix}-service-any.yaml"), &children.any_service);
    golden_named(&format!("{prefix}-service-leader.yaml"), &children.leader_service);
    golden_named(&format!("{prefix}-service-read.yaml"), &children.read_service);
    golden_named(&format!("{prefix}-network-policy.yaml"), &children.network_policy);
    golden_named(&format!("{prefix}-disruption-budget.yaml"), &children.disruption_budget);
    golden(&format!("{prefix}-stateful-set.yaml"), &children.voters);
    golden_named(&format!("{prefix}-stateful-set-learner.yaml"), &children.learners);
}

#[test]
fn golden_of_an_empty_spec() {
    golden_all("minimal", &built(json!({}), 3, None));
}

/// A cluster without locks. These files do not change: a cluster that was made before there were any would restart.
#[test]
fn golden_of_an_open_cluster() {
    let children = built(open(), 3, None).children;
    golden("open-stateful-set.yaml", &children.voters);
    golden("open-config-map.yaml", &children.config_map);
    golden_named("open-service-any.yaml", &children.any_service);
}

#[test]
fn golden_of_a_full_spec() {
    golden_all("production", &built(production(), 5, Some(1)));
}

fn pod_spec(built: &Built) -> Value {
    json!(built.children.voters.spec.as_ref().unwrap().template.spec)
}

#[test]
fn pods_fit_the_restricted_profile_and_hold_no_credentials() {
    for spec in [json!({}), production()] {
        let pod = pod_spec(&built(spec, 3, None));
        assert_eq!(pod["automountServiceAccountToken"], json!(false));
        assert_eq!(pod["enableServiceLinks"], json!(false));
        assert_eq!(pod["securityContext"]["runAsNonRoot"], json!(true));
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], json!("RuntimeDefault"));
        let server = &pod["containers"][0];
        assert_eq!(server["name"], json!(labels::CONTAINER));
        assert_eq!(server["securityContext"]["allowPrivilegeEscalation"], json!(false));
        assert_eq!(server["securityContext"]["readOnlyRootFilesystem"], json!(true));
        assert_eq!(server["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
    }
}

#[test]
fn one_voter_has_no_budget_that_would_block_a_drain() {
    assert_eq!(built(json!({ "replicas": 1 }), 1, None).children.disruption_budget.manifest, None);
}

/// What the API server would show of a set.
fn seen(built: &Built) -> BTreeMap<SetRole, SetSeen> {
    let set = &built.children.voters;
    let notes = set.metadata.annotations.clone().unwrap();
    let mut template = set.spec.as_ref().unwrap().template.clone();
    // A default that the API server fills in.
    template.spec.as_mut().unwrap().dns_policy = Some("ClusterFirst".into());
    let seen = SetSeen {
        name: "cart".into(),
        template: Some(template),
        pod_intent: notes.get(labels::POD_INTENT).cloned(),
        template_hash: notes.get(labels::POD_TEMPLATE).cloned(),
        ..SetSeen::default()
    };
    [(SetRole::Voter, seen)].into()
}

#[test]
fn another_version_of_the_operator_keeps_the_pods_of_an_unchanged_spec() {
    let first = built(json!({}), 3, None);
    let sets = seen(&first);
    let sizes = Sizes { voters: 3, learners: None };
    let mut newer = cluster(json!({}));
    newer.operator.image = "kvnode-server:9.9.9".into();
    let kept = build(&newer, &sets, sizes);
    assert!(kept.update_available);
    assert_eq!(kept.image, "kvnode-server:0.1.0");
    assert_eq!(Some(&kept.children.voters.spec.unwrap().template), sets[&SetRole::Voter].template.as_ref());
    // A change by the user takes the new image along, and so does the permission.
    for spec in [
        json!({ "config": { "durability": "low" } }),
        json!({ "rollout": { "operatorUpgrade": "RollPods" } }),
    ] {
        let mut changed = cluster(spec);
        changed.operator.image.clone_from(&newer.operator.image);
        let rolled = build(&changed, &sets, sizes);
        assert!(!rolled.update_available);
        assert_eq!(rolled.image, "kvnode-server:9.9.9");
    }
}

#[test]
fn only_what_concerns_pods_changes_them() {
    let template = |spec: Value| json!(built(spec, 3, None).children.voters.spec.unwrap().template);
    let plain = template(json!({}));
    for same in [
        json!({ "replicas": 5, "learners": 2 }),
        json!({ "config": { "log_filter": "debug" } }),
        json!({ "storage": { "size": "20Gi" } }),
        json!({ "paused": true, "networkPolicy": { "enabled": false } }),
        json!({ "services": { "leader": { "enabled": false } } }),
    ] {
        assert_eq!(template(same.clone()), plain, "{same}");
    }
    for other in [
        json!({ "config": { "durability": "low" } }),
        json!({ "image": "x:2" }),
        json!({ "resources": { "limits": { "memory": "1Gi" } } }),
    ] {
        assert_ne!(template(other.clone()), plain, "{other}");
    }
}

#[test]
fn keys_and_defaults_are_those_of_the_server() {
    let example = include_str!("../../../server/config.example.yaml");
    let has = |key: &str| example.lines().any(|line| line.starts_with(&format!("#{key}:")));
    for key in OWNED_KEYS.iter().chain(config_map::LIVE_KEYS) {
        assert!(has(key), "{key} is no key of the server");
    }
    assert!(example.contains(&format!("#log_filter: {}\n", config_map::LOG_FILTER_DEFAULT)));
}

#[test]
fn an_overlay_that_a_pod_template_does_not_know_is_refused() {
    for (overlay, part) in [
        (
            json!({ "spec": { "containers": [{ "name": "server", "imagee": "x" }] } }),
            ".spec.containers[0].imagee",
        ),
        (json!({ "spec": { "containers": [{ "name": "server", "ports": 5 }] } }), "spec.podTemplate"),
        (json!({ "metadata": { "labels": { "kvnode.dev/set": "x" } } }), "kvnode.dev/set"),
        (json!({ "spec": { "containers": [], "restartPolicy": "Never" } }), "restartPolicy"),
    ] {
        let spec: KvClusterSpec = serde_json::from_value(json!({ "podTemplate": overlay })).unwrap();
        let operator = Operator { image: String::new(), namespace: String::new(), images: Images::default() };
        let faults = validate(&KvCluster::new("cart", spec), &operator).unwrap_err().faults;
        assert!(faults.iter().any(|fault| fault.contains(part)), "{part}: {faults:?}");
    }
}

#[test]
fn quantities_are_bytes() {
    use crate::validate::quantity_bytes;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    for (text, bytes) in [
        ("10Gi", Some(10 << 30)),
        ("1.5Gi", Some(3 << 29)),
        ("1000", Some(1000)),
        ("5G", Some(5_000_000_000)),
        ("1e3", Some(1000)),
        ("500m", Some(1)),
        (".5Ki", Some(512)),
        ("16Ei", None),
        ("", None),
        (".", None),
        ("-1", None),
        ("1.2.3", None),
        ("ten", None),
        ("10GiB", None),
    ] {
        assert_eq!(quantity_bytes(&Quantity(text.into())), bytes, "{text:?}");
    }
}

#[test]
fn only_the_voters_of_a_cluster_that_begins_with_a_backup_fetch_it_and_only_until_it_is_formed() {
    let spec = json!({
        "learners": 1,
        "bootstrap": {
            "s3": {
                "cluster": "old",
                "backup": "old-hourly-1",
                "store": { "bucket": "kvs", "credentialsSecret": "cred" },
            },
            "encryptionKey": { "name": "secret" },
        },
    });
    let mut cluster = cluster(spec);
    let sizes = Sizes { voters: 3, learners: Some(1) };
    let built = build(&cluster, &BTreeMap::new(), sizes);
    let pod = |set: &k8s_openapi::api::apps::v1::StatefulSet| {
        serde_json::to_value(&set.spec.as_ref().unwrap().template.spec).unwrap()
    };
    let voter = pod(&built.children.voters);
    let init = &voter["initContainers"][0];
    let args: Vec<String> = serde_json::from_value(init["args"].clone()).unwrap();
    for arg in ["restore", "--for-pod=cart-0", "--backup=old-hourly-1", "--credentials-dir=/etc/kvnode/s3"] {
        assert!(args.iter().any(|given| given.starts_with(arg)), "{arg}: {args:?}");
    }
    assert!(voter["containers"][0]["args"].to_string().contains("--restore=/data/restore/state.bin"));
    // The server sees neither the credentials nor the key.
    let mounts = voter["containers"][0]["volumeMounts"].to_string();
    assert!(!mounts.contains("\"s3\"") && !mounts.contains("\"key\""), "{mounts}");
    let learner = pod(built.children.learners.manifest.as_ref().unwrap());
    assert!(learner["initContainers"].is_null() && !learner.to_string().contains("--restore"));
    let marked = |built: &Built| {
        built.children.config_map.data.clone().unwrap().contains_key(config_map::RESTORE_FILE)
    };
    assert!(marked(&built));
    cluster.formed = true;
    let later = build(&cluster, &BTreeMap::new(), sizes);
    assert!(!marked(&later));
    assert_eq!(pod(&later.children.voters), voter, "being formed rolls no pod");
}

#[test]
fn tls_reaches_pods_services_and_probes_and_no_pod_that_has_none() {
    let ports = |service: &k8s_openapi::api::core::v1::Service| -> Vec<(i32, String)> {
        let spec = service.spec.as_ref().unwrap();
        let target = |port: &k8s_openapi::api::core::v1::ServicePort| {
            serde_json::to_value(&port.target_port).unwrap().as_str().unwrap().to_owned()
        };
        spec.ports.iter().flatten().map(|port| (port.port, target(port))).collect()
    };
    let pod =
        |built: &Built| serde_json::to_value(&built.children.voters.spec.as_ref().unwrap().template).unwrap();
    for (clients, services, addr, client_ports) in [
        ("Optional", vec![(6379, "redis"), (6380, "redis-tls")], "--addr=0.0.0.0:4920", vec![4920, 4921]),
        ("Required", vec![(6380, "redis-tls")], "--addr=off", vec![4920]),
        ("Disabled", vec![(6379, "redis")], "--addr=0.0.0.0:4920", vec![4920]),
    ] {
        let built = built(json!({ "tls": { "mode": "Managed", "clients": clients } }), 3, None);
        let any = built.children.any_service.manifest.as_ref().unwrap();
        let wanted: Vec<(i32, String)> =
            services.into_iter().map(|(port, to)| (port, to.to_owned())).collect();
        assert_eq!(ports(any), wanted, "{clients}");
        let pod = pod(&built);
        let server = &pod["spec"]["containers"][0];
        assert_eq!(server["args"][0], addr);
        let numbers =
            server["ports"].as_array().unwrap().iter().map(|port| port["containerPort"].as_i64().unwrap());
        let expected: Vec<i64> = client_ports.into_iter().chain([14920, 24920]).collect();
        assert_eq!(numbers.collect::<Vec<_>>(), expected);
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            assert_eq!(server[probe]["httpGet"]["scheme"], "HTTPS", "{probe}");
        }
        assert!(pod["spec"]["volumes"].to_string().contains(r#""secretName":"cart-tls""#));
        let settings = built.children.config_map.data.as_ref().unwrap()[config_map::FILE].clone();
        let settings: Value = serde_json::from_str(&settings).unwrap();
        assert_eq!(settings["peer_tls"], "required");
        let listens = settings["tls_addr"].as_str();
        assert_eq!(listens.is_some(), clients != "Disabled");
        for key in settings.as_object().unwrap().keys() {
            assert!(OWNED_KEYS.contains(&key.as_str()), "{key} can be set by users as well");
        }
    }
    let of_secret = built(json!({ "tls": { "mode": "Secret", "secretName": "bought" } }), 3, None);
    assert!(pod(&of_secret)["spec"]["volumes"].to_string().contains(r#""secretName":"bought""#));
    let of_cert_manager =
        built(json!({ "tls": { "mode": "CertManager", "issuerRef": { "name": "cart" } } }), 3, None);
    assert_eq!(pod(&of_cert_manager)["spec"]["volumes"], pod(&built(json!({}), 3, None))["spec"]["volumes"]);
    assert!(!pod(&built(open(), 3, None)).to_string().contains("tls"));
}

#[test]
fn authorities_of_clients_reach_the_pods_by_a_restart() {
    let with = |asked: Value| built(json!({ "tls": { "clientAuth": asked } }), 3, None);
    let template = |built: &Built| json!(built.children.voters.spec.as_ref().unwrap().template);
    let settings = |built: &Built| -> Value {
        serde_json::from_str(&built.children.config_map.data.as_ref().unwrap()[config_map::FILE]).unwrap()
    };
    let by_name = with(json!({ "secretName": "clients", "user": "CommonName" }));
    let volumes = template(&by_name)["spec"]["volumes"].to_string();
    assert!(
        volumes.contains(r#""secretName":"clients""#) && volumes.contains(r#""key":"ca.crt""#),
        "{volumes}"
    );
    let told = settings(&by_name);
    assert_eq!(told["tls_client_ca_file"], "/etc/kvnode-clients/ca.crt");
    assert_eq!((&told["tls_client_auth"], &told["tls_client_auth_user"]), (&json!("require"), &json!("cn")));
    let may = with(json!({ "secretName": "clients", "certificate": "Optional", "user": "AlternativeName" }));
    let told = settings(&may);
    assert_eq!(
        (&told["tls_client_auth"], &told["tls_client_auth_user"]),
        (&json!("optional"), &json!("san"))
    );
    assert_ne!(template(&by_name), template(&may), "a node reads that when it starts");
    let nobody = with(json!({ "secretName": "clients" }));
    assert!(settings(&nobody).get("tls_client_auth_user").is_none());
    let none = built(json!({}), 3, None);
    assert!(!template(&none).to_string().contains("kvnode-clients"));
    assert!(!settings(&none).to_string().contains("client_auth"));
}

#[test]
fn a_password_file_reaches_the_pods_unless_the_door_is_open() {
    let built = built(json!({}), 3, None);
    let pod = serde_json::to_value(&built.children.voters.spec.as_ref().unwrap().template).unwrap();
    assert!(pod["spec"]["volumes"].to_string().contains(r#""secretName":"cart-auth""#));
    assert!(pod["spec"]["volumes"].to_string().contains(r#""key":"passwords""#), "pods need no more of it");
    let settings = built.children.config_map.data.as_ref().unwrap()[config_map::FILE].clone();
    let settings: Value = serde_json::from_str(&settings).unwrap();
    assert_eq!(settings["requirepass_file"], "/etc/kvnode-auth/passwords");
    assert!(!pod.to_string().contains("KVNODE_PROTECTED_MODE"), "without its password it lets nobody in");
}

#[test]
fn the_first_user_reaches_the_pods_by_a_restart_and_later_ones_without() {
    let with = |users: Value| built(json!({ "auth": { "enabled": true, "users": users } }), 3, None);
    let user = |name: &str| json!({ "name": name, "acl": "+@read" });
    let (none, one) = (with(json!([])), with(json!([user("a")])));
    let template = |built: &Built| json!(built.children.voters.spec.as_ref().unwrap().template);
    assert_ne!(template(&none), template(&one));
    assert!(template(&one)["spec"]["volumes"].to_string().contains(r#""secretName":"cart-acl""#));
    let settings: Value =
        serde_json::from_str(&one.children.config_map.data.as_ref().unwrap()[config_map::FILE]).unwrap();
    assert_eq!(settings["acl_file"], "/etc/kvnode-acl/users.acl");
    let two = with(json!([user("a"), user("b")]));
    assert_eq!((template(&two), &two.children), (template(&one), &one.children));
    assert!(!json!(none.children.config_map).to_string().contains("acl_file"));
}
