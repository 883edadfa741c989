//! `spec.tls.mode: CertManager`: what cert-manager is asked for. It writes the Secret `<name>-tls`, and renews it.
//!
//! The kind Certificate is not known to this program's types, and need not be there at all: it is written as plain JSON, and
//! a Kubernetes without it is told to the user as what it is. Our annotation remembers what was applied, so that nothing
//! is written while that is the same.

use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

use super::secrets::metadata;
use crate::build::labels::{self, INTENT, MANAGER};
use crate::context::Context;
use crate::crd::KvCluster;
use crate::error::{Error, asked_opt};
use crate::name::ClusterName;
use crate::observe::is_anothers;

/// As our own certificates: renewed when a third of its life is left.
const LIFE: &str = "2160h";
const RENEW_BEFORE: &str = "720h";

/// Applies the Certificate, unless it stands as it was applied last.
///
/// # Errors
/// The API server refused, knows no Certificate, or did not answer; or something else has the name.
pub(super) async fn ask(
    ctx: &Context,
    name: &ClusterName,
    object: &KvCluster,
    names: &[String],
) -> Result<(), Error> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate"));
    let api: Api<DynamicObject> = Api::namespaced_with(ctx.client.clone(), &name.namespace, &kind);
    let certificate = labels::tls_secret(&name.name);
    let found = asked_opt(format!("get Certificate {certificate}"), api.get_metadata(&certificate)).await?;
    if found.as_ref().is_some_and(|found| is_anothers(&found.metadata, object)) {
        return Err(Error::NameTaken { what: format!("Certificate/{certificate}") });
    }
    let mut body = manifest(name, object, names);
    let intent = crate::build::hash(&body);
    let old = found.as_ref().and_then(|found| found.metadata.annotations.as_ref()?.get(INTENT));
    if old == Some(&intent) {
        return Ok(());
    }
    body["metadata"]["annotations"] = json!({ INTENT: intent });
    let params = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(&body);
    let call = api.patch(&certificate, &params, &patch);
    if asked_opt(format!("apply Certificate {certificate}"), call).await?.is_none() {
        return Err(Error::NoCertManager);
    }
    ctx.metrics.child_writes.inc();
    tracing::info!(cluster = %name, certificate, "asked cert-manager for a certificate");
    Ok(())
}

fn manifest(name: &ClusterName, object: &KvCluster, names: &[String]) -> Value {
    let secret = labels::tls_secret(&name.name);
    let (addresses, hosts): (Vec<&String>, Vec<&String>) =
        names.iter().partition(|name| name.parse::<std::net::IpAddr>().is_ok());
    json!({
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": metadata(object, name, &secret),
        "spec": {
            "secretName": secret,
            "secretTemplate": { "labels": labels::common(&name.name) },
            "duration": LIFE,
            "renewBefore": RENEW_BEFORE,
            "privateKey": { "algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always" },
            "usages": ["digital signature", "server auth", "client auth"],
            "dnsNames": hosts,
            "ipAddresses": addresses,
            "issuerRef": object.spec.tls.issuer_ref,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_asked_for_as_cert_manager_reads_it() {
        let spec = json!({ "tls": { "mode": "CertManager", "issuerRef": { "name": "cart" } } });
        let object = KvCluster::new("cart", serde_json::from_value(spec).unwrap());
        let name = ClusterName { namespace: "shop".into(), name: "cart".into() };
        let names = ["*.cart-raft.shop.svc", "127.0.0.1", "::1", "cart"].map(str::to_owned);
        let spec = &manifest(&name, &object, &names)["spec"];
        assert_eq!(
            spec["issuerRef"],
            json!({ "name": "cart", "kind": "Issuer", "group": "cert-manager.io" })
        );
        assert_eq!(spec["dnsNames"], json!(["*.cart-raft.shop.svc", "cart"]));
        assert_eq!(spec["ipAddresses"], json!(["127.0.0.1", "::1"]));
        assert_eq!(spec["secretName"], "cart-tls");
    }
}
