//! Frames of the peer protocol, as a stranger would write them who has read how they look.

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::cluster::Cluster;
use crate::wait::SOON;

/// Kinds of requests.
pub const APPEND: u8 = 1;
/// A vote.
pub const VOTE: u8 = 2;
/// A vote that would be.
pub const PRE_VOTE: u8 = 3;
/// Take over.
pub const TRANSFER: u8 = 4;
/// A batch of writes.
pub const FORWARD: u8 = 5;
/// What a linearizable read asks.
pub const READ_INDEX: u8 = 6;
/// A membership verb.
pub const MEMBER: u8 = 7;
/// The head of a checkpoint.
pub const CHECKPOINT_BEGIN: u8 = 8;
/// Be part of a cluster.
pub const INVITE: u8 = 11;
/// Is the vote still for me?
pub const CONFIRM: u8 = 13;
/// A message for subscribers.
pub const PUBLISH: u8 = 14;
/// Take me in.
pub const JOIN: u8 = 15;
/// Where is this node?
pub const VOUCH: u8 = 17;
/// Kind of an answer that is a refusal.
pub const REFUSED: u8 = 0xff;

/// Ids of a cluster and of one of its nodes.
#[derive(Clone, Copy, Debug)]
pub struct Ids {
    /// Of the cluster.
    pub cluster: u64,
    /// Of the node.
    pub node: u64,
}

/// What RAFTIDENTITY tells of the node at this index.
///
/// # Errors
/// It does not answer.
pub async fn ids(cluster: &Cluster, index: usize) -> Result<Ids> {
    let texts = cluster.nodes[index].client().await?.run("RAFTIDENTITY").await?.texts();
    let field = |name: &str| -> Result<u64> {
        let pair = texts.chunks(2).find(|pair| pair[0] == name).context("an identity")?;
        Ok(u64::from_str_radix(&pair[1], 16)?)
    };
    Ok(Ids { cluster: field("cluster_id")?, node: field("node_id")? })
}

/// One frame.
///
/// # Panics
/// A body of more than 4 GiB.
#[must_use]
pub fn frame(kind: u8, id: u64, body: &[u8]) -> Vec<u8> {
    let mut inside = vec![kind];
    inside.extend(id.to_le_bytes());
    inside.extend(body);
    let mut frame = u32::try_from(inside.len()).expect("a short body").to_le_bytes().to_vec();
    frame.extend(crc32c::crc32c(&inside).to_le_bytes());
    frame.extend(inside);
    frame
}

/// The first frame of a connection from node `from` to the node with these ids.
#[must_use]
pub fn hello(to: Ids, from: u64) -> Vec<u8> {
    let mut body = b"kvnode-peer".to_vec();
    body.extend(1_u16.to_le_bytes());
    body.extend(0_u32.to_le_bytes());
    for id in [to.cluster, from, to.node] {
        body.extend(id.to_le_bytes());
    }
    frame(0, 0, &body)
}

/// Reads one frame: kind, request id, body.
///
/// # Errors
/// The connection ended, or nothing came.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<(u8, u64, Vec<u8>)> {
    let reading = async {
        let mut prefix = [0; 8];
        stream.read_exact(&mut prefix).await?;
        let length = u32::from_le_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]) as usize;
        ensure!((9..1 << 20).contains(&length), "a frame of {length} bytes");
        let mut inside = vec![0; length];
        stream.read_exact(&mut inside).await?;
        let body = inside.split_off(9);
        let id = inside[1..].try_into().map(u64::from_le_bytes)?;
        Ok((inside[0], id, body))
    };
    tokio::time::timeout(SOON, reading).await.context("neither a frame nor an end")?
}

/// Says hello; true if that was accepted.
///
/// # Errors
/// The connection ended before an answer.
pub async fn greet(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), to: Ids, from: u64) -> Result<bool> {
    stream.write_all(&hello(to, from)).await?;
    stream.flush().await?;
    let (kind, _, body) = read(stream).await?;
    ensure!(kind == 0x80, "a frame of kind {kind} answers the hello");
    Ok(body.first() == Some(&0))
}

/// Sends one request and reads its answer: kind and body.
///
/// # Errors
/// The connection ended before an answer.
pub async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    kind: u8,
    body: &[u8],
) -> Result<(u8, Vec<u8>)> {
    stream.write_all(&frame(kind, 1, body)).await?;
    stream.flush().await?;
    let (kind, _, body) = read(stream).await?;
    Ok((kind, body))
}

/// Body of a request for a vote in this term, or of an append without entries.
#[must_use]
pub fn claim(kind: u8, term: u64, from: u64) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(term.to_le_bytes());
    body.extend(from.to_le_bytes());
    // Of a leader: its vote is committed.
    body.push(u8::from(kind == APPEND));
    body.push(0);
    body.push(0);
    if kind == APPEND {
        body.extend(0_u32.to_le_bytes());
    }
    body
}

fn put_text(body: &mut Vec<u8>, text: &str) {
    body.extend(u16::try_from(text.len()).unwrap_or(0).to_le_bytes());
    body.extend(text.as_bytes());
}

/// Body of a node's wish to be taken in.
#[must_use]
pub fn join(addr: &str, peer_addr: &str, node: u64) -> Vec<u8> {
    let mut body = vec![6];
    put_text(&mut body, addr);
    body.extend([1, 0]);
    put_text(&mut body, peer_addr);
    body.extend(node.to_le_bytes());
    body
}
