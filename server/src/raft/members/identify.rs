//! Who is at an address: asked before two nodes are peers.
//!
//! ```text
//! peer address known, or 10000 above the client port --hello for whoever is there--> introduction
//! else the client address                            --RAFTIDENTITY----------------> fields
//! else the address itself, if that is a peer address --hello for whoever is there--> introduction
//! ```
//!
//! With `peer_tls: required` the last two change places: to a peer port a question in the clear is a stranger's.
//!
//! The peer port comes first: it answers also where clients need TLS or a password, and with `peer_tls` the other side has
//! proved that it is one of ours. What RAFTIDENTITY says is proved by the handshake with the peer that it names.

use std::time::Duration;

use tokio::time::timeout;

use super::super::core::Core;
use super::super::group::MemberError;
use super::super::peer::client::ask_who;
use super::super::peer::messages::Introduction;
use crate::config::load::PEER_PORT_OFFSET;
use crate::resp::ask::{self, Answer};

/// Time for the node at an address to say who it is.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// What the node at an address says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::raft) struct Stranger {
    pub(in crate::raft) node_id: u64,
    pub(in crate::raft) cluster_id: Option<u64>,
    /// Its client address: the one that was asked for, unless that was its peer address.
    pub(in crate::raft) addr: String,
    pub(in crate::raft) peer_addr: String,
}

impl Stranger {
    fn introduced(introduction: Introduction, addr: String) -> Self {
        let Introduction { node_id, cluster_id, peer_addr, .. } = introduction;
        Self { node_id, cluster_id, addr, peer_addr }
    }
}

/// Asks the node at a client address, of which the peer address may be known from the membership.
pub(in crate::raft) async fn identify(
    core: &Core,
    addr: &str,
    peer_addr: Option<&str>,
) -> Result<Stranger, MemberError> {
    let beside = usual_peer_addr(addr);
    if let Some(peer_addr) = peer_addr.or(beside.as_deref())
        && let Ok(told) = ask_who(&core.local, peer_addr).await
        // Another node may have that port.
        && (port(&told.addr) == port(addr))
    {
        return Ok(Stranger::introduced(told, addr.to_owned()));
    }
    if core.local.speaks_only_tls()
        && let Some(stranger) = ask_peer_port(core, addr).await
    {
        return Ok(stranger);
    }
    let problem = match timeout(ASK_TIMEOUT, ask::ask(addr, &["RAFTIDENTITY"])).await {
        Ok(Ok(Answer::Texts(fields))) => match read_fields(&fields, addr) {
            Some(stranger) => return Ok(stranger),
            None => "its identity is incomplete".to_owned(),
        },
        Ok(Ok(other)) => format!("it answered {other:?}"),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", ASK_TIMEOUT.as_secs()),
    };
    if !core.local.speaks_only_tls()
        && let Some(stranger) = ask_peer_port(core, addr).await
    {
        return Ok(stranger);
    }
    Err(MemberError::Refused(format!(
        "no kvnode can be reached at {addr}: {problem}; check the address and that it runs"
    )))
}

/// Asks an address that may itself be a peer address.
async fn ask_peer_port(core: &Core, addr: &str) -> Option<Stranger> {
    let told = ask_who(&core.local, addr).await.ok()?;
    let addr = told.addr.clone();
    Some(Stranger::introduced(told, addr))
}

fn port(addr: &str) -> Option<u16> {
    addr.rsplit_once(':')?.1.parse().ok()
}

/// The peer address of a node that was not told another one.
fn usual_peer_addr(addr: &str) -> Option<String> {
    let (host, port) = addr.rsplit_once(':')?;
    let port = port.parse::<u16>().ok()?.checked_add(PEER_PORT_OFFSET)?;
    Some(format!("{host}:{port}"))
}

fn read_fields(fields: &[String], addr: &str) -> Option<Stranger> {
    let field = |name: &str| fields.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone());
    let id = |name: &str| field(name).and_then(|text| u64::from_str_radix(&text, 16).ok());
    let (node_id, peer_addr) = (id("node_id")?, field("peer_addr")?);
    Some(Stranger { node_id, cluster_id: id("cluster_id"), addr: addr.to_owned(), peer_addr })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_peer_port_is_ten_thousand_above() {
        assert_eq!(usual_peer_addr("a.example:4920").as_deref(), Some("a.example:14920"));
        assert_eq!(usual_peer_addr("[::1]:4920").as_deref(), Some("[::1]:14920"));
        assert_eq!(usual_peer_addr("a:60000"), None);
        assert_eq!(usual_peer_addr("a"), None);
    }

    #[test]
    fn an_identity_without_a_peer_address_is_none() {
        let fields = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        assert_eq!(read_fields(&fields(&["node_id", "1f"]), "a:1"), None);
        let whole = fields(&["node_id", "1f", "cluster_id", "", "peer_addr", "a:2"]);
        let stranger = read_fields(&whole, "a:1").expect("complete");
        assert_eq!((stranger.node_id, stranger.cluster_id, stranger.peer_addr.as_str()), (0x1f, None, "a:2"));
    }
}
