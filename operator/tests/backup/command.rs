//! The program itself, by hand, without Kubernetes.

use std::process::{Command, Output, Stdio};

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use anyhow::{Context as _, Result, ensure};
use kvnode_operator::backup::cleanup::remove;
use kvnode_operator::backup::layout::Name;
use kvnode_operator::backup::meta::sha256;
use kvnode_operator::backup::retention::Policy;
use kvnode_operator::backup::run::Order;
use kvnode_operator::s3::Settings;
use kvnode_tests::cluster::Cluster;
use kvnode_tests::proxy::{Deed, Proxy};

use crate::bed::{Bed, settings, text};

fn operator(bed: &Bed, verb: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvnode-operator"));
    command
        .arg(verb)
        .args([
            "--bucket",
            "backups",
            "--prefix",
            "prod/kv",
            "--path-style",
            "--endpoint",
            &bed.s3.endpoint(),
        ])
        .arg("--credentials-dir")
        .arg(&bed.s3.credentials)
        .args(arguments)
        .stdin(Stdio::null());
    Ok(command.output()?)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_list_verify_preview_and_restore_by_hand() -> Result<()> {
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 40, 500).await?;
    let node = bed.nodes().join(",");
    let report = bed.scratch("report.json");
    let file = report.display().to_string();
    let made = operator(
        &bed,
        "backup",
        &["--cluster", "cart", "--node", &node, "--run", "first", "--report-file", &file],
    )?;
    ensure!(made.status.success(), "{}", said(&made));
    let printed: serde_json::Value = serde_json::from_slice(&made.stdout)?;
    ensure!(printed["verified"] == "Content" && printed["keys"] == 40, "{printed}");
    let told: serde_json::Value = serde_json::from_str(&text(&report))?;
    ensure!(told["report"] == printed, "{told}");

    let listed = said(&operator(&bed, "list", &[])?);
    ensure!(listed.contains("first") && listed.contains("Content"), "{listed}");
    let verified = operator(&bed, "verify", &["--cluster", "cart"])?;
    ensure!(verified.status.success() && said(&verified).contains("good: 40 keys"), "{}", said(&verified));

    let preview = said(&operator(&bed, "restore", &["--cluster", "cart", "--preview"])?);
    ensure!(preview.contains("40 keys") && preview.contains("nothing after"), "{preview}");
    bed.fill("later", 3, 10).await?;
    let preview = said(&operator(&bed, "restore", &["--cluster", "cart", "--preview", "--node", &node])?);
    ensure!(preview.contains("entries since then are not in the backup"), "{preview}");
    let dir = bed.scratch("into").display().to_string();
    let restored = operator(&bed, "restore", &["--cluster", "cart", "--into", &dir])?;
    ensure!(restored.status.success(), "{}", said(&restored));
    // The other route: the commands that rebuild it.
    let state = format!("{dir}/state.bin");
    let commands =
        Command::new(kvnode_tests::binary::server()).args(["--parse-snapshot", &state]).output()?;
    ensure!(String::from_utf8_lossy(&commands.stdout).matches("SET").count() == 40, "{}", said(&commands));

    // What is wrong has a code and one line.
    let cases: [(&str, &[&str], i32, &str); 4] = [
        ("restore", &["--cluster", "nobody", "--into", &dir], 65, "no complete backup"),
        ("verify", &["--cluster", "nobody"], 78, "no complete backup"),
        ("backup", &["--cluster", "cart", "--node", "127.0.0.1:9"], 69, "no node of a cluster answers"),
        ("list", &["--refuse-local-endpoint"], 78, "refused"),
    ];
    for (verb, arguments, code, says) in cases {
        let output = operator(&bed, verb, arguments)?;
        ensure!(
            output.status.code() == Some(code) && said(&output).contains(says),
            "{verb}: {}",
            said(&output)
        );
        ensure!(String::from_utf8_lossy(&output.stderr).lines().count() == 1, "{}", said(&output));
    }
    Ok(())
}

