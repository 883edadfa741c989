//! Where scenarios play: the tools, the images, a namespace, and the operator.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use kvnode_tests::binary::repository;
use kvnode_tests::tool;
use kvnode_tests::wait::eventually;

use crate::bed::Bed;
use crate::kubectl::{Kubectl, finish};
use crate::promises::Promises;

/// Namespace of the operator.
pub(crate) const SYSTEM: &str = "kvnode-system";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Everything that a scenario needs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Stage {
    /// Filled by the scenarios.
    pub(crate) promises: Arc<Promises>,
    /// The machine under the nodes, if it is ours.
    pub(crate) bed: Option<Arc<Bed>>,
    kubectl: Kubectl,
    helm: PathBuf,
    registry: String,
    namespace: String,
    /// The operator is installed as most scenarios want it.
    usual: Arc<Mutex<bool>>,
    /// Held by the scenario that installs it.
    installing: Arc<Mutex<()>>,
}

impl Stage {
    /// What is missing to play at all, if something is.
    pub(crate) fn lacks() -> Option<&'static str> {
        if std::env::var_os("KUBECONFIG").is_none() {
            return Some(
                "KUBECONFIG is not set, so there is no Kubernetes to test on; make kube-test makes one",
            );
        }
        let missing = ["kubectl", "helm"].into_iter().find(|program| tool::find(program).is_none());
        missing.map(
            |program| if program == "helm" { "helm is not installed" } else { "kubectl is not installed" },
        )
    }

    /// Finds the Kubernetes.
    pub(crate) fn find() -> Result<Self> {
        let kubeconfig = std::env::var_os("KUBECONFIG").context("KUBECONFIG")?;
        let kubectl = tool::find("kubectl").context("kubectl")?;
        let helm = tool::find("helm").context("helm")?;
        let kubectl = Kubectl { program: kubectl, namespace: "default".into() };
        kubectl.run(&["get", "nodes"]).context("the Kubernetes that KUBECONFIG names does not answer")?;
        Ok(Self {
            promises: Arc::default(),
            bed: Bed::of(Path::new(&kubeconfig)).map(Arc::new),
            kubectl,
            helm,
            registry: std::env::var("KVNODE_KUBE_REGISTRY").unwrap_or_default(),
            namespace: String::new(),
            usual: Arc::default(),
            installing: Arc::default(),
        })
    }

    /// The stage of one scenario.
    pub(crate) fn of(&self, scenario: &str) -> Self {
        Self { namespace: format!("kvt-{}", scenario.replace('_', "-")), ..self.clone() }
    }

    /// Begins a scenario: an empty namespace of its own.
    pub(crate) fn enter(&self) -> Result<()> {
        let namespace = self.namespace.as_str();
        self.kubectl.run(&["delete", "namespace", namespace, "--ignore-not-found", "--wait=true"])?;
        self.kubectl.run(&["create", "namespace", namespace])?;
        // Nothing gets in that the restricted profile does not admit: neither ours nor what a scenario brings.
        let profile = "pod-security.kubernetes.io/enforce=restricted";
        self.kubectl.run(&["label", "namespace", namespace, profile]).map(drop)
    }

    /// kubectl in the scenario's namespace.
    pub(crate) fn kubectl(&self) -> Kubectl {
        self.kubectl.within(&self.namespace)
    }

    /// kubectl in the operator's namespace.
    pub(crate) fn system(&self) -> Kubectl {
        self.kubectl.within(SYSTEM)
    }

    /// Name of the scenario's namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// True if the images come from somebody's registry.
    pub(crate) fn has_registry(&self) -> bool {
        !self.registry.is_empty()
    }

    /// An image at the version under test.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("{}{name}:{VERSION}", self.registry)
    }

    /// The image of the server to roll to.
    pub(crate) fn next_image(&self) -> String {
        format!("{}-next", self.image("kvnode-server"))
    }

    /// A manifest of `manifests/`, images and words filled in.
    pub(crate) fn manifest(&self, file: &str, words: &[(&str, &str)]) -> Result<String> {
        let path = repository().join("tests/kube/manifests").join(file);
        let mut text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        text = text.replace("CLIENTS_IMAGE", &self.image("kvnode-clients"));
        text = text.replace("S3_IMAGE", &self.image("kvnode-s3"));
        text = text.replace("SERVER_IMAGE", &self.image("kvnode-server"));
        for (word, value) in words {
            text = text.replace(word, value);
        }
        Ok(text)
    }

    /// The pod with redis-cli and curl.
    pub(crate) fn clients(&self) -> Result<()> {
        let kubectl = self.kubectl();
        kubectl.apply(&self.manifest("clients.yaml", &[])?)?;
        kubectl.run(&["wait", "pod/clients", "--for=condition=Ready", "--timeout=180s"])?;
        Ok(())
    }

    /// helm, from the root of the repository.
    pub(crate) fn helm(&self, args: &[&str]) -> Result<String> {
        if args.contains(&"kvnode-operator") && args.first() != Some(&"status") {
            *self.usual.lock().unwrap_or_else(PoisonError::into_inner) = false;
        }
        let mut command = Command::new(&self.helm);
        command.args(args).current_dir(repository());
        finish(command, "")
    }

    /// The operator by its chart with these values; waits until its pods are ready.
    pub(crate) fn install(&self, values: &[&str]) -> Result<()> {
        if self.helm(&["status", "kvnode-operator", "--namespace", SYSTEM]).is_err() {
            self.make_room()?;
        }
        self.install_as("kvnode-operator", SYSTEM, values)
    }

    /// The operator under another name and in another namespace.
    pub(crate) fn install_as(&self, release: &str, namespace: &str, values: &[&str]) -> Result<()> {
        let repository = format!("image.repository={}kvnode-operator", self.registry);
        let server = format!("serverImage={}", self.image("kvnode-server"));
        let mut args = vec!["upgrade", "--install", release, "charts/kvnode-operator"];
        args.extend(["--namespace", namespace, "--create-namespace", "--wait", "--timeout", "120s"]);
        args.extend(["--set", &repository, "--set", &server]);
        for value in values {
            args.extend(["--set", value]);
        }
        self.helm(&args).map(drop)
    }

    /// Removes an operator that came by kubectl, and lets Helm take over the definitions, which stay with all KvClusters.
    pub(crate) fn make_room(&self) -> Result<()> {
        self.kubectl.run(&["delete", "namespace", SYSTEM, "--ignore-not-found", "--wait=true"])?;
        let ours = "app.kubernetes.io/name=kvnode-operator";
        self.kubectl.run(&["delete", "clusterrole,clusterrolebinding", "--selector", ours])?;
        let crds = self.kubectl.run(&["get", "crd", "--output", "name"])?;
        for crd in crds.lines().filter(|crd| crd.ends_with(".kvnode.dev")) {
            let space = format!("meta.helm.sh/release-namespace={SYSTEM}");
            let name = "meta.helm.sh/release-name=kvnode-operator";
            self.kubectl.run(&["annotate", "--overwrite", crd, name, &space])?;
            self.kubectl.run(&["label", "--overwrite", crd, "app.kubernetes.io/managed-by=Helm"])?;
        }
        Ok(())
    }

    /// The operator as most scenarios want it. Scenarios that change it play alone.
    pub(crate) async fn operator(&self) -> Result<()> {
        {
            let _alone = self.installing.lock().unwrap_or_else(PoisonError::into_inner);
            if !*self.usual.lock().unwrap_or_else(PoisonError::into_inner) {
                self.install(&[])?;
                *self.usual.lock().unwrap_or_else(PoisonError::into_inner) = true;
            }
        }
        self.operator_leads().await
    }

    /// Waits until a pod of the operator holds the lease.
    pub(crate) async fn operator_leads(&self) -> Result<()> {
        let system = self.system();
        eventually("an operator holds the lease", Duration::from_mins(1), async || {
            let lease = system.get("lease kvnode-operator")?;
            let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
            let pods = system.list("pods --selector app.kubernetes.io/name=kvnode-operator")?;
            Ok(pods.iter().any(|pod| pod["metadata"]["name"] == holder.as_str()).then_some(()))
        })
        .await
    }

    /// Each pod of the namespace in a few words: whoever has only the end of a log still learns which of them died.
    pub(crate) fn pods_in_short(&self) -> String {
        let status = ".status.containerStatuses[*]";
        let columns = format!(
            "custom-columns=:.metadata.name,:.status.phase,:{status}.restartCount,:{status}.lastState.terminated.reason"
        );
        let told = self.kubectl().run(&["get", "pods", "--no-headers", "--output", &columns]);
        let told = told.unwrap_or_else(|error| format!("{error:#}"));
        let pods: Vec<String> =
            told.lines().map(|pod| pod.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        pods.join(", ")
    }

    /// What somebody wants to see who reads of a failure.
    pub(crate) fn explain(&self) -> String {
        let kubectl = self.kubectl();
        let mut told = String::new();
        let mut show = |title: &str, text: Result<String>| {
            let text = text.unwrap_or_else(|error| format!("{error:#}"));
            told += &format!("> {title}\n{text}\n");
        };
        show("clusters", kubectl.run(&["get", "kvc", "--output", "wide"]));
        show("describe", kubectl.run(&["describe", "kvc"]));
        show("pods", kubectl.run(&["get", "pods,pvc", "--output", "wide"]));
        show("backups", kubectl.run(&["get", "kvb,jobs", "--output", "wide"]));
        show("events", kubectl.run(&["get", "events", "--sort-by", ".lastTimestamp"]));
        let selector = "app.kubernetes.io/name=kvnode";
        show("nodes", kubectl.run(&["logs", "--selector", selector, "--tail", "15", "--prefix"]));
        show("s3", kubectl.run(&["logs", "s3", "--tail", "40"]));
        let selector = "app.kubernetes.io/name=kvnode-backup";
        show(
            "jobs",
            kubectl.run(&["logs", "--selector", selector, "--tail", "15", "--all-containers", "--prefix"]),
        );
        let selector = "app.kubernetes.io/name=kvnode-operator";
        show("operator", self.system().run(&["logs", "--selector", selector, "--tail", "40", "--prefix"]));
        told
    }

    /// Ends a scenario. `KVNODE_KUBE_KEEP=1` leaves its namespace to look at.
    pub(crate) fn clear(&self) {
        if std::env::var_os("KVNODE_KUBE_KEEP").is_none() {
            // Nobody waits for the pods of a scenario that is over: the machine is for the next one.
            let _ = self.kubectl().run(&["delete", "kvcluster,statefulset", "--all", "--ignore-not-found"]);
            let _ = self.kubectl().run(&["delete", "pods", "--all", "--force", "--grace-period=0"]);
            let namespace = ["delete", "namespace", &self.namespace, "--ignore-not-found", "--wait=false"];
            let _ = self.kubectl.run(&namespace);
        }
    }
}
