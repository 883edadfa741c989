//! What a pass over backups sees of Jobs and their pods.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::job::{BACKUP_OF, CONTAINER, PROGRESS_PORT, PROVE};
use super::state::JobSeen;
use crate::backup::announce::{End, PROGRESS_PATH};
use crate::backup::progress::Progress;
use crate::clock;
use crate::context::Context;
use crate::error::{Error, asked};

const ASK: Duration = Duration::from_secs(1);
/// Time behind the end of its grace after which a pod that is still there is lost.
const LOST: SignedDuration = SignedDuration::from_secs(30);
const PROGRESS_BYTES_MAX: usize = 16 * 1024;
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// Jobs and their pods of one cluster.
pub(super) struct Work {
    jobs: Vec<Job>,
    pods: Vec<Pod>,
}

/// Lists them.
pub(super) async fn look(ctx: &Context, namespace: &str, cluster: &str) -> Result<Work, Error> {
    let labelled = ListParams::default().labels(&format!("{BACKUP_OF}={cluster}"));
    let jobs: Api<Job> = Api::namespaced(ctx.client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), namespace);
    let (jobs, pods) = tokio::try_join!(
        asked("list Jobs", jobs.list(&labelled)),
        asked("list pods of Jobs", pods.list(&labelled)),
    )?;
    Ok(Work { jobs: jobs.items, pods: pods.items })
}

impl Work {
    /// The Job of that name and of the owner with this uid, if it is there. That of an earlier owner of the same name is on
    /// its way out and says nothing of this one.
    pub(super) async fn seen(&self, name: &str, owner: Option<&str>) -> Option<JobSeen> {
        let of_owner = |job: &Job| job.owner_references().iter().all(|of| Some(&*of.uid) == owner);
        let job = self.jobs.iter().find(|job| job.name_any() == name && of_owner(job))?;
        let of_job = |pod: &Pod| {
            pod.labels().get(JOB_NAME).is_some_and(|of| of == name)
                && pod.owner_references().iter().all(|of| Some(&of.uid) == job.metadata.uid.as_ref())
        };
        let mut pods: Vec<&Pod> = self.pods.iter().filter(|pod| of_job(pod)).collect();
        pods.sort_by_key(|pod| pod.creation_timestamp().map(|at| at.0));
        let mut seen = JobSeen::default();
        let conditions = job.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        for condition in conditions.iter().filter(|condition| condition.status == "True") {
            match condition.type_.as_str() {
                "Complete" => seen.ended = Some(true),
                "Failed" => {
                    seen.ended = Some(false);
                    let reason = condition.reason.clone().unwrap_or_default();
                    seen.message =
                        Some(format!("{reason}: {}", condition.message.clone().unwrap_or_default()));
                }
                _ => {}
            }
        }
        seen.end = pods.iter().rev().find_map(|pod| end(pod));
        if let Some(newest) = pods.last().filter(|_| seen.ended.is_none()) {
            seen.stuck = stuck(newest);
            seen.lost = is_lost(newest, clock::wall())
                .then(|| format!("the Kubernetes node of pod {} does not answer", newest.name_any()));
            seen.progress = progress(newest).await;
        }
        if pods.is_empty() && seen.ended == Some(true) {
            seen.lost = Some("its pod was deleted before its report was read".to_owned());
        }
        Some(seen)
    }
}

fn statuses(pod: &Pod) -> Vec<ContainerStatus> {
    let status = pod.status.clone().unwrap_or_default();
    // What proves comes before what was proved.
    let mut all = status.container_statuses.unwrap_or_default();
    all.extend(status.init_container_statuses.unwrap_or_default());
    all
}

/// The message of whoever spoke last: the one that proves, else the run; of any other container only its failure.
fn end(pod: &Pod) -> Option<End> {
    let statuses = statuses(pod);
    let message = |status: &ContainerStatus| {
        let ended = status.state.as_ref()?.terminated.as_ref()?;
        let text = ended.message.clone().unwrap_or_default();
        serde_json::from_str::<End>(&text).ok().or_else(|| {
            let error = format!("{} ended with code {}: {}", status.name, ended.exit_code, text.trim());
            (ended.exit_code != 0).then_some(End { error: Some(error), ..End::default() })
        })
    };
    let of = |name: &str| statuses.iter().find(|status| status.name == name).and_then(&message);
    let failed = |status: &&ContainerStatus| {
        status
            .state
            .as_ref()
            .and_then(|state| state.terminated.as_ref())
            .is_some_and(|ended| ended.exit_code != 0)
    };
    of(PROVE).or_else(|| statuses.iter().find(failed).and_then(&message)).or_else(|| of(CONTAINER))
}

