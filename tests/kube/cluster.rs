//! A KvCluster as a user handles it: kubectl for the object, redis-cli in a pod for the data, by what its Secret says.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvnode_tests::tool;
use kvnode_tests::wait::{eventually, until};
use serde_json::{Value as Json, json};

use crate::kubectl::Kubectl;
use crate::stage::Stage;

/// Deadline of what a healthy Kubernetes does in seconds.
pub(crate) const PATIENCE: Duration = Duration::from_mins(4);

/// One cluster.
pub(crate) struct Kv {
    pub(crate) name: String,
    pub(crate) kubectl: Kubectl,
}

impl Kv {
    /// Makes one, and its client beside it, and waits until it is ready.
    pub(crate) async fn create(stage: &Stage, name: &str, spec: &Json) -> Result<Self> {
        let cluster = Self { name: name.to_owned(), kubectl: stage.kubectl() };
        cluster.apply(spec)?;
        cluster.admit(stage)?;
        cluster.ready(spec["replicas"].as_u64().unwrap_or(3)).await?;
        cluster.served().await?;
        Ok(cluster)
    }

    /// Waits until its client gets an answer by each Service for writers: every node of Kubernetes hears of the endpoints
    /// of a Service by itself, and of one later than of another.
    pub(crate) async fn served(&self) -> Result<()> {
        for service in [self.name.clone(), format!("{}-leader", self.name)] {
            until(&format!("the Service {service} answers"), PATIENCE, async || {
                self.redis_at(&service, "PING").is_ok_and(|said| said == "PONG")
            })
            .await?;
        }
        Ok(())
    }

    /// Starts the pod that commands to it come from: one with its Secrets, as they are now.
    pub(crate) fn admit(&self, stage: &Stage) -> Result<()> {
        let pod = self.client();
        let gone = ["delete", "pod", &pod, "--ignore-not-found", "--force", "--grace-period=0"];
        self.kubectl.run(&gone)?;
        self.kubectl.apply(&stage.manifest("client.yaml", &[("CLUSTER_NAME", &self.name)])?)?;
        self.kubectl
            .run(&["wait", &format!("pod/{pod}"), "--for=condition=Ready", "--timeout=180s"])
            .map(drop)
    }

    /// Name of that pod.
    pub(crate) fn client(&self) -> String {
        format!("{}-client", self.name)
    }

