//! Fake nodes: the admin API over a model of disks and one Raft group per cluster id, reached through memory.
//!
//! A disk belongs to a volume claim (by uid) and outlives its pods; a node runs while its pod does. A group has a
//! leader while a majority of its voters runs; if the leader is gone, the first running voter leads in the next term.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use futures_util::future::BoxFuture;
use futures_util::{Stream, stream};
use hyper_util::rt::TokioIo;
use kvnode_api::error::ErrorBody;
use kvnode_api::members::{AddMember, Done, Initialize, Initialized, MembershipChanged, SetVoters, Transfer};
use kvnode_api::status::{
    Addresses, DiskState, LeaderInfo, LogPositions, MemberInfo, Membership, NodeStatus, Phase, Role,
};
use kvnode_api::watch::LeaderEvent;
use kvnode_api::{Id, LogFilter};
use kvnode_operator::admin_client::{Dial, Io};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::server::{Fault, Wire};

#[derive(Clone, Debug)]
struct Disk {
    node: Id,
    cluster: Option<Id>,
}

#[derive(Clone, Debug)]
struct Running {
    claim_uid: String,
    /// Client address that it advertises.
    addr: String,
}

#[derive(Clone, Debug)]
struct Member {
    addr: String,
    voter: bool,
}

#[derive(Clone, Debug, Default)]
struct Group {
    term: u64,
    leader: Option<Id>,
    members: BTreeMap<Id, Member>,
    changes: u64,
}

impl Group {
    fn log_id(&self) -> String {
        format!("{}-1-{}", self.term, self.changes)
    }
}

#[derive(Default)]
struct World {
    disks: BTreeMap<String, Disk>,
    running: BTreeMap<String, Running>,
    groups: BTreeMap<Id, Group>,
    /// Nodes that run.
    up: BTreeSet<Id>,
    /// Contents of the files of passwords and users that all nodes have read; `None`: nodes that do not tell.
    logins: Option<String>,
}

impl World {
    fn node_at(&self, host: &str) -> Option<&Disk> {
        self.disks.get(&self.running.get(host)?.claim_uid)
    }

    /// Elects where it must and can.
    fn settle(&mut self) {
        self.up =
            self.running.values().filter_map(|one| Some(self.disks.get(&one.claim_uid)?.node)).collect();
        for group in self.groups.values_mut() {
            let voters: Vec<Id> = group.members.iter().filter(|(_, m)| m.voter).map(|(id, _)| *id).collect();
            let up: Vec<Id> = voters.iter().copied().filter(|id| self.up.contains(id)).collect();
            if up.len() * 2 <= voters.len() {
                group.leader = None;
            } else if !group.leader.is_some_and(|leader| up.contains(&leader)) {
                group.leader = up.first().copied();
                group.term += 1;
            }
        }
    }

    fn status(&self, host: &str) -> Option<NodeStatus> {
        let running = self.running.get(host)?;
        let disk = self.disks.get(&running.claim_uid)?;
        let group = disk.cluster.and_then(|id| self.groups.get(&id));
        let leads = group.is_some_and(|group| group.leader == Some(disk.node));
        let info = |(id, member): (&Id, &Member)| MemberInfo {
            id: *id,
            addr: member.addr.clone(),
            peer_addr: member.addr.replace(":4920", ":14920"),
            voter: member.voter,
            leader: group.is_some_and(|group| group.leader == Some(*id)),
            matched_index: leads.then_some(10),
            lag_entries: leads.then_some(0),
            last_ack_ms: leads.then(|| if self.up.contains(id) { 1 } else { 60_000 }),
            diverged_at: None,
        };
        let leader = group.and_then(|group| {
            let id = group.leader?;
            Some(LeaderInfo { id, addr: group.members.get(&id)?.addr.clone() })
        });
        let role = match group {
            None => Role::Unformed,
            Some(_) if leads => Role::Leader,
            Some(group) if group.members.get(&disk.node).is_some_and(|member| member.voter) => Role::Follower,
            Some(_) => Role::Learner,
        };
        let at = format!("{}-1-10", group.map_or(0, |group| group.term));
        let position = group.map(|_| at);
        Some(NodeStatus {
            contract: kvnode_api::CONTRACT,
            version: "0.1.0".into(),
            node_id: Some(disk.node),
            cluster_id: disk.cluster,
            phase: if group.is_some() { Phase::Running } else { Phase::Unformed },
            role,
            term: group.map_or(0, |group| group.term),
            last_contact_ms: leader.as_ref().map(|_| 1),
            leader,
            log: LogPositions {
                last_index: group.map(|_| 10),
                committed: position.clone(),
                applied: position.clone(),
                durable: position,
                purged: None,
                equal: None,
                undecided: None,
                apply_lag_entries: 0,
            },
            membership: Membership {
                log_id: group.map(Group::log_id),
                change_in_progress: false,
                members: group.iter().flat_map(|group| group.members.iter().map(info)).collect(),
            },
            disk: DiskState::Ok,
            addresses: Addresses {
                client: running.addr.clone(),
                peer: running.addr.replace(":4920", ":14920"),
                http: format!("{host}:24920"),
            },
            uptime_ms: 1000,
            logins: self.logins.as_ref().map(|held| kvnode_api::logins::mark(disk.node, held)),
        })
    }

