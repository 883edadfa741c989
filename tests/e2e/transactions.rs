//! MULTI, EXEC and WATCH across nodes: all at once, and only if what was watched is as it was.

use anyhow::ensure;
use kvnode_tests::resp::Value;
use kvnode_tests::scenario::scenario;

#[test]
fn a_watched_key_that_changed_on_another_node_stops_exec() {
    scenario(3, &[], async |cluster| {
        let (mut one, mut two) = (cluster.nodes[0].client().await?, cluster.nodes[1].client().await?);
        one.ok("SET balance 10").await?;
        one.ok("WATCH balance missing").await?;
        two.ok("SET balance 5").await?;
        one.ok("MULTI").await?;
        one.run("SET balance 11").await?;
        ensure!(one.run("EXEC").await? == Value::Nil, "EXEC must not run");
        ensure!(two.text("GET balance").await?.as_deref() == Some("5"));
        one.ok("WATCH balance").await?;
        one.ok("MULTI").await?;
        one.run("INCRBY balance 1").await?;
        ensure!(one.run("EXEC").await?.items().len() == 1);
        ensure!(two.text("GET balance").await?.as_deref() == Some("6"));
        Ok(())
    });
}

/// Two counters that always move together are never seen apart, and no increment is lost or doubled.
#[test]
fn concurrent_transactions_are_all_or_nothing() {
    const CLIENTS: usize = 6;
    const ROUNDS: i64 = 50;
    scenario(3, &[], async |cluster| {
        let mut tasks = tokio::task::JoinSet::new();
        for at in 0..CLIENTS {
            let mut client = cluster.nodes[at % 3].client().await?;
            tasks.spawn(async move {
                let mut done = 0;
                while done < ROUNDS {
                    client.ok("WATCH a").await?;
                    let next =
                        client.text("GET a").await?.unwrap_or_default().parse::<i64>().unwrap_or(0) + 1;
                    client.ok("MULTI").await?;
                    client.run(&format!("SET a {next}")).await?;
                    client.run(&format!("SET b {next}")).await?;
                    let reply = client.run("EXEC").await?;
                    done += i64::from(reply != Value::Nil);
                    let both = client.run("MGET a b").await?.texts();
                    ensure!(both[0] == both[1], "seen apart: {both:?}");
                }
                anyhow::Ok(())
            });
        }
        while let Some(result) = tasks.join_next().await {
            result??;
        }
        let mut client = cluster.nodes[0].client().await?;
        let total = ROUNDS * i64::try_from(CLIENTS)?;
        ensure!(client.text("GET a").await? == Some(total.to_string()), "lost updates");
        Ok(())
    });
}

/// Scripts in transactions of all nodes at once: what they rehearse is what happens, once each.
#[test]
fn scripts_in_transactions_lose_nothing() {
    const CLIENTS: usize = 6;
    const ROUNDS: i64 = 20;
    const MOVE: &str = "local n = redis.call('incr', KEYS[1]) redis.call('set', KEYS[2], n) return n";
    scenario(3, &[], async |cluster| {
        let mut tasks = tokio::task::JoinSet::new();
        for at in 0..CLIENTS {
            let mut client = cluster.nodes[at % 3].client().await?;
            tasks.spawn(async move {
                for _ in 0..ROUNDS {
                    client.ok("MULTI").await?;
                    client.call(&[&b"EVAL"[..], MOVE.as_bytes(), b"2", b"n", b"copy"]).await?;
                    client.run("INCR direct").await?;
                    client.run("GET copy").await?;
                    let reply = client.run("EXEC").await?;
                    let items = reply.items();
                    let numbers: Vec<i64> = items.iter().take(2).filter_map(|item| item.as_int()).collect();
                    ensure!(items.len() == 3 && numbers.len() == 2, "{reply:?}");
                    ensure!(numbers[0] == numbers[1], "seen apart: {reply:?}");
                    ensure!(items[2].as_text() == Some(numbers[0].to_string().as_str()), "{reply:?}");
                }
                anyhow::Ok(())
            });
        }
        while let Some(result) = tasks.join_next().await {
            result??;
        }
        let mut client = cluster.nodes[0].client().await?;
        let total = (ROUNDS * i64::try_from(CLIENTS)?).to_string();
        let all = client.run("MGET n copy direct").await?.texts();
        ensure!(all == [total.clone(), total.clone(), total], "lost or doubled: {all:?}");
        Ok(())
    });
}
