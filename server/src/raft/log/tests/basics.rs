//! The API on a disk that behaves, and group commit.

use super::*;

#[test]
fn an_empty_log_is_new_and_clean() {
    let (log, recovered) = open(&MemDisk::new());
    let expected =
        Recovered { vote: None, committed: None, purged: None, last: None, clean: true, dropped_bytes: 0 };
    assert_eq!(recovered, expected);
    assert_eq!((log.bounds().last, log.flushed(), log.id_at(0)), (None, None, None));
    assert_eq!(log.read(0, 10, 100), Ok(vec![]));
}

#[test]
fn what_was_appended_is_there_after_close() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    append_ok(&log, entries(1, 0..3));
    answer(&save_vote(&log, Vote { term: 2, node: 9, committed: true })).unwrap();
    append_ok(&log, entries(2, 3..5));
    log.save_committed(id(2, 3));
    log.close().unwrap();
    let (log, recovered) = open(&disk);
    assert_eq!(recovered.vote, Some(Vote { term: 2, node: 9, committed: true }));
    assert_eq!((recovered.last, recovered.committed), (Some(id(2, 4)), Some(id(2, 3))));
    assert!(recovered.clean);
    assert_eq!(content(&log), [entries(1, 0..3), entries(2, 3..5)].concat());
    assert_eq!((log.id_at(2), log.id_at(3), log.id_at(5)), (Some(id(1, 2)), Some(id(2, 3)), None));
    assert_eq!(log.flushed(), Some(id(2, 4)));
}

#[test]
fn reading_is_possible_before_the_write_and_from_the_file_after_it() {
    let disk = MemDisk::new();
    let (log, _) = open_with(&disk, &LogOptions { cache_bytes: 0, ..options(Durability::High) });
    disk.hold_syncs(true);
    let appended = append(&log, entries(1, 0..40));
    assert_eq!(content(&log), entries(1, 0..40));
    assert!(log.stats().cache_bytes > 0);
    disk.hold_syncs(false);
    answer(&appended).unwrap();
    assert_eq!(log.stats().cache_bytes, 0);
    assert_eq!(content(&log), entries(1, 0..40));
    assert_eq!(log.read(5, 8, u64::MAX).unwrap(), entries(1, 5..8));
    assert_eq!(log.read(5, 40, 20).unwrap(), entries(1, 5..7), "9 + 9 bytes are below 20, 27 are not");
    assert_eq!(log.read(5, 40, 0).unwrap(), entries(1, 5..6), "one entry at least");
}

#[test]
fn the_cache_is_bounded_and_its_misses_are_read_from_several_segments() {
    let disk = MemDisk::new();
    let (log, _) = open_with(&disk, &LogOptions { cache_bytes: 3000, ..options(Durability::High) });
    let big =
        |index| LogEntry { id: id(1, index), bytes: Bytes::from(vec![u8::try_from(index).unwrap(); 900]) };
    for index in 0..20 {
        append_ok(&log, vec![big(index)]);
    }
    assert!(disk.files().len() > 3);
    assert!(log.stats().cache_bytes <= 3000);
    assert_eq!(content(&log), (0..20).map(big).collect::<Vec<_>>());
}

#[test]
fn everything_queued_during_a_sync_is_one_batch_and_answers_come_in_order() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    disk.hold_syncs(true);
    let first = append(&log, entries(1, 0..1));
    disk.await_held_sync();
    let before = log.stats();
    let (sender, order) = channel(100);
    for index in 1..51 {
        let sender = sender.clone();
        log.append(
            entries(1, index..index + 1),
            Box::new(move |result| sender.send((index, result)).unwrap()),
        );
    }
    let voter = sender.clone();
    log.save_vote(vote(4), Box::new(move |result| voter.send((51, result)).unwrap()));
    assert!(order.try_recv().is_err(), "nothing is answered before its sync");
    assert_eq!(log.flushed(), None);
    disk.hold_syncs(false);
    answer(&first).unwrap();
    for expected in 1..52 {
        assert_eq!(order.recv_timeout(WAIT).unwrap(), (expected, Ok(())));
    }
    let after = log.stats();
    assert_eq!(
        (after.batches - before.batches, after.syncs - before.syncs),
        (1, 2),
        "two syncs, the held one included"
    );
    assert_eq!(after.sync_buckets.iter().sum::<u64>(), after.syncs);
    assert_eq!((after.entries, after.queue_bytes), (51, 0));
}

