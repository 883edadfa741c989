//! Every rule of the schema refuses what it should and accepts what it should.

use kube::CustomResourceExt as _;
use serde_json::{Value, json};

use super::backup::{KvBackup, KvBackupSpec};
use super::{KvCluster, KvClusterSpec};

/// Bytes of JSON of one CRD; `kubectl apply` keeps a copy in an annotation of at most 256 KiB.
const JSON_BYTES_MAX: usize = 100_000;

fn cluster(name: &str, spec: Value) -> KvCluster {
    KvCluster::new(name, serde_json::from_value(spec).unwrap())
}

fn spec(spec: Value) -> KvCluster {
    cluster("cart", spec)
}

fn refused(result: Result<(), impl std::fmt::Debug>, part: &str) {
    let text = format!("{:?}", result.expect_err(part));
    assert!(text.contains(part), "{part}: {text}");
}

#[test]
fn an_empty_spec_is_complete() {
    let empty: KvClusterSpec = serde_json::from_value(json!({})).unwrap();
    assert_eq!(empty, KvClusterSpec::default());
    spec(json!({})).validate_cel().unwrap();
    // No explicit null and no empty list: a GitOps tool sees no difference after defaulting.
    let text = serde_json::to_string(&empty).unwrap();
    assert!(!text.contains("null") && !text.contains("[]"), "{text}");
}

#[test]
fn names() {
    for good in ["a", "cart", "cart-1", &"a".repeat(45)] {
        cluster(good, json!({})).validate_cel().unwrap();
    }
    for bad in ["1cart", "cart.shop", "-cart", &"a".repeat(46)] {
        refused(cluster(bad, json!({})).validate_cel(), "metadata.name must be at most 45");
    }
    for bad in ["cart-leader", "cart-read", "cart-raft", "cart-learner", "cart-config"] {
        refused(cluster(bad, json!({})).validate_cel(), "metadata.name must not end in");
    }
}

#[test]
fn replicas_are_odd() {
    for good in [1, 3, 5, 7, 9] {
        spec(json!({ "replicas": good })).validate_cel().unwrap();
    }
    for bad in [2, 4] {
        refused(spec(json!({ "replicas": bad })).validate_cel(), "replicas must be odd");
    }
}

#[test]
fn scaling_and_sleeping_are_two_edits() {
    let awake = spec(json!({}));
    spec(json!({ "hibernate": true })).validate_cel_update(&awake).unwrap();
    spec(json!({ "replicas": 5 })).validate_cel_update(&awake).unwrap();
    refused(
        spec(json!({ "hibernate": true, "replicas": 5 })).validate_cel_update(&awake),
        "cannot change in the same edit",
    );
    refused(
        spec(json!({ "hibernate": true, "learners": 1 })).validate_cel_update(&awake),
        "cannot change in the same edit",
    );
}

#[test]
fn storage_grows_only_and_keeps_its_class() {
    let old = spec(json!({ "storage": { "size": "10Gi", "storageClassName": "fast" } }));
    spec(json!({ "storage": { "size": "1Gi" } })).validate_cel().unwrap();
    refused(spec(json!({ "storage": { "size": "1023Mi" } })).validate_cel(), "at least 1Gi");
    spec(json!({ "storage": { "size": "10240Mi", "storageClassName": "fast" } }))
        .validate_cel_update(&old)
        .unwrap();
    spec(json!({ "storage": { "size": "20Gi", "storageClassName": "fast" } }))
        .validate_cel_update(&old)
        .unwrap();
    refused(
        spec(json!({ "storage": { "size": "9Gi", "storageClassName": "fast" } })).validate_cel_update(&old),
        "can only grow",
    );
    refused(
        spec(json!({ "storage": { "size": "10Gi", "storageClassName": "slow" } })).validate_cel_update(&old),
        "storageClassName cannot be changed",
    );
    refused(spec(json!({})).validate_cel_update(&old), "storageClassName cannot be changed");
    refused(old.validate_cel_update(&spec(json!({}))), "storageClassName cannot be changed");
}

#[test]
fn settings_of_the_operator_are_refused() {
    spec(json!({ "config": { "durability": "low", "log_filter": "debug" } })).validate_cel().unwrap();
    for key in crate::validate::OWNED_KEYS {
        refused(spec(json!({ "config": { *key: "x" } })).validate_cel(), "belong to the operator");
    }
}