    /// The group that the node leads or follows, if it can commit and stands as expected.
    fn change(&mut self, host: &str, expected: Option<&str>) -> Result<&mut Group, Refused> {
        self.settle();
        let cluster = self.node_at(host).and_then(|disk| disk.cluster);
        let group = cluster.and_then(|id| self.groups.get_mut(&id));
        let group = group.ok_or_else(|| refused(409, "not formed"))?;
        if group.leader.is_none() {
            return Err(refused(503, "leader not known"));
        }
        if expected.is_some_and(|expected| expected != group.log_id()) {
            return Err(refused(412, "the membership changed"));
        }
        Ok(group)
    }
}

type Refused = (StatusCode, Json<ErrorBody>);
type Reply<T> = Result<Json<T>, Refused>;

fn refused(status: u16, error: &str) -> Refused {
    let body = ErrorBody { error: error.into(), remedy: "look again".into(), leader: None };
    (StatusCode::from_u16(status).expect("a status"), Json(body))
}

/// All nodes of a test.
#[derive(Clone, Default)]
pub(crate) struct Nodes {
    world: Arc<Mutex<World>>,
    changed: watch::Sender<u64>,
    tasks: TaskTracker,
}

impl Nodes {
    fn touch(&self) {
        self.world.lock().settle();
        self.changed.send_modify(|count| *count += 1);
    }

    /// A pod has come up at this address.
    pub(crate) fn start(&self, host: &str, addr: &str, claim_uid: &str) {
        let mut world = self.world.lock();
        let number = u64::try_from(world.disks.len()).expect("few disks") + 1;
        world.disks.entry(claim_uid.into()).or_insert(Disk { node: Id(0xd000 + number), cluster: None });
        world.running.insert(host.into(), Running { claim_uid: claim_uid.into(), addr: addr.into() });
        drop(world);
        self.touch();
    }

    /// The pod at this address is gone.
    pub(crate) fn stop(&self, host: &str) {
        self.world.lock().running.remove(host);
        self.touch();
    }

    /// All nodes have read these files of passwords and users, and tell so from now on.
    pub(crate) fn read_logins(&self, passwords: &str, rules: &str) {
        let held = kvnode_api::logins::contents(passwords.as_bytes(), rules.as_bytes());
        self.world.lock().logins = Some(held);
    }

    pub(crate) fn hosts(&self) -> Vec<String> {
        self.world.lock().running.keys().cloned().collect()
    }

    pub(crate) fn is_ready(&self, host: &str) -> bool {
        self.world.lock().status(host).is_some_and(|status| status.leader.is_some())
    }

    /// Voters of every group, by address; a cluster that is founded twice would show as two.
    pub(crate) fn voters(&self) -> Vec<Vec<String>> {
        let world = self.world.lock();
        let voters = |group: &Group| {
            group.members.values().filter(|member| member.voter).map(|member| member.addr.clone()).collect()
        };
        world.groups.values().map(voters).collect()
    }

