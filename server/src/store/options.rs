//! Options of RocksDB, each with its reason.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, LogLevel, Options};

use super::StoreOptions;
use super::engine::DATA;

/// A size that no memtable reaches: RocksDB must not flush by itself.
pub(crate) const MEMTABLE_NEVER_FULL: usize = 64 << 30;

/// Options of the whole database.
///
/// On a full disk RocksDB resumes by itself when space is back, and then writes out all memtables, also what was
/// applied after the last [`super::Applier::flush`]. That does not run ahead of the log in practice: the failed state
/// takes no writes, and RocksDB looks for space every five seconds, by when the log has synced what was applied or has
/// ended the process.
pub(crate) fn database(create: bool) -> Result<Options, rocksdb::Error> {
    // Not in the binding: no flush at close (it would run ahead of the log); no resume after an error other than a full
    // disk (after a failed sync nothing is known of the file, so the node must stop).
    let strings =
        "avoid_flush_during_shutdown=true;max_bgerror_resume_count=0;avoid_flush_during_recovery=true";
    // Nor is this. A simulation has many small databases in memory, where the kernel fills what is allocated ahead.
    let allocation = format!("allow_fallocate={}", !cfg!(feature = "sim"));
    let mut options = Options::default().get_options_from_string(format!("{strings};{allocation}"))?;
    options.create_if_missing(create);
    options.set_error_if_exists(create);
    // A state of 0.1.0, or a checkpoint of such a leader, lacks the family `expire`; it is filled at open.
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_paranoid_checks(true);
    // One writer: the plain memtable insert is cheaper than the concurrent one.
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    options.set_max_background_jobs(4);
    options.set_avoid_unnecessary_blocking_io(true);
    // Small steady write-back instead of a burst at the end, which would stall the log's fsync on the same disk.
    options.set_bytes_per_sync(1 << 20);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    Ok(options)
}

/// Bytes of the filter over a memtable: about 10 bits per 100-byte record of what is gathered between flushes.
pub(crate) fn memtable_filter_bytes(sizes: StoreOptions) -> usize {
    (sizes.memtable_bytes / 80).clamp(4 << 10, 16 << 20)
}

/// Options of one column family.
pub(crate) fn family(name: &str, sizes: StoreOptions) -> Result<Options, rocksdb::Error> {
    let mut table = BlockBasedOptions::default();
    // One cache per database; `scan` and `meta` are small or cold, so they get a share of a sixteenth.
    let share = if name == DATA { sizes.block_cache_bytes } else { sizes.block_cache_bytes / 16 };
    table.set_block_cache(&Cache::new_hyper_clock_cache(share.max(1 << 20), 0));
    table.set_block_size(8 << 10);
    table.set_format_version(6);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    if name == DATA {
        table.set_bloom_filter(10.0, false);
        table.set_whole_key_filtering(true);
        table.set_optimize_filters_for_memory(true);
    }
    // Not in the binding: an insert begins where the last one of the same database ended, which is beside it, since rows
    // come sorted.
    let hint = "memtable_insert_with_hint_prefix_extractor=rocksdb.FixedPrefix.1";
    let mut options = Options::default().get_options_from_string(hint)?;
    options.set_block_based_table_factory(&table);
    // Lifted after open, see `lift_memtable_sizes`. In a simulation no disk is full, so nothing need be kept free.
    let memtable_bytes = if cfg!(feature = "sim") { MEMTABLE_NEVER_FULL } else { sizes.memtable_bytes };
    options.set_write_buffer_size(memtable_bytes);
    options.set_arena_block_size(1 << 20);
    options.set_max_write_buffer_number(6);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_target_file_size_base(64 << 20);
    options.set_max_bytes_for_level_base(256 << 20);
    // RocksDB's threads are real in a simulation too: when one of them ends a compaction would decide which files a
    // checkpoint has.
    options.set_disable_auto_compactions(cfg!(feature = "sim"));
    // Files in which deletions gather are rewritten soon, so that space comes back after many DEL too.
    options.add_compact_on_deletion_collector_factory(16_384, 8_192, 0.5);
    if name == DATA {
        // Most lookups of new keys end at this filter, before the skip list.
        #[allow(clippy::cast_precision_loss, reason = "a filter size need not be exact")]
        let ratio = memtable_filter_bytes(sizes) as f64 / memtable_bytes.max(1) as f64;
        options.set_memtable_prefix_bloom_ratio(ratio);
        options.set_memtable_whole_key_filtering(true);
    }
    Ok(options)
}