#[test]
fn load_balancer_fields_need_a_load_balancer() {
    let service = |fields: Value| spec(json!({ "services": { "leader": fields } }));
    service(json!({ "type": "LoadBalancer", "loadBalancerClass": "x", "loadBalancerSourceRanges": ["10.0.0.0/8"] }))
        .validate_cel()
        .unwrap();
    service(json!({ "type": "NodePort" })).validate_cel().unwrap();
    refused(service(json!({ "loadBalancerClass": "x" })).validate_cel(), "need type LoadBalancer");
    refused(
        service(json!({ "type": "NodePort", "loadBalancerSourceRanges": ["10.0.0.0/8"] })).validate_cel(),
        "need type LoadBalancer",
    );
}

#[test]
fn buckets_are_named_with_one_kind_of_credentials_and_a_url() {
    let s3 = |fields: Value| {
        let mut s3 = json!({ "bucket": "acme-kv" });
        s3.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        spec(json!({ "backup": { "s3": s3 } }))
    };
    s3(json!({ "credentialsSecret": "a", "endpoint": "https://minio:9000" })).validate_cel().unwrap();
    s3(json!({ "serviceAccountName": "a" })).validate_cel().unwrap();
    refused(s3(json!({ "credentialsSecret": "a", "serviceAccountName": "b" })).validate_cel(), "not both");
    refused(s3(json!({ "endpoint": "minio:9000" })).validate_cel(), "must begin with https");
}

#[test]
fn a_cluster_begins_with_one_thing_and_keeps_to_it() {
    let begins = |bootstrap: Value| spec(json!({ "bootstrap": bootstrap }));
    let store = json!({ "bucket": "acme-kv" });
    let from_bucket = begins(json!({ "s3": { "cluster": "cart", "store": store } }));
    from_bucket.validate_cel().unwrap();
    begins(json!({ "backupRef": "b" })).validate_cel().unwrap();
    refused(begins(json!({})).validate_cel(), "exactly one");
    refused(
        begins(json!({ "backupRef": "b", "s3": { "cluster": "cart", "store": store } })).validate_cel(),
        "exactly one",
    );
    refused(begins(json!({ "s3": { "store": store } })).validate_cel(), "give cluster");
    refused(
        begins(json!({ "backupRef": "b", "targetTime": "2026-11-21T14:05:00Z" })).validate_cel(),
        "targetTime needs s3",
    );
    let nothing = spec(json!({}));
    refused(nothing.validate_cel_update(&from_bucket), "cannot be changed, added or removed");
    refused(from_bucket.validate_cel_update(&nothing), "cannot be changed, added or removed");
    from_bucket.validate_cel_update(&from_bucket).unwrap();
}

#[test]
fn the_examples_are_valid() {
    for text in [
        include_str!("../../../deploy/examples/backup.yaml"),
        include_str!("../../../deploy/examples/restore.yaml"),
        include_str!("../../../deploy/examples/tls.yaml"),
        include_str!("../../../deploy/examples/open.yaml"),
        include_str!("../../../deploy/examples/minimal.yaml"),
        include_str!("../../../deploy/examples/production.yaml"),
        include_str!("../../../deploy/examples/cert-manager.yaml"),
        include_str!("../../../deploy/examples/client-certificates.yaml"),
    ] {
        let ours = text.split("\n---\n").last().unwrap();
        let example: KvCluster = serde_yaml::from_str(ours).unwrap();
        example.validate_cel().unwrap();
        let operator = crate::validate::Operator {
            image: "server".into(),
            namespace: "kvnode-system".into(),
            images: crate::backup::duty::job::Images::default(),
        };
        crate::validate::validate(&example, &operator).unwrap();
    }
}

#[test]
fn a_backup_keeps_its_cluster_and_schedule() {
    let backup = |spec: Value| -> KvBackup {
        KvBackup::new("b", serde_json::from_value::<KvBackupSpec>(spec).unwrap())
    };
    let old = backup(json!({ "cluster": "cart" }));
    backup(json!({ "cluster": "cart", "verify": "Restore" })).validate_cel_update(&old).unwrap();
    refused(backup(json!({ "cluster": "other" })).validate_cel_update(&old), "cluster cannot be changed");
    refused(
        backup(json!({ "cluster": "cart", "schedule": "hourly" })).validate_cel_update(&old),
        "schedule cannot be changed",
    );
}

