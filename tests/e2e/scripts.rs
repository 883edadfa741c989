//! Scripts on any node: locks and limiters hold although clients of all nodes run them at once.

use anyhow::ensure;
use kvnode_tests::scenario::scenario;

const LIMIT: &str = "local c = redis.call('incr', KEYS[1]) if c > tonumber(ARGV[1]) then redis.call('decr', KEYS[1]) \
                     return 0 end redis.call('set', KEYS[2], c) return c";

/// A limiter lets exactly as many through as it may, and what one script writes is seen together.
#[test]
fn a_limit_holds_on_all_nodes_together() {
    const CLIENTS: usize = 6;
    scenario(3, &[], async |cluster| {
        let mut tasks = tokio::task::JoinSet::new();
        for at in 0..CLIENTS {
            let mut client = cluster.nodes[at % 3].client().await?;
            tasks.spawn(async move {
                let mut passed = 0;
                for _ in 0..20 {
                    let words = [&b"EVAL"[..], LIMIT.as_bytes(), b"2", b"count", b"copy", b"50"];
                    let reply = client.call(&words).await?;
                    let count = reply.as_int().ok_or_else(|| anyhow::anyhow!("{reply:?}"))?;
                    passed += i64::from(count > 0);
                    let both = client.run("MGET count copy").await?.texts();
                    ensure!(both[0] == both[1], "seen apart: {both:?}");
                }
                Ok(passed)
            });
        }
        let mut passed = 0;
        while let Some(result) = tasks.join_next().await {
            passed += result??;
        }
        ensure!(passed == 50, "{passed} passed a limit of 50");
        Ok(())
    });
}

/// A client behind a Service loads a script at one node and calls it at another.
#[test]
fn a_script_is_known_to_all_nodes_until_it_is_forgotten() {
    const SCRIPT: &[u8] = b"return redis.call('incr', KEYS[1])";
    scenario(3, &[], async |cluster| {
        let mut clients = Vec::new();
        for node in &cluster.nodes {
            clients.push(node.client().await?);
        }
        let loaded = clients[0].call(&[&b"SCRIPT"[..], b"LOAD", SCRIPT]).await?;
        let sha = loaded.as_text().unwrap_or_default();
        for client in &mut clients {
            ensure!(client.run(&format!("SCRIPT EXISTS {sha}")).await?.items()[0].as_int() == Some(1));
        }
        let count = clients[2].run(&format!("EVALSHA {sha} 1 count")).await?;
        ensure!(count.as_int() == Some(1), "{count:?}");
        clients[1].ok("SCRIPT FLUSH").await?;
        for client in &mut clients {
            let reply = client.run(&format!("EVALSHA {sha} 1 count")).await?;
            ensure!(reply.as_error().is_some_and(|text| text.starts_with("NOSCRIPT")), "{reply:?}");
        }
        // One that a node has only run is asked for where it is not known, also inside of MULTI.
        clients[0].call(&[&b"EVAL"[..], SCRIPT, b"1", b"count"]).await?;
        clients[1].ok("MULTI").await?;
        clients[1].run(&format!("EVALSHA {sha} 1 count")).await?;
        let replies = clients[1].run("EXEC").await?;
        ensure!(replies.items()[0].as_int() == Some(3), "{replies:?}");
        Ok(())
    });
}
