//! The client that writes without end from inside the Kubernetes cluster, and says what became of it.
//!
//! ```text
//! kube-load run ADDR PORT [P]   writes w:P1, w:P2, ... to ADDR; answers questions on 127.0.0.1:PORT. ADDR is HOST:PORT, or
//!                               bind:DIR where a Secret with host, password and authority is mounted (bind:DIR@HOST)
//! kube-load ask PORT WORD       one question, one line of JSON: count | mark | verify
//! kube-load fill ADDR MIB       MIB mebibytes in values of 64 KiB, once
//! ```
//!
//! It behaves as stock clients do: it connects by name, connects again when a connection ends, and sends a write whose
//! reply it never saw again. `mark` tells what happened since the last mark; `verify` reads every write back that was ever
//! acknowledged. It runs as a pod, because a Service can be reached from there in any Kubernetes.

mod target;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::target::Target;
use crate::writer::{Shared, write};

const VALUE_BYTES: usize = 64 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["run", addr, port] => run(addr, port.parse()?, "").await,
        ["run", addr, port, prefix] => run(addr, port.parse()?, prefix).await,
        ["ask", port, word] => ask(port.parse()?, word).await,
        ["fill", addr, mebibytes] => fill(addr, mebibytes.parse()?).await,
        _ => bail!("usage: kube-load run ADDR PORT [PREFIX] | ask PORT count|mark|verify | fill ADDR MIB"),
    }
}

async fn run(addr: &str, port: u16, prefix: &str) -> Result<()> {
    let shared = Arc::new(Shared::default());
    let target = Target::open(addr)?.with_prefix(prefix);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    tokio::select! {
        () = write(&target, &shared) => Ok(()),
        refused = answer(&listener, &target, &shared) => refused,
        ended = terminated() => ended,
    }
}

/// SIGTERM. As the first process of its container the program would not even notice it otherwise.
async fn terminated() -> Result<()> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?.recv().await;
    Ok(())
}

async fn answer(listener: &TcpListener, target: &Target, shared: &Shared) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let mut stream = BufReader::new(stream);
        let mut word = String::new();
        stream.read_line(&mut word).await?;
        let text = match word.trim() {
            "count" => shared.acknowledged().len().to_string(),
            "mark" => serde_json::to_string(&shared.mark())?,
            "verify" => match verify(target, &shared.acknowledged()).await {
                Ok(verdict) => verdict,
                Err(error) => serde_json::json!({ "error": format!("{error:#}") }).to_string(),
            },
            other => serde_json::json!({ "error": format!("unknown word {other:?}") }).to_string(),
        };
        stream.write_all(format!("{text}\n").as_bytes()).await?;
    }
}

/// Reads every acknowledged write back.
async fn verify(target: &Target, acknowledged: &[u64]) -> Result<String> {
    let mut client = target.client(Duration::from_secs(20)).await?;
    let mut missing = Vec::new();
    for chunk in acknowledged.chunks(500) {
        let mut command = vec!["MGET".to_owned()];
        command.extend(chunk.iter().map(|n| target.key(*n)));
        let reply = client.call(&command).await?;
        ensure!(reply.items().len() == chunk.len(), "MGET answered {reply:?}");
        let pairs = chunk.iter().zip(reply.items());
        missing.extend(pairs.filter(|(n, value)| value.as_text() != Some(&n.to_string())).map(|(n, _)| *n));
    }
    missing.truncate(20);
    Ok(serde_json::json!({ "acknowledged": acknowledged.len(), "missing": missing }).to_string())
}

async fn ask(port: u16, word: &str) -> Result<()> {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await?);
    stream.write_all(format!("{word}\n").as_bytes()).await?;
    let mut line = String::new();
    let reading = stream.read_line(&mut line);
    tokio::time::timeout(Duration::from_mins(2), reading).await.context("no answer")??;
    print!("{line}");
    Ok(())
}

/// Values that do not compress, or a store of blocks would hold far less than was asked for.
async fn fill(addr: &str, mebibytes: usize) -> Result<()> {
    let target = Target::open(addr)?;
    let mut client = target.client(Duration::from_mins(2)).await?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let values = mebibytes * 1024 * 1024 / VALUE_BYTES;
    for first in (0..values).step_by(32) {
        let commands: Vec<Vec<Vec<u8>>> = (first..values.min(first + 32))
            .map(|n| vec![b"SET".to_vec(), format!("fill:{n}").into_bytes(), noise(&mut state)])
            .collect();
        for reply in client.pipeline(&commands).await? {
            ensure!(reply.is_ok(), "fill: {reply:?}");
        }
    }
    println!("{values} values");
    Ok(())
}

fn noise(state: &mut u64) -> Vec<u8> {
    let mut value = Vec::with_capacity(VALUE_BYTES);
    while value.len() < VALUE_BYTES {
        // xorshift64: fast, and nothing here depends on its quality.
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        value.extend_from_slice(&state.to_le_bytes());
    }
    value
}
