//! Runs `testscripts/*`: ops and queries above, outcomes and answers below.
//!
//! Each op is an entry of its own unless `entry` gathers those up to `apply`. Words are Latin-1: `"\xff"` is one byte.

use std::error::Error;
use std::fmt::Write as _;

use goldenscript::{ArgumentConsumer, Command, Context};

use super::*;

struct Runner {
    node: Option<Node>,
    gathered: Option<Vec<Op>>,
}

impl Runner {
    fn node(&mut self) -> &mut Node {
        self.node.as_mut().unwrap()
    }

    fn op(&mut self, at: u64, op: Op) -> String {
        if let Some(gathered) = &mut self.gathered {
            gathered.push(op);
            return String::new();
        }
        let outcomes = self.node().apply_at(at, vec![op]);
        format!("{outcomes:?}\n")
    }

    fn query(&mut self, query: &Query) -> Result<String, Box<dyn Error>> {
        Ok(render(&self.node().store.query(query)?))
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let db: u8 = number(&mut args, "db")?.unwrap_or(0);
        let at = number(&mut args, "at")?.unwrap_or(0);
        let output = match command.name.as_str() {
            "set" => {
                let deadline = number(&mut args, "deadline")?.map(UnixMs);
                let (key, value) = (word(&mut args)?, word(&mut args)?);
                self.op(at, Op::Set { db, key, value, deadline })
            }
            "mset" => {
                let words = words(&mut args);
                let pairs = words.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
                self.op(at, Op::MSet { db, pairs })
            }
            "del" => self.op(at, Op::Del { db, keys: words(&mut args) }),
            "delif" => {
                let part = word(&mut args)?;
                self.op(at, Op::DelIf { db, part, keys: words(&mut args) })
            }
            "pdel" => self.op(at, Op::PDel { db, pattern: word(&mut args)? }),
            "flushdb" => self.op(at, Op::FlushDb { db }),
            "flushall" => self.op(at, Op::FlushAll),
            "entry" => {
                self.gathered = Some(Vec::new());
                String::new()
            }
            "apply" => {
                let ops = self.gathered.take().ok_or("no entry is open")?;
                format!("{:?}\n", self.node().apply_at(at, ops))
            }
            "time" => self.op(at, Op::Del { db, keys: Vec::new() }),
            "reopen" => {
                self.node().applier.flush(true)?;
                self.node = self.node.take().map(Node::crash);
                String::new()
            }
            "crash" => {
                self.node = self.node.take().map(Node::crash);
                String::new()
            }
            "stats" => {
                let stats = self.node().store.stats(db);
                content(&self.node().store);
                format!("keys {} expires {} digest {:032x}\n", stats.keys, stats.expires, stats.digest)
            }
            name => {
                let query = read(name, db, &mut args)?;
                self.query(&query)?
            }
        };
        args.reject_next()?;
        Ok(output)
    }
}

fn read(name: &str, db: u8, args: &mut ArgumentConsumer) -> Result<Query, Box<dyn Error>> {
    Ok(match name {
        "get" => Query::Get { db, key: word(args)? },
        "mget" => {
            let size_bytes_max = number(args, "max")?.unwrap_or(u64::MAX);
            Query::MGet { db, keys: words(args), size_bytes_max }
        }
        "exists" => Query::Exists { db, keys: words(args) },
        "type" => Query::Type { db, key: word(args)? },
        "dbsize" => Query::DbSize { db },
        "scan" => Query::Scan {
            db,
            cursor: number(args, "cursor")?.unwrap_or(0),
            pattern: args.take_key("match").map(latin1),
            count: number(args, "count")?.unwrap_or(10),
            only: args.take_key("type").map(|_| TypeTag::String),
        },
        "randomkey" => Query::RandomKey { db, seed: number(args, "seed")?.unwrap_or(0) },
        "keys" => {
            let pivot = args.take_key("pivot").map(latin1);
            let inclusive = args.take_key("incl").is_some();
            Query::Keys {
                db,
                pivot: pivot.map(|key| Pivot { key, inclusive }),
                limit: number(args, "limit")?,
                descending: args.take_key("desc").is_some(),
                with_values: args.take_key("values").is_some(),
                size_bytes_max: number(args, "max")?.unwrap_or(u64::MAX),
                pattern: word(args)?,
            }
        }
        other => return Err(format!("unknown command {other}").into()),
    })
}

fn render(answer: &Answer) -> String {
    let text = |bytes: &Bytes| format!("\"{}\"", bytes.escape_ascii());
    let or_nil = |bytes: &Option<Bytes>| bytes.as_ref().map_or("nil".to_owned(), text);
    let mut out = String::new();
    match answer {
        Answer::Value(value) | Answer::Key(value) => writeln!(out, "{}", or_nil(value)).unwrap(),
        Answer::Values(values) => {
            writeln!(out, "{}", values.iter().map(or_nil).collect::<Vec<_>>().join(" ")).unwrap();
        }
        Answer::Keys(keys) if keys.is_empty() => writeln!(out, "none").unwrap(),
        Answer::Keys(keys) => {
            for (key, value) in keys {
                let value = value.as_ref().map_or(String::new(), |value| format!(" = {}", text(value)));
                writeln!(out, "{}{value}", text(key)).unwrap();
            }
        }
        Answer::Scan { cursor, keys } => {
            writeln!(out, "{cursor}: {}", keys.iter().map(text).collect::<Vec<_>>().join(" ")).unwrap();
        }
        other => writeln!(out, "{other:?}").unwrap(),
    }
    out
}

fn latin1(text: &str) -> Bytes {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte")).collect()
}

fn word(args: &mut ArgumentConsumer) -> Result<Bytes, Box<dyn Error>> {
    Ok(latin1(args.next_pos().ok_or("an argument is missing")?))
}

fn words(args: &mut ArgumentConsumer) -> Vec<Bytes> {
    std::iter::from_fn(|| args.next_pos().map(latin1)).collect()
}

fn number<T: std::str::FromStr>(
    args: &mut ArgumentConsumer,
    name: &str,
) -> Result<Option<T>, Box<dyn Error>> {
    let parse = |text: &str| text.parse().map_err(|_| format!("{name}={text} is not a number").into());
    args.take_key(name).map(parse).transpose()
}

fn run(name: &str) {
    let path = format!("src/store/testscripts/{name}");
    goldenscript::run(&mut Runner { node: Some(Node::new()), gathered: None }, path).unwrap();
}

#[test]
fn writes() {
    run("writes");
}

#[test]
fn keys() {
    run("keys");
}

#[test]
fn pdel_and_flush() {
    run("pdel_and_flush");
}

#[test]
fn deadlines() {
    run("deadlines");
}

#[test]
fn scans() {
    run("scans");
}
