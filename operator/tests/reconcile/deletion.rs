//! KvBackups that go, and what they stored.

use std::sync::Arc;

use kvnode_operator::backup::duty::Duty;
use kvnode_operator::backup::duty::deletion::{FINALIZER, pass};
use kvnode_operator::backup::duty::job::Images;
use kvnode_operator::crd::backup::KvBackup;
use serde_json::{Value, json};

use super::bed::Bed;
use super::kubelet::PODS;
use super::objects::{Key, Refusal};
use super::server::Fault;

const BACKUPS: &str = "kvnode.dev/kvbackups";
const JOBS: &str = "batch/jobs";

fn key() -> Key {
    Key::new(BACKUPS, "shop", "by-hand")
}

fn bed(policy: &str, status: &Value) -> (Bed, Arc<Duty>) {
    let bed = Bed::new(&json!({}));
    let duty = Duty::new(bed.operator(false), Images { operator: "op:1".into(), ..Images::default() });
    let object = json!({
        "apiVersion": "kvnode.dev/v1alpha1", "kind": "KvBackup",
        "spec": { "cluster": "cart", "deletionPolicy": policy }, "status": status,
    });
    bed.server.objects.lock().create(&key(), object).expect("a new KvBackup");
    (bed, duty)
}

fn stored(phase: &str) -> Value {
    json!({
        "phase": phase, "clusterId": "00000000000000c1", "uri": "s3://kvs/x/",
        "destination": { "bucket": "kvs", "credentialsSecret": "cred" },
    })
}

fn found(bed: &Bed) -> Option<Value> {
    bed.server.objects.lock().get(&key()).ok()
}

fn finalizers(bed: &Bed) -> Value {
    found(bed).map(|object| object["metadata"]["finalizers"].clone()).unwrap_or_default()
}

/// One pass over the KvBackup as it is now.
async fn turn(bed: &Bed, duty: &Arc<Duty>) {
    let Some(object) = found(bed) else { return };
    let backup: KvBackup = serde_json::from_value(object).expect("a KvBackup");
    pass(duty, &backup).await.expect("a pass");
}

async fn deleted(bed: &Bed, duty: &Arc<Duty>) {
    turn(bed, duty).await;
    bed.server.objects.lock().delete(&key(), &Value::Null).expect("it is there");
    turn(bed, duty).await;
}

fn jobs(bed: &Bed) -> Vec<Value> {
    bed.server.objects.lock().list(JOBS, "shop", &[])
}

/// The Job that deletes ends, and its pod has left this.
fn ends(bed: &Bed, how: &str, said: &Value) {
    let job = jobs(bed).pop().expect("a Job");
    let name = job["metadata"]["name"].as_str().expect("a name").to_owned();
    let mut objects = bed.server.objects.lock();
    let labels = json!({ "kvnode.dev/backup-of": "cart", "batch.kubernetes.io/job-name": name });
    let state =
        json!({ "terminated": { "exitCode": i32::from(how == "Failed"), "message": said.to_string() } });
    let container = json!({
        "name": "backup", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state,
    });
    let pod = json!({ "metadata": { "labels": labels }, "status": { "containerStatuses": [container] } });
    objects.create(&Key::new(PODS, "shop", &format!("{name}-1")), pod).expect("a pod");
    let condition = json!({ "type": how, "status": "True" });
    let done = json!({ "status": { "conditions": [condition] } });
    objects.merge(&Key::new(JOBS, "shop", &name), &done, true).expect("the end");
}

#[tokio::test]
async fn what_was_stored_goes_first_and_then_the_object() {
    let (bed, duty) = bed("Delete", &stored("Complete"));
    deleted(&bed, &duty).await;
    assert_eq!(finalizers(&bed), json!([FINALIZER]), "it waits");
    let job = jobs(&bed).pop().expect("a Job");
    let args = job["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    for arg in ["\"delete\"", "--bucket=kvs", "--cluster-id=00000000000000c1", "--backup=by-hand"] {
        assert!(args.contains(arg), "{arg}: {args}");
    }
    for _ in 0..3 {
        turn(&bed, &duty).await;
    }
    assert_eq!(jobs(&bed).len(), 1, "a repeat makes nothing twice");
    let status = found(&bed).expect("still there")["status"].clone();
    assert_eq!((&status["phase"], &status["uri"]), (&json!("Complete"), &json!("s3://kvs/x/")));
    assert_eq!(status["conditions"][0]["reason"], "Deleting");
    ends(&bed, "Complete", &json!({ "text": "nothing is left" }));
    turn(&bed, &duty).await;
    assert!(found(&bed).is_none(), "gone");
    assert_eq!(bed.events(), ["BackupDeleted"]);
}

