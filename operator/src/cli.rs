//! The command line: `run`, `crd`, `reasons`, and `backup`, `restore`, `list`, `verify`, `delete` for buckets. Every flag of `run` can also be set in the environment, as a Deployment does.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand};

use crate::backup::command::{BackupArgs, DeleteArgs, ListArgs, ProbeArgs, RestoreArgs, VerifyArgs};
use crate::telemetry::LogFormat;

/// Keeps kvnode clusters on Kubernetes as their KvClusters ask.
#[derive(Debug, Parser)]
#[command(name = "kvnode-operator", version, max_term_width = 110, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "Exit codes: 0 done or stopped as asked, 64 command line, 65 a backup was found wrong, 69 unavailable, try \
again, 70 the lease was lost, 74 input or output, 78 settings to correct.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator; of several only the one with the lease works
    Run(Run),
    /// Print the CustomResourceDefinitions, the form of deploy/crd.yaml
    Crd,
    /// Print the words of conditions, reasons and Events, the form of deploy/REASONS.md
    Reasons,
    /// Back a cluster up into a bucket and prove what was stored; needs no Kubernetes
    Backup(Box<BackupArgs>),
    /// Fetch a backup as files, proved; needs no Kubernetes
    Restore(Box<RestoreArgs>),
    /// List the backups in a bucket
    List(Box<ListArgs>),
    /// Prove a backup in a bucket
    Verify(Box<VerifyArgs>),
    /// Delete what one run stored in a bucket, and nothing else
    Delete(Box<DeleteArgs>),
    /// Try what may be done in a bucket
    Probe(Box<ProbeArgs>),
}

/// Settings of `run`.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Namespaces whose KvClusters are cared for, separated by commas; none = all namespaces
    #[arg(long, env = "KVNODE_OPERATOR_WATCH_NAMESPACES", value_name = "NS,...", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// Image of the server for KvClusters that name none
    #[arg(long, env = "KVNODE_OPERATOR_SERVER_IMAGE", value_name = "IMAGE", default_value = SERVER_IMAGE)]
    pub server_image: String,
    /// Image of this operator, for the Jobs that move backups
    #[arg(long, env = "KVNODE_OPERATOR_IMAGE", value_name = "IMAGE", default_value = OPERATOR_IMAGE)]
    pub operator_image: String,
    /// Let spec.backup.s3.endpoint name this machine or its link; for test beds
    #[arg(long, env = "KVNODE_OPERATOR_ALLOW_LOCAL_ENDPOINTS")]
    pub allow_local_endpoints: bool,
    /// Name of the Lease, in the operator's own namespace
    #[arg(long, env = "KVNODE_OPERATOR_LEASE_NAME", value_name = "NAME", default_value = "kvnode-operator")]
    pub lease_name: String,
    /// The operator's own namespace [default: that of the credentials]
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The operator's own pod; the name under which it holds the lease [default: one at random]
    #[arg(long, env = "POD_NAME", value_name = "POD")]
    pub pod_name: Option<String>,
    /// Where /metrics, /livez and /readyz are served
    #[arg(long, env = "KVNODE_OPERATOR_HTTP_ADDR", value_name = "ADDR:PORT", default_value = "0.0.0.0:8080")]
    pub http_addr: SocketAddr,
    /// Which log lines are written
    #[arg(long, env = "KVNODE_OPERATOR_LOG_FILTER", value_name = "FILTER", default_value = "info")]
    pub log_filter: String,
    /// Form of the log lines
    #[arg(long, env = "KVNODE_OPERATOR_LOG_FORMAT", value_name = "FORMAT", default_value = "json")]
    pub log_format: LogFormat,
}

/// The server that belongs to this operator.
const SERVER_IMAGE: &str = concat!("kvnode-server:", env!("CARGO_PKG_VERSION"));

/// This operator.
const OPERATOR_IMAGE: &str = concat!("kvnode-operator:", env!("CARGO_PKG_VERSION"));

impl Run {
    /// The namespaces, without the empty words that an empty variable leaves.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        let named = self.watch_namespaces.iter().map(|name| name.trim()).filter(|name| !name.is_empty());
        let mut named: Vec<String> = named.map(str::to_owned).collect();
        named.sort();
        named.dedup();
        named
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_namespaces_are_read() {
        Cli::command().debug_assert();
        let run = |args: &[&str]| match Cli::try_parse_from(args).unwrap().command {
            Command::Run(run) => run,
            other => panic!("not run: {other:?}"),
        };
        let some = run(&["kvnode-operator", "run", "--watch-namespaces", "shop, blog,,shop"]);
        assert_eq!(some.namespaces(), ["blog", "shop"]);
        assert!(run(&["kvnode-operator", "run", "--watch-namespaces", ""]).namespaces().is_empty());
        assert!(Cli::try_parse_from(["kvnode-operator"]).is_err());
    }
}
