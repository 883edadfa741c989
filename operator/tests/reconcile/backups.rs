//! Backups over whole passes: two operators at once, killed at every call; and what a restore is told to be.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kvnode_operator::backup::duty::Duty;
use kvnode_operator::backup::duty::job::Images;
use kvnode_operator::backup::duty::{farewell, pass, restoring};
use kvnode_operator::clock;
use kvnode_operator::crd::KvCluster;
use serde_json::{Value, json};

use super::bed::{Bed, CLUSTERS, cart, name};
use super::kubelet::{PODS, text};
use super::objects::{Key, Refusal};
use super::server::Fault;

const BACKUPS: &str = "kvnode.dev/kvbackups";
const JOBS: &str = "batch/jobs";

fn duty(bed: &Bed) -> Arc<Duty> {
    Duty::new(bed.operator(false), Images { operator: "op:1".into(), ..Images::default() })
}

/// A formed cluster whose schedule owes the runs of the last ten minutes.
fn owing() -> Bed {
    let bed = Bed::new(&json!({ "backup": {
        "s3": { "bucket": "kvs", "credentialsSecret": "cred" },
        "schedules": [{ "name": "often", "cron": "* * * * *" }],
    }}));
    let since = clock::wall().checked_sub(SignedDuration::from_mins(10)).expect("a time");
    let status = json!({ "status": {
        "clusterId": "00000000000000c1", "backup": { "since": [{ "name": "often", "time": since.to_string() }] },
    }});
    bed.server.objects.lock().merge(&cart(), &status, true).expect("a status");
    bed
}

fn all(bed: &Bed, resource: &str) -> Vec<Value> {
    bed.server.objects.lock().list(resource, "shop", &[])
}

fn names(bed: &Bed, resource: &str) -> BTreeSet<String> {
    all(bed, resource).iter().map(|object| text(&object["metadata"]["name"])).collect()
}

/// Jobs that are runs, not probes.
fn runs(bed: &Bed) -> Vec<Value> {
    let is_run = |job: &Value| text(&job["metadata"]["ownerReferences"][0]["kind"]) == "KvBackup";
    all(bed, JOBS).into_iter().filter(is_run).collect()
}

/// One missed run, made up once; one more if a minute went by meanwhile. Never two at work.
fn check(bed: &Bed, minutes: i64) {
    let (made, jobs) = (names(bed, BACKUPS), runs(bed));
    assert!(
        (1..=2).contains(&made.len()) && i64::try_from(made.len()).is_ok_and(|count| count <= 1 + minutes),
        "{made:?}"
    );
    assert_eq!(jobs.len(), 1, "one run at a time");
    assert!(made.contains(&text(&jobs[0]["metadata"]["name"])), "{made:?}");
}

fn minutes_since(began: Timestamp) -> i64 {
    clock::wall().as_second() / 60 - began.as_second() / 60
}

#[tokio::test]
async fn two_operators_make_a_missed_run_up_once() {
    for _ in 0..20 {
        let (bed, began) = (owing(), clock::wall());
        let (one, two) = (duty(&bed), duty(&bed));
        for _ in 0..4 {
            let name = name();
            let (first, second) = tokio::join!(pass::pass(&one, &name), pass::pass(&two, &name));
            first.expect("a pass");
            second.expect("a pass");
        }
        check(&bed, minutes_since(began));
        assert_eq!(all(&bed, JOBS).len(), 2, "the run and one probe of the bucket");
    }
}

#[tokio::test]
async fn an_operator_killed_at_any_call_makes_nothing_twice() {
    let mut points = 0;
    for lost_after in [false, true] {
        for position in 0.. {
            let (bed, began) = (owing(), clock::wall());
            bed.server.wire.start(Some(Box::new(move |call| {
                // Nothing more comes through from there on: that is what being killed is.
                (call.position >= position).then_some(if lost_after && call.position == position {
                    Fault::LostAfter
                } else {
                    Fault::LostBefore
                })
            })));
            // Passes of the one that is killed, then of the one that follows it.
            let first = duty(&bed);
            let mut killed = false;
            for _ in 0..3 {
                killed |= pass::pass(&first, &name()).await.is_err();
            }
            bed.server.wire.start(None);
            let second = duty(&bed);
            for _ in 0..4 {
                pass::pass(&second, &name()).await.expect("a pass");
            }
            check(&bed, minutes_since(began));
            if !killed {
                break;
            }
            points += 1;
        }
    }
    assert!(points >= 20, "only {points} points");
}

