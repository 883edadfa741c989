//! What the fuzzer feeds: one function per kind of bytes that come from outside, or back from a disk.
//!
//! ```text
//! make fuzz   -> tests/fuzz (libFuzzer, guided by coverage) --+
//! make test   -> corpus of tests/fuzz/corpus, and some        +--> TARGETS -> decoder under test
//!                thousand mutations of it (`tests` below) ----+
//! ```
//!
//! A target fails by a panic: of the code under test, or of an assertion here about what it returned. Where a format has
//! checksums, a target makes them itself from the input, since no fuzzer guesses one.
//!
//! Invariant: a target is a function of its input; what it keeps between calls is only what is dear to make.

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};

use crate::acl::source::Contents;
use crate::acl::{self, Source, Users, rules};
use crate::clock::UnixMs;
use crate::command::{self, Action, Context};
use crate::config::{KEYS, load};
use crate::resp::{DecoderLimits, ProtocolError, Request, RequestDecoder};
use crate::store::fuzz::Asked;
use crate::store::{self, Batch, Op, codec, glob};

/// One of them.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name, also of the directory of its corpus.
    pub name: &'static str,
    /// Takes one input.
    pub run: fn(&[u8]),
}

/// All.
pub const TARGETS: &[Target] = &[
    Target { name: "request", run: request },
    Target { name: "command", run: command },
    Target { name: "apply", run: apply },
    Target { name: "acl_rules", run: acl_rules },
    Target { name: "glob", run: globs },
    Target { name: "ops", run: ops },
    Target { name: "config_yaml", run: config_yaml },
    Target { name: "state_bin", run: crate::snapshot::fuzz::state_bin },
    Target { name: "peer_frames", run: crate::raft::fuzz::peer_frames },
    Target { name: "log_frames", run: crate::raft::fuzz::log_frames },
];

/// The target of a name.
#[must_use]
pub fn find(name: &str) -> Option<Target> {
    TARGETS.iter().find(|target| target.name == name).copied()
}

const LIMITS: DecoderLimits = DecoderLimits {
    args_max: 64,
    bulk_bytes_max: 1024,
    request_bytes_max: 4096,
    inline_bytes_max: 256,
    before_login: false,
};

/// Decodes bytes that arrive in steps of this length.
fn decode(limits: DecoderLimits, bytes: &[u8], step: usize) -> (Vec<Request>, Option<ProtocolError>) {
    let (mut decoder, mut buffer) = (RequestDecoder::new(limits), BytesMut::new());
    let mut requests = Vec::new();
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(error) => return (requests, Some(error)),
            }
        }
        // An argument has two bytes at least, and a place among the others, of which there may be twice as many as yet.
        let places = (bytes.len() + 8) * size_of::<Bytes>();
        assert!(decoder.held_bytes() <= bytes.len() + places, "it holds more than has come");
    }
    (requests, None)
}

/// Requests as clients send them: what is decoded does not depend on where the reads were cut.
fn request(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let limits = if choice & 0x80 == 0 { LIMITS } else { LIMITS.before_login() };
    let whole = decode(limits, bytes, bytes.len().max(1));
    assert!(whole.0.iter().all(|request| !request.args.is_empty()), "a request without a name");
    let pieces = decode(limits, bytes, usize::from(choice & 0x7f) + 1);
    assert_eq!(whole, pieces);
}

const CONTEXT: Context = Context {
    db: 0,
    databases: 16,
    key_bytes_max: 512,
    value_bytes_max: 4096,
    reply_bytes_max: 65_536,
    keys_default_limit: 0,
};

/// A user who meets every kind of rule.
fn restricted() -> Users {
    let text = "user u on nopass ~app:* %R~r* %W~[w-z]? resetchannels &c* +@all -@dangerous -client|kill (+@write ~q*)";
    let source = Source { acl_file: Some(PathBuf::from("acl")), ..Source::default() };
    source.parse(&Contents::of_both(b"", text.as_bytes())).unwrap_or_default()
}

/// Requests to actions, and who may have them; a change survives its encoding.
fn command(data: &[u8]) {
    thread_local!(static USERS: Users = restricted());
    for request in decode(LIMITS, data, data.len().max(1)).0 {
        let row = command::row_of(&request.args);
        let Ok(found) = command::resolve(&request.args) else { continue };
        assert_eq!(row.map(|row| row.slot), Some(found.slot));
        USERS.with(|users| users.get("u").map(|user| acl::permits(user, &found, &request.args).is_ok()));
        if let Ok(Action::Write(op)) = command::parse(found.spec, &request.args, &CONTEXT) {
            assert_eq!(decoded(std::slice::from_ref(&op)), [op]);
        }
    }
}

