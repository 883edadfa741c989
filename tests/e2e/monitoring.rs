//! What monitoring reads: INFO field by field, LATENCY, MEMORY, WAITAOF.

use anyhow::{Context, Result, ensure};
use kvnode_tests::client::Client;
use kvnode_tests::scenario::scenario;
use kvnode_tests::wait::{SOON, eventually};

/// What `redis_exporter` makes metrics of, as far as it is known here. Left out, as nobody knows: `allocator_*`,
/// `used_memory_overhead`, `_startup` and `_dataset`, `client_recent_max_*`, aof sizes (there is no append-only file), and what only
/// Redis before 5, `KeyDB` or Tile38 tell.
const EXPORTER: &str = "uptime_in_seconds process_id connected_clients blocked_clients tracking_clients maxclients \
    clients_in_timeout_table pubsub_clients cluster_connections used_memory used_memory_rss used_memory_peak \
    used_memory_scripts maxmemory mem_fragmentation_ratio mem_fragmentation_bytes mem_clients_slaves \
    mem_not_counted_for_evict lazyfree_pending_objects lazyfreed_objects active_defrag_running migrate_cached_sockets \
    active_defrag_hits active_defrag_misses active_defrag_key_hits active_defrag_key_misses expired_stale_perc \
    expired_time_cap_reached_count loading async_loading rdb_changes_since_last_save rdb_bgsave_in_progress rdb_last_save_time \
    rdb_last_bgsave_status rdb_last_bgsave_time_sec rdb_current_bgsave_time_sec rdb_saves rdb_last_cow_size aof_enabled \
    aof_rewrite_in_progress aof_rewrite_scheduled aof_last_rewrite_time_sec aof_current_rewrite_time_sec \
    aof_last_cow_size aof_last_bgrewrite_status aof_last_write_status module_fork_in_progress module_fork_last_cow_size \
    pubsub_channels pubsub_patterns pubsubshard_channels latest_fork_usec tracking_total_keys tracking_total_items \
    tracking_total_prefixes connected_slaves repl_backlog_size repl_backlog_active repl_backlog_first_byte_offset \
    repl_backlog_histlen master_repl_offset second_repl_offset slave_expires_tracked_keys sync_full sync_partial_ok \
    sync_partial_err total_connections_received total_commands_processed rejected_connections total_net_input_bytes \
    total_net_output_bytes expired_keys evicted_keys evicted_clients total_eviction_exceeded_time keyspace_hits \
    keyspace_misses used_cpu_sys used_cpu_user used_cpu_sys_children used_cpu_user_children unexpected_error_replies \
    total_error_replies dump_payload_sanitizations acl_access_denied_auth acl_access_denied_cmd acl_access_denied_key \
    acl_access_denied_channel expire_cycle_cpu_milliseconds client_query_buffer_limit_disconnections \
    client_output_buffer_limit_disconnections total_system_memory number_of_cached_scripts number_of_functions \
    redis_version redis_build_id redis_mode os maxmemory_policy tcp_port run_id role master_replid cluster_enabled \
    io_threads_active instantaneous_ops_per_sec mem_allocator multiplexing_api";

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

async fn info(client: &mut Client, sections: &str) -> Result<String> {
    client.text(&format!("INFO {sections}")).await?.context("a text")
}

#[test]
fn info_has_every_field_that_an_exporter_reads() {
    scenario(3, &[], async |cluster| {
        for node in &cluster.nodes {
            let mut client = node.client().await?;
            client.ok("SET k v EX 100").await?;
            client.text("GET k").await?;
            let text = info(&mut client, "all").await?;
            let missing: Vec<&str> =
                EXPORTER.split_whitespace().filter(|name| field(&text, name).is_none()).collect();
            ensure!(missing.is_empty(), "{missing:?} are missing in\n{text}");
            for name in ["cmdstat_set", "latency_percentiles_usec_set", "db0"] {
                ensure!(field(&text, name).is_some(), "{name} is missing in\n{text}");
            }
            let mut seen = std::collections::BTreeSet::new();
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let name = line.split(':').next().unwrap_or_default();
                ensure!(name.is_empty() || seen.insert(name), "{name} is told twice");
            }
        }
        Ok(())
    });
}

