//! A program with a replicated store inside: `cargo run -p kvnode-server --example embedded [DATA [MEMBER]]`.
//!
//! It counts its own starts in the store, writes a snapshot and prints it as Redis commands, then serves until Ctrl-C.
//! Give MEMBER (`host:port`) to join the cluster of another node, for example that of `make run`.

use kvnode_server::{CancellationToken, Node, Reply, embed, write_redis_commands};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let data = arguments.next().unwrap_or_else(|| "data/embedded".into());
    let mut keys = vec![("data", data.as_str()), ("addr", "127.0.0.1:0")];
    let member = arguments.next();
    keys.extend(member.as_deref().map(|addr| ("join", addr)));

    let shutdown = CancellationToken::new();
    let node = Node::start(embed::configure(&keys)?, shutdown.clone()).await?;
    println!("redis-cli -h {} -p {}", node.ready().addr.ip(), node.ready().addr.port());

    let mut client = node.client();
    let starts = match client.command(&["GET", "starts"]).await {
        Reply::Bulk(text) => std::str::from_utf8(&text)?.parse::<u64>()?,
        _ => 0,
    };
    let reply = client.command(&["SET", "starts", &(starts + 1).to_string()]).await;
    println!("start {}: {reply:?}", starts + 1);

    let snapshot = node.snapshot().await?;
    println!("{}:", snapshot.state.display());
    let summary = write_redis_commands(&snapshot.state, &mut std::io::stdout())?;
    println!("{} keys; Ctrl-C ends the node", summary.records);

    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        () = shutdown.cancelled() => {} // somebody sent SHUTDOWN
    }
    shutdown.cancel();
    node.wait().await?;
    Ok(())
}