#[tokio::test]
async fn a_run_on_a_lost_kubernetes_node_begins_anew() {
    let bed = owing();
    let duty = duty(&bed);
    for _ in 0..3 {
        pass::pass(&duty, &name()).await.expect("a pass");
    }
    let job = runs(&bed).pop().expect("a run");
    let run = text(&job["metadata"]["name"]);
    let due = clock::wall().checked_sub(SignedDuration::from_mins(1)).expect("a time").to_string();
    let labels = json!({ "kvnode.dev/backup-of": "cart", "batch.kubernetes.io/job-name": run });
    let pod = json!({
        "metadata": { "labels": labels, "deletionTimestamp": due, "finalizers": ["kubelet.is/silent"] },
        "status": { "phase": "Running" },
    });
    bed.server.objects.lock().create(&Key::new(PODS, "shop", "lost"), pod).expect("a pod");
    pass::pass(&duty, &name()).await.expect("a pass");
    assert!(runs(&bed).is_empty(), "its Job is given up");
    let gone = json!({ "metadata": { "finalizers": null } });
    bed.server.objects.lock().merge(&Key::new(PODS, "shop", "lost"), &gone, false).expect("garbage");
    pass::pass(&duty, &name()).await.expect("a pass");
    let again = runs(&bed).pop().expect("a Job of the same run");
    assert_eq!(again["metadata"]["name"], run.as_str());
    assert_ne!(again["metadata"]["uid"], job["metadata"]["uid"]);
}

