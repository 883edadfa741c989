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