#[test]
fn the_average_time_to_live_is_that_of_the_keys() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.nodes[0].client().await?;
        client.ok("SET a v EX 1000").await?;
        client.ok("SET b v EX 3000").await?;
        client.ok("SET c v").await?;
        let text = info(&mut client, "keyspace").await?;
        let db = field(&text, "db0").context("database 0")?;
        let average: u64 = db.strip_prefix("keys=3,expires=2,avg_ttl=").context(db.to_owned())?.parse()?;
        ensure!((1_900_000..=2_000_000).contains(&average), "{db}");
        Ok(())
    });
}

#[test]
fn a_snapshot_shows_in_info() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.nodes[0].client().await?;
        client.ok("SET a v").await?;
        let before = info(&mut client, "persistence").await?;
        ensure!(field(&before, "rdb_saves") == Some("0"), "{before}");
        ensure!(field(&before, "rdb_last_bgsave_time_sec") == Some("-1"), "{before}");
        client.ok("SAVE").await?;
        let after = info(&mut client, "persistence").await?;
        ensure!(field(&after, "rdb_saves") == Some("1"), "{after}");
        ensure!(field(&after, "rdb_changes_since_last_save") == Some("0"), "{after}");
        client.ok("SET a w").await?;
        let later = info(&mut client, "persistence").await?;
        ensure!(field(&later, "rdb_changes_since_last_save") != Some("0"), "{later}");
        Ok(())
    });
}

#[test]
fn what_was_slow_is_told_by_latency() {
    scenario(3, &[], async |cluster| {
        let mut client = cluster.leader_client().await?;
        client.run("WAIT 9 30").await?;
        ensure!(client.run("LATENCY LATEST").await?.items().is_empty(), "noted without a threshold");
        client.ok("CONFIG SET latency-monitor-threshold 20").await?;
        client.run("WAIT 9 30").await?;
        let latest = client.run("LATENCY LATEST").await?;
        let events = latest.items();
        let event = events.iter().find(|event| event.items()[0].as_text() == Some("command"));
        let event = event.with_context(|| format!("{latest:?}"))?.items();
        ensure!(event.len() == 4 && event[3].as_int() >= Some(30), "{latest:?}");
        ensure!(!client.run("LATENCY HISTORY command").await?.items().is_empty());
        let graph = client.text("LATENCY GRAPH command").await?.unwrap_or_default();
        ensure!(graph.starts_with("command - high "), "{graph}");
        let doctor = client.text("LATENCY DOCTOR").await?.unwrap_or_default();
        ensure!(doctor.contains("command: slow in "), "{doctor}");
        ensure!(client.int("LATENCY RESET command").await? == 1);
        let histogram = client.run("LATENCY HISTOGRAM wait").await?;
        let items = histogram.items();
        ensure!(items[0].as_text() == Some("wait"), "{histogram:?}");
        ensure!(items[1].items()[1].as_int() == Some(2), "{histogram:?}");
        Ok(())
    });
}

#[test]
fn an_acknowledged_write_is_synced_here_and_on_another_node() {
    scenario(3, &[], async |cluster| {
        for node in &cluster.nodes {
            let mut client = node.client().await?;
            client.ok("SET k v").await?;
            let synced = client.run("WAITAOF 1 1 0").await?;
            let numbers: Vec<_> = synced.items().iter().map(|item| item.as_int()).collect();
            ensure!(numbers[0] == Some(1) && numbers[1] >= Some(1), "{synced:?}");
            let over = client.run("WAITAOF 1 9 30").await?;
            ensure!(over.items().len() == 2 && over.items()[1].as_int() < Some(9), "{over:?}");
        }
        Ok(())
    });
}

