//! The server's table of crash points, as it prints it, and the cases that come of it.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use kvnode_tests::binary;

/// One row.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) name: String,
    /// Passings within a scene that are worth telling apart.
    pub(crate) passings: usize,
    /// Scenes that reach it.
    pub(crate) scenes: Vec<String>,
    /// What has just happened there; what has not.
    pub(crate) window: String,
}

/// One death: where, in which scene, at which passing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) point: String,
    pub(crate) scene: String,
    pub(crate) passing: usize,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{} in {}", self.point, self.passing, self.scene)
    }
}

/// What the server says when it is asked with this variable. `check-config`: a build without crash points ends as well.
fn ask(point: &str) -> Result<(Option<i32>, String, String)> {
    let output =
        Command::new(binary::server()).arg("check-config").env("KVNODE_CRASH_POINT", point).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

/// What the server calls itself.
pub(crate) fn version() -> String {
    let output = Command::new(binary::server()).arg("--version").output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// Reads the table; `None` from a build without crash points.
///
/// # Errors
/// It is not a table.
pub(crate) fn read() -> Result<Option<Vec<Point>>> {
    let (code, text, errors) = ask("list")?;
    ensure!(code == Some(0), "the list ended with {code:?}: {errors}");
    if !text.contains('\t') {
        return Ok(None);
    }
    let points: Result<Vec<Point>> = text.lines().map(row).collect();
    let points = points?;
    ensure!(points.len() >= 34, "only {} crash points", points.len());
    Ok(Some(points))
}

fn row(line: &str) -> Result<Point> {
    let parts: Vec<&str> = line.split('\t').collect();
    let [name, passings, scenes, window] = parts[..] else { bail!("not a row: {line:?}") };
    let passings = passings.parse().with_context(|| line.to_owned())?;
    let scenes = scenes.split(',').map(str::to_owned).collect();
    Ok(Point { name: name.to_owned(), passings, scenes, window: window.to_owned() })
}

/// A name that is not in the table must not start a node that then never dies.
///
/// # Errors
/// It is not refused, or not clearly.
pub(crate) fn refuses_strangers(points: &[Point]) -> Result<()> {
    let (code, _, errors) = ask("no-such-point")?;
    ensure!(code == Some(78), "an unknown crash point ended with {code:?}: {errors}");
    ensure!(errors.lines().count() == 1, "more than one line: {errors}");
    for point in points {
        ensure!(errors.contains(&point.name), "{} is not named: {errors}", point.name);
    }
    Ok(())
}

/// Without rounds: each point once in each of its scenes. With: each point in so many, the scenes in turn, and within
/// each the passings in turn.
pub(crate) fn cases(points: &[Point], rounds: Option<usize>) -> Vec<Case> {
    let mut cases = Vec::new();
    for point in points {
        let scenes = point.scenes.len();
        for round in 0..rounds.unwrap_or(scenes) {
            cases.push(Case {
                point: point.name.clone(),
                scene: point.scenes[round % scenes].clone(),
                passing: 1 + round / scenes % point.passings,
            });
        }
    }
    cases
}