/// Whether a pod is still there a while after its grace ended, and nobody has seen it end: the kubelet that should end
/// it does not answer. Its Job waits for its end, which may never be told.
fn is_lost(pod: &Pod, now: Timestamp) -> bool {
    let due = pod.metadata.deletion_timestamp.as_ref().map(|due| due.0);
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let over = ["Succeeded", "Failed"].contains(&phase);
    !over && due.is_some_and(|due| now.duration_since(due) > LOST)
}

/// Why a container waits that should run.
fn stuck(pod: &Pod) -> Option<String> {
    statuses(pod).iter().find_map(|status| {
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.clone()?;
        let harmless = ["PodInitializing", "ContainerCreating"].contains(&reason.as_str());
        (!harmless)
            .then(|| format!("{}: {reason}: {}", status.name, waiting.message.clone().unwrap_or_default()))
    })
}

/// How far the container of a pod is that tells it.
pub(super) async fn progress(pod: &Pod) -> Option<Progress> {
    let ip = pod.status.as_ref()?.pod_ip.clone().filter(|ip| !ip.is_empty())?;
    let host =
        if ip.contains(':') { format!("[{ip}]:{PROGRESS_PORT}") } else { format!("{ip}:{PROGRESS_PORT}") };
    timeout(ASK, asked_progress(&host)).await.ok()?
}

async fn asked_progress(host: &str) -> Option<Progress> {
    let stream = TcpStream::connect(host).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let work = async {
        let request =
            http::Request::get(PROGRESS_PATH).header("host", host).body(Empty::<Bytes>::new()).ok()?;
        let response = sender.send_request(request).await.ok()?;
        let body = Limited::new(response.into_body(), PROGRESS_BYTES_MAX).collect().await.ok()?;
        serde_json::from_slice(&body.to_bytes()).ok()
    };
    tokio::pin!(work);
    tokio::select! {
        found = &mut work => found,
        _ = connection => work.await,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_job_of_an_earlier_owner_of_the_same_name_is_not_taken_for_this_ones() {
        let job: Job = serde_json::from_value(json!({
            "metadata": { "name": "by-hand", "uid": "job-1", "ownerReferences": [{
                "apiVersion": "kvnode.dev/v1alpha1", "kind": "KvBackup", "name": "by-hand", "uid": "first",
            }] },
            "status": { "conditions": [{ "type": "Complete", "status": "True" }] },
        }))
        .unwrap();
        let pod = |of: &str, end: &str| -> Pod {
            let ended = json!({ "exitCode": 1, "message": end });
            serde_json::from_value(json!({
                "metadata": { "name": of, "labels": { JOB_NAME: "by-hand" }, "ownerReferences": [{
                    "apiVersion": "batch/v1", "kind": "Job", "name": "by-hand", "uid": of,
                }] },
                "status": { "containerStatuses": [{
                    "name": CONTAINER, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": { "terminated": ended },
                }] },
            }))
            .unwrap()
        };
        let work = Work { jobs: vec![job], pods: vec![pod("job-1", "ours"), pod("job-0", "theirs")] };
        assert!(work.seen("by-hand", Some("second")).await.is_none());
        assert!(work.seen("by-hand", None).await.is_none());
        let seen = work.seen("by-hand", Some("first")).await.unwrap();
        assert_eq!(seen.ended, Some(true));
        assert!(seen.end.unwrap().error.unwrap().ends_with("ours"));
        assert_eq!(seen.lost, None);
        // Killed by force as it ended: the Job counts it, and what it said is gone. The run is asked again.
        let alone = Work { pods: Vec::new(), ..work };
        assert!(alone.seen("by-hand", Some("first")).await.unwrap().lost.is_some());
    }

    #[test]
    fn a_pod_is_lost_when_nobody_has_seen_its_end_for_a_while() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let lost = |due: Option<&str>, phase: &str| {
            let pod = json!({ "metadata": { "deletionTimestamp": due }, "status": { "phase": phase } });
            is_lost(&serde_json::from_value(pod).unwrap(), now)
        };
        assert!(lost(Some("2026-11-22T11:59:00Z"), "Running"));
        assert!(!lost(Some("2026-11-22T11:59:45Z"), "Running"), "its kubelet may be at it");
        assert!(!lost(Some("2026-11-22T11:59:00Z"), "Failed"), "its end was seen");
        assert!(!lost(None, "Running"));
    }
}
