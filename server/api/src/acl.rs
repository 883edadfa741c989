//! What the operator must know of ACL rules before it writes them into a file that a node takes whole or not at all.

/// Categories that a rule may name beside `all`, which stands for every command: those of Redis, also such as no command
/// of the server is in. Source: <https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/>.
pub const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];