    /// Asks the admin API of a pod, with the certificate that it wants to see.
    pub(crate) fn admin(&self, pod: &str, path: &str, more: &[&str]) -> Result<Json> {
        let url = format!("https://{pod}.{}-raft.{}.svc:24920{path}", self.name, self.kubectl.namespace);
        let mut args =
            vec!["curl", "-sf", "-m", "10", "--cacert", "/admin/ca.crt", "--cert", "/admin/tls.crt"];
        args.extend(["--key", "/admin/tls.key"]);
        args.extend(more);
        args.push(&url);
        let text = self.kubectl.exec(&self.client(), &args)?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// Applies the object with this spec.
    pub(crate) fn apply(&self, spec: &Json) -> Result<()> {
        let object = json!({
            "apiVersion": "kvnode.dev/v1alpha1", "kind": "KvCluster",
            "metadata": { "name": self.name }, "spec": spec,
        });
        self.kubectl.apply(&object.to_string())
    }

    /// Changes the spec.
    pub(crate) fn change(&self, spec: &Json) -> Result<()> {
        self.kubectl.patch(&format!("kvcluster/{}", self.name), &json!({ "spec": spec }))
    }

    /// The whole object.
    pub(crate) fn object(&self) -> Result<Json> {
        self.kubectl.get(&format!("kvcluster {}", self.name))
    }

    /// True if the condition is, for the newest generation.
    pub(crate) fn holds(object: &Json, condition: &str) -> bool {
        let fresh = object["status"]["observedGeneration"] == object["metadata"]["generation"];
        let conditions = object["status"]["conditions"].as_array();
        let found = conditions.into_iter().flatten().find(|one| one["type"] == condition);
        fresh && found.is_some_and(|one| one["status"] == "True")
    }

    /// Waits until the cluster is Ready with so many members.
    pub(crate) async fn ready(&self, members: u64) -> Result<()> {
        let ready = format!("{members}/{members}");
        eventually(&format!("{} is Ready {ready}", self.name), PATIENCE * 2, async || {
            let object = self.object()?;
            let all = object["status"]["ready"] == ready.as_str();
            Ok((all && Self::holds(&object, "Ready")).then_some(()))
        })
        .await
    }

    /// Waits for a condition and a reason.
    pub(crate) async fn reason(&self, condition: &str, reason: &str) -> Result<String> {
        eventually(&format!("{condition} says {reason}"), PATIENCE, async || {
            let object = self.object()?;
            let conditions = object["status"]["conditions"].as_array();
            let found = conditions.into_iter().flatten().find(|one| one["type"] == condition);
            let told = found.filter(|one| one["reason"] == reason);
            Ok(told.and_then(|one| one["message"].as_str()).map(str::to_owned))
        })
        .await
    }

    /// Scales as `kubectl scale` does, waits, and tells how long it took.
    pub(crate) async fn scale(&self, replicas: u64) -> Result<Duration> {
        let began = Instant::now();
        let object = format!("kvcluster/{}", self.name);
        self.kubectl.run(&["scale", &object, &format!("--replicas={replicas}")])?;
        self.ready(replicas).await?;
        Ok(began.elapsed())
    }

    /// Its pods.
    pub(crate) fn pods(&self) -> Result<Vec<Json>> {
        self.kubectl.list(&format!("pods --selector kvnode.dev/cluster={}", self.name))
    }

    /// Names and uids of its pods, sorted.
    pub(crate) fn lives(&self) -> Result<Vec<(String, String)>> {
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        let pods = self.pods()?;
        let mut lives: Vec<_> =
            pods.iter().map(|pod| (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]))).collect();
        lives.sort();
        Ok(lives)
    }

    /// Runs a command by redis-cli in the pod of its client, by the URI of the Secret.
    pub(crate) fn redis(&self, words: &str) -> Result<String> {
        self.redis_with("-u \"$(cat /bind/uri)\"", words)
    }

    /// The same through another of its Services.
    pub(crate) fn redis_at(&self, host: &str, words: &str) -> Result<String> {
        let login = format!("--tls -h {host} -p 6380 -a \"$(cat /bind/password)\"");
        self.redis_with(&login, words)
    }

    fn redis_with(&self, login: &str, words: &str) -> Result<String> {
        let script = format!("redis-cli --no-auth-warning {login} --cacert /bind/ca.crt {words}");
        Ok(self.kubectl.exec(&self.client(), &["sh", "-c", &script])?.trim().to_owned())
    }

    /// What a client needs that runs outside of Kubernetes.
    pub(crate) fn door(&self) -> Result<Door> {
        let key = |key: &str| {
            let template = format!("go-template={{{{index .data \"{key}\" | base64decode}}}}");
            self.kubectl.run(&["get", "secret", &format!("{}-auth", self.name), "--output", &template])
        };
        let ca = tempfile::NamedTempFile::new()?;
        std::fs::write(ca.path(), key("ca.crt")?)?;
        let service = self.kubectl.get(&format!("service {}", self.name))?;
        let ip = service["spec"]["clusterIP"].as_str().context("clusterIP")?.to_owned();
        Ok(Door { ca, ip, password: key("password")? })
    }

    /// The pod that leads, as the nodes say.
    pub(crate) fn leader(&self) -> Result<String> {
        let addr = self.redis("RAFTLEADER")?;
        addr.split('.')
            .next()
            .filter(|pod| pod.starts_with(&self.name))
            .map(str::to_owned)
            .context(addr.clone())
    }

    /// Members as redis-cli shows them: address and role.
    pub(crate) fn members(&self) -> Result<Vec<(String, String)>> {
        let text = self.redis("RAFTPEERS")?;
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        ensure!(lines.len().is_multiple_of(2), "{text}");
        Ok(lines.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect())
    }

    /// Waits until a pod of this name lives under another uid and is Ready.
    pub(crate) async fn reborn(&self, pod: &str, uid: &str) -> Result<()> {
        until(&format!("{pod} is there again"), PATIENCE, async || {
            let found = self.kubectl.get(&format!("pod {pod}")).unwrap_or_default();
            found["metadata"]["uid"] != uid && pod_ready(&found)
        })
        .await
    }

    /// Uid of a pod.
    pub(crate) fn uid(&self, pod: &str) -> Result<String> {
        let found = self.kubectl.get(&format!("pod {pod}"))?;
        found["metadata"]["uid"].as_str().map(str::to_owned).context("uid")
    }
}

/// The Service of a cluster, and what it asks for, read beforehand: it needs no API server.
pub(crate) struct Door {
    ca: tempfile::NamedTempFile,
    ip: String,
    password: String,
}

impl Door {
    /// Runs a command by redis-cli on this machine; what takes longer than so many seconds is an error.
    pub(crate) fn redis(&self, seconds: u32, words: &[&str]) -> Result<String> {
        let mut command = Command::new("timeout");
        command.args([&seconds.to_string(), "redis-cli", "--no-auth-warning", "--tls", "--cacert"]);
        command.arg(self.ca.path()).args(["-h", &self.ip, "-p", "6380", "-a", &self.password]).args(words);
        Ok(tool::run(&mut command)?.trim().to_owned())
    }
}

/// The pod's condition Ready.
pub(crate) fn pod_ready(pod: &Json) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
}
