//! A disk that fails, takes less than it was given, or is full; and what each durability level waits for.

use super::*;
use crate::raft::log::mem_disk::Fault;

fn is_io<T: std::fmt::Debug>(result: &Result<T, LogError>) -> bool {
    matches!(result, Err(LogError::Io { .. }))
}

/// An entry of 900 bytes: four fit into a segment with its reserve.
fn large(index: u64) -> LogEntry {
    LogEntry { id: id(1, index), bytes: Bytes::from(vec![u8::try_from(index).unwrap(); 740]) }
}

#[test]
fn after_a_failed_sync_everything_gets_the_error_and_nothing_is_tried_again() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    append_ok(&log, entries(1, 0..2));
    disk.hold_syncs(true);
    disk.inject(Fault::SyncEio(0));
    let first = append(&log, entries(1, 2..3));
    disk.await_held_sync();
    let waiting = [append(&log, entries(1, 3..4)), save_vote(&log, vote(3)), truncate(&log, Some(id(1, 0)))];
    disk.take_trace();
    disk.hold_syncs(false);
    let error = answer(&first).unwrap_err();
    assert!(error.to_string().starts_with("log: sync "), "{error}");
    for waiting in &waiting {
        assert_eq!(answer(waiting), Err(error.clone()));
    }
    assert_eq!(answer(&append(&log, entries(1, 1..2))), Err(error.clone()));
    assert_eq!(answer(&save_vote(&log, vote(4))), Err(error.clone()));
    assert_eq!(log.sync(), Err(error.clone()));
    assert_eq!(log.purge(id(1, 0)), Err(error.clone()));
    assert_eq!(log.close(), Err(error));
    assert_eq!(disk.take_trace(), Vec::<String>::new(), "the disk is left alone");
    assert_eq!(log.flushed(), Some(id(1, 0)), "as far as the truncation left it");
    assert_eq!(content(&open(&disk.after_power_cut(|| false)).0), entries(1, 0..2));
}

#[test]
fn a_failed_write_ends_the_log_too() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    disk.inject(Fault::WriteEio(1));
    append_ok(&log, entries(1, 0..2));
    assert!(is_io(&answer(&append(&log, entries(1, 2..4)))));
    assert!(is_io(&answer(&save_vote(&log, vote(1)))));
    assert!(is_io(&log.close()));
    assert_eq!(content(&open(&disk.after_kill()).0), entries(1, 0..2));
}

/// Every sync in the life of a log that seals fails once; nothing answered is lost, nothing more is answered.
#[test]
fn any_sync_may_fail() {
    for nth in 0.. {
        let disk = MemDisk::new();
        disk.inject(Fault::SyncEio(nth));
        let Ok((log, _)) = RaftLog::open_on(Arc::new(disk.clone()), &options(Durability::High), tuning())
        else {
            continue;
        };
        let answers: Vec<_> = (0..12).map(|index| answer(&append(&log, vec![large(index)]))).collect();
        let good = answers.iter().take_while(|answer| answer.is_ok()).count();
        assert!(answers[good..].iter().all(is_io), "{answers:?}");
        drop(log);
        let found = content(&open(&disk.after_power_cut(|| false)).0);
        assert_eq!(found, (0..good as u64).map(large).collect::<Vec<_>>(), "sync {nth}");
        if good == 12 {
            assert!(nth > 12, "the syncs of three new segments were among them");
            return;
        }
    }
}

#[test]
fn short_writes_are_continued() {
    let disk = MemDisk::new();
    disk.inject(Fault::Short(7));
    let (log, _) = open(&disk);
    append_ok(&log, (0..10).map(large).collect());
    answer(&save_vote(&log, vote(2))).unwrap();
    drop(log);
    let (log, recovered) = open(&disk);
    assert_eq!((content(&log), recovered.vote), ((0..10).map(large).collect(), Some(vote(2))));
}

/// Fills the only segment there is space for; returns the entries that were answered and the one that waits.
fn fill(disk: &MemDisk, log: &RaftLog) -> (u64, Answer) {
    disk.set_free(Some(0));
    for index in 0.. {
        let appended = append(log, vec![large(index)]);
        eventually("answered or full", || {
            log.flushed() == Some(id(1, index)) || log.stats().disk_full.is_some()
        });
        if log.stats().disk_full.is_some() {
            return (index, appended);
        }
        answer(&appended).unwrap();
    }
    unreachable!()
}

