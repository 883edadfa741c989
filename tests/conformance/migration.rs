//! Values on their way between a real redis-server and ours by DUMP and RESTORE, as migration tools carry them.

use anyhow::{Context, Result, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::reference::Redis;
use kvnode_tests::resp::Value;
use kvnode_tests::scenario::scenario;

/// Values of every form that a string has in a payload: numbers, lengths at their bounds, compressible and not.
fn values() -> Vec<Vec<u8>> {
    let mut values: Vec<Vec<u8>> =
        [0, -1, 127, 128, -129, 32_767, 32_768, -2_147_483_648, 2_147_483_648, i64::MIN, i64::MAX]
            .iter()
            .map(|number: &i64| number.to_string().into_bytes())
            .collect();
    for length in [0, 1, 11, 12, 20, 21, 63, 64, 16_383, 16_384, 100_000] {
        values.push(vec![b'x'; length]);
        // No two bytes in a row repeat for long, so that it does not compress.
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        values.push((0..length).map(|_| next()).collect());
        values.push(b"a phrase that comes again and again, ".iter().copied().cycle().take(length).collect());
    }
    values
}

/// Carries a key from one server to another, with its deadline.
async fn carry(from: &mut Client, to: &mut Client, key: &str) -> Result<()> {
    let Value::Bulk(payload) = from.run(&format!("DUMP {key}")).await? else {
        anyhow::bail!("no payload of {key}")
    };
    let deadline = from.int(&format!("PEXPIRETIME {key}")).await?.max(0).to_string();
    let words = [&b"RESTORE"[..], key.as_bytes(), deadline.as_bytes(), &payload, b"ABSTTL"];
    let reply = to.call(&words).await?;
    ensure!(reply == Value::Simple("OK".to_owned()), "{key}: {reply:?}");
    Ok(())
}

#[test]
fn values_and_deadlines_come_through_in_both_directions() {
    scenario(3, &[], async |cluster| {
        let Some(redis) = Redis::start(&[]).await? else { return Ok(()) };
        let follower = cluster.followers().await?[0];
        let mut ours = cluster.nodes[follower].client().await?;
        let mut theirs = Client::connect(&redis.addr).await?;
        for (at, value) in values().into_iter().enumerate() {
            let key = format!("k{at}");
            theirs.call(&[&b"SET"[..], key.as_bytes(), &value]).await?;
            if at % 2 == 1 {
                theirs.int(&format!("PEXPIREAT {key} 4102444800{at:03}")).await?;
            }
            carry(&mut theirs, &mut ours, &key).await.context("from redis to ours")?;
            ensure!(ours.run(&format!("GET {key}")).await? == Value::Bulk(value.clone()), "{key}");
            theirs.int(&format!("DEL {key}")).await?;
            carry(&mut ours, &mut theirs, &key).await.context("from ours to redis")?;
            ensure!(theirs.run(&format!("GET {key}")).await? == Value::Bulk(value), "{key}");
            let ask = format!("PEXPIRETIME {key}");
            let (one, two) = (ours.int(&ask).await?, theirs.int(&ask).await?);
            ensure!(one == two, "{key}: deadline {one} here, {two} there");
        }
        Ok(())
    });
}
