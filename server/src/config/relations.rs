//! What must hold between keys.

use super::{CertificateUser, ClientAuth, Config, Formation, PeerTls, RestoreMissing};

/// A relation between keys.
pub(super) struct Relation {
    /// The keys; a relation is not looked at while one of them has a fault of its own.
    pub(super) keys: &'static [&'static str],
    /// Whether it holds.
    pub(super) holds: fn(&Config) -> bool,
    /// What is wrong and what to do when it does not.
    pub(super) remedy: &'static str,
}

/// Every relation.
pub(super) static RELATIONS: &[Relation] = &[
    Relation {
        keys: &["heartbeat", "election_timeout_min"],
        holds: |c| c.timing.heartbeat * 3 <= c.timing.election_timeout_min,
        remedy: "the election timeout must cover three heartbeats: raise election_timeout_min or lower heartbeat",
    },
    Relation {
        keys: &["election_timeout_min", "election_timeout_max"],
        holds: |c| c.timing.election_timeout_min < c.timing.election_timeout_max,
        remedy: "nodes draw their timeout between the two: make election_timeout_max the larger one",
    },
    Relation {
        keys: &["election_timeout_max", "election_timeout_ceiling"],
        holds: |c| c.timing.election_timeout_max <= c.timing.election_timeout_ceiling(),
        remedy: "what a node learns to bear starts at the timeout: raise election_timeout_ceiling, or set it to 0",
    },
    Relation {
        keys: &["bulk_bytes_max", "request_bytes_max"],
        holds: |c| c.limits.bulk_bytes_max <= c.limits.request_bytes_max,
        remedy: "a request must be able to hold its largest argument: raise request_bytes_max",
    },
    Relation {
        keys: &["key_bytes_max", "bulk_bytes_max"],
        holds: |c| c.limits.key_bytes_max <= c.limits.bulk_bytes_max,
        remedy: "a key is an argument: lower key_bytes_max",
    },
    Relation {
        keys: &["request_bytes_max", "queue_bytes_max"],
        holds: |c| c.limits.request_bytes_max <= c.limits.queue_bytes_max,
        remedy: "the queue must be able to hold one request: raise queue_bytes_max",
    },
    Relation {
        keys: &["entry_bytes_max", "log_segment_bytes"],
        holds: |c| c.limits.entry_bytes_max as u64 <= c.limits.log_segment_bytes,
        remedy: "a segment must be able to hold one entry: raise log_segment_bytes",
    },
    Relation {
        keys: &["entry_bytes_max", "log_cache_bytes"],
        holds: |c| c.limits.entry_bytes_max <= c.limits.log_cache_bytes,
        remedy: "the log cache must be able to hold one entry: raise log_cache_bytes",
    },
    Relation {
        keys: &["join", "restore"],
        holds: |c| c.join.is_empty() || c.restore.is_none(),
        remedy: "a node joins a cluster or founds one: give one of the two",
    },
    Relation {
        keys: &["restore_missing", "formation"],
        holds: |c| c.restore_missing == RestoreMissing::Error || c.formation == Formation::Wait,
        remedy: "a node that founds by itself would begin empty where the backup is missing: set formation to wait",
    },
    Relation {
        keys: &["addr", "advertise_addr"],
        holds: |c| !c.addr.ip().is_unspecified() || c.advertise_addr.is_some(),
        remedy: "others cannot dial an address that stands for every interface: set advertise_addr to host:port",
    },
    Relation {
        keys: &["peer_addr", "advertise_peer_addr"],
        holds: |c| {
            // Derived from advertise_addr where that exists; without it the relation above speaks.
            !c.peer_addr.ip().is_unspecified()
                || c.advertise_peer_addr.is_some()
                || c.advertise_addr.is_none()
        },
        remedy: "others cannot dial an address that stands for every interface with port 0: set advertise_peer_addr",
    },
    Relation {
        keys: &["addr", "peer_addr", "http_addr"],
        holds: |c| {
            let ports = [c.addr.port(), c.peer_addr.port(), c.http_addr.port()];
            let same = |a: usize, b: usize| ports[a] != 0 && ports[a] == ports[b];
            !(same(0, 1) || same(0, 2) || same(1, 2))
        },
        remedy: "each listener needs a port of its own",
    },
    Relation {
        keys: &["addr", "tls_addr", "peer_addr", "http_addr"],
        holds: |c| {
            let Some(tls) = c.tls_addr.filter(|addr| addr.port() != 0) else { return true };
            let plain = Some(c.addr.port()).filter(|_| !c.tls_only);
            [Some(c.peer_addr.port()), Some(c.http_addr.port()), plain]
                .iter()
                .flatten()
                .all(|p| *p != tls.port())
        },
        remedy: "each listener needs a port of its own",
    },
    Relation {
        keys: &["tls_addr", "tls_cert_file", "tls_key_file"],
        holds: |c| c.tls.clients.is_paired() && (c.tls_addr.is_none() || c.tls.clients.cert.is_some()),
        remedy: "clients that connect by TLS are shown a certificate: set both files, and tls_addr",
    },
    Relation {
        keys: &["tls_client_auth", "tls_client_ca_file"],
        holds: |c| c.tls.client_auth == ClientAuth::No || c.tls.clients.ca.is_some(),
        remedy: "the authority that signs the clients' certificates must be known: set tls_client_ca_file",
    },
    Relation {
        keys: &["tls_client_auth_user", "tls_client_auth"],
        holds: |c| {
            c.tls.client_user == CertificateUser::Off
                || (c.tls.client_auth != ClientAuth::No && c.tls_addr.is_some())
        },
        remedy: "clients must be asked for a certificate: set tls_addr, and tls_client_auth to optional or require",
    },
    Relation {
        keys: &["peer_tls", "peer_tls_cert_file", "peer_tls_key_file", "peer_tls_ca_file"],
        holds: |c| {
            let files = &c.tls.peers;
            files.is_paired()
                && (c.tls.peer_tls == PeerTls::Off || (files.cert.is_some() && files.ca.is_some()))
        },
        remedy: "nodes prove themselves to each other: set all three files",
    },
    Relation {
        keys: &["http_tls_cert_file", "http_tls_key_file", "http_tls_client_ca_file"],
        holds: |c| c.tls.http.is_paired() && (c.tls.http.ca.is_none() || c.tls.http.cert.is_some()),
        remedy: "callers show their certificate inside TLS: set http_tls_cert_file and http_tls_key_file",
    },
];