#[test]
fn with_less_durability_nothing_counts_as_synced() {
    scenario(1, &["--durability", "low"], async |cluster| {
        let mut client = cluster.nodes[0].client().await?;
        let refused = client.run("WAITAOF 1 0 0").await?;
        ensure!(refused.as_error().is_some_and(|text| text.contains("durability")), "{refused:?}");
        let none = client.run("WAITAOF 0 1 10").await?;
        ensure!(none.items().iter().all(|item| item.as_int() == Some(0)), "{none:?}");
        Ok(())
    });
}

#[test]
fn memory_tells_what_the_process_takes() {
    scenario(1, &[], async |cluster| {
        let mut client = cluster.nodes[0].client().await?;
        client.ok("SET k v").await?;
        client.text("SCRIPT LOAD return").await?;
        let stats = client.run("MEMORY STATS").await?;
        let items = stats.items();
        let find = |name: &str| {
            items.chunks(2).find(|pair| pair[0].as_text() == Some(name)).and_then(|pair| pair[1].as_int())
        };
        ensure!(find("total.allocated") > Some(1 << 20), "{stats:?}");
        ensure!(find("keys.count") == Some(1) && find("lua.caches") == Some(6), "{stats:?}");
        let doctor = client.text("MEMORY DOCTOR").await?.unwrap_or_default();
        ensure!(doctor.starts_with("All is well: this process takes "), "{doctor}");
        client.ok("MEMORY PURGE").await?;
        Ok(())
    });
}

#[test]
fn with_moved_the_keys_of_a_slot_are_counted_and_returned() {
    scenario(3, &["--redirect", "moved"], async |cluster| {
        cluster.await_voters(3).await?;
        let mut client = cluster.leader_client().await?;
        for key in ["{tag}a", "{tag}b", "{tag}c", "other"] {
            client.ok(&format!("SET {key} v")).await?;
        }
        let slot = client.int("CLUSTER KEYSLOT tag").await?;
        ensure!(client.int(&format!("CLUSTER COUNTKEYSINSLOT {slot}")).await? == 3);
        let mut keys = client.run(&format!("CLUSTER GETKEYSINSLOT {slot} 10")).await?.texts();
        keys.sort();
        ensure!(keys == ["{tag}a", "{tag}b", "{tag}c"], "{keys:?}");
        ensure!(client.run(&format!("CLUSTER GETKEYSINSLOT {slot} 2")).await?.items().len() == 2);
        ensure!(client.run("CLUSTER LINKS").await?.items().len() == 2);
        let me = client.text("CLUSTER MYID").await?.unwrap_or_default();
        let replicas = client.run(&format!("CLUSTER REPLICAS {me}")).await?;
        ensure!(replicas.items().len() == 2, "{replicas:?}");
        ensure!(client.run(&format!("CLUSTER SLAVES {me}")).await?.items().len() == 2);
        ensure!(client.int(&format!("CLUSTER COUNT-FAILURE-REPORTS {me}")).await? == 0);
        let shard = client.text("CLUSTER MYSHARDID").await?.unwrap_or_default();
        ensure!(shard.len() == 40 && shard != me, "{shard}");
        let refused = client.run("CLUSTER MEET 127.0.0.1 1").await?;
        ensure!(refused.as_error().is_some_and(|text| text.contains("RAFTADDPEER")), "{refused:?}");
        eventually("a follower counts the same", SOON, async || {
            let follower = cluster.followers().await?[0];
            let mut client = cluster.nodes[follower].client().await?;
            client.ok("READONLY").await?;
            let counted = client.run(&format!("CLUSTER COUNTKEYSINSLOT {slot}")).await?;
            Ok((counted.as_int() == Some(3)).then_some(()))
        })
        .await
    });
}
