//! What is written for people to type, executed as it stands.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kvnode_tests::binary::repository;
use kvnode_tests::tool;

use crate::kubectl::finish;
use crate::stage::Stage;

/// Every `sh` block of `deploy/README.md` succeeds, in their order, in one namespace.
pub(crate) async fn runbook_as_written(stage: &Stage) -> Result<()> {
    if stage.has_registry() {
        tool::skip_without_rights("the runbook names the images of the bed");
        return Ok(());
    }
    stage.operator().await?;
    let shell = Shell::new(stage)?;
    let text = std::fs::read_to_string(repository().join("deploy/README.md"))?;
    let blocks = blocks(&text);
    ensure!(blocks.len() >= 10, "only {} blocks found", blocks.len());
    for (title, block) in blocks {
        shell.run(block).with_context(|| format!("recipe {title}:\n{block}"))?;
        say!("{title}");
    }
    Ok(())
}

/// Recipe 11, the block that begins with a bucket: typed as it stands there. Only the examples name another store, the one
/// that there is here.
pub(crate) async fn backups_as_written(stage: &Stage) -> Result<()> {
    stage.operator().await?;
    super::backups::s3(stage, "acme-kv").await?;
    stage.kubectl().run(&["delete", "secret", "kv-backup"])?;
    let text = std::fs::read_to_string(repository().join("deploy/README.md"))?;
    let (_, rest) = text.split_once("\n```bash\n").context("the block")?;
    let (block, _) = rest.split_once("\n```").context("its end")?;
    let mut shell = Shell::new(stage)?;
    let examples = shell.dir.path().join("deploy/examples");
    std::fs::create_dir_all(&examples)?;
    for name in ["backup.yaml", "restore.yaml"] {
        let example = std::fs::read_to_string(repository().join("deploy/examples").join(name))?;
        let line = example.lines().find(|line| line.trim_start().starts_with("region:")).context("region")?;
        let indent = " ".repeat(line.len() - line.trim_start().len());
        let here = format!("{line}\n{indent}endpoint: http://s3:8333\n{indent}pathStyle: true");
        std::fs::write(examples.join(name), example.replacen(line, &here, 1))?;
    }
    shell.at = shell.dir.path().to_owned();
    let said = shell.run(&format!("ID=kube-writer\nKEY=kube-secret\n{block}"))?;
    say!("{}", said.trim_end());
    ensure!(said.contains("nothing after") && said.contains("Complete"), "{said}");
    Ok(())
}

/// A user's shell at the root of the repository, whose kubectl is in the namespace of the scenario.
pub(super) struct Shell {
    kubeconfig: PathBuf,
    at: PathBuf,
    dir: tempfile::TempDir,
}

impl Shell {
    pub(super) fn new(stage: &Stage) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let kubeconfig = dir.path().join("kubeconfig");
        // A kubeconfig of our own, so that the commands need not name the namespace and nothing of the user's is changed.
        std::fs::write(&kubeconfig, stage.kubectl().run(&["config", "view", "--raw", "--flatten"])?)?;
        let shell = Self { kubeconfig, at: repository().to_owned(), dir };
        shell.run(&format!("kubectl config set-context --current --namespace={}", stage.namespace()))?;
        Ok(shell)
    }

    /// What the commands print; an error of one of them is an error.
    pub(super) fn run(&self, script: &str) -> Result<String> {
        let mut command = Command::new("bash");
        command
            .args(["-euo", "pipefail", "-c", script])
            .env("KUBECONFIG", &self.kubeconfig)
            .current_dir(&self.at);
        finish(command, "")
    }
}

/// The `sh` blocks, each with the heading that it stands under.
pub(super) fn blocks(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for recipe in text.split("\n## ").skip(1) {
        let title = recipe.lines().next().unwrap_or_default();
        for rest in recipe.split("\n```sh\n").skip(1) {
            found.push((title, rest.split("\n```").next().unwrap_or_default()));
        }
    }
    found
}