#[test]
fn crds_are_small_and_every_field_is_explained() {
    for crd in [KvCluster::crd(), KvBackup::crd()] {
        let value = serde_json::to_value(&crd).unwrap();
        let bytes = value.to_string().len();
        assert!(bytes < JSON_BYTES_MAX, "{bytes} bytes");
        let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        for part in ["spec", "status"] {
            unexplained(part, &schema[part]);
        }
    }
}

/// Own fields have a text; types of Kubernetes have their own.
fn unexplained(path: &str, schema: &Value) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        assert!(inner["description"].as_str().is_some_and(|text| text.len() > 8), "{path} is not explained");
        unexplained(&path, inner);
    }
}

#[test]
fn every_setting_has_its_default_and_an_example() {
    let crd = serde_json::to_value(KvCluster::crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut fields = Vec::new();
    settings("spec", schema, &mut fields);
    assert!(fields.len() >= 25, "{fields:#?}");
}

/// Walks down to what people write. Types of Kubernetes have texts of their own.
fn settings(path: &str, schema: &Value, fields: &mut Vec<String>) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let text = inner["description"].as_str().unwrap_or_default();
        let foreign = ["spec.resources", "spec.scheduling.tolerations", "spec.imagePullSecrets"];
        if inner["properties"].is_object() && !foreign.contains(&path.as_str()) {
            settings(&path, inner, fields);
            continue;
        }
        let chosen = inner["enum"].is_array() || inner["type"] == "boolean";
        assert!(chosen || text.contains("Example:"), "{path} has no example: {text}");
        // An empty list or map needs no word.
        let default = inner["default"].clone();
        let empty = default.is_null() || default == json!([]) || default == json!({});
        assert!(empty || text.contains("Default:"), "{path} does not tell its default {default}: {text}");
        fields.push(path);
    }
}

#[test]
fn lists_that_are_maps_say_so_and_the_scale_subresource_works() {
    let crd = serde_json::to_value(KvCluster::crd()).unwrap();
    let version = &crd["spec"]["versions"][0];
    let status = &version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"];
    for (field, key) in [("conditions", "type"), ("members", "pod")] {
        assert_eq!(status[field]["x-kubernetes-list-type"], json!("map"), "{field}");
        assert_eq!(status[field]["x-kubernetes-list-map-keys"], json!([key]), "{field}");
    }
    let maps = version.to_string().matches("x-kubernetes-list-map-keys").count();
    assert_eq!(maps, 5, "they, the users, the schedules, and since when these count");
    assert_eq!(version["subresources"]["scale"]["labelSelectorPath"], json!(".status.selector"));
    assert!(version["subresources"]["status"].is_object());
    let columns = version["additionalPrinterColumns"].as_array().unwrap();
    let names: Vec<&str> = columns.iter().map(|column| column["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Ready", "Leader", "Phase", "Version", "Age", "Last-Backup", "Term", "Summary"]);
}

#[test]
fn defaults_are_in_the_schema() {
    let crd = serde_json::to_value(KvCluster::crd()).unwrap();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    assert_eq!(spec["replicas"]["default"], json!(3));
    assert_eq!(spec["storage"]["default"]["size"], json!("10Gi"));
    assert_eq!(spec["storage"]["properties"]["whenDeleted"]["default"], json!("Retain"));
    assert_eq!(spec["services"]["properties"]["any"]["properties"]["type"]["default"], json!("ClusterIP"));
    // What nobody says a word about is locked.
    assert_eq!(spec["tls"]["default"], json!({ "mode": "Managed", "clients": "Optional" }));
    assert_eq!(spec["tls"]["properties"]["mode"]["default"], json!("Managed"));
    assert_eq!(spec["auth"]["default"], json!({ "enabled": true }));
    assert_eq!(spec["auth"]["properties"]["enabled"]["default"], json!(true));
    assert_eq!(spec["networkPolicy"]["default"], json!({ "enabled": true }));
}

