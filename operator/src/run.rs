//! The operator put together: probes and metrics from the first moment, then the lease, then the work.
//!
//! ```text
//! credentials -> http port -> wait for the lease -> controller + labeller + streams, while the lease is renewed
//!                                                     |                 |
//!                                                  SIGTERM          lease lost
//!                                            finish passes,         end at once,
//!                                            release the lease      exit code 70
//! ```

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::config::Config;
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::admin_client::trust::Trust;
use crate::admin_client::{AdminClient, Deadlines};
use crate::backup::duty::job::Images;
use crate::backup::duty::{self, Duty};
use crate::cli;
use crate::context::Context;
use crate::controller::{self, Scope};
use crate::crd::PullPolicy;
use crate::health::{self, Probes};
use crate::lease::Timing;
use crate::lease::keeper::{Keeper, Lost};
use crate::metrics::Metrics;
use crate::validate::Operator;
use crate::watch::Watches;

/// Time for running passes to end after a stop was asked for; every call in them is shorter.
const DRAIN: Duration = Duration::from_secs(20);

/// Why the operator ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// No credentials, or none that can be used.
    #[error("find the Kubernetes API server: {0}: run it in a pod with a service account, or set KUBECONFIG")]
    NoApiServer(String),
    /// The HTTP port cannot be had.
    #[error("listen on {addr}: {source}: choose another --http-addr")]
    Listen {
        /// Where.
        addr: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Another operator works now, or nobody can tell.
    #[error("{0}: the next start waits for it")]
    Lost(Lost),
}

/// Runs until `stop` is cancelled.
///
/// # Errors
/// It cannot begin, or the lease was lost.
pub async fn run(args: &cli::Run, stop: CancellationToken) -> Result<(), Ended> {
    let (client, namespace) = client(args).await?;
    let listen = |source| Ended::Listen { addr: args.http_addr, source };
    let listener = TcpListener::bind(args.http_addr).await.map_err(listen)?;
    let metrics = Metrics::new();
    let probes = Arc::new(Probes::default());
    let mut served = JoinSet::new();
    let http_stop = CancellationToken::new();
    served.spawn(health::serve(listener, health::router(metrics.clone(), probes.clone()), http_stop.clone()));

    let me =
        args.pod_name.clone().unwrap_or_else(|| format!("kvnode-operator-{:016x}", rand::random::<u64>()));
    let leases: Api<Lease> = Api::namespaced(client.clone(), &namespace);
    let mut keeper = Keeper::new(leases, &args.lease_name, &me, Timing::default());
    tokio::select! {
        () = keeper.acquire(|| probes.api_answered()) => {}
        () = stop.cancelled() => {
            keeper.release().await;
            return Ok(());
        }
    }
    metrics.leading.set(1);
    let working = CancellationToken::new();
    let trust = Trust::default();
    let nodes = AdminClient::new(Arc::new(trust.clone()), Deadlines::default());
    let watches = Watches::new(nodes.clone(), metrics.clone(), working.clone());
    let images = Images {
        operator: args.operator_image.clone(),
        pull_policy: PullPolicy::default().as_str().into(),
        allow_local_endpoints: args.allow_local_endpoints,
    };
    let operator = Operator { image: args.server_image.clone(), namespace, images: images.clone() };
    let parts = (client, nodes, trust, watches.clone());
    let ctx = Arc::new(Context::new(parts, metrics.clone(), probes.clone(), operator, &me));
    let duty = Duty::new(ctx.clone(), images);
    let ended = lead((ctx, duty), scope(args), &mut keeper, stop, working).await;
    metrics.leading.set(0);
    http_stop.cancel();
    if ended.is_ok() {
        let _ = timeout(DRAIN, watches.ended()).await;
        keeper.release().await;
    }
    served.shutdown().await;
    ended
}

/// Works while the lease is kept. A stop lets running passes end first, under the lease.
async fn lead(
    (ctx, duty): (Arc<Context>, Arc<Duty>),
    scope: Scope,
    keeper: &mut Keeper,
    stop: CancellationToken,
    working: CancellationToken,
) -> Result<(), Ended> {
    let probes = ctx.probes.clone();
    let namespaces = match &scope {
        Scope::All => vec![None],
        Scope::Only(names) => names.iter().cloned().map(Some).collect(),
    };
    let backups = duty::run(duty, namespaces, working.clone());
    let work = controller::run(ctx, scope, working.clone());
    let work = async { tokio::join!(work, backups) };
    tokio::pin!(work);
    let keep = keeper.keep();
    tokio::pin!(keep);
    tokio::select! {
        lost = &mut keep => return Err(Ended::Lost(lost)),
        // It only ends when it is told to.
        _ = &mut work => {}
        () = stop.cancelled() => {}
    }
    tracing::info!("stopping");
    probes.stopping();
    working.cancel();
    tokio::select! {
        lost = &mut keep => Err(Ended::Lost(lost)),
        drained = timeout(DRAIN, &mut work) => {
            if drained.is_err() {
                tracing::warn!("passes that did not end in time are cut off; the next operator does what is left");
            }
            Ok(())
        }
    }
}

fn scope(args: &cli::Run) -> Scope {
    let named = args.namespaces();
    if named.is_empty() { Scope::All } else { Scope::Only(named) }
}

/// The client, and our own namespace.
async fn client(args: &cli::Run) -> Result<(Client, String), Ended> {
    let mut config = Config::infer().await.map_err(|error| Ended::NoApiServer(error.to_string()))?;
    // Its retries may wait for a quarter of an hour inside one call; the next pass is our retry.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).map_err(|error| Ended::NoApiServer(error.to_string()))?;
    Ok((client, namespace))
}
