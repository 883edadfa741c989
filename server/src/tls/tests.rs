//! Handshakes over real sockets, with certificates made on the spot.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::files::Files;
use super::{Asks, Credentials, Tls, TlsStream, Use};
use crate::config::{ClientAuth, Config, TlsFiles};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Year in which certificates end unless told otherwise.
const LATER: i32 = 2100;

/// An authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate for a name, and its key.
    fn leaf(&self, name: &str, end: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(end, 1, 1);
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

/// A directory with `cert`, `key` and `ca`.
struct Set {
    dir: TempDir,
}

impl Set {
    fn new(signer: &Authority, trusted: &Authority, name: &str, end: i32) -> Self {
        let set = Self { dir: TempDir::new().unwrap() };
        set.put(&signer.leaf(name, end));
        set.write("ca", &trusted.0.pem());
        set
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn put(&self, (cert, key): &(String, String)) {
        self.write("cert", cert);
        self.write("key", key);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn files(&self) -> TlsFiles {
        let path = |name| Some(self.path(name));
        TlsFiles { cert: path("cert"), key: path("key"), ca: path("ca") }
    }

    fn load(&self, usage: Use, asks: Asks) -> Arc<Credentials> {
        let files = Files::new(if usage == Use::Peers { "peer_tls" } else { "tls" }, &self.files()).unwrap();
        Arc::new(Credentials::load(usage, files, asks).unwrap())
    }

    fn peers(&self) -> Arc<Credentials> {
        self.load(Use::Peers, Asks::Always)
    }
}

/// Both ends of a connection.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (listener.accept().await.unwrap().0, dialled)
}

/// What both ends make of a handshake, and of one byte from the accepting side, by which the dialler learns whether it
/// was let in.
async fn handshake(
    accepts: &Arc<Credentials>,
    dials: &Arc<Credentials>,
    name: &str,
) -> (Option<TlsStream>, std::io::Result<TlsStream>) {
    let (server, client) = sockets().await;
    let accept = async {
        let mut stream = accepts.accept(server, HERE).await?;
        stream.write_all(b"!").await.ok()?;
        stream.flush().await.ok()?;
        Some(stream)
    };
    let dial = async {
        let mut stream = dials.connect(client, name).await?;
        stream.read_u8().await?;
        Ok(stream)
    };
    tokio::join!(accept, dial)
}

#[tokio::test]
async fn peers_of_one_authority_talk_by_the_name_that_was_dialled() {
    let own = Authority::new("own");
    let (a, b) = (Set::new(&own, &own, "a.example", LATER), Set::new(&own, &own, "b.example", LATER));
    let (accepted, dialled) = handshake(&a.peers(), &b.peers(), "a.example").await;
    let (mut accepted, mut dialled) = (accepted.expect("accepted"), dialled.expect("dialled"));
    assert_eq!(dialled.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    dialled.write_all(b"ping").await.unwrap();
    dialled.flush().await.unwrap();
    let mut read = [0; 4];
    accepted.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"ping");
}

#[tokio::test]
async fn a_peer_at_the_wrong_name_is_not_talked_to() {
    let own = Authority::new("own");
    let (a, b) = (Set::new(&own, &own, "a.example", LATER), Set::new(&own, &own, "b.example", LATER));
    let (accepted, dialled) = handshake(&a.peers(), &b.peers(), "c.example").await;
    assert!(accepted.is_none());
    let error = dialled.expect_err("another name").to_string();
    assert!(error.contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn strangers_are_counted_and_get_nothing() {
    let (own, other) = (Authority::new("own"), Authority::new("own"));
    let node = Set::new(&own, &own, "a.example", LATER).peers();
    // Each of them trusts the node, and would talk to it.
    let strangers = [
        ("of another cluster", Set::new(&other, &own, "b.example", LATER).peers()),
        ("expired", Set::new(&own, &own, "b.example", 2001).peers()),
    ];
    for (at, (who, stranger)) in strangers.iter().enumerate() {
        let (accepted, dialled) = handshake(&node, stranger, "a.example").await;
        assert!(accepted.is_none() && dialled.is_err(), "{who}");
        assert_eq!(node.refused(), at as u64 + 1, "{who}");
    }
    let (server, mut client) = sockets().await;
    client.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
    assert!(node.accept(server, HERE).await.is_none(), "in the clear");
    assert_eq!(node.refused(), 3);
}

#[tokio::test]
async fn clients_show_a_certificate_where_they_have_to() {
    let (own, other) = (Authority::new("own"), Authority::new("other"));
    let set = Set::new(&own, &own, "a.example", LATER);
    let named = Set::new(&own, &own, "app", LATER).peers();
    let foreign = Set::new(&other, &own, "app", LATER).peers();
    for (asks, foreign_enters) in [(Asks::Nothing, true), (Asks::Optionally, false), (Asks::Always, false)] {
        let server = set.load(Use::Clients, asks);
        let (accepted, _) = handshake(&server, &named, "a.example").await;
        let shown = accepted.expect("a good one enters").get_ref().1.peer_certificates().is_some();
        assert_eq!(shown, asks != Asks::Nothing);
        assert_eq!(handshake(&server, &foreign, "a.example").await.0.is_some(), foreign_enters, "{asks:?}");
    }
}

#[tokio::test]
async fn changed_files_are_taken_over_whole_and_open_connections_stay() {
    let own = Authority::new("own");
    let set = Set::new(&own, &own, "a.example", LATER);
    let (node, peer) = (set.peers(), Set::new(&own, &own, "b.example", LATER).peers());
    let (before, old) = handshake(&node, &peer, "a.example").await;
    let first_end = node.ends();
    let next = own.leaf("a.example", LATER + 1);

    // Half of an exchange, seen twice: a fault, and nothing changes.
    set.write("cert", &next.0);
    node.look();
    assert!(!node.is_stale(), "seen once, it may be half of an exchange");
    node.look();
    assert!(node.is_stale());
    assert_eq!(node.ends(), first_end);

    set.write("key", &next.1);
    node.look();
    node.look();
    assert!(!node.is_stale() && node.ends() > first_end);
    let (accepted, dialled) = handshake(&node, &peer, "a.example").await;
    assert!(accepted.is_some());
    let dialled = dialled.expect("the new certificate");
    let served = |stream: &TlsStream| stream.get_ref().1.peer_certificates().map(|all| all[0].clone());
    let mut old = old.expect("open");
    assert_ne!(served(&dialled), served(&old));

    let mut before = before.expect("open");
    before.write_all(b"still here").await.unwrap();
    before.flush().await.unwrap();
    let mut read = [0; 10];
    old.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"still here");
}

#[tokio::test]
async fn a_new_authority_is_taken_over_too() {
    let (own, new) = (Authority::new("own"), Authority::new("new"));
    let set = Set::new(&own, &own, "a.example", LATER);
    let node = set.peers();
    let newcomer = Set::new(&new, &own, "b.example", LATER).peers();
    assert!(handshake(&node, &newcomer, "a.example").await.0.is_none());
    set.write("ca", &(own.0.pem() + &new.0.pem()));
    node.look();
    node.look();
    assert!(handshake(&node, &newcomer, "a.example").await.0.is_some());
}

#[test]
fn files_that_go_away_or_turn_bad_change_nothing_and_recover() {
    let own = Authority::new("own");
    let set = Set::new(&own, &own, "a.example", LATER);
    let node = set.peers();
    let good = std::fs::read_to_string(set.path("cert")).unwrap();
    std::fs::remove_file(set.path("cert")).unwrap();
    node.look();
    assert!(node.is_stale());
    set.write("cert", "rubbish");
    node.look();
    node.look();
    assert!(node.is_stale());
    set.write("cert", &good);
    node.look();
    assert!(!node.is_stale(), "what is in use is on disk again");
}

#[test]
fn a_bad_file_at_start_is_named_with_what_to_do() {
    let own = Authority::new("own");
    let set = Set::new(&own, &own, "a.example", LATER);
    let error = |break_it: &dyn Fn(&Path)| {
        set.put(&own.leaf("a.example", LATER));
        set.write("ca", &own.0.pem());
        break_it(set.dir.path());
        let mut config = Config { tls_addr: Some(([127, 0, 0, 1], 0).into()), ..Config::default() };
        config.tls.clients = set.files();
        config.tls.client_auth = ClientAuth::Require;
        let error = Tls::load(&config).err().expect("a fault").to_string();
        error.replace(&set.dir.path().display().to_string(), "DIR")
    };
    let write = |dir: &Path, name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    assert_eq!(
        error(&|dir| std::fs::remove_file(dir.join("cert")).unwrap()),
        "tls_cert_file DIR/cert: No such file or directory (os error 2): give the path of a PEM file that this process \
         may read"
    );
    assert!(
        error(&|dir| write(dir, "cert", ""))
            .starts_with("tls_cert_file DIR/cert: no certificate in it: give")
    );
    assert!(
        error(&|dir| write(dir, "key", "x")).starts_with("tls_key_file DIR/key: no private key in it: give")
    );
    let other = own.leaf("b.example", LATER).1;
    assert_eq!(
        error(&|dir| write(dir, "key", &other)),
        "tls_key_file DIR/key: not the key of the certificate: give the key that the certificate was made for"
    );
    assert!(
        error(&|dir| write(dir, "ca", "x")).starts_with("tls_client_ca_file DIR/ca: no certificate in it")
    );
    let big = "x".repeat(1024 * 1024 + 1);
    assert!(error(&|dir| write(dir, "cert", &big)).contains("larger than 1 MiB"));
}

#[test]
fn what_is_not_in_use_is_not_read() {
    let mut config = Config::default();
    config.tls.peers =
        TlsFiles { cert: Some("/nowhere".into()), key: Some("/nowhere".into()), ca: Some("/nowhere".into()) };
    assert_eq!(Tls::load(&config).expect("peer_tls is off").all().count(), 0);
}