    /// The admin API of the node at this address.
    #[allow(dead_code, reason = "the suite `many` needs it")]
    pub(crate) fn app(&self, host: &str) -> Router {
        routes(self.clone(), host.to_owned())
    }

    /// How the operator reaches them in memory. Calls go over `wire`, if there is one.
    pub(crate) fn dial(&self, wire: Option<Arc<Wire>>) -> Arc<dyn Dial> {
        Arc::new(Memory { nodes: self.clone(), wire })
    }
}

/// Connections in memory.
struct Memory {
    nodes: Nodes,
    wire: Option<Arc<Wire>>,
}

impl Dial for Memory {
    fn dial<'a>(&'a self, to: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let host = to.strip_suffix(":24920").unwrap_or(to).to_owned();
            let lost = || io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
            if !self.nodes.world.lock().running.contains_key(&host) {
                return Err(lost());
            }
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let routes = routes(self.nodes.clone(), host);
            let wire = self.wire.clone();
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let routes = routes.clone();
                let fault = wire.as_ref().and_then(|wire| wire.pass(request.method(), request.uri().path()));
                async move {
                    if matches!(fault, Some(Fault::LostBefore | Fault::Answer(_))) {
                        return Err(io::Error::other("lost before"));
                    }
                    let response = routes.oneshot(request).await.map_err(io::Error::other)?;
                    if fault.is_some() { Err(io::Error::other("lost after")) } else { Ok(response) }
                }
            });
            let serving =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service);
            self.nodes.tasks.spawn(async move {
                // That a connection breaks is what some tests are about.
                let _ = serving.await;
            });
            Ok(Box::new(ours) as Box<dyn Io>)
        })
    }
}

#[derive(Clone)]
struct Served {
    nodes: Nodes,
    host: String,
}

#[derive(serde::Deserialize)]
struct If {
    if_membership: Option<String>,
}

fn routes(nodes: Nodes, host: String) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/initialize", post(initialize))
        .route("/v1/members", post(add))
        .route("/v1/members/{target}", delete(remove))
        .route("/v1/voters", put(set_voters))
        .route("/v1/transfer", post(transfer))
        .route("/v1/log-filter", put(async |Json(filter): Json<LogFilter>| Json(filter)))
        .route("/v1/watch", get(follow))
        .with_state(Served { nodes, host })
}

async fn status(State(at): State<Served>) -> Reply<NodeStatus> {
    let mut world = at.nodes.world.lock();
    world.settle();
    world.status(&at.host).map(Json).ok_or_else(|| refused(503, "stopped"))
}

async fn initialize(State(at): State<Served>, Json(request): Json<Initialize>) -> Reply<Initialized> {
    let mut world = at.nodes.world.lock();
    let id = request.cluster_id.ok_or_else(|| refused(400, "no id"))?;
    let own = world.node_at(&at.host).cloned().ok_or_else(|| refused(503, "stopped"))?;
    if own.cluster == Some(id) {
        return Ok(Json(Initialized { changed: false, cluster_id: id }));
    }
    if own.cluster.is_some() {
        return Err(refused(409, "belongs to another cluster"));
    }
    let mut group = world.groups.get(&id).cloned().unwrap_or_default();
    for addr in &request.members {
        let found = world.running.values().find(|one| one.addr == *addr).map(|one| one.claim_uid.clone());
        let disk = found.and_then(|claim| world.disks.get_mut(&claim));
        let disk =
            disk.filter(|disk| disk.cluster.is_none()).ok_or_else(|| refused(409, "a member is formed"))?;
        disk.cluster = Some(id);
        group.members.insert(disk.node, Member { addr: addr.clone(), voter: true });
    }
    world.groups.insert(id, group);
    drop(world);
    at.nodes.touch();
    Ok(Json(Initialized { changed: true, cluster_id: id }))
}

fn changed(group: &Group, changed: bool) -> MembershipChanged {
    MembershipChanged { changed, membership_log_id: Some(group.log_id()) }
}

