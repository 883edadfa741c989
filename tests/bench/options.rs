//! What is asked on the command line, which `make bench` writes: `--name` or `--name=value`; an empty one asks nothing.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Measure and write a report.
    #[default]
    Measure,
    /// Compare the quiet figures with the accepted ones.
    Guard,
    /// Accept the quiet figures of this run.
    Accept,
}

/// All options.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// What to do.
    pub(crate) mode: Mode,
    /// Everything shorter and smaller.
    pub(crate) is_quick: bool,
    /// Rounds, if not as usual.
    pub(crate) rounds: Option<usize>,
    /// Keys, if not as usual.
    pub(crate) keys: Option<usize>,
    /// Choice of cells.
    pub(crate) cells: Option<String>,
    /// Parts of names of systems, separated by semicolons; empty names all.
    pub(crate) only: String,
    /// Names of trials.
    pub(crate) trials: Vec<String>,
    /// Names of curves.
    pub(crate) curves: Vec<String>,
    /// How the run is typed.
    pub(crate) command: String,
}

impl Options {
    /// Reads the arguments behind the program's name.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { command: "make bench".into(), ..Self::default() };
        for argument in arguments {
            let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
            let number = || {
                let number = value.replace('_', "").parse();
                number.with_context(|| format!("{}: {value} is not a number", typed(name)))
            };
            let words =
                || value.split([',', ' ']).filter(|word| !word.is_empty()).map(str::to_owned).collect();
            match name {
                "--quick" => options.is_quick = true,
                "--guard" => options.mode = Mode::Guard,
                "--accept" => options.mode = Mode::Accept,
                "--rounds" | "--keys" | "--cells" | "--only" | "--trials" | "--curves"
                    if value.is_empty() => {}
                "--rounds" => options.rounds = Some(number()?),
                "--keys" => options.keys = Some(number()?),
                "--cells" => options.cells = Some(value.to_owned()),
                "--only" => value.clone_into(&mut options.only),
                "--trials" => options.trials = words(),
                "--curves" => options.curves = words(),
                _ => bail!("{argument}: no such option; the head of the Makefile lists those of make bench"),
            }
            if !value.is_empty() || name == "--quick" {
                let value = if value.is_empty() { "1" } else { value };
                let quote = if value.contains([' ', ';']) { "'" } else { "" };
                // Writing into a String does not fail.
                let _ = write!(options.command, " {}={quote}{value}{quote}", typed(name));
            }
        }
        if options.rounds == Some(0) || options.keys == Some(0) {
            bail!("ROUNDS and KEYS are at least 1");
        }
        Ok(options)
    }

    /// Whether a system of this name takes part.
    pub(crate) fn names(&self, system: &str) -> bool {
        self.only.is_empty() || self.only.split(';').any(|word| system.contains(word.trim()))
    }

    /// The table is measured unless only trials or curves are asked for.
    pub(crate) fn wants_table(&self) -> bool {
        self.cells.is_some() || self.trials.is_empty() && self.curves.is_empty()
    }
}

fn typed(name: &str) -> String {
    name.trim_start_matches('-').to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options> {
        Options::parse(&arguments.iter().map(|&argument| argument.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_run_tells_how_it_was_typed() {
        let options = parse(&["--quick", "--rounds=3", "--cells=SET GET,50", "--only="]).unwrap();
        assert_eq!(options.command, "make bench QUICK=1 ROUNDS=3 CELLS='SET GET,50'");
        assert!(options.wants_table() && options.names("anything"));
    }

    #[test]
    fn trials_and_curves_stand_alone_unless_cells_are_chosen() {
        let options = parse(&["--curves=keys values,nodes", "--trials=stalls=5", "--cells="]).unwrap();
        assert_eq!(
            (options.curves.len(), options.trials.as_slice()),
            (3, ["stalls=5".to_owned()].as_slice())
        );
        assert!(!options.wants_table());
        assert!(parse(&["--trials=idle", "--cells=GET"]).unwrap().wants_table());
    }

    #[test]
    fn systems_are_chosen_by_parts_of_their_names() {
        let options = parse(&["--only=kvnode, 3; redis"]).unwrap();
        assert!(options.names("kvnode, 3 nodes") && options.names("redis always"));
        assert!(!options.names("etcd, 3 nodes"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for argument in ["--round=3", "--rounds=x", "--rounds=0", "bench"] {
            assert!(parse(&[argument]).is_err(), "{argument}");
        }
    }
}
