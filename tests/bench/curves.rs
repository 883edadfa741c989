//! `make bench CURVES='keys values clients pipeline nodes'`: how figures change along one axis, with a picture each.
//!
//! Every round starts each system afresh and walks along the axis; systems take turns. What would take too long is left
//! out and said: a point is loaded only within [`LOAD_MAX`], and a system whose round is late ends it there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::cells::{Cell, Operation};
use crate::matrix::start;
use crate::options::Options;
use crate::report::{Report, Section, svg};
use crate::sample::{Sample, median_of, merge, raw};
use crate::systems::{Kind, System};

/// Longest time of loading the keys of one point.
const LOAD_MAX: Duration = Duration::from_mins(3);
/// Bytes of all values of a point of `values`.
const VALUES_BYTES: usize = 64 << 20;

/// One axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    Keys,
    Values,
    Clients,
    Pipeline,
    Nodes,
}

/// What is measured at one place of the axis.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Point {
    at: usize,
    keys: usize,
    cells: Vec<Cell>,
}

/// Operation and pipeline, which have a picture of their own.
type Picture = (Operation, usize);
/// Runs at each place.
type Places = BTreeMap<usize, Vec<Sample>>;
/// The lines of each picture, by their names.
type Runs = BTreeMap<Picture, BTreeMap<String, Places>>;

impl Axis {
    fn of(name: &str) -> Result<Self> {
        Ok(match name {
            "keys" => Self::Keys,
            "values" => Self::Values,
            "clients" => Self::Clients,
            "pipeline" => Self::Pipeline,
            "nodes" => Self::Nodes,
            _ => bail!("no curve {name}: keys, values, clients, pipeline, nodes"),
        })
    }

    fn title(self) -> &'static str {
        match self {
            Self::Keys => "keys that the cells draw from",
            Self::Values => "bytes of a value",
            Self::Clients => "clients",
            Self::Pipeline => "requests in flight per client",
            Self::Nodes => "nodes",
        }
    }

    /// Places along it; a quick run takes the ends and the middle.
    fn places(self, is_quick: bool) -> Vec<usize> {
        let all: &[usize] = match self {
            Self::Keys => &[10_000, 100_000, 1_000_000, 10_000_000],
            Self::Values => &[16, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20],
            Self::Clients => &[1, 10, 50, 200, 512, 1000, 2000, 5000],
            Self::Pipeline => &[1, 4, 16, 64, 256],
            Self::Nodes => &[1, 3, 5],
        };
        match (is_quick, self) {
            (false, _) | (true, Self::Nodes) => all.to_vec(),
            (true, Self::Keys) => all[..2].to_vec(),
            (true, _) => vec![all[0], all[all.len() / 2], all[all.len() - 1]],
        }
    }

    /// Systems on it, or the one at a place of `nodes`.
    fn systems(self, place: Option<usize>) -> Vec<Kind> {
        match (self, place) {
            (Self::Nodes, Some(nodes)) => vec![Kind::Ours(nodes), Kind::Etcd(nodes)],
            _ => vec![Kind::Ours(1), Kind::Ours(3), Kind::RedisAlways, Kind::Etcd(3)],
        }
    }

    fn point(self, at: usize, is_quick: bool) -> Point {
        let cell = |operation, pipeline| Cell { operation, clients: 50, pipeline, value_bytes: 64 };
        let both = || vec![cell(Operation::Set, 1), cell(Operation::Get, 1)];
        let usual = if is_quick { 10_000 } else { 100_000 };
        let with = |change: &dyn Fn(&mut Cell)| {
            let mut cells = both();
            cells.iter_mut().for_each(change);
            cells
        };
        let (keys, cells) = match self {
            Self::Keys => (at, both()),
            Self::Values => {
                let keys = (VALUES_BYTES / at).clamp(64, usual);
                (keys, with(&|cell| cell.value_bytes = at))
            }
            Self::Clients => (usual, with(&|cell| cell.clients = at)),
            Self::Pipeline => (usual, with(&|cell| cell.pipeline = at)),
            Self::Nodes => (usual, [both(), vec![cell(Operation::Set, 16)]].concat()),
        };
        Point { at, keys, cells }
    }

    /// Whether a system is of use at a place. etcd opens a stream for each request in flight and refuses most from some
    /// thousands on; its clients do not work like that.
    fn suits(self, kind: Kind, at: usize) -> bool {
        match (self, kind) {
            (Self::Clients, Kind::Etcd(_)) => at <= 1000,
            (Self::Pipeline, Kind::Etcd(_)) => at <= 64,
            _ => true,
        }
    }
}