async fn add(State(at): State<Served>, Json(request): Json<AddMember>) -> Reply<MembershipChanged> {
    let mut world = at.nodes.world.lock();
    let cluster = world.node_at(&at.host).and_then(|disk| disk.cluster);
    let claim = world.running.values().find(|one| one.addr == request.addr).map(|one| one.claim_uid.clone());
    let claim = claim.ok_or_else(|| refused(409, "no answer"))?;
    let node = world.disks[&claim].node;
    let group = world.change(&at.host, request.if_membership.as_deref())?;
    if group.members.contains_key(&node) {
        return Ok(Json(changed(group, false)));
    }
    group.members.insert(node, Member { addr: request.addr, voter: request.promote });
    group.changes += 1;
    let answer = changed(group, true);
    if let Some(disk) = world.disks.get_mut(&claim) {
        disk.cluster = cluster;
    }
    drop(world);
    at.nodes.touch();
    Ok(Json(answer))
}

async fn remove(
    State(at): State<Served>,
    Path(target): Path<String>,
    Query(condition): Query<If>,
) -> Reply<MembershipChanged> {
    let mut world = at.nodes.world.lock();
    let id: Id = target.parse().map_err(|_| refused(400, "no id"))?;
    let group = world.change(&at.host, condition.if_membership.as_deref())?;
    let gone = group.members.remove(&id).is_some();
    group.changes += u64::from(gone);
    let answer = changed(group, gone);
    drop(world);
    at.nodes.touch();
    Ok(Json(answer))
}

async fn set_voters(State(at): State<Served>, Json(request): Json<SetVoters>) -> Reply<MembershipChanged> {
    let mut world = at.nodes.world.lock();
    let group = world.change(&at.host, request.if_membership.as_deref())?;
    if request.voters.is_empty() || !request.voters.iter().all(|id| group.members.contains_key(id)) {
        return Err(refused(409, "not all are members"));
    }
    let before: Vec<(Id, bool)> = group.members.iter().map(|(id, member)| (*id, member.voter)).collect();
    group.members.retain(|id, member| !member.voter || request.voters.contains(id));
    for id in &request.voters {
        if let Some(member) = group.members.get_mut(id) {
            member.voter = true;
        }
    }
    let after: Vec<(Id, bool)> = group.members.iter().map(|(id, member)| (*id, member.voter)).collect();
    group.changes += u64::from(before != after);
    let answer = changed(group, before != after);
    drop(world);
    at.nodes.touch();
    Ok(Json(answer))
}

async fn transfer(State(at): State<Served>, Json(request): Json<Transfer>) -> Reply<Done> {
    let mut world = at.nodes.world.lock();
    let to: Id = request.to.and_then(|to| to.parse().ok()).ok_or_else(|| refused(400, "to whom?"))?;
    let group = world.change(&at.host, None)?;
    if !group.members.get(&to).is_some_and(|member| member.voter) {
        return Err(refused(409, "no voter"));
    }
    let moves = group.leader != Some(to);
    group.leader = Some(to);
    group.term += u64::from(moves);
    drop(world);
    at.nodes.touch();
    Ok(Json(Done { changed: moves }))
}

async fn follow(State(at): State<Served>) -> Sse<impl Stream<Item = Result<Event, io::Error>>> {
    let mut states = at.nodes.changed.subscribe();
    states.mark_changed();
    let events = stream::unfold((states, at, None), |(mut states, at, mut last)| async {
        loop {
            states.changed().await.ok()?;
            states.mark_unchanged();
            // A node that has stopped breaks its stream.
            let now = at.nodes.world.lock().status(&at.host)?;
            let event = LeaderEvent {
                cluster_id: now.cluster_id,
                node_id: now.node_id?,
                role: now.role,
                term: now.term,
                leader: now.leader,
            };
            if last.replace(event.clone()).as_ref() != Some(&event) {
                let event = Event::default().event("leader").json_data(event).map_err(io::Error::other);
                return Some((event, (states, at, last)));
            }
        }
    });
    Sse::new(events)
}
