//! The Jobs that move backups, as values: one per run, from the operator's own image, in the cluster's namespace.
//!
//! ```text
//! verify Content, Checksum, Off    [backup]                         one container
//! verify Restore                   backup -> fetch -> (server) -> [prove]
//!                                  init      init     sidecar: loads what was fetched, on loopback
//! delete           [delete]                         one container
//! probe                            [probe]                          may this bucket be used?
//! ```
//!
//! Credentials come as files of a Secret or by the pod's ServiceAccount; nothing else in the namespace sees them. The
//! pods have no credentials for Kubernetes: progress is asked for over HTTP, the end is the termination message.

use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};

use crate::backup::command::{CONFIG, WRONG};
use crate::backup::meta::sha256;
use crate::build::labels;
use crate::crd::backup::Verify;
use crate::crd::bucket::{Backup, S3, S3Checksums, SecretKey};
use crate::observed::SetRole;

/// Label of Jobs and their pods: name of the KvCluster.
pub const BACKUP_OF: &str = "kvnode.dev/backup-of";
/// Container whose termination message is the end of a run.
pub const CONTAINER: &str = "backup";
/// Container that proves what a server has loaded.
pub const PROVE: &str = "prove";
/// Port of the progress.
pub const PROGRESS_PORT: u16 = 8080;

const USER: i64 = 65532;
const NAME_MAX: usize = 60;
const USAGE: u8 = 64;
const RETRIES: i32 = 6;
const KEPT_SECONDS: i32 = 3600;
const DELETE_SECONDS: i64 = 3600;
const PROBE_SECONDS: i64 = 120;
/// One that failed is made again once it is gone: somebody may have corrected a Secret or a policy.
const PROBE_KEPT_SECONDS: i32 = 60;
/// Time for which a Kubernetes node may be silent before a run begins anew on another one.
const LOST_NODE_SECONDS: i64 = 30;
const CREDENTIALS: &str = "/etc/kvnode/s3";
const CA: &str = "/etc/kvnode/ca";
const KEY: &str = "/etc/kvnode/key";
const TLS: &str = "/etc/kvnode/tls";
const SCRATCH: &str = "/scratch";
const REPORT: &str = "/dev/termination-log";

/// Images and rules of this operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// The operator's own image.
    pub operator: String,
    /// Pull policy of all of them.
    pub pull_policy: String,
    /// Endpoints on this machine are allowed (test beds).
    pub allow_local_endpoints: bool,
}

/// A cluster, as far as its Jobs need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster<'a> {
    /// Name.
    pub name: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// Its id, 16 hex digits.
    pub cluster_id: &'a str,
    /// Voters and learners.
    pub members: (i32, i32),
    /// Image of the server.
    pub server_image: &'a str,
    /// Secret with the certificate for the admin ports, where they speak TLS.
    pub tls_secret: Option<&'a str>,
}

/// Name of the Job of a run: that of the KvBackup, cut and marked where it would be too long for a label.
#[must_use]
pub fn name(backup: &str) -> String {
    if backup.len() <= NAME_MAX && !backup.contains('.') {
        return backup.to_owned();
    }
    let head: String =
        backup.chars().map(|letter| if letter == '.' { '-' } else { letter }).take(NAME_MAX - 9).collect();
    let mark = sha256(backup.as_bytes());
    format!("{}-{}", head.trim_end_matches('-'), mark.get(..8).unwrap_or_default())
}