#[test]
fn appends_that_do_not_continue_the_log_are_refused_and_change_nothing() {
    let (log, _) = open(&MemDisk::new());
    append_ok(&log, entries(1, 0..2));
    for wrong in [entries(1, 0..1), entries(1, 3..4), vec![entry(1, 2), entry(1, 4)]] {
        assert!(matches!(answer(&append(&log, wrong)), Err(LogError::Misuse(_))));
    }
    append_ok(&log, vec![]);
    assert_eq!(content(&log), entries(1, 0..2));
}

#[test]
fn truncation_drops_the_tail_and_the_log_goes_on_with_a_new_term() {
    let disk = MemDisk::new();
    let (log, _) = open_with(&disk, &LogOptions { cache_bytes: 0, ..options(Durability::High) });
    append_ok(&log, entries(1, 0..60));
    disk.hold_syncs(true);
    let truncated = truncate(&log, Some(id(1, 4)));
    let appended = append(&log, entries(2, 5..9));
    let expected = [entries(1, 0..5), entries(2, 5..9)].concat();
    assert_eq!(content(&log), expected, "at once");
    assert_eq!(log.flushed(), Some(id(1, 4)), "what is truncated does not count as flushed");
    disk.hold_syncs(false);
    answer(&truncated).unwrap();
    answer(&appended).unwrap();
    assert_eq!(content(&log), expected);
    assert_eq!(log.flushed(), Some(id(2, 8)));
    assert!(matches!(answer(&truncate(&log, Some(id(3, 4)))), Err(LogError::Misuse(_))));
    drop(log);
    let (log, recovered) = open(&disk);
    assert_eq!((content(&log), recovered.last), (expected, Some(id(2, 8))));
    answer(&truncate(&log, None)).unwrap();
    drop(log);
    let (log, recovered) = open(&disk);
    assert_eq!((content(&log), recovered.last, log.flushed()), (vec![], None, None));
}

#[test]
fn purge_unlinks_whole_segments_and_keeps_vote_and_committed() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    answer(&save_vote(&log, vote(9))).unwrap();
    for index in 0..200 {
        append_ok(&log, entries(1, index..index + 1));
        log.save_committed(id(1, index));
    }
    let before = disk.files().len();
    let retained = log.retained_bytes();
    assert!(before > 3);
    log.purge(id(1, 149)).unwrap();
    log.purge(id(1, 20)).unwrap();
    assert!(disk.files().len() < before - 1);
    assert!(log.retained_bytes() < retained);
    assert_eq!(log.bounds().purged, Some(id(1, 149)));
    assert_eq!(log.id_at(149), Some(id(1, 149)));
    assert_eq!(log.id_at(148), None);
    assert_eq!(log.read(100, 160, u64::MAX), Err(LogError::Purged { index: 100, upto: 149 }));
    assert_eq!(content(&log), entries(1, 150..200));
    drop(log);
    let (log, recovered) = open(&disk);
    assert_eq!((recovered.vote, recovered.purged), (Some(vote(9)), Some(id(1, 149))));
    assert_eq!(recovered.committed, Some(id(1, 199)), "the purge took it along");
    assert_eq!(content(&log), entries(1, 150..200));
}

#[test]
fn a_purge_beyond_the_end_empties_the_log_which_goes_on_behind_it() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    append_ok(&log, entries(1, 0..5));
    log.purge(id(4, 100)).unwrap();
    assert_eq!((log.bounds().last, log.bounds().purged), (Some(id(4, 100)), Some(id(4, 100))));
    assert_eq!(log.flushed(), Some(id(4, 100)));
    assert!(matches!(answer(&append(&log, entries(4, 5..6))), Err(LogError::Misuse(_))));
    append_ok(&log, entries(4, 101..103));
    drop(log);
    let (log, recovered) = open(&disk);
    assert_eq!((recovered.last, recovered.purged), (Some(id(4, 102)), Some(id(4, 100))));
    assert_eq!(content(&log), entries(4, 101..103));
    log.purge(id(5, 500)).unwrap();
    drop(log);
    let (log, recovered) = open(&disk);
    assert_eq!((recovered.last, recovered.committed), (Some(id(5, 500)), Some(id(5, 500))));
    assert_eq!(content(&log), vec![]);
}