/// The transcript that a person sees: each of the three faults ends as `VERIFIED=Failed`, and is never restored.
#[tokio::test(flavor = "multi_thread")]
async fn verification_bites_on_the_command_line() -> Result<()> {
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 30, 500).await?;
    bed.run(&bed.order("ours")).await?;
    let other = Cluster::start(1, &[]).await?;
    let nodes = vec![other.nodes[0].http().to_owned()];
    bed.run(&Order { nodes, cluster: "other".into(), ..bed.order("theirs") }).await?;
    let listing = bed.listing().await?;
    let of =
        |run: &str| listing.backups.iter().find(|backup| backup.meta.run == run).cloned().context("listed");
    let (ours, theirs) = (of("ours")?, of("theirs")?);
    let good = bed.store.get(&ours.object_key(), 10_000_000).await?;
    let foreign = bed.store.get(&theirs.object_key(), 10_000_000).await?;
    let mut changed = good.to_vec();
    changed[5000] ^= 1;
    // Their object, under a description that was made to fit its bytes.
    let mut forged = ours.meta.clone();
    forged.object.sha256 = sha256(&foreign);
    forged.object.size_bytes = foreign.len() as u64;
    (forged.snapshot.sha256, forged.snapshot.size_bytes) =
        (forged.object.sha256.clone(), forged.object.size_bytes);
    let mut counted = ours.meta.clone();
    counted.snapshot.keys[0] += 1;
    let meta_key = format!("{}meta.json", ours.place.dir);
    for (what, object, meta, says) in [
        ("a changed byte", changed.into(), ours.meta_bytes.clone(), "does not fit"),
        ("an object of another cluster", foreign, forged.write().into(), "of cluster"),
        ("a count off by one", good.clone(), counted.write().into(), "counts 30 keys"),
    ] {
        bed.store.put(&ours.object_key(), object).await?;
        bed.store.put(&meta_key, meta).await?;
        let verified = operator(&bed, "verify", &["--cluster", "cart"])?;
        let listed = said(&operator(&bed, "list", &["--cluster", "cart"])?);
        println!("# {what}\n$ kvnode-operator verify\n{}$ kvnode-operator list\n{listed}", said(&verified));
        ensure!(verified.status.code() == Some(65) && said(&verified).contains(says), "{}", said(&verified));
        ensure!(listed.lines().any(|row| row.starts_with("ours") && row.contains("Failed")), "{listed}");
        let dir = bed.scratch("never").display().to_string();
        let restored = operator(&bed, "restore", &["--cluster", "cart", "--into", &dir])?;
        ensure!(restored.status.code() == Some(65), "{what} was restored: {}", said(&restored));
    }
    bed.store.put(&ours.object_key(), good).await?;
    bed.store.put(&meta_key, ours.meta_bytes.clone()).await?;
    let verified = operator(&bed, "verify", &["--cluster", "cart"])?;
    ensure!(verified.status.success(), "it is good again: {}", said(&verified));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_takes_what_one_run_stored_and_nothing_else() -> Result<()> {
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 5, 100).await?;
    for run in ["keeps", "goes", "goes-not"] {
        bed.run(&bed.order(run)).await?;
    }
    let listing = bed.listing().await?;
    let of = |run: &str| listing.backups.iter().find(|backup| backup.meta.run == run).context("a backup");
    let (goes, keeps) = (of("goes")?, of("keeps")?);
    let dir = &goes.place.dir;
    let snaps = bed.layout.snaps("cart", &goes.place.cluster_id);
    // A file in its directory that is not ours, and what a cut run of the same name left.
    bed.store.put(&format!("{dir}notes.txt"), "mine").await?;
    let name = Name { index: 7, created_ms: 1_700_000_000_000, run: "goes".into() };
    let cut = bed.layout.dir("cart", &goes.place.cluster_id, &name);
    bed.store.put(&format!("{cut}state.bin"), "half").await?;
    // One of the same name in another cluster's place.
    let foreign = bed.layout.dir("cart", "00000000000000ff", &goes.place.name);
    bed.store.put(&format!("{foreign}meta.json"), keeps.meta_bytes.clone()).await?;
    let delete = |more: &[&str]| {
        let arguments = [&["--cluster", "cart", "--backup", "goes"][..], more].concat();
        operator(&bed, "delete", &arguments)
    };
    let unclear = delete(&[])?;
    ensure!(
        unclear.status.code() == Some(78) && said(&unclear).contains("--cluster-id"),
        "{}",
        said(&unclear)
    );
    let theirs = delete(&["--cluster-id", "00000000000000ff"])?;
    ensure!(
        theirs.status.code() == Some(65) && said(&theirs).contains("belongs elsewhere"),
        "{}",
        said(&theirs)
    );
    let done = delete(&["--cluster-id", &goes.place.cluster_id])?;
    ensure!(done.status.success() && said(&done).contains("1 backups were deleted"), "{}", said(&done));
    let left: Vec<String> = bed.store.list("").await?.into_iter().map(|found| found.key).collect();
    let others = |key: &&String| key.contains("-goes/") && !key.contains("00000000000000ff");
    ensure!(left.iter().filter(others).eq([&format!("{dir}notes.txt")]), "{left:?}");
    ensure!(
        left.iter().filter(|key| key.starts_with(&snaps)).count() == 7,
        "two backups and the note: {left:?}"
    );
    ensure!(left.contains(&format!("{foreign}meta.json")), "{left:?}");
    // Retention, or another try, was faster: that is no failure.
    let again = delete(&["--cluster-id", &goes.place.cluster_id])?;
    ensure!(again.status.success() && said(&again).contains("0 backups were deleted"), "{}", said(&again));
    Ok(())
}

/// A deletion that is cut off anywhere is brought to its end by the next one, and retention does not mind.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_goes_on_where_it_was_cut_off() -> Result<()> {
    let Some(mut bed) = Bed::start(1).await? else { return Ok(()) };
    bed.fill("k", 5, 100).await?;
    for allowed in 0..5 {
        let run = format!("r{allowed}");
        bed.run(&bed.order(&run)).await?;
        let done = AtomicUsize::new(0);
        let wall = Proxy::start(&bed.s3.addr, move |seen| {
            let writes = seen.method == "DELETE" || seen.method == "PUT";
            if writes && done.fetch_add(1, SeqCst) >= allowed {
                return Deed::Answer(403, "<Error><Code>AccessDenied</Code></Error>".into());
            }
            Deed::Pass
        })
        .await?;
        let hurt = Settings { endpoint: Some(format!("http://{}", wall.addr)), ..settings(&bed.s3) };
        let prefix = bed.layout.cluster("cart");
        let cut = remove(&hurt.open().await?, &bed.layout, &prefix, &run).await;
        ensure!(cut.is_err(), "{allowed}: {cut:?}");
        if allowed == 2 {
            // Retention meets a deletion of somebody else in the middle.
            let keep = Policy { last: 50, ..Policy::default() };
            bed.run(&Order { retention: keep, ..bed.order("other") }).await?;
        }
        let count = remove(&bed.store, &bed.layout, &prefix, &run).await?;
        ensure!(count <= 1, "{allowed}: {count}");
        let left = bed.store.list(&prefix).await?;
        ensure!(!left.iter().any(|found| found.key.contains(&format!("-{run}/"))), "{allowed}: {left:?}");
    }
    let runs: Vec<String> = bed.listing().await?.backups.into_iter().map(|backup| backup.meta.run).collect();
    ensure!(runs == ["other"], "{runs:?}");
    Ok(())
}