/// Arguments that name the bucket, and the files that they need.
fn bucket(s3: &S3, key: Option<&SecretKey>, images: &Images) -> (Vec<String>, Vec<Value>, Vec<Value>) {
    let mut args = vec![format!("--bucket={}", s3.bucket)];
    let (mut volumes, mut mounts) = (Vec::new(), Vec::new());
    let options = [
        ("prefix", &s3.prefix),
        ("region", &s3.region),
        ("endpoint", &s3.endpoint),
        ("sse", &s3.sse),
        ("storage-class", &s3.storage_class),
    ];
    args.extend(
        options.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?))),
    );
    if s3.path_style {
        args.push("--path-style".into());
    }
    if s3.checksums == S3Checksums::Sha256 {
        args.push("--checksums=sha256".into());
    }
    if !images.allow_local_endpoints {
        args.push("--refuse-local-endpoint".into());
    }
    // Optional, below the Secret's name: where it is missing, the program says so at once, and names it. A pod that may
    // not start without it would only wait.
    let mut mount = |name: &str, secret: &str, dir: &str| {
        let source = json!({ "secretName": secret, "defaultMode": 0o440, "optional": true });
        let dir = format!("{dir}/{secret}");
        volumes.push(json!({ "name": name, "secret": source }));
        mounts.push(json!({ "name": name, "mountPath": dir, "readOnly": true }));
        dir
    };
    if let Some(secret) = &s3.credentials_secret {
        args.push(format!("--credentials-dir={}", mount("s3", secret, CREDENTIALS)));
    }
    if let Some(secret) = &s3.ca_secret {
        args.push(format!("--ca-file={}/ca.crt", mount("ca", secret, CA)));
    }
    if let Some(key) = key {
        args.push(format!("--encryption-key-file={}/{}", mount("key", &key.name, KEY), key.key));
    }
    (args, volumes, mounts)
}

fn container(name: &str, image: &str, images: &Images, args: &[String], mounts: &[Value]) -> Value {
    json!({
        "name": name,
        "image": image,
        "imagePullPolicy": images.pull_policy,
        "args": args,
        "terminationMessagePath": REPORT,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
        "resources": { "requests": { "cpu": "50m", "memory": "192Mi" } },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
    })
}

fn pod(s3: &S3, volumes: &[Value], init: &[Value], container: &Value) -> Value {
    // A run is not waited for on a lost node as a pod with data is: another one does it as well.
    let lost = |taint: &str| {
        json!({
            "key": format!("node.kubernetes.io/{taint}"), "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": LOST_NODE_SECONDS,
        })
    };
    let mut pod = json!({
        "restartPolicy": "Never",
        "tolerations": [lost("not-ready"), lost("unreachable")],
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumes": volumes,
        "initContainers": init,
        "containers": [container],
    });
    // Web identity comes as a projected token of its own; the API server's is not mounted.
    if let Some(account) = &s3.service_account_name {
        pod["serviceAccountName"] = json!(account);
    }
    pod
}

fn job(meta: &Value, cluster: &str, (seconds, kept): (i64, i32), container: &str, pod: &Value) -> Job {
    let value = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta,
        "spec": {
            "backoffLimit": RETRIES,
            "activeDeadlineSeconds": seconds.max(1),
            "ttlSecondsAfterFinished": kept,
            // What another try cannot cure is not tried again.
            "podFailurePolicy": { "rules": [
                { "action": "FailJob", "onExitCodes": { "containerName": container, "operator": "In", "values": [USAGE, WRONG, CONFIG] } },
                { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget" }] },
            ] },
            "template": {
                "metadata": { "labels": labels_of(cluster) },
                "spec": pod,
            },
        },
    });
    // Written above, and read in a test: this is the shape of a Job.
    serde_json::from_value(value).unwrap_or_default()
}

fn labels_of(cluster: &str) -> Value {
    json!({
        "app.kubernetes.io/name": "kvnode-backup",
        "app.kubernetes.io/managed-by": labels::MANAGER,
        BACKUP_OF: cluster,
    })
}