#[tokio::test]
async fn a_bucket_that_cannot_be_reached_is_told_once_and_retain_lets_go() {
    let (bed, duty) = bed("Delete", &stored("Complete"));
    deleted(&bed, &duty).await;
    ends(&bed, "Failed", &json!({ "error": "connect to http://s3: refused" }));
    for _ in 0..3 {
        turn(&bed, &duty).await;
    }
    let status = found(&bed).expect("it waits")["status"].clone();
    let condition = &status["conditions"][0];
    assert_eq!((&condition["type"], &condition["reason"]), (&json!("ObjectsDeleted"), &json!("Blocked")));
    let message = condition["message"].as_str().expect("a message");
    assert!(message.contains("refused") && message.contains("deletionPolicy: Retain"), "{message}");
    assert_eq!(bed.events(), ["BackupNotDeleted"]);
    // The remains of the Job go after a minute, and it is tried again; what is known stays told.
    let (job, pod) = (jobs(&bed).remove(0), bed.server.objects.lock().list(PODS, "shop", &[]).remove(0));
    for (resource, object) in [(JOBS, job), (PODS, pod)] {
        let name = object["metadata"]["name"].as_str().expect("a name");
        bed.server.objects.lock().delete(&Key::new(resource, "shop", name), &Value::Null).expect("there");
    }
    turn(&bed, &duty).await;
    assert_eq!(jobs(&bed).len(), 1, "another try");
    turn(&bed, &duty).await;
    assert_eq!(found(&bed).expect("it waits")["status"], status);
    assert_eq!(bed.events(), ["BackupNotDeleted"]);
    let patch = json!({ "spec": { "deletionPolicy": "Retain" } });
    bed.server.objects.lock().merge(&key(), &patch, false).expect("an edit");
    turn(&bed, &duty).await;
    assert!(found(&bed).is_none(), "the way out");
}

#[tokio::test]
async fn a_run_is_stopped_before_its_objects_are_deleted() {
    let (bed, duty) = bed("Delete", &stored("Uploading"));
    let uid = found(&bed).expect("there")["metadata"]["uid"].clone();
    let owner =
        json!({ "apiVersion": "kvnode.dev/v1alpha1", "kind": "KvBackup", "name": "by-hand", "uid": uid });
    // As in the foreground: the Job is there until its pods are gone.
    let meta = json!({ "ownerReferences": [owner], "finalizers": ["foregroundDeletion"] });
    let run = Key::new(JOBS, "shop", "by-hand");
    bed.server.objects.lock().create(&run, json!({ "metadata": meta })).expect("a Job");
    deleted(&bed, &duty).await;
    turn(&bed, &duty).await;
    assert_eq!(jobs(&bed).len(), 1, "no deletion beside a run");
    let status = found(&bed).expect("it waits")["status"].clone();
    assert_eq!(
        (&status["phase"], &status["conditions"][0]["reason"]),
        (&json!("Failed"), &json!("Deleting"))
    );
    let gone = json!({ "metadata": { "finalizers": null } });
    bed.server.objects.lock().merge(&run, &gone, false).expect("its pods are gone");
    turn(&bed, &duty).await;
    assert_eq!(jobs(&bed).len(), 1);
    assert!(jobs(&bed)[0]["metadata"]["name"].as_str().is_some_and(|name| name.contains("-delete-")));
}

#[tokio::test]
async fn nothing_hangs_where_nothing_was_stored_or_the_namespace_goes() {
    let (bed, duty) = bed_of(&json!({ "phase": "Pending" }));
    deleted(&bed, &duty).await;
    assert!(found(&bed).is_none() && jobs(&bed).is_empty(), "it never ran");
    let (bed, duty) = bed_of(&stored("Complete"));
    bed.server.wire.start(Some(Box::new(|call| {
        let message = "unable to create new content in namespace shop because it is being terminated";
        let refused = call.is_write() && call.path.ends_with("/jobs");
        refused.then(|| Fault::Answer(Refusal::new(403, "Forbidden", message)))
    })));
    deleted(&bed, &duty).await;
    assert!(found(&bed).is_none(), "the namespace can go");
    // Any other refusal is no reason to forget the objects.
    let (bed, duty) = bed_of(&stored("Complete"));
    bed.server.wire.start(Some(Box::new(|call| {
        let refused = call.is_write() && call.path.ends_with("/jobs");
        refused.then(|| Fault::Answer(Refusal::new(403, "Forbidden", "exceeded quota")))
    })));
    turn(&bed, &duty).await;
    bed.server.objects.lock().delete(&key(), &Value::Null).expect("it is there");
    let backup: KvBackup = serde_json::from_value(found(&bed).expect("held")).expect("a KvBackup");
    assert!(pass(&duty, &backup).await.is_err());
    assert_eq!(finalizers(&bed), json!([FINALIZER]));
}

fn bed_of(status: &Value) -> (Bed, Arc<Duty>) {
    bed("Delete", status)
}

#[tokio::test]
async fn without_the_policy_nothing_is_touched() {
    let (bed, duty) = bed("Retain", &stored("Complete"));
    bed.server.wire.start(None);
    turn(&bed, &duty).await;
    assert!(bed.server.wire.calls().is_empty());
    deleted(&bed, &duty).await;
    assert!(found(&bed).is_none() && jobs(&bed).is_empty());
}
