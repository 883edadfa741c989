//! The Secrets of a cluster with TLS. Nodes in memory speak in the clear: handshakes are tested beside the admin client.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kvnode_operator::context::Context;
use kvnode_operator::pki::{self, Pair};
use serde_json::{Value, json};

use super::bed::Bed;
use super::objects::{Key, Refusal};
use super::server::{Call, Fault};

pub(crate) fn secret(bed: &Bed, name: &str) -> Secret {
    let object =
        bed.server.objects.lock().get(&Key::new("/secrets", "shop", name)).expect("the Secret is there");
    serde_json::from_value(object).expect("a Secret")
}

pub(crate) fn text(secret: &Secret, key: &str) -> String {
    let data = secret.data.as_ref().expect("data");
    String::from_utf8(data[key].0.clone()).expect("PEM")
}

fn managed() -> Value {
    json!({ "tls": { "clients": "Required" } })
}

async fn writes_nothing(bed: &Bed, operator: &Arc<Context>) {
    bed.server.wire.start(None);
    for _ in 0..3 {
        bed.pass(operator).await.expect("a pass");
    }
    let writes: Vec<Call> = bed.server.wire.calls().into_iter().filter(Call::is_write).collect();
    assert!(writes.is_empty(), "{writes:?}");
}

#[tokio::test]
async fn a_managed_cluster_gets_its_authority_and_certificate_once() {
    let bed = Bed::new(&managed());
    let operator = bed.operator(false);
    bed.settle(&operator).await;
    let (ca, tls) = (secret(&bed, "cart-ca"), secret(&bed, "cart-tls"));
    for made in [&ca, &tls] {
        assert_eq!(made.type_.as_deref(), Some("kubernetes.io/tls"));
        let owner = &made.metadata.owner_references.as_ref().expect("an owner")[0];
        assert_eq!((owner.kind.as_str(), owner.controller), ("KvCluster", Some(true)));
    }
    assert_eq!(
        text(&tls, "ca.crt"),
        text(&ca, "tls.crt"),
        "pods trust the cluster's own authority, and no other"
    );
    assert_ne!(text(&tls, "tls.key"), text(&ca, "tls.key"), "pods do not get the authority's key");
    let (_, ends) = pki::life(&text(&tls, "tls.crt")).expect("a certificate");
    let status = &bed.cluster()["status"];
    let told: Timestamp = status["tls"]["notAfter"].as_str().expect("told").parse().expect("a time");
    assert_eq!(told, ends);
    // Nodes in memory show nothing.
    assert_eq!(bed.condition("TlsValid"), "False");
    assert!(status.to_string().contains("0 of 3 pods show"), "{status:#}");
    assert!(!bed.cluster().to_string().contains("PRIVATE KEY"), "{status:#}");
    // The same operator, and one that has just started, write nothing.
    for operator in [operator, bed.operator(false)] {
        writes_nothing(&bed, &operator).await;
    }
}

#[tokio::test]
async fn a_certificate_that_is_lost_or_of_another_authority_is_made_anew() {
    let bed = Bed::new(&managed());
    let operator = bed.operator(false);
    bed.settle(&operator).await;
    let authority = text(&secret(&bed, "cart-ca"), "tls.crt");
    let first = text(&secret(&bed, "cart-tls"), "tls.crt");
    let delete = |name: &str| {
        bed.server.objects.lock().delete(&Key::new("/secrets", "shop", name), &json!(null)).expect("deleted");
    };
    delete("cart-tls");
    Bed::minute(&operator);
    bed.settle(&operator).await;
    let second = secret(&bed, "cart-tls");
    assert_ne!(text(&second, "tls.crt"), first);
    assert_eq!(text(&second, "ca.crt"), authority);
    delete("cart-ca");
    Bed::minute(&operator);
    bed.settle(&operator).await;
    let third = secret(&bed, "cart-tls");
    assert_eq!(text(&secret(&bed, "cart-auth"), "ca.crt"), text(&third, "ca.crt"), "clients are told");
    let now = text(&secret(&bed, "cart-ca"), "tls.crt");
    assert_ne!(now, authority);
    assert_eq!(text(&third, "ca.crt"), format!("{now}{authority}"), "peers may show what the old one signed");
    assert_eq!(
        text(&third, "tls.crt"),
        text(&second, "tls.crt"),
        "no pod has shown that it trusts the new one"
    );
}