/// The Job of one run. `owner` is the KvBackup's name and uid.
#[must_use]
pub fn run(
    cluster: &Cluster<'_>,
    spec: &Backup,
    owner: (&str, &str),
    (verify, seconds): (Verify, i64),
    images: &Images,
) -> Job {
    let (backup, uid) = owner;
    let (bucket_args, mut volumes, mounts) = bucket(&spec.s3, spec.encryption_key.as_ref(), images);
    let mut mounts_main = mounts.clone();
    if let Some(secret) = cluster.tls_secret {
        volumes.push(json!({ "name": "tls", "secret": { "secretName": secret, "defaultMode": 0o440 } }));
        mounts_main.push(json!({ "name": "tls", "mountPath": TLS, "readOnly": true }));
    }
    let with = |verb: &str, more: Vec<String>| -> Vec<String> {
        let named = format!("--cluster={}", cluster.name);
        [vec![verb.to_owned(), named], bucket_args.clone(), more].concat()
    };
    let first = with("backup", backup_args(cluster, spec, backup, verify));
    let main = container(CONTAINER, &images.operator, images, &first, &mounts_main);
    let meta = json!({
        "name": name(backup),
        "namespace": cluster.namespace,
        "labels": labels_of(cluster.name),
        "ownerReferences": [{
            "apiVersion": "kvnode.dev/v1alpha1", "kind": "KvBackup", "name": backup, "uid": uid,
            "controller": true, "blockOwnerDeletion": true,
        }],
    });
    if verify != Verify::Restore {
        return job(
            &meta,
            cluster.name,
            (seconds, KEPT_SECONDS),
            CONTAINER,
            &pod(&spec.s3, &volumes, &[], &main),
        );
    }
    volumes.push(json!({ "name": "scratch", "emptyDir": {} }));
    let scratch = json!({ "name": "scratch", "mountPath": SCRATCH });
    let both = [mounts.clone(), vec![scratch.clone()]].concat();
    let fetch = with("restore", vec![format!("--backup={backup}"), format!("--into={SCRATCH}")]);
    let fetch = container("fetch", &images.operator, images, &fetch, &both);
    let server: Vec<String> = [
        "--addr=127.0.0.1:4920",
        "--peer-addr=127.0.0.1:14920",
        "--http-addr=127.0.0.1:24920",
        "--formation=auto",
        "--data=/scratch/data",
        "--restore=/scratch/state.bin",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut server = container("server", cluster.server_image, images, &server, &[scratch]);
    server["restartPolicy"] = json!("Always");
    let prove = with(
        "verify",
        vec![
            format!("--backup={backup}"),
            "--mode=restore".into(),
            format!("--loaded={SCRATCH}/data"),
            format!("--report-file={REPORT}"),
        ],
    );
    let prove = container(PROVE, &images.operator, images, &prove, &both);
    job(
        &meta,
        cluster.name,
        (seconds, KEPT_SECONDS),
        PROVE,
        &pod(&spec.s3, &volumes, &[main, fetch, server], &prove),
    )
}

fn backup_args(cluster: &Cluster<'_>, spec: &Backup, backup: &str, verify: Verify) -> Vec<String> {
    let mode = match verify {
        Verify::Content | Verify::Restore => "content",
        Verify::Checksum => "checksum",
        Verify::Off => "off",
    };
    let mut args = vec![
        format!("--run={backup}"),
        format!("--cluster-id={}", cluster.cluster_id),
        format!("--verify={mode}"),
        format!("--progress-addr=0.0.0.0:{PROGRESS_PORT}"),
        format!("--report-file={REPORT}"),
    ];
    args.extend(cluster.tls_secret.map(|_| format!("--tls-dir={TLS}")));
    for (role, count) in [(SetRole::Learner, cluster.members.1), (SetRole::Voter, cluster.members.0)] {
        for ordinal in 0..count {
            let pod = labels::pod(cluster.name, role, ordinal);
            let host = labels::pod_host(cluster.name, cluster.namespace, &pod);
            args.push(format!("--node={host}:{}", labels::ADMIN_PORT));
        }
    }
    if let Some(keep) = &spec.retention {
        let rules = [
            ("keep-last", keep.keep_last),
            ("keep-daily", keep.keep_daily),
            ("keep-weekly", keep.keep_weekly),
            ("keep-monthly", keep.keep_monthly),
        ];
        args.extend(rules.into_iter().filter_map(|(name, count)| Some(format!("--{name}={}", count?))));
        args.extend(keep.max_age.iter().map(|age| format!("--max-age={age}")));
    }
    args
}

/// Hash of everything that a probe tries.
#[must_use]
pub fn settings_hash(spec: &Backup) -> String {
    let text = serde_json::to_string(&(&spec.s3, &spec.encryption_key)).unwrap_or_default();
    sha256(text.as_bytes()).get(..12).unwrap_or_default().to_owned()
}

/// Name of the Job that tries the bucket.
#[must_use]
pub fn probe_name(cluster: &str, settings: &str) -> String {
    name(&format!("{cluster}-probe-{settings}"))
}

/// The Job that tries the bucket. `owner` is the KvCluster's name and uid.
#[must_use]
pub fn probe(namespace: &str, owner: (&str, &str), spec: &Backup, images: &Images) -> Job {
    let (cluster, uid) = owner;
    let (bucket_args, volumes, mounts) = bucket(&spec.s3, spec.encryption_key.as_ref(), images);
    let args = [vec!["probe".to_owned()], bucket_args, vec![format!("--report-file={REPORT}")]].concat();
    let main = container(CONTAINER, &images.operator, images, &args, &mounts);
    let meta = json!({
        "name": probe_name(cluster, &settings_hash(spec)),
        "namespace": namespace,
        "labels": labels_of(cluster),
        "ownerReferences": [{
            "apiVersion": "kvnode.dev/v1alpha1", "kind": "KvCluster", "name": cluster, "uid": uid,
            "controller": true, "blockOwnerDeletion": true,
        }],
    });
    job(&meta, cluster, (PROBE_SECONDS, PROBE_KEPT_SECONDS), CONTAINER, &pod(&spec.s3, &volumes, &[], &main))
}

/// Where the objects of a run are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    /// Its id, 16 hex digits.
    pub cluster_id: &'a str,
    /// The store.
    pub s3: &'a S3,
}

