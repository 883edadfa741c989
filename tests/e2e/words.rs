//! The main job on real input: the English word list through three nodes, from loading to restore. Also the README's
//! walk-through.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use kvnode_tests::cluster::Cluster;
use kvnode_tests::node::Node;
use kvnode_tests::scenario::scenario;
use kvnode_tests::tool;
use kvnode_tests::words::{as_commands, words};

async fn load(cluster: &Cluster, node: usize, words: &[String]) -> Result<()> {
    let redis_cli = tool::find("redis-cli").context("redis-cli")?;
    let (host, port) = cluster.nodes[node].addr().rsplit_once(':').context("an address")?;
    let file = cluster.path().join("words.resp");
    fs::write(&file, as_commands(words))?;
    let mut command = std::process::Command::new(redis_cli);
    command.args(["-h", host, "-p", port, "--pipe"]).stdin(fs::File::open(&file)?);
    let printed = tokio::task::spawn_blocking(move || tool::run(&mut command)).await??;
    ensure!(printed.contains(&format!("errors: 0, replies: {}", words.len())), "{printed}");
    Ok(())
}

async fn page_through(cluster: &mut Cluster, expected: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<()> {
    let mut client = cluster.nodes[1].client().await?;
    let mut visited: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut command: Vec<&[u8]> = vec![b"KEYS", b"*", b"LIMIT", b"1000"];
        if let Some(last) = visited.last() {
            command.extend([&b"PIVOT"[..], last]);
        }
        let reply = client.call(&command).await?;
        let page: Vec<Vec<u8>> =
            reply.items().iter().filter_map(|key| key.as_bytes()).map(<[u8]>::to_vec).collect();
        if page.is_empty() {
            break;
        }
        visited.extend(page);
    }
    ensure!(visited.iter().eq(expected.keys()), "{} words visited of {}", visited.len(), expected.len());
    Ok(())
}

#[test]
fn the_word_list_survives_everything() {
    if tool::need("redis-cli").is_none() {
        return;
    }
    let Some(words) = words().expect("the word list can be read") else { return };
    scenario(3, &[], async |cluster| {
        let mut expected: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for (index, word) in words.iter().enumerate() {
            expected.insert(word.clone().into_bytes(), (index + 1).to_string().into_bytes());
        }
        load(cluster, 0, &words).await?;
        page_through(cluster, &expected).await?;

        let gone = expected.keys().filter(|word| word.starts_with(b"un")).count();
        let deleted = cluster.nodes[2].client().await?.int("PDEL un*").await?;
        ensure!(usize::try_from(deleted)? == gone && gone > 1000, "PDEL un* deleted {deleted} of {gone}");
        expected.retain(|word, _| !word.starts_with(b"un"));

        cluster.nodes[1].client().await?.ok("RAFTSNAPSHOT").await?;

        let leader = cluster.leader().await?;
        cluster.nodes[leader].kill()?;
        let survivor = cluster.leader().await?;
        let join = cluster.nodes[survivor].addr().to_owned();
        cluster.nodes[leader].wipe()?;
        cluster.nodes[leader].flags = vec!["--join".into(), join];
        cluster.nodes[leader].start().await?;
        cluster.await_voters(3).await?;
        ensure!(cluster.same_content().await? == expected, "the content differs after the replacement");

        if leader == 1 {
            // Its snapshot went with its directory.
            cluster.nodes[1].client().await?.ok("RAFTSNAPSHOT").await?;
        }
        let newest = fs::read_dir(cluster.nodes[1].data.join("snapshots"))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .max()
            .context("no snapshot")?;
        let state = newest.join("state.bin").display().to_string();
        let mut fresh = Cluster::empty(&[])?;
        fresh.nodes.push(Node::new(fresh.path(), "node1", &["--restore".into(), state]));
        fresh.nodes[0].start().await?;
        fresh.grow(3).await?;
        ensure!(fresh.same_content().await? == expected, "the restored content differs");
        Ok(())
    });
}
