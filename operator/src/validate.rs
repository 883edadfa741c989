//! From a KvCluster as the API server stores it to a checked [`Cluster`], or to all its faults at once. Pure.
//!
//! The schema has refused what it can; here is what it cannot see: quantities in full, the pod template overlay, label
//! syntax, and the relations between them. What the schema refuses is checked again, since an object may be older than
//! the rule.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;

use crate::backup::arguments::span;
use crate::backup::duty::job::Images;
use crate::backup::schedule::Cron;
use crate::build::{acl, labels};
use crate::crd::tls::{ClientAuth, ClientTls, TlsMode};
use crate::crd::{KvCluster, KvClusterSpec};

/// Least size of a volume, as in the schema.
const STORAGE_BYTES_MIN: u64 = 1 << 30;

/// What this operator brings along. The same for all clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Image of the server for clusters without `spec.image`.
    pub image: String,
    /// Namespace that the operator runs in, for the NetworkPolicy of the admin port.
    pub namespace: String,
    /// What moves backups.
    pub images: Images,
}

/// A checked cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Uid, of the ownerReferences and of the cluster id.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// The spec as it stands.
    pub spec: KvClusterSpec,
    /// `spec.storage.size` in bytes.
    pub storage_bytes: u64,
    /// `spec.podTemplate`, read.
    pub overlay: Option<PodTemplateSpec>,
    /// The cluster was seen formed: from then on it never begins anew, nor from a backup.
    pub formed: bool,
    /// What the operator brings along.
    pub operator: Operator,
}

impl Cluster {
    /// Name of the Secret with the certificate; `None` without TLS.
    #[must_use]
    pub fn tls_secret(&self) -> Option<String> {
        match self.spec.tls.mode {
            TlsMode::Disabled => None,
            TlsMode::Managed | TlsMode::CertManager => Some(labels::tls_secret(&self.name)),
            TlsMode::Secret => self.spec.tls.secret_name.clone(),
        }
    }

    /// Which certificates clients are asked for, if they are.
    #[must_use]
    pub fn client_auth(&self) -> Option<&ClientAuth> {
        self.spec.tls.client_auth.as_ref().filter(|_| self.client_tls() != ClientTls::Disabled)
    }

    /// How clients connect.
    #[must_use]
    pub fn client_tls(&self) -> ClientTls {
        if self.spec.tls.mode == TlsMode::Disabled { ClientTls::Disabled } else { self.spec.tls.clients }
    }
}

/// Everything wrong with a spec; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// One line each, "path: what is wrong and what is allowed".
    pub faults: Vec<String>,
}

/// Checks an object.
///
/// # Errors
/// All faults at once.
pub fn validate(object: &KvCluster, operator: &Operator) -> Result<Cluster, Invalid> {
    let mut faults = Vec::new();
    let spec = &object.spec;
    let meta = &object.metadata;
    let name = meta.name.clone().unwrap_or_default();
    if name.is_empty() || name.len() > 45 {
        faults.push("metadata.name: must have 1 to 45 characters".to_owned());
    }
    if spec.replicas < 1 || spec.replicas > 9 || spec.replicas % 2 == 0 {
        faults.push(format!("spec.replicas: {} is not an odd number from 1 to 9", spec.replicas));
    }
    if !(0..=16).contains(&spec.learners) {
        faults.push(format!("spec.learners: {} is not a number from 0 to 16", spec.learners));
    }
    if (spec.tls.mode == TlsMode::Secret) != spec.tls.secret_name.is_some() {
        faults.push("spec.tls.secretName: goes with spec.tls.mode Secret, and only with it".to_owned());
    }
    if (spec.tls.mode == TlsMode::CertManager) != spec.tls.issuer_ref.is_some() {
        faults.push("spec.tls.issuerRef: goes with spec.tls.mode CertManager, and only with it".to_owned());
    }
    given(&name, spec, &mut faults);
    users(spec, &mut faults);
    let storage_bytes = storage(spec, &mut faults);
    settings(spec, &mut faults);
    backups(object, &mut faults);
    resources(spec, &mut faults);
    let overlay = overlay(spec, &mut faults);
    if !faults.is_empty() {
        return Err(Invalid { faults });
    }
    Ok(Cluster {
        name,
        namespace: meta.namespace.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        generation: meta.generation.unwrap_or_default(),
        spec: spec.clone(),
        storage_bytes,
        overlay,
        formed: formed(object),
        operator: operator.clone(),
    })
}