#[test]
fn a_full_disk_makes_appends_wait_and_loses_nothing() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    let (filled, waiting) = fill(&disk, &log);
    let later = append(&log, (filled + 1..filled + 4).map(large).collect());
    let voted = save_vote(&log, vote(5));
    assert!(waiting.try_recv().is_err() && later.try_recv().is_err() && voted.try_recv().is_err());
    let message = log.stats().disk_full.unwrap();
    assert!(message.starts_with("log: no space to write "), "{message}");
    assert_eq!(content(&log).len() as u64, filled + 4, "reads go on");
    disk.set_free(None);
    for waiting in [waiting, later, voted] {
        answer(&waiting).unwrap();
    }
    assert_eq!(log.stats().disk_full, None);
    drop(log);
    let (log, recovered) = open(&disk);
    assert_eq!(content(&log), (0..filled + 4).map(large).collect::<Vec<_>>());
    assert_eq!(recovered.vote, Some(vote(5)));
}

#[test]
fn a_purge_goes_through_on_a_full_disk_and_frees_it() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    let mut next = 0;
    while log.stats().segments_created < 3 {
        append_ok(&log, vec![large(next)]);
        next += 1;
    }
    disk.set_free(Some(0));
    let waiting: Vec<_> = (next..next + 4).map(|index| append(&log, vec![large(index)])).collect();
    eventually("full", || log.stats().disk_full.is_some());
    assert!(waiting.iter().any(|waiting| waiting.try_recv().is_err()));
    let written = log.flushed().unwrap();
    let (sender, purged) = channel(1);
    let shared = Arc::clone(&log);
    let thread = std::thread::spawn(move || sender.send(shared.purge(written)).unwrap());
    purged.recv_timeout(WAIT).expect("the purge goes through").unwrap();
    thread.join().unwrap();
    // The space of the unlinked segments is enough for what waits.
    log.sync().unwrap();
    assert_eq!(log.stats().disk_full, None);
    assert_eq!((log.bounds().purged, log.flushed()), (Some(written), Some(id(1, next + 3))));
    let expected: Vec<_> = (written.index + 1..next + 4).map(large).collect();
    drop(log);
    assert_eq!(content(&open(&disk).0), expected);
}

/// The Raft core purges between its heartbeats.
#[test]
fn a_purge_begins_without_the_disk_and_unlinks_nothing_before_it_is_synced() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    let mut next = 0;
    while log.stats().segments_created < 4 {
        append_ok(&log, vec![large(next)]);
        next += 1;
    }
    let files = disk.files().len();
    disk.hold_syncs(true);
    let waiting = append(&log, vec![large(next)]);
    disk.await_held_sync();
    let (done, first) = waiter();
    let one = log.begin_purge(id(1, 4), done).unwrap();
    let (done, second) = waiter();
    let all = log.begin_purge(id(1, next - 1), done).unwrap();
    assert_eq!(log.bounds().purged, Some(id(1, next - 1)), "in memory at once");
    assert!(first.try_recv().is_err() && second.try_recv().is_err());
    disk.hold_syncs(false);
    for asked in [waiting, first, second] {
        answer(&asked).unwrap();
    }
    assert_eq!(disk.files().len(), files);
    // What only the second one lets go stays: its point might not have been synced yet.
    log.unlink(one).unwrap();
    assert!((2..files).contains(&disk.files().len()), "{} of {files}", disk.files().len());
    log.unlink(all).unwrap();
    assert_eq!(disk.files().len(), 1);
    drop(log);
    assert_eq!(content(&open(&disk.after_power_cut(|| false)).0), vec![large(next)]);
}

