//! The Secrets of a cluster with TLS. Nodes in memory speak in the clear: handshakes are tested beside the admin client.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kvnode_operator::pki;
use serde_json::{Value, json};

use super::bed::Bed;
use super::objects::Key;
use super::server::Call;

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
    json!({ "tls": { "mode": "Managed", "clients": "Required" } })
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
        bed.server.wire.start(None);
        for _ in 0..3 {
            bed.pass(&operator).await.expect("a pass");
        }
        let writes: Vec<Call> = bed.server.wire.calls().into_iter().filter(Call::is_write).collect();
        assert!(writes.is_empty(), "{writes:?}");
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
    bed.settle(&operator).await;
    let second = secret(&bed, "cart-tls");
    assert_ne!(text(&second, "tls.crt"), first);
    assert_eq!(text(&second, "ca.crt"), authority);
    delete("cart-ca");
    bed.settle(&operator).await;
    let third = secret(&bed, "cart-tls");
    assert_ne!(text(&third, "ca.crt"), authority);
    assert_eq!(text(&third, "ca.crt"), text(&secret(&bed, "cart-ca"), "tls.crt"));
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
async fn without_tls_no_secret_is_asked_for() {
    let bed = Bed::new(&json!({}));
    let operator = bed.operator(false);
    bed.server.wire.start(None);
    bed.settle(&operator).await;
    let calls = bed.server.wire.calls();
    assert!(calls.iter().all(|call| !call.path.contains("/secrets")), "the operator may have no right to");
    assert!(bed.cluster()["status"].get("tls").is_none());
    assert_eq!(bed.condition("TlsValid"), "", "there is nothing to say");
}
