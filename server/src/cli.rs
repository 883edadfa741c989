//! The command line, as typed. Values are read by `config`, so that their faults come together with the file's.
//!
//! The ancestor's single-dash spelling (`-addr x`, `-parse-snapshot f`) works: [`normalise`] rewrites it first.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::config::Settings;

/// A strongly consistent, durable key/value store that speaks the Redis protocol.
#[derive(Debug, Parser)]
#[command(name = "kvnode-server", version, max_term_width = 110, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do instead of running a node.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings of the node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Print the Redis commands of a snapshot (a `state.bin`, ours or the ancestor's), for `redis-cli --pipe`, and exit
    #[arg(long, value_name = "FILE")]
    pub parse_snapshot: Option<PathBuf>,
    /// With --parse-snapshot: print what is readable of a damaged file, and exit non-zero
    #[arg(long, requires = "parse_snapshot")]
    pub partial: bool,
}

const AFTER_HELP: &str = "Every key of the configuration file can also be set in the environment: log_dir as \
KVNODE_LOG_DIR. Flags beat the environment, the environment beats the file. `kvnode-server config-example` prints all \
keys.\n\nExit codes: 0 stopped as asked, 64 command line, 65 damaged data, 66 unreadable input, 69 unavailable, 70 \
fatal while running, 73 cannot create, 74 input or output, 75 in use by another process, 77 refused by the cluster, 78 \
configuration.";

/// Uses of the program that do not run a node.
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Check the configuration, tell all faults, print the keys in effect and where they were set
    CheckConfig,
    /// Print a configuration file with every key, its meaning and its default
    ConfigExample,
    /// List the Redis commands that the server knows
    Commands {
        /// As Markdown, the form of COMMANDS.md
        #[arg(long)]
        markdown: bool,
    },
}

/// Flags of the node. Each is also a key of the configuration file, under the same name with underscores.
#[derive(Debug, Default, Args)]
pub struct NodeArgs {
    /// Where clients connect [default: 127.0.0.1:4920]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    addr: Option<String>,
    /// Where the other nodes connect [default: client port + 10000]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    peer_addr: Option<String>,
    /// Where the admin API listens [default: client port + 20000]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    http_addr: Option<String>,
    /// Client address that others are told; a name is resolved again at each dial [default: --addr]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    advertise_addr: Option<String>,
    /// Peer address that others are told; a name is resolved again at each dial [default: --peer-addr]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    advertise_peer_addr: Option<String>,
    /// Data directory [default: data]
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<String>,
    /// Directory of the Raft log and of snapshots/ [default: the data directory]
    #[arg(long, global = true, value_name = "DIR")]
    log_dir: Option<String>,
    /// Client addresses of members of the cluster to join
    #[arg(long, global = true, value_name = "HOST:PORT,...")]
    join: Option<String>,
    /// How fresh reads are: low, medium (or med), high [default: high]
    #[arg(long, global = true, value_name = "LEVEL")]
    consistency: Option<String>,
    /// When a write is on disk: low, medium (or med), high [default: high]
    #[arg(long, global = true, value_name = "LEVEL")]
    durability: Option<String>,
    /// What an empty directory without --join does: auto founds a one-node cluster, wait stays unformed [default: auto
    /// on loopback, else wait]
    #[arg(long, global = true, value_name = "MODE")]
    formation: Option<String>,
    /// Number of databases [default: 16]
    #[arg(long, global = true, value_name = "COUNT")]
    databases: Option<String>,
    /// Found a new cluster from this state.bin, once
    #[arg(long, global = true, value_name = "FILE")]
    restore: Option<String>,
    /// What a follower does with a leader's command: forward, moved, try [default: forward]
    #[arg(long, global = true, value_name = "MODE")]
    redirect: Option<String>,
    /// Configuration file (YAML)
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Accepted for the ancestor's sake; has no effect
    #[arg(long, global = true)]
    pub fastlog: bool,
}

impl NodeArgs {
    /// The flags that were given, as keys and values.
    fn given(&self) -> Vec<(&'static str, String)> {
        let flags = [
            ("addr", &self.addr),
            ("peer_addr", &self.peer_addr),
            ("http_addr", &self.http_addr),
            ("advertise_addr", &self.advertise_addr),
            ("advertise_peer_addr", &self.advertise_peer_addr),
            ("data", &self.data),
            ("log_dir", &self.log_dir),
            ("join", &self.join),
            ("consistency", &self.consistency),
            ("durability", &self.durability),
            ("formation", &self.formation),
            ("databases", &self.databases),
            ("restore", &self.restore),
            ("redirect", &self.redirect),
        ];
        flags.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect()
    }