#[test]
fn votes_go_through_the_reserve_while_no_entry_waits_before_them() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    let (_, waiting) = fill(&disk, &log);
    disk.set_free(None);
    answer(&waiting).unwrap();
    // The new segment is filled to its reserve, but no entry is in the queue.
    let start = log.bounds().last.unwrap().index + 1;
    append_ok(&log, vec![large(start)]);
    append_ok(&log, vec![large(start + 1)]);
    disk.set_free(Some(0));
    answer(&save_vote(&log, vote(8))).unwrap();
    drop(log);
    assert_eq!(open(&disk).1.vote, Some(vote(8)));
}

#[test]
fn closing_a_full_log_refuses_what_waits_and_is_clean() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    let (filled, waiting) = fill(&disk, &log);
    log.close().unwrap();
    assert!(matches!(answer(&waiting), Err(LogError::DiskFull { .. })));
    let (log, recovered) = open(&disk);
    assert!(recovered.clean, "opening needs no new space");
    assert_eq!(content(&log), (0..filled).map(large).collect::<Vec<_>>());
}

#[test]
fn a_write_without_space_is_tried_again_in_the_same_place() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    append_ok(&log, vec![large(0)]);
    disk.inject(Fault::WriteEnospc(0));
    append_ok(&log, vec![large(1)]);
    drop(log);
    assert_eq!(content(&open(&disk).0), vec![large(0), large(1)]);
}

#[test]
fn a_new_log_on_a_full_disk_says_so() {
    let disk = MemDisk::new();
    disk.set_free(Some(100));
    assert!(matches!(refuses(&disk), LogError::DiskFull { .. }));
    disk.set_free(None);
    assert_eq!(open(&disk).1.last, None);
}

#[test]
fn medium_answers_after_the_write_and_syncs_soon() {
    let disk = MemDisk::new();
    let (log, _) = open_with(&disk, &options(Durability::Medium));
    disk.hold_syncs(true);
    append_ok(&log, entries(1, 0..3));
    assert_eq!(log.flushed(), None);
    assert_eq!(content(&open(&disk.after_kill()).0), entries(1, 0..3), "written");
    disk.hold_syncs(false);
    eventually("the timer syncs", || log.flushed() == Some(id(1, 2)));
    assert_eq!(content(&open(&disk.after_power_cut(|| false)).0), entries(1, 0..3));
}

#[test]
fn low_never_syncs_an_entry_but_always_a_vote_a_truncation_and_what_is_asked_for() {
    let disk = MemDisk::new();
    let (log, _) = open_with(&disk, &options(Durability::Low));
    let syncs = || log.stats().syncs;
    let start = syncs();
    append_ok(&log, entries(1, 0..3));
    append_ok(&log, entries(1, 3..5));
    assert_eq!((syncs(), log.flushed()), (start, None));
    answer(&save_vote(&log, vote(2))).unwrap();
    assert_eq!((syncs(), log.flushed()), (start + 1, Some(id(1, 4))));
    answer(&truncate(&log, Some(id(1, 3)))).unwrap();
    assert_eq!((syncs(), log.flushed()), (start + 2, Some(id(1, 3))));
    append_ok(&log, entries(2, 4..6));
    assert_eq!((syncs(), log.flushed()), (start + 2, Some(id(1, 3))));
    log.sync().unwrap();
    assert_eq!((syncs(), log.flushed()), (start + 3, Some(id(2, 5))));
    log.sync().unwrap();
    assert_eq!(syncs(), start + 3, "nothing new, no sync");
    log.save_committed(id(2, 5));
    log.sync().unwrap();
    assert_eq!(syncs(), start + 3, "the committed id never costs one");
}

#[test]
fn an_entry_that_rots_in_the_file_is_not_handed_out() {
    let disk = MemDisk::new();
    let (log, _) = open_with(&disk, &LogOptions { cache_bytes: 0, ..options(Durability::High) });
    append_ok(&log, (0..3).map(large).collect());
    let name = disk.files().into_keys().next().unwrap();
    let file = crate::raft::log::disk::Disk::open(&disk, &name).unwrap();
    file.write_at(&[std::io::IoSlice::new(b"rot")], 1500).unwrap();
    let error = log.read(0, 3, u64::MAX).unwrap_err();
    assert!(matches!(&error, LogError::Damaged { path, .. } if path.ends_with(&name)), "{error}");
    assert_eq!(log.read(0, 1, u64::MAX).unwrap(), vec![large(0)]);
}
