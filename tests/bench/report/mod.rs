//! The report of one run: `report.html`, which is whole in itself, and `results.jsonl`, every run as it came.
//!
//! ```text
//! <target>/bench/<date>-<time>/results.jsonl   {"record": "run", machine, command line}
//!                                              {"record": "system", version, command lines, configuration}
//!                                              {"record": "cell" | "curve" | trial, its fields} ...
//!                              report.html     written anew after each section, so that a cut run has one
//! ```
//!
//! Raw results are written before anything is computed of them. Nothing here measures but the probe of [`machine`].

pub(crate) mod machine;
mod page;
pub(crate) mod svg;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use kvnode_tests::tool;
use serde_json::{Value as Json, json};

use machine::Machine;

/// Part of the report: a title and what is below it.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    title: String,
    blocks: Vec<Block>,
}

#[derive(Clone, Debug)]
enum Block {
    Text(String),
    Table { head: Vec<String>, rows: Vec<Vec<String>> },
    Picture(String),
}

impl Section {
    /// Without content yet.
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), blocks: Vec::new() }
    }

    /// Adds a line, and prints it.
    pub(crate) fn say(&mut self, line: impl Into<String>) {
        let line = line.into();
        println!("{line}");
        self.blocks.push(Block::Text(line));
    }

    /// Adds a line without printing it.
    pub(crate) fn note(&mut self, line: impl Into<String>) {
        self.blocks.push(Block::Text(line.into()));
    }

    /// Adds a table.
    pub(crate) fn table(&mut self, head: Vec<String>, rows: Vec<Vec<String>>) {
        self.blocks.push(Block::Table { head, rows });
    }

    /// Adds a table, and prints it as Markdown.
    pub(crate) fn show(&mut self, head: Vec<String>, rows: Vec<Vec<String>>) {
        println!("| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
        for row in &rows {
            println!("| {} |", row.join(" | "));
        }
        println!();
        self.table(head, rows);
    }

    /// Adds a picture of [`svg`].
    pub(crate) fn picture(&mut self, svg: String) {
        self.blocks.push(Block::Picture(svg));
    }
}

/// A system as it ran.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    /// Head of its column.
    pub(crate) name: String,
    /// What it says of its version.
    pub(crate) version: String,
    /// The command line of each of its processes, as the kernel has them.
    pub(crate) command_lines: Vec<String>,
    /// Its configuration as it tells it; empty if the command lines say all that is known.
    pub(crate) configuration: String,
}

/// The report that a run writes.
pub(crate) struct Report {
    dir: PathBuf,
    raw: File,
    command: String,
    began: String,
    sources: String,
    environment: String,
    machine: Machine,
    systems: Vec<Described>,
    sections: Vec<Section>,
}

impl Report {
    /// Makes the directory and looks at the machine.
    pub(crate) fn create(command: &str) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock after 1970")?.as_secs();
        let began = utc(now);
        let dir = target_dir()?.join("bench").join(&began);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let raw = File::create(dir.join("results.jsonl"))?;
        let machine = Machine::look(&std::env::temp_dir())?;
        let mut report = Self {
            dir,
            raw,
            command: command.to_owned(),
            began,
            sources: sources(),
            environment: environment(),
            machine,
            systems: Vec::new(),
            sections: Vec::new(),
        };
        let run = json!({
            "command": report.command,
            "began_utc": report.began,
            "sources": report.sources,
            "environment": report.environment,
            "machine": report.machine.json(),
        });
        report.record("run", run)?;
        Ok(report)
    }

    /// Adds a line to the raw results: the kind of record and its fields.
    pub(crate) fn record(&mut self, kind: &str, mut fields: Json) -> Result<()> {
        fields["record"] = json!(kind);
        writeln!(self.raw, "{fields}").context("write results.jsonl")?;
        Ok(())
    }

    /// Whether a system of this name is described already.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.systems.iter().any(|system| system.name == name)
    }

    /// Adds what a system is.
    pub(crate) fn describe(&mut self, system: Described) -> Result<()> {
        let fields = json!({
            "system": system.name,
            "version": system.version,
            "command_lines": system.command_lines,
            "configuration": system.configuration,
        });
        self.systems.push(system);
        self.record("system", fields)
    }

    /// Adds a section and writes the page.
    pub(crate) fn add(&mut self, section: Section) -> Result<()> {
        self.sections.push(section);
        let file = self.dir.join("report.html");
        fs::write(&file, page::html(self)).with_context(|| format!("write {}", file.display()))
    }

    /// Facts of the machine.
    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Cargo's target directory: named by the environment, or the one that this program was built into.
fn target_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        return Ok(PathBuf::from(dir));
    }
    let this = std::env::current_exe()?;
    let profile = this.parent().and_then(Path::parent);
    Ok(profile.context("this program is not in a target directory: set CARGO_TARGET_DIR")?.to_owned())
}

/// The commit that this program and, as a rule, our server were built from.
fn sources() -> String {
    let git = |arguments: &[&str]| {
        let mut command = std::process::Command::new("git");
        tool::run(command.args(["-C", env!("CARGO_MANIFEST_DIR")]).args(arguments)).ok()
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".into() };
    let is_clean =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| text.is_empty());
    format!("{}{}", commit.trim(), if is_clean { "" } else { ", with changes" })
}

/// Variables that the systems or this program take settings from.
fn environment() -> String {
    let mut lines: Vec<String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .filter(|(name, _)| name.starts_with("KVNODE_") || name.starts_with("ETCD_") || name == "TMPDIR")
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    lines.sort();
    lines.join("\n")
}

/// `2026-11-30-214205`, of seconds since 1970.
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years are counted from the first of March, so that a leap day ends its year; 400 years have 146,097 days.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + later;
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year}-{month:02}-{day_of_month:02}-{hour:02}{minute:02}{:02}", second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_a_date() {
        assert_eq!(utc(0), "1970-01-01-000000");
        assert_eq!(utc(951_782_400), "2000-02-29-000000");
        assert_eq!(utc(951_868_800), "2000-03-01-000000");
        assert_eq!(utc(1_796_074_925), "2026-11-30-214205");
        assert_eq!(utc(4_107_542_399), "2100-02-28-235959");
    }
}
