//! Replays the corpus, and mutations of it: what a fuzzer found once stays found.

use std::fs;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

/// Mutations of each input.
const MUTATIONS: usize = 200;

fn inputs(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = corpus(name);
    let files = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// One small change.
fn mutate(input: &mut Vec<u8>, random: &mut SmallRng) {
    let at = random.random_range(0..=input.len());
    match random.random_range(0..5) {
        0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
        1 => input.insert(at, random.random()),
        2 if at < input.len() => {
            input.remove(at);
        }
        3 => input.truncate(at),
        _ => {
            let tail = input[at..].to_vec();
            input.extend_from_slice(&tail[..tail.len().min(64)]);
        }
    }
}

#[test]
fn every_target_takes_its_corpus_and_what_is_near_it() {
    for target in TARGETS {
        let inputs = inputs(target.name);
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        for (path, input) in inputs {
            let taken = std::panic::catch_unwind(|| {
                (target.run)(&input);
                // The same mutations each time: a failure here is one of the code, and stays.
                let mut random = SmallRng::seed_from_u64(input.len() as u64);
                for _ in 0..MUTATIONS {
                    let mut near = input.clone();
                    (0..random.random_range(1..4)).for_each(|_| mutate(&mut near, &mut random));
                    (target.run)(&near);
                }
            });
            assert!(taken.is_ok(), "{} does not take {}", target.name, path.display());
        }
    }
}

#[test]
fn every_directory_of_the_corpus_has_its_target() {
    for entry in fs::read_dir(corpus("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(find(&name).is_some(), "corpus/{name} is of no target");
    }
}

/// Writes seeds made of what stands elsewhere in the repository; they are kept where they are missing.
#[test]
fn seeds_are_in_the_corpus() {
    for (name, file, bytes) in seeds() {
        let path = corpus(name).join(file);
        if std::env::var_os("KVNODE_FUZZ_SEEDS").is_some() {
            fs::create_dir_all(corpus(name)).unwrap();
            fs::write(&path, bytes).unwrap();
        } else {
            assert!(
                path.exists(),
                "{} is missing: KVNODE_FUZZ_SEEDS=1 cargo test fuzz:: writes it",
                path.display()
            );
        }
    }
}

fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let resp = |words: &[&str]| {
        let head = format!("*{}\r\n", words.len());
        words.iter().fold(head, |text, word| text + &format!("${}\r\n{word}\r\n", word.len()))
    };
    let commands = [
        &["SET", "app:1", "v", "PX", "100", "GET"][..],
        &["BITFIELD", "k", "OVERFLOW", "SAT", "SET", "u8", "#3", "5", "INCRBY", "i5", "0", "1"],
        &["MSET", "a", "1", "b", "2"],
        &["SCAN", "0", "MATCH", "a*", "COUNT", "10", "TYPE", "string"],
        &["HELLO", "3", "AUTH", "u", "p", "SETNAME", "n"],
        &["LCS", "a", "b", "IDX", "MINMATCHLEN", "4", "WITHMATCHLEN"],
        &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no"],
        &["PDEL", "a*[b-c]?\\d"],
        &["COPY", "a", "b", "DB", "1", "REPLACE"],
        &["SETRANGE", "k", "10", "xyz"],
        &["EVAL", "return 1", "1", "k", "a"],
        &["ACL", "DRYRUN", "u", "GET", "a"],
    ];
    let all: String = commands.iter().map(|words| resp(words)).collect();
    let mut batch = vec![1];
    batch.extend([1_u64, 2, 3].iter().flat_map(|word| word.to_le_bytes()));
    batch.extend(b"\x03\x01\x00\x01k\x01v\x06\x00\x02a*\x08");
    let config = include_str!("../../config.example.yaml").replace("# ", "");
    let mut seeds = vec![
        ("request", "pipeline", [b"\x03".to_vec(), all.clone().into_bytes()].concat()),
        ("request", "inline", b"\x00SET \"a \\x00b\" 'c d'\r\n\r\n*0\r\nPING\n".to_vec()),
        ("request", "stranger", b"\x82*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n*11\r\n".to_vec()),
        ("apply", "all", all.clone().into_bytes()),
        ("command", "all", all.into_bytes()),
        ("acl_rules", "users", b"user default off\nuser a on >p #5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8 ~a* %R~b resetchannels &c* -@all +@read +client|id -get (+set %W~z*)\n# c\n".to_vec()),
        ("glob", "classes", b"\x0ca*[^b-d]?\\*exabcx*e".to_vec()),
        ("ops", "batch", batch),
        ("ops", "outcomes", b"\x05\x01\x02\x07\x00\x00\x00\x00\x00\x00\x00\x04\x05\x01v\x07\x01\x01".to_vec()),
        ("config_yaml", "example", config.into_bytes()),
        ("config_yaml", "few", b"addr: 127.0.0.1:0\nlog_filter: info,a=debug\njoin: [a:1, b:2]\nformation: wait\nauth_timeout: 1500ms\nmemtable_bytes: 64MiB\n".to_vec()),
    ];
    seeds.extend(crate::snapshot::fuzz::seeds());
    seeds.extend(crate::raft::fuzz::seeds());
    seeds
}
