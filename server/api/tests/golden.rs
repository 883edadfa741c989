//! The JSON of the contract, to the byte. A change here is a change of the contract.

use kvnode_api::error::ErrorBody;
use kvnode_api::health::Health;
use kvnode_api::members::{
    AddMember, Done, Initialize, Initialized, MembershipChanged, RemoveMember, SetVoters, Transfer,
};
use kvnode_api::status::{
    Addresses, DiskState, LeaderInfo, LogPositions, MemberInfo, Membership, NodeStatus, Phase, Role,
};
use kvnode_api::watch::LeaderEvent;
use kvnode_api::{CONTRACT, Id, LogFilter, logins};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Asserts the text form and that it reads back to the same value.
fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T, json: &str) {
    assert_eq!(serde_json::to_string(value).unwrap(), json);
    assert_eq!(&serde_json::from_str::<T>(json).unwrap(), value);
}

fn status() -> NodeStatus {
    let leader = LeaderInfo { id: Id(0x1f), addr: "a:4920".into() };
    let member = MemberInfo {
        id: Id(0x1f),
        addr: "a:4920".into(),
        peer_addr: "a:14920".into(),
        voter: true,
        leader: true,
        matched_index: Some(9),
        lag_entries: Some(1),
        last_ack_ms: None,
        diverged_at: None,
    };
    NodeStatus {
        contract: CONTRACT,
        version: "0.1.0".into(),
        node_id: Some(Id(0x1f)),
        cluster_id: Some(Id(u64::MAX)),
        phase: Phase::Running,
        role: Role::Leader,
        term: 3,
        leader: Some(leader),
        last_contact_ms: Some(12),
        log: LogPositions {
            last_index: Some(10),
            committed: Some("3-1f-9".into()),
            applied: Some("3-1f-9".into()),
            durable: None,
            purged: None,
            equal: None,
            undecided: None,
            apply_lag_entries: 0,
        },
        membership: Membership {
            log_id: Some("1-1f-0".into()),
            change_in_progress: false,
            members: vec![member],
        },
        disk: DiskState::Ok,
        addresses: Addresses { client: "a:4920".into(), peer: "a:14920".into(), http: "a:24920".into() },
        uptime_ms: 5,
        logins: None,
    }
}

#[test]
fn status_json() {
    golden(
        &status(),
        concat!(
            r#"{"contract":1,"version":"0.1.0","node_id":"000000000000001f","cluster_id":"ffffffffffffffff","#,
            r#""phase":"running","role":"leader","term":3,"#,
            r#""leader":{"id":"000000000000001f","addr":"a:4920"},"last_contact_ms":12,"#,
            r#""log":{"last_index":10,"committed":"3-1f-9","applied":"3-1f-9","apply_lag_entries":0},"#,
            r#""membership":{"log_id":"1-1f-0","change_in_progress":false,"members":["#,
            r#"{"id":"000000000000001f","addr":"a:4920","peer_addr":"a:14920","voter":true,"leader":true,"#,
            r#""matched_index":9,"lag_entries":1}]},"#,
            r#""disk":"ok","addresses":{"client":"a:4920","peer":"a:14920","http":"a:24920"},"uptime_ms":5}"#,
        ),
    );
}

/// A node and an operator of different versions make the same mark.
#[test]
fn status_json_with_logins() {
    let mark = logins::mark(Id(0x1f), &logins::contents(b"one\n", b"user a on\n"));
    let text = serde_json::to_string(&NodeStatus { logins: Some(mark), ..status() }).unwrap();
    assert!(text.ends_with(r#""uptime_ms":5,"logins":"d5d64e4824fa5d4e"}"#), "{text}");
}

#[test]
fn members_json() {
    golden(&Initialize::default(), "{}");
    golden(
        &Initialize { cluster_id: Some(Id(7)), members: vec!["a:1".into()] },
        r#"{"cluster_id":"0000000000000007","members":["a:1"]}"#,
    );
    golden(
        &Initialized { changed: true, cluster_id: Id(7) },
        r#"{"changed":true,"cluster_id":"0000000000000007"}"#,
    );
    golden(
        &AddMember { addr: "a:1".into(), if_membership: Some("1-1f-0".into()), promote: false },
        r#"{"addr":"a:1","if_membership":"1-1f-0","promote":false}"#,
    );
    golden(&RemoveMember { target: "1f".into(), if_membership: None }, r#"{"target":"1f"}"#);
    golden(
        &SetVoters { voters: vec![Id(1), Id(2)], if_membership: Some("1-1f-0".into()) },
        r#"{"voters":["0000000000000001","0000000000000002"],"if_membership":"1-1f-0"}"#,
    );
    golden(&Transfer::default(), "{}");
    golden(
        &MembershipChanged { changed: false, membership_log_id: Some("1-1f-0".into()) },
        r#"{"changed":false,"membership_log_id":"1-1f-0"}"#,
    );
    golden(&Done { changed: true }, r#"{"changed":true}"#);
}

#[test]
fn requests_have_defaults_and_refuse_unknown_fields() {
    let add: AddMember = serde_json::from_str(r#"{"addr":"a:1"}"#).unwrap();
    assert!(add.promote && add.if_membership.is_none());
    assert!(serde_json::from_str::<AddMember>(r#"{"addr":"a:1","voter":true}"#).is_err());
    assert!(serde_json::from_str::<Initialize>(r#"{"clusterId":"7"}"#).is_err());
    assert!(serde_json::from_str::<Transfer>(r#"{"target":"7"}"#).is_err());
}

#[test]
fn answers_ignore_fields_of_a_newer_node() {
    let mut json = serde_json::to_value(status()).unwrap();
    json["something_new"] = serde_json::json!({"a": 1});
    assert_eq!(serde_json::from_value::<NodeStatus>(json).unwrap(), status());
}

#[test]
fn events_and_bodies_json() {
    golden(
        &LeaderEvent { cluster_id: None, node_id: Id(1), role: Role::Unformed, term: 0, leader: None },
        r#"{"node_id":"0000000000000001","role":"unformed","term":0}"#,
    );
    golden(
        &ErrorBody { error: "e".into(), remedy: "r".into(), leader: None },
        r#"{"error":"e","remedy":"r"}"#,
    );
    golden(&Health { ok: true, reasons: vec![] }, r#"{"ok":true,"reasons":[]}"#);
    golden(&LogFilter { filter: "info".into() }, r#"{"filter":"info"}"#);
}