#[tokio::test]
async fn a_secret_of_somebody_else_is_not_written_over() {
    let bed = Bed::new(&managed());
    let key = Key::new("/secrets", "shop", "cart-tls");
    let users = json!({ "metadata": { "labels": { "app": "shop" } }, "data": { "tls.crt": "" } });
    let before = bed.server.objects.lock().create(&key, users).expect("created");
    let operator = bed.operator(false);
    for _ in 0..3 {
        bed.pass(&operator).await.expect("a pass");
    }
    assert_eq!(bed.server.objects.lock().get(&key).expect("there"), before);
    assert_eq!(bed.condition("Stalled"), "True");
    assert!(bed.cluster()["status"].to_string().contains("Secret/cart-tls"));
}

#[tokio::test]
async fn an_open_cluster_needs_no_secret() {
    let bed = Bed::new(&json!({ "tls": { "mode": "Disabled" }, "auth": { "enabled": false } }));
    let operator = bed.operator(false);
    bed.server.wire.start(None);
    bed.settle(&operator).await;
    let calls = bed.server.wire.calls();
    assert!(calls.iter().all(|call| !call.path.contains("/secrets")), "the operator may have no right to");
    assert!(bed.cluster()["status"].get("tls").is_none());
    assert_eq!(bed.condition("TlsValid"), "", "there is nothing to say");
}

/// What an older operator left behind: no word about locks in the spec, none recorded, and pods without any.
fn older(bed: &Bed) {
    let mut objects = bed.server.objects.lock();
    let spec = json!({ "spec": { "tls": null, "auth": null }, "status": { "doors": null } });
    objects.merge(&super::bed::cart(), &spec, false).expect("as it was stored");
    objects
        .merge(&super::bed::cart(), &json!({ "status": { "doors": null } }), true)
        .expect("as it was stored");
}

#[tokio::test]
async fn a_cluster_that_is_older_than_its_locks_stays_open_and_restarts_no_pod() {
    let bed = Bed::new(&json!({ "tls": { "mode": "Disabled" }, "auth": { "enabled": false } }));
    let operator = bed.operator(false);
    bed.settle(&operator).await;
    older(&bed);
    let pods = |bed: &Bed| {
        let pods = bed.server.objects.lock().list(super::kubelet::PODS, "shop", &[]);
        pods.iter().map(|pod| super::kubelet::text(&pod["metadata"]["uid"])).collect::<Vec<_>>()
    };
    let before = pods(&bed);
    let newer = bed.operator(false);
    bed.settle(&newer).await;
    let doors = || bed.cluster()["status"]["doors"].clone();
    assert_eq!(doors(), json!({ "tls": "Disabled", "auth": "KeptOpen" }));
    assert_eq!(bed.condition("UpdateAvailable"), "True");
    // Whatever else is changed: it stays as it is.
    bed.edit(&json!({ "replicas": 5 }));
    bed.settle(&newer).await;
    assert_eq!(pods(&bed).iter().filter(|uid| before.contains(uid)).count(), 3, "no pod was restarted");
    assert_eq!(doors()["auth"], "KeptOpen");
    assert!(bed.server.objects.lock().get(&Key::new("/secrets", "shop", "cart-auth")).is_err());
    // Until somebody wants passwords: off, then on.
    for (enabled, door) in [(false, "Open"), (true, "Required")] {
        bed.edit(&json!({ "auth": { "enabled": enabled } }));
        bed.settle(&newer).await;
        assert_eq!(doors(), json!({ "tls": "Disabled", "auth": door }));
    }
    assert!(
        text(&secret(&bed, "cart-auth"), "uri").starts_with("redis://default:"),
        "there is no TLS to go with it"
    );
    assert!(pods(&bed).iter().all(|uid| !before.contains(uid)), "passwords come by a rolling restart");
}

#[tokio::test]
async fn an_empty_spec_is_locked() {
    let bed = Bed::new(&json!({}));
    bed.settle(&bed.operator(false)).await;
    assert_eq!(bed.cluster()["status"]["doors"], json!({ "tls": "Managed", "auth": "Required" }));
    let auth = secret(&bed, "cart-auth");
    assert!(text(&auth, "uri").starts_with("rediss://default:"));
    assert_eq!(text(&auth, "ca.crt"), text(&secret(&bed, "cart-ca"), "tls.crt"));
    assert_eq!(bed.condition("UpdateAvailable"), "False");
}