/// Secrets that the operator makes cannot be those that it is given.
fn given(name: &str, spec: &KvClusterSpec, faults: &mut Vec<String>) {
    let password = spec.auth.password_secret.as_ref().map(|given| given.name.as_str());
    if password == Some(&*labels::auth_secret(name)) {
        faults.push(
            "spec.auth.passwordSecret.name: the operator makes that Secret itself; name another one"
                .to_owned(),
        );
    }
    let clients = spec.tls.client_auth.as_ref().map(|asked| asked.secret_name.as_str());
    let own = match spec.tls.mode {
        TlsMode::Disabled => Vec::new(),
        TlsMode::Managed => vec![labels::ca_secret(name), labels::tls_secret(name)],
        TlsMode::CertManager => vec![labels::tls_secret(name)],
        TlsMode::Secret => spec.tls.secret_name.iter().cloned().collect(),
    };
    let is_own = |secret: &str| own.iter().any(|own| own == secret);
    if clients.is_some_and(is_own) {
        faults.push(
            "spec.tls.clientAuth.secretName: what the cluster's own authority signs may take part in it; clients need another one"
                .to_owned(),
        );
    }
}

fn users(spec: &KvClusterSpec, faults: &mut Vec<String>) {
    let users = &spec.auth.users;
    if let Some(rotation) = &spec.auth.rotation {
        match (span(&rotation.every), span(&rotation.overlap)) {
            (Ok(every), Ok(overlap)) if every > overlap => {}
            (Ok(_), Ok(_)) => faults.push(format!(
                "spec.auth.rotation.every: {} is not longer than overlap, {}",
                rotation.every, rotation.overlap
            )),
            (Err(what), _) => faults.push(format!("spec.auth.rotation.every: {what}")),
            (_, Err(what)) => faults.push(format!("spec.auth.rotation.overlap: {what}")),
        }
    }
    if !users.is_empty() && spec.config.contains_key("acl_file") {
        faults.push("spec.config.acl_file: cannot go with spec.auth.users, which are such a file".to_owned());
    }
    for user in users {
        if user.name == "default" {
            faults.push("spec.auth.users[default]: that user is there, in the Secret <name>-auth".to_owned());
        }
        if let Some(what) = acl::fault(&user.acl) {
            faults.push(format!("spec.auth.users[{}].acl: {what}", user.name));
        }
    }
}

fn formed(object: &KvCluster) -> bool {
    let formation = object.status.as_ref().and_then(|status| status.formation.as_ref());
    formation.is_some_and(|formation| formation.formed_at.is_some())
}

/// Cron lines, zones and what a cluster begins with.
fn backups(object: &KvCluster, faults: &mut Vec<String>) {
    let schedules = object.spec.backup.iter().flat_map(|backup| &backup.schedules);
    for schedule in schedules {
        if let Err(what) = Cron::parse(&schedule.cron, schedule.time_zone.as_deref()) {
            faults.push(format!("spec.backup.schedules[{}]: {what}", schedule.name));
        }
    }
    let Some(bootstrap) = &object.spec.bootstrap else { return };
    // The look has put in its place what the KvBackup says.
    if let Some(name) = &bootstrap.backup_ref
        && !formed(object)
    {
        faults.push(format!(
            "spec.bootstrap.backupRef: there is no KvBackup {name} in this namespace that is Complete; make the \
             KvCluster again with one that is, or name the bucket in spec.bootstrap.s3"
        ));
    }
}

fn storage(spec: &KvClusterSpec, faults: &mut Vec<String>) -> u64 {
    let text = &spec.storage.size.0;
    match quantity_bytes(&spec.storage.size) {
        None => faults.push(format!("spec.storage.size: {text:?} is not a quantity of bytes such as 10Gi")),
        Some(bytes) if bytes < STORAGE_BYTES_MIN => {
            faults.push(format!("spec.storage.size: {text} is less than 1Gi"));
        }
        Some(bytes) => return bytes,
    }
    0
}

fn settings(spec: &KvClusterSpec, faults: &mut Vec<String>) {
    for key in spec.config.keys() {
        if OWNED_KEYS.contains(&key.as_str()) {
            faults.push(format!("spec.config.{key}: belongs to the operator"));
        } else if !key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
            faults.push(format!(
                "spec.config[{key:?}]: keys are of the form log_filter; kvnode-server config-example lists them"
            ));
        }
    }
}