/// What clients ask for, on a machine.
fn apply(data: &[u8]) {
    let mut asked = Vec::new();
    for request in decode(LIMITS, data, data.len().max(1)).0 {
        let Ok(found) = command::resolve(&request.args) else { continue };
        match command::parse(found.spec, &request.args, &CONTEXT) {
            Ok(Action::Write(op)) => asked.push(Asked::Op(op)),
            Ok(Action::Read(query, _)) => asked.push(Asked::Query(query)),
            _ => {}
        }
    }
    if !asked.is_empty() {
        store::fuzz::apply(asked);
    }
}

fn decoded(ops: &[Op]) -> Vec<Op> {
    let mut out = BytesMut::new();
    codec::encode_ops(ops, &mut out);
    let mut bytes = out.freeze();
    let back = codec::decode_ops(&mut bytes).expect("what was encoded is decoded");
    assert!(bytes.is_empty(), "bytes are left");
    back
}

/// The files of the users: what is taken is written and read back as the same.
fn acl_rules(data: &[u8]) {
    let source = Source { acl_file: Some(PathBuf::from("acl")), ..Source::default() };
    let Ok(users) = source.parse(&Contents::of_both(b"", data)) else { return };
    for user in users.iter() {
        let line = rules::describe(user);
        let again = source.parse(&Contents::of_both(b"", line.as_bytes()));
        let again = again.unwrap_or_else(|error| panic!("{line:?}: {error}"));
        let back = again.get(user.name()).map(|user| rules::describe(user));
        assert_eq!(back.as_ref(), Some(&line));
        let _ = rules::describe_parts(user);
    }
}

/// Globs, by what must hold whatever they are.
fn globs(data: &[u8]) {
    let Some((cut, rest)) = data.split_first() else { return };
    let (pattern, text) = rest.split_at(usize::from(*cut).min(rest.len()));
    let fits = glob::matches(pattern, text);
    let (prefix, whole) = glob::literal_prefix(pattern);
    assert!(!fits || text.starts_with(&prefix), "a match without the prefix");
    assert!(!whole || fits == (text == prefix), "a pattern without wildcards is its text");
    let before = |left: &[u8], right: &[u8]| [left, right].concat();
    assert_eq!(glob::matches(&before(b"?", pattern), &before(b"x", text)), fits);
    assert_eq!(glob::matches(&before(b"[^a]", pattern), &before(b"x", text)), fits);
    assert!(!fits || glob::matches(&before(b"*", pattern), &before(b"xy", text)));
    assert_eq!(glob::matches(&before(b"**", pattern), text), glob::matches(&before(b"*", pattern), text));
}

/// Batches of the log, and outcomes from the leader.
fn ops(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(batch) = Batch::decode(bytes.clone()) {
        let mut out = BytesMut::new();
        batch.encode_into(&mut out);
        assert_eq!(Batch::decode(out.freeze()).as_ref(), Ok(&batch));
        assert_eq!(Batch::peek(&bytes), Ok((batch.origin, batch.sequence, UnixMs(batch.at.0))));
    }
    if let Ok(outcomes) = codec::decode_outcomes(&mut bytes.clone()) {
        let mut out = BytesMut::new();
        codec::encode_outcomes(&outcomes, &mut out);
        assert_eq!(codec::decode_outcomes(&mut out.freeze()), Ok(outcomes));
    }
}

/// The configuration file: what is taken is shown in a form that is taken again.
fn config_yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let loaded = match load::load_text(text) {
        Ok(loaded) => loaded,
        Err(error) => return assert!(!error.faults.is_empty() && !error.to_string().contains('\n')),
    };
    let shown = |config| KEYS.iter().map(|key| (key.name, key.show(config))).collect::<Vec<_>>();
    let before = shown(&loaded.config);
    let line = |(name, value): &(&str, String)| match value.as_str() {
        "" => String::new(),
        value => format!("{name}: {}\n", serde_json::Value::from(value)),
    };
    let again = load::load_text(&before.iter().map(line).collect::<String>());
    let again = again.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(shown(&again.config), before);
}

/// Where the inputs of a target are kept in the repository.
#[must_use]
pub fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(name)
}

#[cfg(test)]
mod tests;