#[tokio::test]
async fn cert_manager_is_asked_once_and_the_pods_mount_what_it_writes() {
    let bed = Bed::new(&json!({ "tls": { "mode": "CertManager", "issuerRef": { "name": "cart" } } }));
    let operator = bed.operator(false);
    let key = Key::new("cert-manager.io/certificates", "shop", "cart-tls");
    for _ in 0..2 {
        bed.pass(&operator).await.expect("a pass");
    }
    let asked = bed.server.objects.lock().get(&key).expect("asked for");
    assert_eq!(asked["spec"]["issuerRef"]["kind"], "Issuer");
    assert!(asked["spec"]["dnsNames"].to_string().contains("*.cart-raft.shop.svc"), "{asked}");
    assert_eq!(bed.condition("TlsValid"), "False");
    // Nothing to trust yet, so no password is handed out.
    assert!(bed.server.objects.lock().get(&Key::new("/secrets", "shop", "cart-auth")).is_err());
    let now = Timestamp::now();
    let authority = pki::authority(&super::bed::name(), now).expect("an authority");
    let pair = pki::of_pods(&authority, vec!["*.cart-raft.shop.svc".into()], now).expect("a certificate");
    let bytes = |text: &str| serde_json::to_value(k8s_openapi::ByteString(text.into())).expect("bytes");
    let written = json!({ "data": {
        "tls.crt": bytes(&pair.cert), "tls.key": bytes(&pair.key), "ca.crt": bytes(&authority.cert),
    }});
    bed.server.objects.lock().create(&Key::new("/secrets", "shop", "cart-tls"), written).expect("created");
    bed.settle(&operator).await;
    assert_eq!(text(&secret(&bed, "cart-auth"), "ca.crt"), authority.cert);
    writes_nothing(&bed, &operator).await;
}

#[tokio::test]
async fn a_certificate_is_renewed_while_nothing_else_may_be_changed() {
    let bed = Bed::new(&managed());
    let operator = bed.operator(false);
    bed.settle(&operator).await;
    let ca = secret(&bed, "cart-ca");
    let authority = Pair { cert: text(&ca, "tls.crt"), key: text(&ca, "tls.key") };
    let long_ago = Timestamp::now() - SignedDuration::from_hours(24 * 61);
    let old = pki::of_pods(&authority, vec!["*.cart-raft.shop.svc".into()], long_ago).expect("a certificate");
    let key = Key::new("/secrets", "shop", "cart-tls");
    let bytes = |text: &str| serde_json::to_value(k8s_openapi::ByteString(text.into())).expect("bytes");
    let aged = json!({ "data": { "tls.crt": bytes(&old.cert), "tls.key": bytes(&old.key) } });
    // Paused, only looked at, and wrong: 4 is no number of voters.
    let held = [
        json!({ "spec": { "paused": true } }),
        json!({ "spec": { "paused": false }, "metadata": { "annotations": { "kvnode.dev/plan": "show" } } }),
        json!({ "spec": { "replicas": 4 }, "metadata": { "annotations": { "kvnode.dev/plan": null } } }),
    ];
    for how in held {
        {
            let mut objects = bed.server.objects.lock();
            objects.merge(&key, &aged, false).expect("aged");
            objects.merge(&super::bed::cart(), &how, false).expect("held");
        }
        Bed::minute(&operator);
        bed.pass(&operator).await.expect("a pass");
        let now = secret(&bed, "cart-tls");
        assert_ne!(text(&now, "tls.crt"), old.cert, "{how}");
        assert_eq!(text(&now, "ca.crt"), authority.cert, "{how}");
    }
}

#[tokio::test]
async fn without_cert_manager_the_status_says_so_and_the_rest_goes_on() {
    let bed = Bed::new(&json!({ "tls": { "mode": "CertManager", "issuerRef": { "name": "cart" } } }));
    let operator = bed.operator(false);
    let unknown = Refusal::new(404, "", "404 page not found");
    bed.server.wire.start(Some(Box::new(move |call: &Call| {
        call.path.contains("cert-manager.io").then(|| Fault::Answer(unknown.clone()))
    })));
    for _ in 0..2 {
        let ended = bed.pass(&operator).await.expect_err("there is no such thing");
        assert!(ended.to_string().contains("install cert-manager"), "{ended}");
    }
    let status = &bed.cluster()["status"];
    assert_eq!(bed.condition("Stalled"), "True");
    assert!(
        status["summary"].as_str().is_some_and(|text| text.contains("install cert-manager")),
        "{status:#}"
    );
    assert!(status["observedGeneration"].is_null(), "what was asked for has not been done");
    assert_eq!(status["doors"]["tls"], "CertManager");
    // Pods wait for what they mount; everything else is there.
    assert!(bed.server.objects.lock().get(&Key::new("apps/statefulsets", "shop", "cart")).is_ok());
    bed.server.wire.start(None);
    bed.pass(&operator).await.expect("cert-manager is there");
    assert_eq!(bed.condition("Stalled"), "False");
    assert_eq!(bed.cluster()["status"]["observedGeneration"], 1);
}