#[test]
fn the_purge_candidate_leaves_the_bytes_asked_for() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    assert_eq!(log.purge_candidate(0), None);
    let big = |index| LogEntry { id: id(1, index), bytes: Bytes::from(vec![1; 480]) };
    for index in 0..30 {
        append_ok(&log, vec![big(index)]);
    }
    // An entry of 480 bytes takes 520, its batch end 40.
    assert_eq!(log.purge_candidate(0), Some(id(1, 29)));
    assert_eq!(log.purge_candidate(40), Some(id(1, 29)));
    assert_eq!(log.purge_candidate(41), Some(id(1, 28)));
    assert_eq!(log.purge_candidate(560 * 20), Some(id(1, 9)));
    assert_eq!(log.purge_candidate(560 * 40), None);
    log.purge(id(1, 9)).unwrap();
    assert_eq!(log.purge_candidate(560 * 20), None);
    assert_eq!(log.purge_candidate(560 * 19), Some(id(1, 10)));
}

#[test]
fn the_queue_is_bounded_by_making_append_wait() {
    let disk = MemDisk::new();
    let (log, _) = open_with(&disk, &LogOptions { queue_bytes_max: 1000, ..options(Durability::High) });
    disk.hold_syncs(true);
    let first = append(&log, entries(1, 0..1));
    disk.await_held_sync();
    let (sender, progress) = channel(100);
    let writer = Arc::clone(&log);
    let thread = std::thread::spawn(move || {
        for index in 1..60 {
            append(&writer, entries(1, index..index + 1));
            sender.send(index).unwrap();
        }
    });
    eventually("the queue fills", || log.stats().queue_bytes > 900);
    assert!(log.stats().queue_bytes <= 1000);
    let reached = progress.try_iter().last().unwrap();
    assert!(reached < 59);
    disk.hold_syncs(false);
    thread.join().unwrap();
    answer(&first).unwrap();
    log.sync().unwrap();
    assert_eq!(content(&log), entries(1, 0..60));
}

#[test]
fn a_closed_log_takes_nothing_more() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    let appended = append(&log, entries(1, 0..5));
    log.close().unwrap();
    answer(&appended).unwrap();
    log.close().unwrap();
    assert_eq!(answer(&append(&log, entries(1, 5..6))), Err(LogError::Closed));
    assert_eq!(answer(&save_vote(&log, vote(1))), Err(LogError::Closed));
    assert_eq!(log.sync(), Err(LogError::Closed));
    assert_eq!(log.purge(id(1, 1)), Err(LogError::Closed));
}

#[test]
fn a_callback_may_drop_the_last_reference() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    let (sender, dropped) = channel(1);
    let held = Arc::clone(&log);
    log.append(
        entries(1, 0..1),
        Box::new(move |result| {
            drop(held);
            sender.send(result).unwrap();
        }),
    );
    drop(log);
    // Either the writer came first, or the drop did and the entry was never acknowledged.
    let result = dropped.recv_timeout(WAIT).unwrap();
    assert!(matches!(result, Ok(()) | Err(LogError::Closed)));
}

#[test]
fn on_the_real_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions {
        dir: dir.path().join("deeper").join("log"),
        segment_bytes: 64 << 10,
        cache_bytes: 10_000,
        ..options(Durability::High)
    };
    let payload = |index: u64| Bytes::from(vec![(index % 251) as u8; (index * 37 % 9000) as usize]);
    let all: Vec<_> = (0..100).map(|index| LogEntry { id: id(1, index), bytes: payload(index) }).collect();
    let (log, _) = RaftLog::open(options.clone()).unwrap();
    for some in all.chunks(7) {
        append_ok(&log, some.to_vec());
    }
    assert_eq!(content(&log), all);
    log.purge(id(1, 40)).unwrap();
    log.close().unwrap();
    let (log, recovered) = RaftLog::open(options.clone()).unwrap();
    assert!(recovered.clean);
    assert_eq!(content(&log), all[41..]);
    drop(log);
    let (log, recovered) = RaftLog::open(options).unwrap();
    assert!(!recovered.clean, "dropped without close");
    assert_eq!(content(&log), all[41..]);
}
