//! kubectl as the suite's hand: what a user types is what is tested.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;

/// kubectl in one namespace.
#[derive(Clone)]
pub(crate) struct Kubectl {
    pub(crate) program: PathBuf,
    pub(crate) namespace: String,
}

impl Kubectl {
    /// The same in another namespace.
    pub(crate) fn within(&self, namespace: &str) -> Self {
        Self { program: self.program.clone(), namespace: namespace.to_owned() }
    }

    /// Runs it to its end; standard output if it succeeds.
    pub(crate) fn run(&self, args: &[&str]) -> Result<String> {
        self.feed(args, "")
    }

    /// [`Kubectl::run`] with this on standard input.
    pub(crate) fn feed(&self, args: &[&str], input: &str) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(["--namespace", &self.namespace]).args(args);
        finish(command, input)
    }

    /// Applies manifests.
    pub(crate) fn apply(&self, yaml: &str) -> Result<()> {
        self.feed(&["apply", "--filename", "-"], yaml).map(drop)
    }

    /// One object, or a list, as JSON.
    pub(crate) fn get(&self, what: &str) -> Result<Json> {
        let words: Vec<&str> = ["get", "--output", "json"].into_iter().chain(what.split(' ')).collect();
        let text = self.run(&words)?;
        serde_json::from_str(&text).with_context(|| format!("kubectl get {what}"))
    }

    /// The items of a list.
    pub(crate) fn list(&self, what: &str) -> Result<Vec<Json>> {
        let list = self.get(what)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// A merge patch.
    pub(crate) fn patch(&self, what: &str, patch: &Json) -> Result<()> {
        self.run(&["patch", what, "--type", "merge", "--patch", &patch.to_string()]).map(drop)
    }

    /// Runs a program in a pod.
    pub(crate) fn exec(&self, pod: &str, args: &[&str]) -> Result<String> {
        let words: Vec<&str> = ["exec", pod, "--"].into_iter().chain(args.iter().copied()).collect();
        self.run(&words)
    }
}

/// A text of an object; empty where there is none.
pub(crate) fn text(value: &Json) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Runs a command to its end with this on standard input.
pub(crate) fn finish(mut command: Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that refuses its arguments ends without reading.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        let program = command.get_program().to_string_lossy().into_owned();
        let said = String::from_utf8_lossy(&output.stderr);
        let program = program.rsplit('/').next().unwrap_or(&program);
        bail!("{program} {}: {}", words.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
