//! The server's configuration file, and which of its settings a running node takes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use super::{hash, labels, metadata, put, typed};
use crate::crd::tls::{CertificateUser, ClientCertificate, ClientTls};
use crate::validate::Cluster;

/// Name of the file in the ConfigMap.
pub const FILE: &str = "config.yaml";
/// Key that is there until the cluster is formed, if it begins with a backup: a founder whose volume is lost later never
/// loads the backup a second time.
pub const RESTORE_FILE: &str = "restore";
/// Directory that the file is mounted in.
pub const DIR: &str = "/etc/kvnode";
/// Directory that the certificate is mounted in.
pub const TLS_DIR: &str = "/etc/kvnode-tls";
/// Directory that the authorities of clients are mounted in, with `spec.tls.clientAuth`.
pub const CLIENTS_DIR: &str = "/etc/kvnode-clients";
/// Directory that the passwords are mounted in.
pub const AUTH_DIR: &str = "/etc/kvnode-auth";
/// Directory that the ACL file is mounted in, where there are users.
pub const ACL_DIR: &str = "/etc/kvnode-acl";
/// The ACL file, and its key in the Secret.
pub const ACL_FILE: &str = "users.acl";
/// Settings that a running node takes over the admin API. All others need a restart.
pub const LIVE_KEYS: &[&str] = &["log_filter"];
/// Default of `log_filter` in the server.
pub const LOG_FILTER_DEFAULT: &str = "info,openraft=error";

/// `<name>-config`. The file is JSON, which is YAML: nothing needs a quoting rule of its own.
pub(super) fn build(cluster: &Cluster) -> ConfigMap {
    let mut settings = tls_settings(cluster);
    if cluster.spec.auth.enabled {
        settings.insert("requirepass_file".to_owned(), format!("{AUTH_DIR}/passwords"));
    }
    if has_users(cluster) {
        settings.insert("acl_file".to_owned(), format!("{ACL_DIR}/{ACL_FILE}"));
    }
    settings.extend(cluster.spec.config.iter().map(|(key, value)| (key.clone(), value.0.clone())));
    let file = format!("{:#}\n", json!(settings));
    let mut data = json!({ FILE: file });
    if cluster.spec.bootstrap.is_some() && !cluster.formed {
        put(&mut data, RESTORE_FILE, json!("while this is here, the founder begins with a backup\n"));
    }
    typed(json!({
        "metadata": metadata(cluster, &labels::config_map(&cluster.name)),
        "data": data,
    }))
}

/// Whether the pods have an ACL file. The first user restarts them; later ones are only content of the file.
pub(super) fn has_users(cluster: &Cluster) -> bool {
    cluster.spec.auth.enabled && !cluster.spec.auth.users.is_empty()
}

/// What `spec.tls` means to the server. Empty without TLS, so that nothing changes for clusters that have none.
pub(super) fn tls_settings(cluster: &Cluster) -> BTreeMap<String, String> {
    if cluster.tls_secret().is_none() {
        return BTreeMap::new();
    }
    let file = |name: &str| format!("{TLS_DIR}/{name}");
    let mut settings = BTreeMap::from([("peer_tls".to_owned(), "required".to_owned())]);
    for (key, name) in [
        ("peer_tls_cert_file", "tls.crt"),
        ("peer_tls_key_file", "tls.key"),
        ("peer_tls_ca_file", "ca.crt"),
        ("http_tls_cert_file", "tls.crt"),
        ("http_tls_key_file", "tls.key"),
        ("http_tls_client_ca_file", "ca.crt"),
    ] {
        settings.insert(key.to_owned(), file(name));
    }
    let port = match cluster.client_tls() {
        ClientTls::Disabled => return settings,
        ClientTls::Optional => labels::TLS_PORT,
        ClientTls::Required => labels::CLIENT_PORT,
    };
    settings.insert("tls_addr".to_owned(), format!("0.0.0.0:{port}"));
    settings.insert("tls_cert_file".to_owned(), file("tls.crt"));
    settings.insert("tls_key_file".to_owned(), file("tls.key"));
    settings.extend(client_auth_settings(cluster));
    settings
}

fn client_auth_settings(cluster: &Cluster) -> BTreeMap<String, String> {
    let Some(asked) = cluster.client_auth() else { return BTreeMap::new() };
    let certificate = match asked.certificate {
        ClientCertificate::Required => "require",
        ClientCertificate::Optional => "optional",
    };
    let mut settings = BTreeMap::from([
        ("tls_client_ca_file".to_owned(), format!("{CLIENTS_DIR}/ca.crt")),
        ("tls_client_auth".to_owned(), certificate.to_owned()),
    ]);
    let user = match asked.user {
        CertificateUser::Nobody => return settings,
        CertificateUser::CommonName => "cn",
        CertificateUser::AlternativeName => "san",
    };
    settings.insert("tls_client_auth_user".to_owned(), user.to_owned());
    settings
}

/// The settings that need a restart, and that nothing else of a pod shows.
pub(super) fn restart_settings(cluster: &Cluster) -> BTreeMap<String, String> {
    let all = cluster.spec.config.iter().map(|(key, value)| (key.clone(), value.0.clone()));
    all.filter(|(key, _)| !LIVE_KEYS.contains(&key.as_str())).chain(client_auth_settings(cluster)).collect()
}

/// The log filter that nodes should have, and the hash that pods are marked with once they do.
#[must_use]
pub fn live(cluster: &Cluster) -> (String, String) {
    let asked = cluster.spec.config.get("log_filter").map(|value| value.0.clone());
    let filter = asked.unwrap_or_else(|| LOG_FILTER_DEFAULT.to_owned());
    let mark = hash(&json!({ "log_filter": filter }));
    (filter, mark)
}
