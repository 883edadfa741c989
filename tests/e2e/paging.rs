//! KEYS with PIVOT, LIMIT, DESC, WITHVALUES and SCAN visit what they promise.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::scenario::scenario;

const COUNT: usize = 1200;

async fn fill(client: &mut Client) -> Result<Vec<String>> {
    let keys: Vec<String> = (0..COUNT).map(|n| format!("key:{n:05}")).collect();
    let sets: Vec<Vec<&str>> = keys.iter().map(|key| vec!["SET", key, "v"]).collect();
    for reply in client.pipeline(&sets).await? {
        ensure!(reply.is_ok(), "{reply:?}");
    }
    Ok(keys)
}

#[test]
fn pivot_pages_visit_each_key_once_in_both_directions() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.leader_client().await?;
        let mut expected = fill(&mut client).await?;
        for direction in ["", " DESC"] {
            let mut visited = Vec::new();
            loop {
                let pivot = visited.last().map(|last| format!(" PIVOT {last}")).unwrap_or_default();
                let page = client.run(&format!("KEYS *{pivot} LIMIT 100{direction}")).await?.texts();
                if page.is_empty() {
                    break;
                }
                ensure!(page.len() <= 100);
                visited.extend(page);
            }
            ensure!(visited == expected, "{} visited{direction}", visited.len());
            expected.reverse();
        }
        Ok(())
    });
}

#[test]
fn keys_options_follow_the_ancestor_and_plain_keys_redis() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.leader_client().await?;
        fill(&mut client).await?;
        ensure!(client.run("KEYS *").await?.items().len() == COUNT, "a plain KEYS returns every key");
        ensure!(
            client.run("KEYS key:0000? LIMIT 3").await?.texts() == ["key:00000", "key:00001", "key:00002"]
        );
        ensure!(client.run("KEYS * DESC").await?.items().len() == 500, "the paging tool's default limit");
        ensure!(client.run("KEYS * LIMIT 0").await?.items().is_empty());
        let pairs = client.run("keys * withvalues limit 2 desc pivot key:00002").await?.texts();
        ensure!(pairs == ["key:00001", "v", "key:00000", "v"], "{pairs:?}");
        ensure!(
            client.run("KEYS key:00003").await?.texts() == ["key:00003"],
            "a pattern without wildcard matches"
        );
        client.ok("SET key v").await?;
        ensure!(
            client.run("KEYS key* PIVOT a LIMIT 1").await?.texts() == ["key"],
            "a pivot below the range loses nothing"
        );
        for bad in ["KEYS * LIMIT -1", "KEYS * LIMIT 1.5", "KEYS * NOSUCH", "KEYS * LIMIT", "KEYS * PIVOT"] {
            let reply = client.run(bad).await?;
            ensure!(reply.as_error() == Some("ERR syntax error"), "{bad}: {reply:?}");
        }
        Ok(())
    });
}

#[test]
fn scan_visits_every_key_also_while_others_come_and_go() {
    scenario(3, &[], async |cluster| {
        let mut client = cluster.leader_client().await?;
        let expected: BTreeSet<String> = fill(&mut client).await?.into_iter().collect();
        let mut visited = BTreeSet::new();
        let mut cursor = String::from("0");
        let mut page = 0;
        loop {
            // Each page from another node: a cursor is valid on any of them.
            let mut reader = cluster.nodes[page % 3].client().await?;
            let reply = reader.run(&format!("SCAN {cursor} MATCH key:* COUNT 50")).await?;
            let parts = reply.items();
            cursor = parts.first().and_then(|next| next.as_text()).context("a cursor")?.to_owned();
            visited.extend(parts.get(1).context("keys")?.texts());
            client.run(&format!("SET other:{page} x")).await?;
            client.run(&format!("DEL other:{}", page / 2)).await?;
            page += 1;
            if cursor == "0" {
                break;
            }
            ensure!(page < 1000, "the scan does not end");
        }
        ensure!(visited == expected, "{} of {} keys", visited.len(), expected.len());
        Ok(())
    });
}

#[test]
fn an_exponential_pattern_does_not_hold_anyone_up() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.leader_client().await?;
        let key = "a".repeat(5000);
        client.ok(&format!("SET {key} v")).await?;
        let pattern = format!("{}b", "*a".repeat(40));
        ensure!(client.run(&format!("KEYS {pattern}")).await?.items().is_empty());
        ensure!(client.int(&format!("PDEL {pattern}")).await? == 0);
        ensure!(client.int("DBSIZE").await? == 1);
        Ok(())
    });
}
