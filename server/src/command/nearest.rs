//! What an unknown command may have been meant to be: the nearest of ours, or one of Redis that is not here.

use super::table::TABLE;

/// Longest name that is compared, in bytes.
const NAME_BYTES_MAX: usize = 24;

/// Commands of Redis that are known not to be here, by what they are about.
const ABSENT: [(&str, &str); 10] = [
    (
        "there are no lists",
        "BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH LINDEX LINSERT LLEN LMOVE LMPOP LPOP LPOS LPUSH LPUSHX LRANGE LREM LSET \
         LTRIM RPOP RPOPLPUSH RPUSH RPUSHX",
    ),
    (
        "there are no hashes",
        "HDEL HEXISTS HEXPIRE HGET HGETALL HGETDEL HGETEX HINCRBY HINCRBYFLOAT HKEYS HLEN HMGET HMSET HPERSIST HPEXPIRE \
         HPTTL HRANDFIELD HSCAN HSET HSETEX HSETNX HSTRLEN HTTL HVALS",
    ),
    (
        "there are no sets",
        "SADD SCARD SDIFF SDIFFSTORE SINTER SINTERCARD SINTERSTORE SISMEMBER SMEMBERS SMISMEMBER SMOVE SPOP SRANDMEMBER \
         SREM SSCAN SUNION SUNIONSTORE",
    ),
    (
        "there are no sorted sets",
        "BZMPOP BZPOPMAX BZPOPMIN ZADD ZCARD ZCOUNT ZDIFF ZDIFFSTORE ZINCRBY ZINTER ZINTERCARD ZINTERSTORE ZLEXCOUNT \
         ZMPOP ZMSCORE ZPOPMAX ZPOPMIN ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANGESTORE ZRANK ZREM \
         ZREMRANGEBYLEX ZREMRANGEBYRANK ZREMRANGEBYSCORE ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN \
         ZSCORE ZUNION ZUNIONSTORE",
    ),
    (
        "there are no streams",
        "XACK XADD XAUTOCLAIM XCLAIM XDEL XGROUP XINFO XLEN XPENDING XRANGE XREAD XREADGROUP XREVRANGE XSETID XTRIM",
    ),
    (
        "there are no geo sets",
        "GEOADD GEODIST GEOHASH GEOPOS GEORADIUS GEORADIUSBYMEMBER GEOSEARCH GEOSEARCHSTORE",
    ),
    ("there are no HyperLogLogs", "PFADD PFCOUNT PFDEBUG PFMERGE PFSELFTEST"),
    ("there are no functions; EVAL runs scripts", "FCALL FCALL_RO FUNCTION"),
    (
        "nodes replicate by Raft: see RAFTADDPEER, RAFTTRANSFER and RAFTSNAPSHOT",
        "FAILOVER PSYNC REPLCONF REPLICAOF SLAVEOF SYNC",
    ),
    (
        "no node dials another server; values move by DUMP and RESTORE, all of them by a snapshot",
        "MIGRATE RESTORE-ASKING",
    ),
];

/// What is told behind an unknown name, with what separates it; empty if there is nothing to tell.
#[must_use]
pub fn hint(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    let absent = ABSENT.iter().find(|(_, names)| names.split(' ').any(|known| known == name));
    match (absent, nearest(&name)) {
        (Some((why, _)), _) => format!(": {why}"),
        (None, Some(near)) => format!(", did you mean '{near}'?"),
        (None, None) => String::new(),
    }
}

/// The command that differs least from an upper-case name: by one slip, in long names by two; of equally near ones the
/// first by name.
fn nearest(name: &str) -> Option<&'static str> {
    if name.len() < 2 || name.len() > NAME_BYTES_MAX {
        return None;
    }
    let slips_max = if name.len() < 7 { 1 } else { 2 };
    let near = |known: &&'static str| known.len().abs_diff(name.len()) <= slips_max;
    let counted = TABLE.iter().map(|spec| spec.name).filter(near).map(|known| (slips(name, known), known));
    let best = counted.min_by_key(|(slips, _)| *slips)?;
    Some(best.1).filter(|_| best.0 <= slips_max)
}

/// Letters left out, added, replaced, or exchanged with their neighbour, that turn one name into the other.
fn slips(from: &str, to: &str) -> usize {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    // Three rows of the table of distances between prefixes: two letters back, one back, this one.
    let mut back = vec![0; to.len() + 1];
    let mut last: Vec<usize> = (0..=to.len()).collect();
    let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX / 2);
    for (i, letter) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, wanted) in to.iter().enumerate() {
            let replaced = at(&last, j) + usize::from(letter != wanted);
            let mut best = replaced.min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            let exchanged =
                i > 0 && j > 0 && from.get(i - 1) == Some(wanted) && to.get(j - 1) == Some(letter);
            if exchanged {
                best = best.min(at(&back, j - 1) + 1);
            }
            row.push(best);
        }
        back = std::mem::replace(&mut last, row);
    }
    at(&last, to.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_keyboard_names_what_was_meant() {
        for (typed, meant) in [
            ("GTE", "GET"),
            ("gett", "GET"),
            ("st", "SET"),
            ("EXPRIE", "EXPIRE"),
            ("SUBSRCIB", "SUBSCRIBE"),
            ("raftleder", "RAFTLEADER"),
        ] {
            assert_eq!(hint(typed), format!(", did you mean '{meant}'?"), "{typed}");
        }
        for typed in ["", "x", "NOSUCH", "foo", "TRUNCATE", &"GET".repeat(40)] {
            assert_eq!(hint(typed), "", "{typed}");
        }
    }

    #[test]
    fn a_command_of_redis_that_is_not_here_is_told_so() {
        assert_eq!(hint("lpush"), ": there are no lists");
        assert_eq!(hint("Hset"), ": there are no hashes");
    }

    #[test]
    fn nothing_that_is_here_is_called_absent() {
        for spec in TABLE {
            assert!(
                !ABSENT.iter().any(|(_, names)| names.split(' ').any(|name| name == spec.name)),
                "{}",
                spec.name
            );
        }
    }

    #[test]
    fn slips_are_counted() {
        for (one, other, count) in
            [("", "", 0), ("A", "", 1), ("ABC", "ACB", 1), ("ABC", "ABD", 1), ("KITTEN", "SITTING", 3)]
        {
            assert_eq!((slips(one, other), slips(other, one)), (count, count), "{one} {other}");
        }
    }
}
