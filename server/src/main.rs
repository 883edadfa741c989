//! `kvnode-server`: command line to configuration to node; nothing else.
//!
//! Every failure is one line on standard error, `kvnode-server: <what>: <what to do>`, and an exit code of
//! [`kvnode_server::error`].
//!
//! The process ends by `_exit`: what C++ has registered for the end is not run. RocksDB's part of that destroys locks
//! that threads still take after a failure (nothing waits for them then, nor could it when a disk hangs), and aborts
//! the process for it: SIGABRT in place of the exit code. All that has to be done at an end is done before.

use std::io::Write as _;

use kvnode_server::cli::{Cli, Command};
use kvnode_server::command::{docs, table};
use kvnode_server::config::{self, Config, KEYS, Loaded, Source};
use kvnode_server::dispatch::access::Access;
use kvnode_server::error::{ErrorKind, NodeError, OneLine};
use kvnode_server::snapshot::{ParseOptions, SnapshotError, Summary, write_redis_commands};
use kvnode_server::{node, telemetry};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit code of what was done.
const DONE: u8 = 0;

fn main() -> ! {
    let done = match Cli::read(std::env::args_os()) {
        Ok(cli) => run(&cli),
        Err(e) => Ok(usage(&e)),
    };
    let code = done.unwrap_or_else(|e| {
        complain(&e.to_string());
        e.exit_code()
    });
    signal_hook::low_level::exit(code.into())
}

/// Help and version go out as they are; a mistake becomes one line.
fn usage(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        return match error.print().and_then(|()| std::io::stdout().flush()) {
            Ok(()) => DONE,
            Err(_) => ErrorKind::Io.exit_code(),
        };
    }
    let text = error.to_string();
    let what = text.lines().next().unwrap_or_default();
    complain(&format!("{}: kvnode-server --help lists what there is", what.trim_start_matches("error: ")));
    ErrorKind::Usage.exit_code()
}

fn complain(line: &str) {
    // Nothing can be done when standard error is closed.
    let _ = writeln!(std::io::stderr(), "kvnode-server: {}", OneLine(line));
}

fn print(text: &str) -> Result<u8, NodeError> {
    let mut out = std::io::stdout();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|e| {
        NodeError::new(ErrorKind::Io, format!("write to standard output: {e}"), "look at the reader")
    })?;
    Ok(DONE)
}

fn run(cli: &Cli) -> Result<u8, NodeError> {
    match &cli.command {
        Some(Command::ConfigExample) => return print(&config::example_yaml()),
        Some(Command::Commands { markdown }) => return commands(*markdown),
        Some(Command::CheckConfig) | None => {}
    }
    if let Some(file) = &cli.parse_snapshot {
        return parse_snapshot(file, cli.partial);
    }
    #[cfg(debug_assertions)]
    if let Some(table) = arm_crash_point()? {
        return print(&table);
    }
    let loaded = match config::load(&cli.node.settings()) {
        Ok(loaded) => loaded,
        Err(e) => {
            for fault in &e.faults {
                complain(&fault.to_string());
            }
            return Ok(ErrorKind::Config.exit_code());
        }
    };
    for note in &loaded.notes {
        complain(note);
    }
    if cli.node.fastlog {
        complain("--fastlog has no effect: there is one kind of log; leave the flag out");
    }
    if cli.command == Some(Command::CheckConfig) {
        if let Err(error) = Access::open(&loaded.config) {
            complain(&format!("{error}: set the file right"));
            return Ok(ErrorKind::Config.exit_code());
        }
        return print(&in_effect(&loaded));
    }
    serve(loaded.config)
}

/// What `KVNODE_CRASH_POINT` asks for; the table of points if it is `list`. See [`kvnode_server::crash`].
#[cfg(debug_assertions)]
fn arm_crash_point() -> Result<Option<String>, NodeError> {
    use kvnode_server::crash;
    match std::env::var("KVNODE_CRASH_POINT").as_deref() {
        Err(_) | Ok("") => Ok(None),
        Ok("list") => Ok(Some(crash::list())),
        Ok(asked) => {
            let when = std::env::var_os("KVNODE_CRASH_WHEN").map(Into::into);
            crash::arm(asked, when).map(|()| None).map_err(|what| {
                let what = format!("KVNODE_CRASH_POINT: {what}");
                NodeError::new(ErrorKind::Config, what, "name one of them, or unset it")
            })
        }
    }
}

/// Every key with its value and where it was set.
fn in_effect(loaded: &Loaded) -> String {
    let line = |key: &config::Key| {
        let source = loaded.sources.get(key.name).unwrap_or(&Source::Default);
        format!("{}: {} # {source}\n", key.name, key.show(&loaded.config))
    };
    KEYS.iter().map(line).collect()
}

fn commands(markdown: bool) -> Result<u8, NodeError> {
    if markdown {
        return print(&docs::markdown());
    }
    print(&table::rows().flat_map(|row| [row.name, "\n"]).collect::<String>())
}

/// Prints the Redis commands that rebuild a snapshot's content. The whole file is verified before the first one.
fn parse_snapshot(file: &std::path::Path, partial: bool) -> Result<u8, NodeError> {
    let options = ParseOptions { hash: kvnode_server::store::record_hash, partial };
    let mut out = std::io::BufWriter::with_capacity(256 * 1024, std::io::stdout().lock());
    let summary = write_redis_commands(file, &mut out, options).and_then(|summary| {
        out.flush().map_err(SnapshotError::Output)?;
        Ok(summary)
    });
    match summary {
        Ok(Summary { damage: None, .. }) => Ok(DONE),
        Ok(Summary { damage: Some(damage), records, .. }) => Err(NodeError::new(
            ErrorKind::Data,
            format!("{}: salvaged {records} records: {damage}", file.display()),
            "take the newest snapshot that verifies, if there is one",
        )),
        Err(error) => {
            let kind =
                if matches!(error, SnapshotError::Io { .. }) { ErrorKind::NoInput } else { ErrorKind::Data };
            let remedy = error.remedy();
            Err(NodeError::new(kind, error, remedy))
        }
    }
}

fn serve(config: Config) -> Result<u8, NodeError> {
    telemetry::install(&config.log_filter, config.log_format).map_err(|e| {
        NodeError::new(ErrorKind::Config, format!("log_filter: {e}"), "set log_filter to info")
    })?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(config.worker_threads()).enable_all().build().map_err(|e| {
        NodeError::new(
            ErrorKind::Unavailable,
            format!("start threads: {e}"),
            "raise the limit of processes (ulimit -u)",
        )
    })?;
    // On a worker and not on this thread: each turn of the node's main task would wake one thread more.
    let node = runtime.spawn(async {
        let shutdown = tokio_util::sync::CancellationToken::new();
        let mut stop = signals()?;
        let node = node::run(config, shutdown.clone());
        tokio::pin!(node);
        tokio::select! {
            ended = &mut node => return ended,
            () = stop.wait() => shutdown.cancel(),
        }
        // A second signal does not cut the flush short: kill -9 is there for that, and is safe.
        node.await
    });
    let ended = runtime.block_on(node);
    // What the node has to finish it has finished. After a failure nothing may be waited for: the disk may hang.
    runtime.shutdown_background();
    ended.map_err(|e| NodeError::new(ErrorKind::Fatal, format!("run the node: {e}"), "report this"))??;
    Ok(DONE)
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn signals() -> Result<Signals, NodeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let catch = |kind| {
        signal(kind)
            .map_err(|e| NodeError::new(ErrorKind::Unavailable, format!("catch signals: {e}"), "report this"))
    };
    Ok(Signals { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
}