#[test]
fn tls_rules() {
    let tls = |tls: serde_json::Value| spec(json!({ "tls": tls }));
    assert!(tls(json!({ "mode": "Managed", "names": ["cart.example.com"] })).validate_cel().is_ok());
    assert!(tls(json!({ "mode": "Secret", "secretName": "bought" })).validate_cel().is_ok());
    refused(tls(json!({ "mode": "Secret" })).validate_cel(), "tls.secretName");
    refused(tls(json!({ "mode": "Managed", "secretName": "bought" })).validate_cel(), "tls.secretName");
    refused(tls(json!({ "mode": "Secret", "secretName": "s", "names": ["a"] })).validate_cel(), "tls.names");
    refused(tls(json!({ "mode": "Disabled", "clients": "Required" })).validate_cel(), "tls.clients");
    assert!(tls(json!({ "clients": "Required" })).validate_cel().is_ok());
    let issuer = json!({ "mode": "CertManager", "issuerRef": { "name": "cart" } });
    assert!(tls(issuer).validate_cel().is_ok());
    refused(tls(json!({ "mode": "CertManager" })).validate_cel(), "tls.issuerRef");
    refused(tls(json!({ "issuerRef": { "name": "cart" } })).validate_cel(), "tls.issuerRef");
    let clients = json!({ "secretName": "clients", "user": "CommonName" });
    assert!(tls(json!({ "clientAuth": clients })).validate_cel().is_ok());
    refused(tls(json!({ "clients": "Disabled", "clientAuth": clients })).validate_cel(), "tls.clientAuth");
    refused(tls(json!({ "mode": "Disabled", "clientAuth": clients })).validate_cel(), "tls.clientAuth");
    let (off, on) = (tls(json!({ "mode": "Disabled" })), spec(json!({})));
    refused(on.validate_cel_update(&off), "tls.mode cannot be changed");
    refused(off.validate_cel_update(&on), "tls.mode cannot be changed");
    // The spec of a cluster that is older than the default may say what it has always been.
    let recorded = |object: &KvCluster, mode: &str| {
        let mut object = object.clone();
        let doors = json!({ "doors": { "tls": mode, "auth": "KeptOpen" } });
        object.status = Some(serde_json::from_value(doors).unwrap());
        object
    };
    recorded(&off, "Disabled").validate_cel_update(&recorded(&on, "Disabled")).unwrap();
    refused(recorded(&off, "Managed").validate_cel_update(&recorded(&on, "Managed")), "cannot be changed");
}

#[test]
fn users_need_passwords_and_good_names() {
    let users = |enabled: bool, name: &str| {
        spec(json!({ "auth": { "enabled": enabled, "users": [{ "name": name, "acl": "+@read" }] } }))
    };
    let given = |enabled: bool| {
        spec(json!({ "auth": { "enabled": enabled, "passwordSecret": { "name": "given" } } }))
    };
    given(true).validate_cel().unwrap();
    refused(given(false).validate_cel(), "auth.passwordSecret needs auth.enabled");
    users(true, "app").validate_cel().unwrap();
    refused(users(false, "app").validate_cel(), "auth.users needs auth.enabled");
    let faults = |spec: Value| {
        let object = KvCluster::new("cart", serde_json::from_value::<KvClusterSpec>(spec).unwrap());
        let operator = crate::validate::Operator {
            image: "server".into(),
            namespace: "kvnode-system".into(),
            images: crate::backup::duty::job::Images::default(),
        };
        crate::validate::validate(&object, &operator)
            .map_or_else(|wrong| wrong.faults.join("; "), |_| String::new())
    };
    let auth = |name: &str, acl: &str| json!({ "auth": { "enabled": true, "users": [{ "name": name, "acl": acl }] } });
    assert_eq!(faults(auth("app", "~app:* +@read -keys")), "");
    assert!(faults(auth("default", "+@read")).contains("users[default]"));
    assert!(faults(auth("app", "+reed")).contains("spec.auth.users[app].acl: \"+reed\": no command"));
    let own = faults(json!({ "auth": { "passwordSecret": { "name": "cart-auth" } } }));
    assert!(own.contains("spec.auth.passwordSecret.name"), "{own}");
    let own = faults(json!({ "tls": { "clientAuth": { "secretName": "cart-ca" } } }));
    assert!(own.contains("spec.tls.clientAuth.secretName"), "{own}");
    let mut both = auth("app", "+@read");
    both["config"] = json!({ "acl_file": "/x" });
    assert!(faults(both).contains("spec.config.acl_file"));
}