fn founder(bed: &Bed, restore: &Value, server: &Value) {
    let key = Key::new(PODS, "shop", "cart-0");
    let _ = bed.server.objects.lock().delete(&key, &Value::Null);
    let status = |name: &str, states: &Value| {
        let mut all = json!({ "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0 });
        states.as_object().into_iter().flatten().for_each(|(key, value)| all[key] = value.clone());
        all
    };
    let pod = json!({ "status": {
        "initContainerStatuses": [status("restore", restore)], "containerStatuses": [status("kvnode", server)],
    }});
    bed.server.objects.lock().create(&key, pod).expect("a pod");
}

#[tokio::test]
async fn a_restore_is_told_in_the_status_and_a_refusal_as_a_condition() {
    let bed = Bed::new(&json!({ "bootstrap": { "s3": {
        "cluster": "old", "store": { "bucket": "kvs", "credentialsSecret": "cred" },
    }}}));
    let duty = duty(&bed);
    let turn = async || restoring::pass(&duty, &name()).await.expect("a pass");
    let status = || bed.cluster()["status"].clone();
    assert!(turn().await.is_some(), "it looks again");
    assert_eq!(
        (status()["restore"]["phase"].clone(), bed.condition("Restored")),
        (json!("Waiting"), "Unknown".into())
    );

    let idle = json!({ "state": { "waiting": { "reason": "PodInitializing" } } });
    let error = json!({ "error": "the content counts 3 keys ([3]), meta.json says 4 ([4])" }).to_string();
    founder(&bed, &json!({ "state": { "terminated": { "exitCode": 65, "message": error } } }), &idle);
    turn().await;
    assert_eq!(bed.condition("Restored"), "False");
    let told = status()["conditions"].to_string();
    assert!(told.contains("RestoreFailed") && told.contains("meta.json says 4"), "{told}");

    let preview = json!({
        "backup": "old-hourly-1", "index": 912_331, "until": "2026-11-21T14:05:02Z", "keys": 40, "size_bytes": 1000,
    });
    let end = json!({ "text": "proved", "preview": preview }).to_string();
    let fetched = json!({ "state": { "terminated": { "exitCode": 0, "message": end } } });
    founder(&bed, &fetched, &json!({ "state": { "running": {} } }));
    turn().await;
    let restore = status()["restore"].clone();
    assert_eq!(
        (&restore["phase"], &restore["keys"], &restore["index"]),
        (&json!("Loading"), &json!(40), &json!(912_331))
    );
    assert!(status()["conditions"].to_string().contains("nothing after 2026-11-21T14:05:02Z, index 912331"));
    let writes = bed.server.objects.lock().version();
    turn().await;
    assert_eq!(bed.server.objects.lock().version(), writes, "nothing new is nothing written");

    let formed = json!({ "status": { "formation": { "formedAt": "2026-11-22T00:00:00Z" } } });
    bed.server.objects.lock().merge(&Key::new(CLUSTERS, "shop", "cart"), &formed, true).expect("a status");
    assert!(turn().await.is_none(), "it is over");
    assert_eq!(
        (status()["restore"]["phase"].clone(), bed.condition("Restored")),
        (json!("Complete"), "True".into())
    );
    // What it was stays known.
    assert_eq!(status()["restore"]["backup"], "old-hourly-1");
}

/// A formed cluster that wants one more backup before it goes, deleted.
async fn leaving() -> (Bed, Arc<Duty>) {
    let bed = Bed::new(&json!({ "backup": {
        "s3": { "bucket": "kvs", "credentialsSecret": "cred" }, "onDelete": "FinalBackup",
    }}));
    let status = json!({ "status": {
        "clusterId": "00000000000000c1", "formation": { "formedAt": "2026-11-22T00:00:00Z" },
    }});
    bed.server.objects.lock().merge(&cart(), &status, true).expect("a status");
    let duty = duty(&bed);
    farewell::prepare(&duty, &cluster(&bed)).await.expect("a finalizer");
    assert_eq!(bed.cluster()["metadata"]["finalizers"], json!([farewell::FINALIZER]));
    bed.server.objects.lock().delete(&cart(), &Value::Null).expect("it is there");
    (bed, duty)
}

fn cluster(bed: &Bed) -> KvCluster {
    serde_json::from_value(bed.cluster()).expect("a KvCluster")
}

fn is_gone(bed: &Bed) -> bool {
    bed.server.objects.lock().get(&cart()).is_err()
}

#[tokio::test]
async fn a_cluster_that_goes_is_held_until_its_last_backup_is_complete() {
    let (bed, duty) = leaving().await;
    for _ in 0..3 {
        pass::pass(&duty, &name()).await.expect("a pass");
    }
    let made = all(&bed, BACKUPS);
    assert_eq!((made.len(), runs(&bed).len()), (1, 1), "one backup, one Job, no probe, no schedule");
    let last = text(&made[0]["metadata"]["name"]);
    assert_eq!(last, farewell::last_name(&cluster(&bed)));
    let key = Key::new(BACKUPS, "shop", &last);

    let failed = json!({ "status": { "phase": "Failed", "error": "AccessDenied" } });
    bed.server.objects.lock().merge(&key, &failed, true).expect("a status");
    for _ in 0..2 {
        pass::pass(&duty, &name()).await.expect("a pass");
    }
    assert!(!is_gone(&bed), "it is held");
    assert_eq!(bed.events(), ["DeletionHeld"], "told once");
    bed.server.objects.lock().delete(&key, &Value::Null).expect("a person does that");
    pass::pass(&duty, &name()).await.expect("a pass");
    assert_eq!(names(&bed, BACKUPS), BTreeSet::from([last]), "another try");

    let complete = json!({ "status": { "phase": "Complete", "verified": "Content" } });
    bed.server.objects.lock().merge(&key, &complete, true).expect("a status");
    pass::pass(&duty, &name()).await.expect("a pass");
    assert!(is_gone(&bed));
    assert_eq!(all(&bed, BACKUPS).len(), 1, "the backup outlives it");
}

#[tokio::test]
async fn a_cluster_is_let_go_without_if_somebody_says_so_or_it_never_was() {
    let (bed, duty) = leaving().await;
    let patch = json!({ "spec": { "backup": { "onDelete": "Nothing" } } });
    bed.server.objects.lock().merge(&cart(), &patch, false).expect("an edit");
    farewell::prepare(&duty, &cluster(&bed)).await.expect("a pass");
    assert!(is_gone(&bed), "the way out");

    let (bed, duty) = leaving().await;
    let never = json!({ "status": { "formation": null } });
    bed.server.objects.lock().merge(&cart(), &never, true).expect("a status");
    pass::pass(&duty, &name()).await.expect("a pass");
    assert!(is_gone(&bed) && all(&bed, BACKUPS).is_empty(), "there is nothing to back up");

    let (bed, duty) = leaving().await;
    bed.server.wire.start(Some(Box::new(|call| {
        let message = "unable to create new content in namespace shop because it is being terminated";
        let refused = call.is_write() && call.path.ends_with("/kvbackups");
        refused.then(|| Fault::Answer(Refusal::new(403, "Forbidden", message)))
    })));
    pass::pass(&duty, &name()).await.expect("a pass");
    assert!(is_gone(&bed), "the namespace can go");
}

/// What the loop of backups takes away is not kept by the other writer of the status, and goes with `spec.backup`.
#[tokio::test]
async fn a_status_with_two_writers_keeps_nothing_of_yesterday() {
    let bed = owing();
    let (duty, ctx) = (duty(&bed), bed.operator(false));
    let both = async || {
        pass::pass(&duty, &name()).await.expect("a pass");
        let _ = bed.pass(&ctx).await;
        pass::pass(&duty, &name()).await.expect("a pass");
    };
    both().await;
    both().await;
    let status = || bed.cluster()["status"].clone();
    assert!(
        status()["backup"]["running"].is_string() && !bed.condition("BackupHealthy").is_empty(),
        "{}",
        status()
    );
    assert_ne!(bed.condition("Ready"), "", "the other writer was there");
    let run = Key::new(BACKUPS, "shop", &text(&status()["backup"]["running"]));
    let complete = json!({ "status": {
        "phase": "Complete", "completedAt": clock::wall().to_string(), "uri": "s3://kvs/x/", "verified": "Content",
    }});
    bed.server.objects.lock().merge(&run, &complete, true).expect("a status");
    let often = json!({ "backup": { "suspend": true } });
    bed.edit(&often);
    both().await;
    both().await;
    assert!(status()["backup"]["running"].is_null(), "{}", status());
    assert_eq!(status()["backup"]["lastSuccess"]["name"], run.name.as_str());

    bed.edit(&json!({ "backup": null }));
    both().await;
    both().await;
    assert!(status()["backup"].is_null(), "{}", status());
    assert_eq!(
        (bed.condition("BackupHealthy"), bed.condition("BackupVerified")),
        (String::new(), String::new())
    );
    assert_ne!(bed.condition("Ready"), "");
}
