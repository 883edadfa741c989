//! What COMMAND tells of every command that both know: number of words, ACL categories, places and use of keys. ACL rules
//! are made of these, so they must not differ.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::reference::Redis;
use kvnode_tests::resp::Value;
use kvnode_tests::scenario::scenario;

/// Commands whose number of words differs on purpose: KEYS has the ancestor's options, GETKEYS takes commands without
/// arguments too.
const OTHER_ARITY: [&str; 2] = ["keys", "command|getkeys"];

/// Commands that are another thing here: there is nothing that SORT could store, so it reads, and works on no list or set.
const OTHER_THING: [&str; 2] = ["sort", "sort_ro"];

type Facts = BTreeMap<String, Vec<(&'static str, String)>>;

fn sorted(value: &Value) -> String {
    let mut items: Vec<String> = value.items().iter().map(|item| format!("{item:?}")).collect();
    items.sort();
    items.join(" ")
}

/// Flags, begin and end of each key specification; notes are prose.
fn key_specs(value: &Value) -> String {
    let one = |spec: &&Value| {
        let items = spec.items();
        let field =
            |name: &str| items.chunks(2).find(|pair| pair[0].as_text() == Some(name)).map(|pair| pair[1]);
        let flags = field("flags").map(sorted);
        format!("{flags:?} {:?} {:?}", field("begin_search"), field("find_keys"))
    };
    value.items().iter().map(one).collect::<Vec<_>>().join("; ")
}

fn gather(list: &Value, facts: &mut Facts) -> Result<()> {
    for command in list.items() {
        let parts = command.items();
        let name = parts.first().and_then(|name| name.as_text()).context("a command has a name")?.to_owned();
        let part = |at: usize| parts.get(at).copied().with_context(|| format!("{name} has ten elements"));
        let arity =
            if OTHER_ARITY.contains(&name.as_str()) { String::new() } else { format!("{:?}", part(1)?) };
        let range = format!("{:?} {:?} {:?}", part(3)?, part(4)?, part(5)?);
        let told = vec![
            ("arity", arity),
            ("range of keys", range),
            ("categories", sorted(part(6)?)),
            ("key specifications", key_specs(part(8)?)),
        ];
        gather(part(9)?, facts)?;
        facts.insert(name, told);
    }
    Ok(())
}

async fn facts(addr: &str) -> Result<Facts> {
    let mut client = Client::connect(addr).await?;
    let mut facts = Facts::new();
    gather(&client.run("COMMAND").await?, &mut facts)?;
    Ok(facts)
}

#[test]
fn both_tell_the_same_of_the_commands_that_both_have() {
    scenario(1, &[], async |cluster| {
        let Some(redis) = Redis::start(&[]).await? else { return Ok(()) };
        let (ours, theirs) = (facts(cluster.nodes[0].addr()).await?, facts(&redis.addr).await?);
        let mut wrong = Vec::new();
        let mut common = 0;
        for (name, mine) in &ours {
            let Some(reference) = theirs.get(name).filter(|_| !OTHER_THING.contains(&name.as_str())) else {
                continue;
            };
            common += 1;
            for ((what, mine), (_, reference)) in mine.iter().zip(reference) {
                if mine != reference {
                    wrong.push(format!("{name}: {what}\n  redis {reference}\n  ours  {mine}"));
                }
            }
        }
        ensure!(common > 100, "only {common} commands in common");
        ensure!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
        Ok(())
    });
}
