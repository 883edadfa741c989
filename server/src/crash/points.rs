//! The table of crash points, in the order of the data's way.
//!
//! The window of a row says what has just happened, and what has not. Its scenes are those of `tests/crash` that reach
//! it. The number is how many passings within a scene are worth telling apart: other files, other rows, the phases of
//! one change.

/// One place at which a process can be made to die.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// What `crash_point!` and `KVNODE_CRASH_POINT` call it.
    pub name: &'static str,
    /// What has just happened; what has not.
    pub window: &'static str,
    /// Scenes of `tests/crash` that reach it.
    pub scenes: &'static [&'static str],
    /// Passings within a scene that are worth telling apart.
    pub passings: u8,
}

/// Rows of name, passings, scenes and window.
macro_rules! points {
    ($($name:literal $passings:literal [$($scene:literal)+] $window:literal)+) => {
        /// All of them.
        pub const POINTS: &[Point] =
            &[$(Point { name: $name, passings: $passings, scenes: &[$($scene),+], window: $window }),+];
    };
}

points! {
    // raft/log: one batch
    "log-taken-not-written"              9 ["follower" "leader"]
        "entries are queued; none is in the file"
    "log-written-not-synced"             9 ["follower" "leader" "conflict"]
        "a batch is written; not synced"
    "log-synced-not-answered"            9 ["follower" "leader"]
        "a batch is synced; nobody knows of it"
    "vote-written-not-synced"            1 ["election" "campaign"]
        "a vote is written; not synced, not given"
    "vote-synced-not-answered"           1 ["election" "campaign"]
        "a vote is synced; Raft does not know of it"
    "vote-saved-not-sent"                1 ["election"]
        "a vote is saved; the candidate has not got it"
    "truncation-written-not-synced"      1 ["conflict"]
        "a truncation is written; not synced"
    "truncation-synced-not-answered"     1 ["conflict"]
        "a truncation is synced; no new entry follows it"

    // raft/log: segments
    "segment-made-not-named"             1 ["follower" "birth"]
        "a segment is synced; it has no name yet"
    "segment-named-not-synced"           1 ["follower" "birth"]
        "a segment has its name; the directory is not synced"
    "segment-made-not-sealed"            3 ["follower"]
        "a new segment is durable; the full one has no seal"
    "segment-sealed-not-synced"          3 ["follower"]
        "the full segment has its seal; not synced, the next not used"

    // raft/log: purge
    "state-durable-not-purged"           2 ["purge"]
        "the durable state is reported; the log behind it not purged"
    "purge-written-not-synced"           1 ["purge" "install"]
        "a purge point is written; not synced"
    "purge-synced-not-removed"           1 ["purge" "install"]
        "a purge point is synced; its segments are there still"
    "purge-file-removed"                 2 ["purge"]
        "one purged segment is removed; the next is not"

    // raft/log: its end and its next start
    "clean-mark-written-not-synced"      1 ["stop"]
        "the mark of an orderly end is written; not synced"
    "clean-mark-withdrawn-not-synced"    1 ["start"]
        "that mark is withdrawn at the next start; not synced"

    // raft/apply, store
    "committed-not-applied"              9 ["follower" "leader" "start"]
        "entries are committed; none is applied"
    "applied-not-answered"               9 ["follower" "leader" "start"]
        "entries are applied; no reply has left"
    "entry-half-written"                 2 ["clear"]
        "the first rows of an entry are in RocksDB; the entry has not ended"
    "clear-not-written"                  3 ["clear"]
        "a FLUSHDB is worked out; no range is deleted"
    "clear-written-not-published"        3 ["clear"]
        "its range is deleted in RocksDB; readers see the state before"
    "gathered-written-not-noted"         2 ["purge"]
        "what was gathered is in the memtables; still counted as gathered"
    "log-synced-state-not-flushed"       2 ["purge"]
        "the log is synced for a flush; the flush has not begun"
    "flush-begun"                        3 ["purge"]
        "memtables are switched, RocksDB writes tables; the flush has not ended"
    "flush-ended-not-noted"              2 ["purge"]
        "a flush is in the manifest; nobody has noticed"

    // Checkpoints: sent, received, installed
    "checkpoint-linked-not-listed"       1 ["sender"]
        "a checkpoint's files are linked; no list of them is made"
    "checkpoint-chunk-written"           4 ["install"]
        "a part of a file is received; not all of it is synced"
    "checkpoint-file-synced"             4 ["install"]
        "a file is received and proved; others are missing"
    "checkpoint-whole-not-set-aside"     1 ["install"]
        "all files are here; their directory is not synced"
    "checkpoint-set-aside-not-installed" 1 ["install"]
        "a whole checkpoint stands aside; Raft does not know of it"
    "install-moved-not-active"           1 ["install"]
        "a checkpoint is in the state's place; ACTIVE names the old one"
    "active-written-not-renamed"         1 ["install" "birth"]
        "a new ACTIVE is synced; it has not its name"
    "active-renamed-not-synced"          1 ["install" "birth"]
        "ACTIVE names the new state; the directory is not synced"
    "state-switched-not-used"            1 ["install" "restore"]
        "ACTIVE names the new state; readers have the old one"
    "installed-log-not-reset"            1 ["install"]
        "a checkpoint is the state; the log ends before it still"

    // Identity, life and other small files
    "file-written-not-renamed"           4 ["birth" "founder"]
        "a new identity.json, life.json or ready.json is synced; it has not its name"
    "file-renamed-not-synced"            4 ["birth" "founder"]
        "the file has its name; the directory is not synced"
    "formatted-not-started"              1 ["birth" "founder"]
        "a directory has an identity; nothing else"
    "founding-noted-not-begun"           1 ["founder"]
        "the identity names a new cluster; its log is empty"
    "founded-not-noted"                  1 ["founder"]
        "the first membership is in the log; the identity still says founding"
    "invited-not-answered"               1 ["birth"]
        "a newcomer's identity names its cluster; it is no member"
    "joined-not-promoted"                1 ["birth"]
        "a newcomer is a learner; it has no vote"

    // Membership
    "newcomer-invited-not-added"         1 ["members"]
        "a newcomer is invited; the membership is as it was"
    "membership-appended"                3 ["members"]
        "a membership is in the leader's queue; sent to nobody"
    "membership-committed-not-answered"  2 ["members"]
        "a membership is committed; who asked has no answer"

    // A node that lost acknowledged entries
    "renewed-not-restarted"              1 ["doubt"]
        "a node has given itself a new id; it runs under the old one"
    "readmitted-not-noted"               1 ["doubt"]
        "its cluster has it back; the identity still asks for that"

    // Proposals
    "proposed-not-answered"              9 ["leader"]
        "a batch is in the Raft core of the leader; nothing waits for it yet"
    "forwarded-not-answered"             9 ["follower"]
        "a batch is on its way to the leader; nothing waits for it yet"
    "forward-committed-not-answered"     9 ["leader"]
        "a forwarded batch is committed; the node it is of is not told"
    "outcome-known-not-replied"          9 ["follower" "leader"]
        "outcomes are known; no client has its reply"

    // Hand-over and orderly end
    "hand-over-held-not-told"            1 ["hand-over"]
        "proposals are held and the successor has all; it is not told"
    "hand-over-told"                     1 ["hand-over"]
        "the successor was told to campaign; it does not lead"
    "stop-handed-over"                   1 ["stop"]
        "leadership is given away; clients are connected"
    "stop-drained"                       1 ["stop"]
        "clients are gone; the group runs"
    "stop-core-ended"                    1 ["stop"]
        "the Raft core has ended; the state is not flushed"
    "stop-flushed"                       1 ["stop"]
        "the state is flushed; the log is open"

    // RAFTSNAPSHOT
    "snapshot-row-written"               9 ["snapshot"]
        "state.bin is begun; rows are missing"
    "snapshot-state-written"             2 ["snapshot"]
        "state.bin is whole; there is no meta.json"
    "snapshot-meta-written"              2 ["snapshot"]
        "both files are whole; the directory has its .tmp still"
    "snapshot-renamed-not-synced"        2 ["snapshot"]
        "the snapshot has its name; the directory above is not synced"
    "snapshot-set-aside-not-removed"     1 ["snapshot"]
        "a surplus snapshot is .tmp again; its files are there"

    // --restore
    "wipe-directory-removed"             3 ["restore"]
        "one of three directories is removed; the rest is not made anew"
    "restore-row-loaded"                 9 ["restore"]
        "some rows are in tables; others are not read yet"
    "restore-table-taken"                3 ["restore"]
        "RocksDB has taken tables in; the records of meta are missing"
    "restore-loaded-not-counted"         1 ["restore"]
        "the state is the snapshot's; it was not read back"
    "restore-purged-not-marked"          1 ["restore"]
        "the log begins behind the snapshot; there is no restored.json"
    "restore-marked-not-adopted"         1 ["restore"]
        "restored.json is there; the identity names no cluster"
}
