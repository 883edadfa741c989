//! Who is let in by what it can prove: certificates of users, of members and of the admin API, and what strangers get.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::cluster::Cluster;
use kvnode_tests::http;
use kvnode_tests::peer::{self, Ids};
use kvnode_tests::pki::{self, Authority, Leaf, Tunnel};
use kvnode_tests::scenario::scenario;
use kvnode_tests::wait::{SOON, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::tls::{add, metric, pki_dir, tls_addr};

/// A client of the TLS port of a node, with this certificate.
async fn client_of(cluster: &Cluster, ca: &str, leaf: Option<&Leaf>) -> Result<(Tunnel, Client)> {
    let tunnel = Tunnel::open(&tls_addr(cluster, 0)?, pki::client(ca, leaf)?).await?;
    let client = Client::connect(&tunnel.addr).await?;
    Ok((tunnel, client))
}

#[test]
fn a_clients_certificate_is_the_login_of_its_user() {
    scenario(0, &[], async |cluster| {
        let (own, other) = (Authority::new("own")?, Authority::new("own")?);
        let rules = cluster.path().join("users.acl");
        let with_app = "user default on >secret ~* &* +@all\nuser app on ~app:* &* +@all -@admin\n";
        fs::write(&rules, with_app)?;
        let keys = "tls_addr: IP:0\ntls_client_auth: optional\ntls_client_auth_user: cn\nacl_file: ";
        add(cluster, &own, &format!("{keys}{}", rules.display())).await?;
        let ca = own.pem();
        let leaf = own.named("app", &["ignored.example"])?;
        let (_tunnel, mut app) = client_of(cluster, &ca, Some(&leaf)).await?;
        eventually("the node serves", SOON, async || Ok(app.run("SET app:1 v").await?.is_ok().then_some(())))
            .await?;
        ensure!(app.text("ACL WHOAMI").await?.as_deref() == Some("app"));
        let refused = app.run("SET other v").await?;
        ensure!(refused.as_error() == Some("NOPERM No permissions to access a key"), "{refused:?}");

        for (who, leaf) in [
            ("a name that is no user's", Some(own.named("ghost", &[])?)),
            ("another kind of name", Some(own.named("x", &["app"])?)),
            ("no certificate", None),
        ] {
            let (_tunnel, mut client) = client_of(cluster, &ca, leaf.as_ref()).await?;
            let reply = client.run("PING").await?;
            ensure!(reply.as_error() == Some("NOAUTH Authentication required."), "{who}: {reply:?}");
            client.ok("AUTH secret").await.context("a password opens as ever")?;
        }
        let forged = other.named("app", &[])?;
        let (_tunnel, mut client) = client_of(cluster, &ca, Some(&forged)).await?;
        ensure!(client.run("PING").await.is_err(), "a certificate of another authority");

        let mut admin = cluster.nodes[0].client().await?;
        admin.ok("AUTH secret").await?;
        let log = admin.run("ACL LOG").await?.texts().join(" ");
        ensure!(log.contains("tls-cert") && log.contains("ghost"), "{log}");
        let list = admin.text("CLIENT LIST").await?.unwrap_or_default();
        ensure!(list.lines().any(|line| line.contains(" user=app ")), "{list}");
        let trail = cluster.nodes[0].log_text();
        ensure!(trail.contains(r#"event="login_failed" user="ghost""#), "{trail}");

        // The user goes, and its connections; it comes back, and its certificate opens again.
        fs::write(&rules, with_app.replace("app on", "app off"))?;
        eventually("the login ends", SOON, async || Ok(app.closed().await?.then_some(()))).await?;
        fs::write(&rules, with_app)?;
        eventually("the certificate opens again", SOON, async || {
            let (_tunnel, mut app) = client_of(cluster, &ca, Some(&leaf)).await?;
            Ok(app.run("SET app:2 v").await?.is_ok().then_some(()))
        })
        .await
    });
}

/// Three nodes that speak mutual TLS, and where each is.
async fn three(cluster: &mut Cluster, own: &Authority) -> Result<Vec<(Ids, String)>> {
    for _ in 0..3 {
        add(cluster, own, "peer_tls: required").await?;
    }
    cluster.await_voters(3).await?;
    let mut all = Vec::new();
    for index in 0..3 {
        all.push((peer::ids(cluster, index).await?, host(&cluster.nodes[index].ready().peer_addr)?));
    }
    Ok(all)
}

fn host(addr: &str) -> Result<String> {
    Ok(addr.rsplit_once(':').context("a port")?.0.to_owned())
}

/// What a stranger may have changed.
async fn standing(cluster: &mut Cluster) -> Result<(u64, usize, usize)> {
    let leader = cluster.leader().await?;
    let status = http::get(cluster.nodes[leader].http(), "/v1/status").await?.json()?;
    let members = status["membership"]["members"].as_array().context("members")?.len();
    Ok((status["term"].as_u64().context("a term")?, members, leader))
}

/// Every request of the protocol that could do harm or tell something.
fn requests(from: u64, term: u64) -> Vec<(u8, Vec<u8>)> {
    let claim = |kind| (kind, peer::claim(kind, term, from));
    vec![
        claim(peer::VOTE),
        claim(peer::PRE_VOTE),
        claim(peer::APPEND),
        claim(peer::CONFIRM),
        (peer::TRANSFER, Vec::new()),
        (peer::FORWARD, Vec::new()),
        (peer::READ_INDEX, Vec::new()),
        (peer::MEMBER, peer::join("127.0.0.1:1", "127.0.0.1:2", from)),
        (peer::CHECKPOINT_BEGIN, Vec::new()),
        (peer::INVITE, 5_u64.to_le_bytes().to_vec()),
        (peer::PUBLISH, Vec::new()),
        (peer::VOUCH, from.to_le_bytes().to_vec()),
    ]
}

#[test]
fn who_is_not_the_member_that_it_says_it_is_can_neither_join_nor_vote_nor_append() {
    scenario(0, &[], async |cluster| {
        let (own, other) = (Authority::new("own")?, Authority::new("own")?);
        let nodes = three(cluster, &own).await?;
        cluster.leader_client().await?.ok("SET k v").await?;
        let before = standing(cluster).await?;
        let (ca, target) = (own.pem(), nodes[0].0);
        let addr = cluster.nodes[0].ready().peer_addr.clone();
        let (second, third) = (nodes[1].0.node, nodes[2].1.as_str());

        // No handshake: nothing at all, whoever it claims to be.
        for leaf in [None, Some(other.leaf(&[&nodes[1].1])?), Some(own.expired(&[&nodes[1].1])?)] {
            for from in [second, 0xbad] {
                let Ok(mut stream) = pki::dial(&addr, &pki::client(&ca, leaf.as_ref())?).await else {
                    continue;
                };
                ensure!(peer::greet(&mut stream, target, from).await.is_err(), "{from:x} was answered");
            }
        }
        // The authority's certificate, and a member's id, but not its host.
        for names in [&["127.0.0.1"][..], &[third], &["*.example", "localhost"]] {
            let client = pki::client(&ca, Some(&own.leaf(names)?))?;
            let mut stream = pki::dial(&addr, &client).await?;
            ensure!(
                !peer::greet(&mut stream, target, second).await?,
                "{names:?} was taken for node {second:x}"
            );
            ensure!(
                peer::ask(&mut stream, peer::VOTE, &peer::claim(peer::VOTE, 1000, second)).await.is_err()
            );
        }
        // The authority's certificate, and an id that nobody has: it may ask to be taken in, and nothing else.
        let client = pki::client(&ca, Some(&own.leaf(&["127.0.0.1"])?))?;
        for (kind, body) in requests(0xbad, before.0 + 1000) {
            let mut stream = pki::dial(&addr, &client).await?;
            ensure!(peer::greet(&mut stream, target, 0xbad).await?);
            let (answer, text) = peer::ask(&mut stream, kind, &body).await?;
            let text = String::from_utf8_lossy(&text).into_owned();
            ensure!(answer == peer::REFUSED && text.contains("no member"), "{kind}: {answer} {text}");
        }
        // Nor for another node, nor where it does not answer by that name.
        for (node, wanted) in [(second, peer::REFUSED), (0xbad, 0x80 | peer::JOIN)] {
            let mut stream = pki::dial(&addr, &client).await?;
            ensure!(peer::greet(&mut stream, target, 0xbad).await?);
            let body = peer::join("127.0.0.1:1", "127.0.0.1:2", node);
            let (answer, body) = peer::ask(&mut stream, peer::JOIN, &body).await?;
            ensure!(answer == wanted && body.first() != Some(&0), "{answer} {body:?}");
        }
        let after = standing(cluster).await?;
        ensure!(after == before, "{before:?} became {after:?}");
        let refused = r#"kvnode_tls_handshakes_refused_total{listener="peer"}"#;
        let count = metric(cluster.nodes[0].http(), refused).await?;
        ensure!(count >= 9.0, "{count} refusals counted");
        cluster.nodes[0].client().await?.ok("SET k w").await?;
        cluster.same_content().await.map(drop)
    });
}

/// Passes a connection on, and keeps what the caller sends.
async fn recorded(target: &str, call: impl AsyncFnOnce(&str) -> Result<()>) -> Result<Vec<u8>> {
    let listener = TcpListener::bind((host(target)?, 0)).await?;
    let addr = listener.local_addr()?.to_string();
    let relay = async {
        let (near, _) = listener.accept().await?;
        let far = TcpStream::connect(target).await?;
        let ((mut near_read, mut near_write), (mut far_read, mut far_write)) =
            (near.into_split(), far.into_split());
        let mut kept = Vec::new();
        let there = async {
            let mut piece = [0; 4096];
            loop {
                let length = near_read.read(&mut piece).await?;
                if length == 0 {
                    return far_write.shutdown().await;
                }
                kept.extend_from_slice(&piece[..length]);
                far_write.write_all(&piece[..length]).await?;
            }
        };
        let back = tokio::io::copy(&mut far_read, &mut near_write);
        // The end comes from either side, with or without a word.
        tokio::select! { _ = there => {}, _ = back => {} }
        Ok::<_, anyhow::Error>(kept)
    };
    let (kept, called) = tokio::join!(relay, call(&addr));
    called?;
    kept
}

#[test]
fn a_recorded_handshake_opens_nothing_when_it_is_replayed() {
    scenario(0, &[], async |cluster| {
        let own = Authority::new("own")?;
        let nodes = three(cluster, &own).await?;
        let (ca, target) = (own.pem(), nodes[0].0);
        let addr = cluster.nodes[0].ready().peer_addr.clone();
        let member = pki::client(&ca, Some(&own.leaf(&[&nodes[1].1])?))?;
        let bytes = recorded(&addr, async |through| {
            let mut stream = pki::dial(through, &member).await?;
            ensure!(peer::greet(&mut stream, target, nodes[1].0.node).await?, "the member itself is let in");
            let (kind, _) = peer::ask(&mut stream, peer::READ_INDEX, &[]).await?;
            ensure!(kind == 0x80 | peer::READ_INDEX, "{kind}");
            Ok(())
        })
        .await?;
        let refused = r#"kvnode_tls_handshakes_refused_total{listener="peer"}"#;
        let before = metric(cluster.nodes[0].http(), refused).await?;
        let mut stream = TcpStream::connect(&addr).await?;
        stream.write_all(&bytes).await?;
        let mut answer = Vec::new();
        let reading = tokio::time::timeout(SOON, stream.read_to_end(&mut answer));
        // It ends with an alert, or with a reset that is one's own bytes' fault.
        let _ = reading.await.context("the connection stays open")?;
        ensure!(answer.len() < 4096, "{} bytes came back", answer.len());
        let after = metric(cluster.nodes[0].http(), refused).await?;
        ensure!((after - before - 1.0).abs() < 0.5, "{before} refusals became {after}");
        Ok(())
    });
}

#[test]
fn a_node_that_was_away_while_members_changed_learns_of_its_leader_from_a_member() {
    scenario(0, &[], async |cluster| {
        let own = Authority::new("own")?;
        three(cluster, &own).await?;
        cluster.nodes[2].terminate().await?;
        for _ in 0..2 {
            add(cluster, &own, "peer_tls: required").await?;
        }
        cluster.await_voters(5).await?;
        let newcomer = cluster.nodes[4].addr().to_owned();
        cluster.leader_client().await?.ok(&format!("RAFTTRANSFER {newcomer}")).await?;
        eventually("the newcomer leads", SOON, async || {
            Ok((cluster.nodes[4].client().await?.text("RAFTSTATE").await?.as_deref() == Some("Leader"))
                .then_some(()))
        })
        .await?;
        cluster.nodes[4].client().await?.ok("SET k v").await?;
        // It knows three members, of whom none leads.
        cluster.nodes[2].start().await?;
        cluster.await_voters(5).await?;
        cluster.await_applied().await?;
        ensure!(
            cluster.nodes[2].log_text().contains("a member vouches for the node"),
            "{}",
            cluster.nodes[2].tail()
        );
        cluster.same_content().await.map(drop)
    });
}

#[test]
fn the_admin_api_knows_its_authority_only_and_notes_who_changed_something() {
    scenario(0, &[], async |cluster| {
        let (own, admins) = (Authority::new("own")?, Authority::new("admins")?);
        let dir = pki_dir(cluster, 0);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("admins.crt"), admins.pem())?;
        let head = format!(
            "http_tls_cert_file: {0}/node.crt\nhttp_tls_key_file: {0}/node.key\nhttp_tls_client_ca_file: {0}/admins.crt",
            dir.display()
        );
        add(cluster, &own, &head).await?;
        let (ca, addr) = (own.pem(), cluster.nodes[0].http().to_owned());
        let ask = async |leaf: Option<&Leaf>, method: &str, path: &str| -> Result<u16> {
            let tunnel = Tunnel::open(&addr, pki::client(&ca, leaf)?).await?;
            Ok(http::request(&tunnel.addr, method, path, "", "").await?.status)
        };
        ensure!(ask(None, "GET", "/livez").await? == 200);
        ensure!(ask(None, "GET", "/v1/status").await? == 403);
        ensure!(ask(None, "POST", "/v1/log/shrink").await? == 403);
        // Another authority's, be it the one of the nodes, and one that has ended.
        for leaf in [own.named("operator", &["operator"])?, admins.expired(&["operator"])?] {
            for path in ["/livez", "/v1/status"] {
                let Err(_) = ask(Some(&leaf), "GET", path).await else { bail!("{path} was answered") };
            }
        }
        let operator = admins.named("operator", &["operator.example"])?;
        ensure!(ask(Some(&operator), "GET", "/v1/status").await? == 200);
        eventually("it does what the operator wants", SOON, async || {
            Ok((ask(Some(&operator), "POST", "/v1/log/shrink").await? == 200).then_some(()))
        })
        .await?;
        let trail = cluster.nodes[0].log_text();
        for expected in [
            r#"event="admin_api" peer="127.0.0.1" subject="" method="POST" path="/v1/log/shrink" status=403"#,
            r#"event="admin_api" peer="127.0.0.1" subject="operator" method="POST" path="/v1/log/shrink" status=200"#,
        ] {
            ensure!(trail.contains(expected), "{expected} is missing in {trail}");
        }
        ensure!(!trail.contains(r#"method="GET""#), "questions are not told: {trail}");
        Ok(())
    });
}
