//! One end-to-end test: a cluster, a body, a deadline; logs and files only when it fails.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::Cluster;

/// Longest time that one scenario may take on a busy machine.
const DEADLINE: Duration = Duration::from_mins(4);

/// Starts `nodes` nodes (0: none) with these flags and runs the body.
///
/// # Panics
/// If the body fails: with its error and the ends of all logs, the files kept.
pub fn scenario(nodes: usize, flags: &[&str], body: impl AsyncFnOnce(&mut Cluster) -> Result<()>) {
    let runtime = runtime();
    runtime.block_on(async {
        let mut cluster = match nodes {
            0 => Cluster::empty(flags),
            count => Cluster::start(count, flags).await,
        }
        .unwrap_or_else(|error| panic!("{error:#}"));
        let run = async {
            let outcome = tokio::time::timeout(DEADLINE, body(&mut cluster)).await;
            outcome.with_context(|| format!("the scenario took longer than {DEADLINE:?}"))?
        };
        let outcome = CatchUnwind(Box::pin(run)).await;
        let failure = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(error)) => format!("{error:#}"),
            Err(panic) => panic_text(panic.as_ref()),
        };
        eprintln!("{}", cluster.logs());
        cluster.keep_files();
        drop(cluster);
        panic!("{failure}");
    });
}

/// Runs a future to its end on a runtime of its own.
///
/// # Panics
/// If it fails, with its error.
pub fn run(body: impl Future<Output = Result<()>>) {
    runtime().block_on(async {
        if let Err(error) = body.await {
            panic!("{error:#}");
        }
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime starts")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_else(|| "panic".into())
}

/// A future whose panic becomes an error, so that the logs can be printed after it.
struct CatchUnwind<F>(std::pin::Pin<Box<F>>);

impl<F: Future> Future for CatchUnwind<F> {
    type Output = std::thread::Result<F::Output>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        let inner = self.0.as_mut();
        match std::panic::catch_unwind(AssertUnwindSafe(|| inner.poll(context))) {
            Ok(std::task::Poll::Pending) => std::task::Poll::Pending,
            Ok(std::task::Poll::Ready(value)) => std::task::Poll::Ready(Ok(value)),
            Err(panic) => std::task::Poll::Ready(Err(panic)),
        }
    }
}