/// Name of the Job that deletes what a KvBackup stored; of this one, not of another of the same name.
#[must_use]
pub fn delete_name(backup: &str, uid: &str) -> String {
    let mark = sha256(uid.as_bytes());
    name(&format!("{backup}-delete-{}", mark.get(..8).unwrap_or_default()))
}

/// The Job that deletes what a KvBackup stored. Nobody owns it.
#[must_use]
pub fn delete(namespace: &str, name: &str, backup: &str, from: &Bucket<'_>, images: &Images) -> Job {
    let (bucket_args, volumes, mounts) = bucket(from.s3, None, images);
    let what = vec![
        format!("--cluster={}", from.cluster),
        format!("--cluster-id={}", from.cluster_id),
        format!("--backup={backup}"),
        format!("--report-file={REPORT}"),
    ];
    let args = [vec!["delete".to_owned()], bucket_args, what].concat();
    let main = container(CONTAINER, &images.operator, images, &args, &mounts);
    let meta = json!({ "name": name, "namespace": namespace, "labels": labels_of(from.cluster) });
    let seconds = (DELETE_SECONDS, PROBE_KEPT_SECONDS);
    job(&meta, from.cluster, seconds, CONTAINER, &pod(from.s3, &volumes, &[], &main))
}

/// The init container that fetches what a cluster begins with, its volumes, and the pod's ServiceAccount.
#[must_use]
pub fn restore(s3: &S3, key: Option<&SecretKey>, what: &[String], images: &Images) -> (Value, Vec<Value>) {
    let (bucket_args, volumes, mut mounts) = bucket(s3, key, images);
    mounts.push(json!({ "name": labels::VOLUME, "mountPath": "/data" }));
    mounts.push(json!({ "name": "config", "mountPath": "/etc/kvnode/config", "readOnly": true }));
    let args = [vec!["restore".to_owned()], bucket_args, what.to_vec()].concat();
    (container("restore", &images.operator, images, &args, &mounts), volumes)
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    pub(crate) fn images() -> Images {
        Images { operator: "op:1".into(), pull_policy: "IfNotPresent".into(), allow_local_endpoints: false }
    }

    fn spec() -> Backup {
        serde_json::from_value(json!({
            "s3": {
                "bucket": "acme-kv", "prefix": "prod", "endpoint": "http://minio:9000", "pathStyle": true,
                "credentialsSecret": "cred", "caSecret": "ca", "sse": "aws:kms", "checksums": "Sha256",
            },
            "retention": { "keepLast": 3, "maxAge": "90d" },
            "encryptionKey": { "name": "secret" },
        }))
        .unwrap()
    }

    fn cluster() -> Cluster<'static> {
        Cluster {
            name: "cart",
            namespace: "shop",
            cluster_id: "00000000000000c1",
            members: (3, 1),
            server_image: "srv:1",
            tls_secret: None,
        }
    }

    /// Arguments of a container as the program reads them.
    fn read(container: &Value) -> Command {
        let args = container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap().to_owned());
        Cli::try_parse_from(["kvnode-operator".to_owned()].into_iter().chain(args)).unwrap().command
    }

    #[test]
    fn a_run_is_one_restricted_container_whose_arguments_the_program_takes() {
        let job = run(&cluster(), &spec(), ("cart-hourly-1", "uid"), (Verify::Content, 600), &images());
        let value = serde_json::to_value(&job).unwrap();
        let pod = &value["spec"]["template"]["spec"];
        let Command::Backup(args) = read(&pod["containers"][0]) else { panic!("another command") };
        assert_eq!(args.nodes.len(), 4);
        assert!(args.nodes[0].starts_with("cart-learner-0."), "{}", args.nodes[0]);
        assert_eq!((args.keep_last, args.run.as_deref()), (3, Some("cart-hourly-1")));
        assert!(args.bucket.refuse_local_endpoint && args.bucket.path_style);
        assert_eq!(
            args.bucket.encryption_key_file.as_deref(),
            Some(std::path::Path::new("/etc/kvnode/key/secret/key"))
        );
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["tolerations"][1]["key"], "node.kubernetes.io/unreachable");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(value["spec"]["activeDeadlineSeconds"], 600);
        assert_eq!(value["metadata"]["ownerReferences"][0]["kind"], "KvBackup");
        assert!(!value["spec"]["template"]["metadata"]["labels"].to_string().contains(labels::CLUSTER));
        // No secret is in the object, only names of Secrets.
        assert_eq!(pod["volumes"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn a_restore_test_loads_with_the_image_of_the_server() {
        let job = run(&cluster(), &spec(), ("b", "uid"), (Verify::Restore, 600), &images());
        let value = serde_json::to_value(&job).unwrap();
        let pod = &value["spec"]["template"]["spec"];
        let init = &pod["initContainers"];
        assert!(matches!(read(&init[0]), Command::Backup(_)));
        assert!(matches!(read(&init[1]), Command::Restore(_)));
        assert_eq!((&init[2]["image"], &init[2]["restartPolicy"]), (&json!("srv:1"), &json!("Always")));
        let Command::Verify(args) = read(&pod["containers"][0]) else { panic!("another command") };
        assert_eq!(args.loaded.as_deref(), Some(std::path::Path::new("/scratch/data")));
    }

    #[test]
    fn a_probe_follows_the_settings() {
        let first = probe("shop", ("cart", "uid"), &spec(), &images());
        let value = serde_json::to_value(&first).unwrap();
        assert!(matches!(read(&value["spec"]["template"]["spec"]["containers"][0]), Command::Probe(_)));
        let mut other = spec();
        other.s3.bucket = "another".into();
        assert_ne!(settings_hash(&other), settings_hash(&spec()));
        other = spec();
        other.schedules.push(crate::crd::bucket::Schedule::default());
        assert_eq!(settings_hash(&other), settings_hash(&spec()), "schedules are nothing to try");
    }

    #[test]
    fn a_deletion_names_the_run_and_belongs_to_nobody() {
        let from = Bucket { cluster: "cart", cluster_id: "00000000000000c1", s3: &spec().s3 };
        let long = "b".repeat(120);
        let name = delete_name(&long, "uid-1");
        assert!(name.len() <= 63 && name != delete_name(&long, "uid-2"));
        let value = serde_json::to_value(delete("shop", &name, &long, &from, &images())).unwrap();
        assert!(value["metadata"]["ownerReferences"].is_null());
        let Command::Delete(args) = read(&value["spec"]["template"]["spec"]["containers"][0]) else {
            panic!("another command")
        };
        assert_eq!((args.cluster.as_str(), args.backup.as_str()), ("cart", long.as_str()));
        assert_eq!(args.cluster_id.map(|id| id.to_string()).as_deref(), Some("00000000000000c1"));
        assert!(args.bucket.encryption_key_file.is_none(), "what is deleted need not be read");
    }

    #[test]
    fn job_names_fit_a_label() {
        assert_eq!(name("cart-hourly-29922204"), "cart-hourly-29922204");
        let long = name(&format!("{}-{}", "a".repeat(45), "b".repeat(32)));
        assert!(long.len() <= 63 && long != name(&format!("{}-{}", "a".repeat(45), "c".repeat(32))));
        assert!(!name("by.hand").contains('.'));
    }
}