/// Settings that the operator gives the server itself.
pub const OWNED_KEYS: &[&str] = &[
    "addr",
    "peer_addr",
    "http_addr",
    "advertise_addr",
    "advertise_peer_addr",
    "data",
    "log_dir",
    "join",
    "restore",
    "formation",
    "requirepass_file",
    "tls_addr",
    "tls_cert_file",
    "tls_key_file",
    "tls_client_ca_file",
    "tls_client_auth",
    "tls_client_auth_user",
    "peer_tls",
    "peer_tls_cert_file",
    "peer_tls_key_file",
    "peer_tls_ca_file",
    "http_tls_cert_file",
    "http_tls_key_file",
    "http_tls_client_ca_file",
];

fn resources(spec: &KvClusterSpec, faults: &mut Vec<String>) {
    let Some(resources) = &spec.resources else { return };
    for (list, amounts) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        for (name, amount) in amounts.iter().flatten() {
            if quantity(amount).is_none() {
                faults.push(format!("spec.resources.{list}.{name}: {:?} is not a quantity", amount.0));
            }
        }
    }
}

fn overlay(spec: &KvClusterSpec, faults: &mut Vec<String>) -> Option<PodTemplateSpec> {
    let value = spec.pod_template.as_ref()?;
    let read: PodTemplateSpec = match serde_json::from_value(value.clone()) {
        Ok(read) => read,
        Err(error) => {
            faults.push(format!("spec.podTemplate: {error}"));
            return None;
        }
    };
    let back = serde_json::to_value(&read).unwrap_or_default();
    if let Some(lost) = lost_path(value, &back) {
        faults.push(format!("spec.podTemplate{lost}: a pod template has no such field"));
    }
    let labels = read.metadata.iter().flat_map(|meta| meta.labels.iter().flatten());
    for (key, _) in labels {
        if key.starts_with("kvnode.dev/") || key == "app.kubernetes.io/name" {
            faults.push(format!(
                "spec.podTemplate.metadata.labels[{key}]: selects pods and belongs to the operator"
            ));
        }
    }
    let policy = read.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    if policy.is_some_and(|policy| policy != "Always") {
        faults.push("spec.podTemplate.spec.restartPolicy: a StatefulSet allows only Always".to_owned());
    }
    let names = read.spec.iter().flat_map(|spec| &spec.containers).map(|container| container.name.as_str());
    if names.clone().any(str::is_empty) {
        faults.push(format!(
            "spec.podTemplate.spec.containers: each needs its name; the server is {:?}",
            labels::CONTAINER
        ));
    }
    Some(read)
}

/// First path, such as `.spec.containers[0].imagee`, that is in `value` and not in `back`, the same after a type has
/// read it. Nulls, empty objects and empty lists count as absent.
pub(crate) fn lost_path(value: &Value, back: &Value) -> Option<String> {
    match (value, back) {
        (Value::Object(fields), _) => fields.iter().find_map(|(key, inner)| {
            if is_nothing(inner) {
                return None;
            }
            let found = back.get(key).map_or_else(|| Some(String::new()), |other| lost_path(inner, other));
            found.map(|rest| format!(".{key}{rest}"))
        }),
        (Value::Array(items), Value::Array(others)) => items
            .iter()
            .zip(others)
            .enumerate()
            .find_map(|(at, (item, other))| lost_path(item, other).map(|rest| format!("[{at}]{rest}"))),
        _ => None,
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// The same amount, however it is written.
#[must_use]
pub fn same_quantity(one: &Quantity, other: &Quantity) -> bool {
    one == other || quantity(one).is_some_and(|amount| Some(amount) == quantity(other))
}

/// A quantity as bytes, rounded up; `None` if it is none or negative.
#[must_use]
pub fn quantity_bytes(amount: &Quantity) -> Option<u64> {
    let millis = quantity(amount)?;
    u64::try_from(millis.div_ceil(1000)).ok()
}

/// A quantity in thousandths, by the grammar of Kubernetes: a decimal number and a suffix (m, k, M, G, T, P, E, Ki to
/// Ei, or an exponent).
fn quantity(amount: &Quantity) -> Option<u128> {
    let text = amount.0.trim();
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || number.len() > 20 {
        return None;
    }
    let unit: u128 = match suffix {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "P" => 1_000_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        "Pi" => 1000 << 50,
        "Ei" => 1000 << 60,
        exponent => {
            let power: u32 = exponent.strip_prefix(['e', 'E'])?.trim_start_matches('+').parse().ok()?;
            10_u128.checked_pow(power)?.checked_mul(1_000)?
        }
    };
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u128>().ok()? };
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
    let part = fraction.checked_mul(unit)?.div_ceil(scale);
    whole.checked_mul(unit)?.checked_add(part)
}