/// Measures one curve and adds it to the report.
pub(crate) async fn run(name: &str, options: &Options, report: &mut Report) -> Result<()> {
    let axis = Axis::of(name)?;
    let mut section = Section::new(format!("Curve {name}"));
    let rounds = options.rounds.unwrap_or(if options.is_quick { 1 } else { 3 });
    let places = axis.places(options.is_quick);
    section.note(format!(
        "{rounds} rounds, medians; 50 clients, pipeline 1, values of 64 B where the axis is another."
    ));
    let mut runs = Runs::new();
    for round in 0..rounds {
        // On all axes but that of nodes a system walks along all places; there each place is a system of its own.
        let walks: Vec<(Kind, Vec<usize>)> = if axis == Axis::Nodes {
            let of =
                |&place: &usize| axis.systems(Some(place)).into_iter().map(move |kind| (kind, vec![place]));
            places.iter().flat_map(of).collect()
        } else {
            axis.systems(None).into_iter().map(|kind| (kind, places.clone())).collect()
        };
        let is_asked = |(kind, _): &(Kind, Vec<usize>)| kind.is_here() && options.names(&kind.name());
        let mut walks: Vec<_> = walks.into_iter().filter(is_asked).collect();
        if !walks.is_empty() {
            let turn = round % walks.len();
            walks.rotate_left(turn);
        }
        for (kind, places) in walks {
            eprintln!("curve {name}, round {} of {rounds}: {}", round + 1, kind.name());
            let mut system = start(kind, report).await?;
            let walk = Walk { axis, name, kind, round, is_quick: options.is_quick };
            walk.along(&places, &mut system, &mut runs, report, &mut section)
                .await
                .with_context(|| format!("curve {name}: {}", kind.name()))?;
        }
    }
    show(axis, &runs, &mut section);
    report.add(section)
}

/// One system's way along an axis.
struct Walk<'a> {
    axis: Axis,
    name: &'a str,
    kind: Kind,
    round: usize,
    is_quick: bool,
}

impl Walk<'_> {
    async fn along(
        &self,
        places: &[usize],
        system: &mut System,
        runs: &mut Runs,
        report: &mut Report,
        section: &mut Section,
    ) -> Result<()> {
        let time = Duration::from_millis(if self.is_quick { 500 } else { 2000 });
        let (mut loaded, mut loaded_bytes) = (0, 0);
        for point in places.iter().map(|&at| self.axis.point(at, self.is_quick)) {
            if !self.axis.suits(self.kind, point.at) {
                continue;
            }
            let value_bytes = point.cells[0].value_bytes;
            // Keys that are there with values of the same size stay.
            let from = if loaded_bytes == value_bytes { loaded.min(point.keys) } else { 0 };
            let began = Instant::now();
            if let Some(why) = load_within(system, from..point.keys, value_bytes).await? {
                section.say(format!(
                    "{}: {} keys with values of {value_bytes} B were not loaded: {why}; its curve ends before them",
                    self.kind.name(),
                    point.keys
                ));
                return Ok(());
            }
            let load_s = began.elapsed().as_secs_f64();
            (loaded, loaded_bytes) = (point.keys, value_bytes);
            for &cell in &point.cells {
                let (measured, cpu) = system.run(cell, point.keys, time).await?;
                let mut fields = json!({"curve": self.name, "at": point.at, "system": self.kind.name(),
                    "round": self.round + 1, "operation": cell.operation.name(), "clients": cell.clients,
                    "pipeline": cell.pipeline, "value_bytes": cell.value_bytes, "keys": point.keys,
                    "loaded_before": from, "load_s": load_s});
                merge(&mut fields, raw(&measured, cpu));
                report.record("curve", fields)?;
                let picture = (cell.operation, if self.axis == Axis::Nodes { cell.pipeline } else { 1 });
                let line = runs.entry(picture).or_default().entry(self.line()).or_default();
                line.entry(point.at).or_default().push(Sample::new(&measured, cpu));
            }
        }
        Ok(())
    }

    /// On the axis of nodes a line is a system of any number of them.
    fn line(&self) -> String {
        let name = self.kind.name();
        let is_nodes = self.axis == Axis::Nodes;
        name.split_once(", ").filter(|_| is_nodes).map_or(name.clone(), |(system, _)| system.to_owned())
    }
}