    /// Together with the process environment and memory: everything that `config::load` needs.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            file: self.config.clone(),
            // Names that are not UTF-8 cannot be keys; values that are not are shown as such and then refused.
            environment: std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
                })
                .collect(),
            flags: self.given(),
            memory_bytes: crate::probe::memory_bytes(),
        }
    }
}

impl Cli {
    /// Reads the arguments of the process, the program's name first.
    ///
    /// # Errors
    /// Help and version (to be printed as they are), or what is wrong.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let cli = Self::try_parse_from(normalise(args))?;
        if cli.command.is_some() && cli.parse_snapshot.is_some() {
            let text = "--parse-snapshot cannot be used with a subcommand";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, text));
        }
        Ok(cli)
    }
}

/// Rewrites the single-dash spelling of long flags: `-addr` becomes `--addr`. Short flags (`-h`, `-V`), values and
/// what follows `--` stay.
pub fn normalise(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut only_values = false;
    let rewrite = |(position, arg): (usize, OsString)| {
        let text = arg.to_str().unwrap_or_default();
        only_values |= text == "--";
        let long = text.len() > 2 && text.starts_with('-') && text.as_bytes()[1].is_ascii_lowercase();
        if position > 0 && !only_values && long { OsString::from(format!("-{text}")) } else { arg }
    };
    args.into_iter().enumerate().map(rewrite).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, String> {
        let args = std::iter::once("kvnode-server").chain(args.iter().copied()).map(OsString::from);
        Cli::read(args).map_err(|e| e.to_string())
    }

    #[test]
    fn both_spellings_of_every_flag_of_the_ancestor() {
        let words = [
            ("addr", "127.0.0.1:1"),
            ("data", "d"),
            ("log-dir", "l"),
            ("join", "a:1,b:2"),
            ("consistency", "med"),
            ("durability", "low"),
        ];
        for (flag, value) in words {
            let want = vec![(&*flag.replace('-', "_"), value.to_owned())]
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect::<Vec<_>>();
            for spelling in [
                vec![format!("-{flag}"), value.into()],
                vec![format!("--{flag}"), value.into()],
                vec![format!("-{flag}={value}")],
            ] {
                let args: Vec<&str> = spelling.iter().map(String::as_str).collect();
                let given = parse(&args).unwrap().node.given();
                assert_eq!(
                    given.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Vec<_>>(),
                    want,
                    "{args:?}"
                );
            }
        }
        let cli = parse(&["-parse-snapshot", "state.bin", "-partial"]).unwrap();
        assert_eq!(cli.parse_snapshot, Some(PathBuf::from("state.bin")));
        assert!(cli.partial && parse(&["-fastlog"]).unwrap().node.fastlog);
    }

    #[test]
    fn unknown_words_and_flags_are_refused() {
        for args in
            [&["serve"][..], &["--adr", "x"], &["-x"], &["--addr"], &["check-config", "more"], &["--partial"]]
        {
            assert!(parse(args).is_err(), "{args:?}");
        }
        assert!(parse(&["--parse-snapshot", "f", "check-config"]).is_err());
    }

    #[test]
    fn subcommands_take_the_flags_too() {
        let cli = parse(&["check-config", "--addr", "a:1"]).unwrap();
        assert_eq!(cli.command, Some(Command::CheckConfig));
        assert_eq!(cli.node.given(), [("addr", "a:1".to_owned())]);
        let cli = parse(&["-addr", "a:1", "check-config"]).unwrap();
        assert_eq!(cli.node.given(), [("addr", "a:1".to_owned())]);
        assert_eq!(
            parse(&["commands", "-markdown"]).unwrap().command,
            Some(Command::Commands { markdown: true })
        );
    }

    #[test]
    fn version_names_the_program_and_its_version() {
        let text = parse(&["--version"]).unwrap_err();
        assert_eq!(text, format!("kvnode-server {}\n", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn every_flag_is_a_key() {
        let foreign = ["help", "version", "parse_snapshot", "partial", "config", "fastlog"];
        let command = Cli::command();
        let flags =
            command.get_arguments().map(|arg| arg.get_id().as_str()).filter(|id| !foreign.contains(id));
        let flags: Vec<&str> = flags.collect();
        assert_eq!(flags.len(), 14);
        for flag in flags {
            assert!(crate::config::Key::find(flag).is_some(), "{flag}");
        }
    }
}
