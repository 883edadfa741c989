//! `kvnode-operator`: command line to operator; nothing else.
//!
//! Every failure is one line on standard error, `kvnode-operator: <what>: <what to do>`.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use kvnode_operator::backup::command;
use kvnode_operator::cli::{Cli, Command, Run};
use kvnode_operator::run::{Ended, run};
use kvnode_operator::telemetry::{self, LogFormat};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const USAGE: u8 = 64;
const UNAVAILABLE: u8 = 69;
const LEASE_LOST: u8 = 70;
const IO: u8 = 74;

/// Time that tasks get to notice the end of the runtime.
const RUNTIME_END: Duration = Duration::from_secs(1);

/// What a program that does one thing says beside its one line: the chain of credentials tells its failures there.
const QUIET: &str = "warn,aws_config=error";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let ended = match &cli.command {
        Command::Crd => crd(),
        Command::Reasons => reasons(),
        Command::Run(args) => operate(args),
        Command::Backup(args) => handle(command::backup(args)),
        Command::Restore(args) => handle(command::restore(args)),
        Command::List(args) => handle(command::list_all(args)),
        Command::Verify(args) => handle(command::verify_one(args)),
        Command::Delete(args) => handle(command::delete(args)),
        Command::Probe(args) => handle(command::probe(args)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, text)) => {
            complain(&text);
            ExitCode::from(code)
        }
    }
}

/// An exit code and a line.
type Failure = (u8, String);

fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return if error.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::from(IO) };
    }
    let text = error.to_string();
    let what = text.lines().next().unwrap_or_default();
    complain(&format!("{}: kvnode-operator --help lists what there is", what.trim_start_matches("error: ")));
    ExitCode::from(USAGE)
}

fn complain(line: &str) {
    // Nothing can be done when standard error is closed.
    let _ = writeln!(std::io::stderr(), "kvnode-operator: {line}");
}

fn crd() -> Result<(), Failure> {
    print(&kvnode_operator::crd::yaml().map_err(|error| (IO, format!("write the schemas: {error}")))?)
}

fn reasons() -> Result<(), Failure> {
    print(&kvnode_operator::crd::reason::markdown())
}

fn print(text: &str) -> Result<(), Failure> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| (IO, format!("write to standard output: {error}: look at the reader")))
}

/// One thing done and ended, by hand or in a Job. SIGTERM ends the process as it ends any other: what is half done is
/// cleared by the next run.
fn handle(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let filter = std::env::var("KVNODE_OPERATOR_LOG_FILTER").unwrap_or_else(|_| QUIET.into());
    telemetry::install(&filter, LogFormat::Text).map_err(|error| {
        (USAGE, format!("KVNODE_OPERATOR_LOG_FILTER {filter:?}: {error}: warn is one that works"))
    })?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| (UNAVAILABLE, format!("start threads: {error}: raise ulimit -u")))?;
    runtime.block_on(work)
}

fn operate(args: &Run) -> Result<(), Failure> {
    let filter =
        |error| (USAGE, format!("--log-filter {:?}: {error}: info is one that works", args.log_filter));
    telemetry::install(&args.log_filter, args.log_format).map_err(filter)?;
    // One TLS provider, chosen before anything could choose another.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| (UNAVAILABLE, format!("start threads: {error}: raise ulimit -u")))?;
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        let signals =
            |error| (UNAVAILABLE, format!("take signals: {error}: start it as an ordinary process"));
        let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
        let running = run(args, stop.clone());
        tokio::pin!(running);
        let ended = tokio::select! {
            ended = &mut running => ended,
            _ = terminate.recv() => { stop.cancel(); running.await }
            _ = interrupt.recv() => { stop.cancel(); running.await }
        };
        ended.map_err(|ended| (code(&ended), ended.to_string()))
    });
    // Whoever has lost the lease must not work on in some task.
    runtime.shutdown_timeout(RUNTIME_END);
    ended
}

fn code(ended: &Ended) -> u8 {
    match ended {
        Ended::NoApiServer(_) => UNAVAILABLE,
        Ended::Listen { .. } => IO,
        Ended::Lost(_) => LEASE_LOST,
    }
}