/// Why not, if they could not be loaded: too slow, or more than etcd holds with its defaults. Ours has no such excuse.
async fn load_within(
    system: &mut System,
    keys: std::ops::Range<usize>,
    value_bytes: usize,
) -> Result<Option<String>> {
    let is_etcd = system.is_etcd();
    match tokio::time::timeout(LOAD_MAX, system.preload(keys, value_bytes)).await {
        Ok(Ok(())) => Ok(None),
        Ok(Err(error)) if is_etcd => Ok(Some(format!("{error:#}"))),
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(Some(format!("not within {LOAD_MAX:?}"))),
    }
}

/// For each operation two pictures, then all figures.
fn show(axis: Axis, runs: &Runs, section: &mut Section) {
    let mut rows = Vec::new();
    for (&(operation, pipeline), lines) in runs {
        let suffix = if pipeline > 1 { format!(", pipeline {pipeline}") } else { String::new() };
        let mut picture = |y: &str, field: fn(&Sample) -> f64| {
            let title = format!("{}{suffix}: {y}", operation.name());
            let frame = svg::Frame { title: &title, x: axis.title(), y };
            let lines: Vec<svg::Line> =
                lines.iter().map(|(line, places)| (line.clone(), points(places, field))).collect();
            section.picture(svg::lines(&frame, &lines));
        };
        picture("requests per second", |sample| sample.per_second);
        picture("p99 of a pipeline, ms", |sample| sample.p99_ms);
        for (line, places) in lines {
            for (at, samples) in places {
                let show = |field: fn(&Sample) -> f64| median_of(samples, field).unwrap_or(f64::NAN);
                rows.push(vec![
                    format!("{}{suffix}", operation.name()),
                    line.clone(),
                    at.to_string(),
                    format!("{:.2}", show(|sample| sample.per_second) / 1000.0),
                    format!("{:.2}", show(|sample| sample.p50_ms)),
                    format!("{:.2}", show(|sample| sample.p99_ms)),
                    format!("{:.2}", show(|sample| sample.cpu_per_100k)),
                ]);
            }
        }
    }
    let head = ["op", "system", axis.title(), "k/s", "p50 ms", "p99 ms", "CPU s / 100 k"];
    section.show(head.map(str::to_owned).to_vec(), rows);
}

#[expect(clippy::cast_precision_loss, reason = "places are small counts")]
fn points(places: &Places, field: fn(&Sample) -> f64) -> Vec<(f64, f64)> {
    places.iter().filter_map(|(&at, samples)| Some((at as f64, median_of(samples, field)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Axis; 5] = [Axis::Keys, Axis::Values, Axis::Clients, Axis::Pipeline, Axis::Nodes];

    #[test]
    fn a_point_changes_what_its_axis_names_and_nothing_else() {
        for axis in ALL {
            for place in axis.places(false) {
                let point = axis.point(place, false);
                let cell = point.cells[0];
                let usual = [
                    (Axis::Keys, point.keys, 100_000),
                    (Axis::Values, cell.value_bytes, 64),
                    (Axis::Clients, cell.clients, 50),
                    (Axis::Pipeline, cell.pipeline, 1),
                ];
                for (of, value, usual) in usual {
                    let wanted = if of == axis { place } else { usual };
                    // Few large values are enough.
                    let is_less = axis == Axis::Values && of == Axis::Keys && value <= usual;
                    assert!(value == wanted || is_less, "{axis:?} at {place}: {of:?} is {value}");
                }
            }
        }
    }

    #[test]
    fn a_quick_curve_is_shorter() {
        for axis in ALL {
            assert!(axis.places(true).len() <= 3, "{axis:?}");
        }
        assert!(Axis::of("keys").is_ok() && Axis::of("key").is_err());
    }
}
