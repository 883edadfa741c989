//! Crash points: the power goes out at every single disk operation, files are torn and flipped at every byte.

use std::collections::BTreeMap;

use super::*;
use crate::raft::log::recovery::replay;
use crate::raft::log::segment::{HEADER_BYTES, index_of};

/// What a log holds, as far as it must survive.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Image {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    entries: Vec<LogEntry>,
}

fn image(log: &RaftLog) -> Image {
    let bounds = log.bounds();
    Image { vote: bounds.vote, purged: bounds.purged, last: bounds.last, entries: content(log) }
}

fn image_of(disk: &MemDisk) -> Image {
    image(&open(disk).0)
}

type Files = BTreeMap<String, Vec<u8>>;

fn newest(files: &Files) -> String {
    files.keys().max().unwrap().clone()
}

/// A long entry, so that segments fill up quickly.
fn long(term: u64, index: u64) -> LogEntry {
    LogEntry { id: id(term, index), bytes: Bytes::from(vec![u8::try_from(index % 200).unwrap() + 1; 700]) }
}

type Step = fn(&RaftLog) -> Result<(), LogError>;

/// A bit of everything: votes, entries, seals, a truncation with a new term behind it, purges.
const STEPS: &[Step] = &[
    |log| answer(&save_vote(log, vote(1))),
    |log| answer(&append(log, entries(1, 0..4))),
    |log| answer(&append(log, vec![long(1, 4), long(1, 5)])),
    |log| answer(&append(log, vec![long(1, 6), long(1, 7)])),
    |log| {
        log.save_committed(id(1, 5));
        answer(&append(log, vec![long(1, 8), long(1, 9)]))
    },
    |log| answer(&truncate(log, Some(id(1, 7)))),
    |log| answer(&save_vote(log, vote(2))),
    |log| answer(&append(log, vec![long(2, 8), long(2, 9), long(2, 10)])),
    |log| log.purge(id(1, 3)),
    |log| answer(&append(log, vec![long(2, 11), long(2, 12), long(2, 13)])),
    |log| log.purge(id(2, 10)),
    |log| answer(&append(log, vec![long(2, 14), long(2, 15), long(2, 16)])),
    |log| log.purge(id(3, 40)),
    |log| answer(&append(log, entries(3, 41..43))),
    RaftLog::close,
];

/// What the log holds after each number of steps.
fn images() -> Vec<Image> {
    let (log, _) = open(&MemDisk::new());
    let mut images = vec![image(&log)];
    for step in STEPS {
        step(&log).unwrap();
        images.push(image(&log));
    }
    images
}

/// Runs the steps on the disk until one fails; returns how many were answered with `Ok`.
fn run(disk: &MemDisk, durability: Durability, synced: &mut usize) -> usize {
    let Ok((log, _)) = RaftLog::open_on(Arc::new(disk.clone()), &options(durability), slow_timer()) else {
        return 0;
    };
    for (at, step) in STEPS.iter().enumerate() {
        if step(&log).is_err() {
            return at;
        }
        if log.flushed() == log.bounds().last && log.stats().syncs > 0 {
            *synced = at + 1;
        }
    }
    STEPS.len()
}

/// The timer of durability medium must not sync at a moment that the test does not know.
fn slow_timer() -> Tuning {
    Tuning { sync_interval: Duration::from_hours(1), ..tuning() }
}

/// What a power cut keeps of the unsynced sectors and names.
fn choices() -> Vec<Box<dyn FnMut() -> bool>> {
    let mut choices: Vec<Box<dyn FnMut() -> bool>> = vec![Box::new(|| false), Box::new(|| true)];
    for seed in 1..6_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        choices.push(Box::new(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 63 == 1
        }));
    }
    choices
}

fn operations_of(durability: Durability) -> usize {
    let disk = MemDisk::new();
    run(&disk, durability, &mut 0);
    disk.operations()
}

/// Points 1 to 4 and 6 to 13: whatever the disk was doing, what was answered is there, and nothing is there by half.
#[test]
fn the_power_may_go_out_at_every_operation_at_high() {
    let images = images();
    let total = operations_of(Durability::High);
    assert!(total > 60, "the steps are meant to seal, purge and unlink");
    for cut in 0..total {
        let disk = MemDisk::new();
        disk.cut_power_after(cut);
        let answered = run(&disk, Durability::High, &mut 0);
        let may = &images[answered..=(answered + 1).min(STEPS.len())];
        let after: Vec<_> = choices().into_iter().map(|keep| disk.after_power_cut(keep)).collect();
        for (choice, disk) in after.into_iter().chain([disk.after_kill()]).enumerate() {
            let found = image_of(&disk);
            assert!(
                may.contains(&found),
                "cut at {cut}, choice {choice}: {found:#?}\nshould be one of {may:#?}"
            );
            assert_eq!(image_of(&disk), found, "and the same when it is opened once more");
        }
    }
}

/// Point 31: at the lower levels a power cut may take the newest steps, but only what was not synced, and never from
/// the middle.
#[test]
fn a_power_cut_at_the_lower_levels_loses_only_the_unsynced_end() {
    let images = images();
    for durability in [Durability::Low, Durability::Medium] {
        for cut in 0..operations_of(durability) {
            let disk = MemDisk::new();
            disk.cut_power_after(cut);
            let mut synced = 0;
            let answered = run(&disk, durability, &mut synced);
            let may = &images[synced..=(answered + 1).min(STEPS.len())];
            for keep in choices() {
                let found = image_of(&disk.after_power_cut(keep));
                assert!(
                    may.contains(&found),
                    "{durability:?}, cut at {cut}: {found:#?}\nshould be one of {may:#?}"
                );
            }
            let killed = image_of(&disk.after_kill());
            assert!(
                images[answered..=(answered + 1).min(STEPS.len())].contains(&killed),
                "a kill loses nothing"
            );
        }
    }
}

#[test]
fn a_log_that_lost_its_unsynced_end_is_never_taken_for_a_clean_one() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    append_ok(&log, entries(1, 0..3));
    log.close().unwrap();
    let (log, recovered) = open_with(&disk, &options(Durability::Low));
    assert!(recovered.clean);
    append_ok(&log, entries(1, 3..5));
    drop(log);
    let (log, recovered) = open(&disk.after_power_cut(|| false));
    assert_eq!((content(&log), recovered.clean), (entries(1, 0..3), false), "answered entries are gone");
}

#[test]
fn a_synced_append_survives_a_power_cut_at_every_level() {
    for durability in [Durability::Low, Durability::Medium, Durability::High] {
        let disk = MemDisk::new();
        let (log, _) = open_with(&disk, &options(durability));
        append_ok(&log, entries(1, 0..2));
        let (done, answered) = waiter();
        log.append_synced(entries(1, 2..3), done);
        answer(&answered).unwrap();
        let (after, _) = open(&disk.after_power_cut(|| false));
        assert_eq!(content(&after), entries(1, 0..3), "{durability:?}");
        let (done, answered) = waiter();
        log.append_synced(entries(1, 9..10), done);
        assert!(matches!(answer(&answered), Err(LogError::Misuse(_))), "a gap is refused");
        log.close().unwrap();
    }
}

/// Three batches in one segment, not closed: (files, end of each batch).
fn three_batches() -> (Files, Vec<u64>) {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    let mut ends = vec![log.retained_bytes()];
    for batch in [entries(1, 0..3), vec![long(1, 3)], entries(2, 4..6)] {
        append_ok(&log, batch);
        ends.push(log.retained_bytes());
    }
    drop(log);
    (disk.files(), ends)
}

/// Point 4.
#[test]
fn a_torn_last_batch_is_dropped_as_a_whole_at_every_byte() {
    let (files, ends) = three_batches();
    let name = newest(&files);
    let kept = [entries(1, 0..3), vec![long(1, 3)]].concat();
    let whole = [kept.clone(), entries(2, 4..6)].concat();
    let (start, end) = (usize::try_from(ends[2]).unwrap(), usize::try_from(ends[3]).unwrap());
    for at in start..end {
        let original = &files[&name];
        let cut = original[..at].to_vec();
        let mut zeroed = original.clone();
        zeroed[at..end].fill(0);
        let mut garbage = original.clone();
        garbage[at..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
        let mut lost_first = original.clone();
        lost_first[start..=at].fill(0);
        for (kind, torn) in
            [("cut", cut), ("zeroed", zeroed), ("garbage", garbage), ("head lost", lost_first)]
        {
            // Zeroing trailing zeros of the batch tears nothing.
            let expected = if torn.get(..end) == original.get(..end) { &whole } else { &kept };
            let disk = MemDisk::of(Files::from([(name.clone(), torn)]));
            let (log, recovered) = open(&disk);
            assert_eq!(&content(&log), expected, "{kind} at byte {at}");
            assert!(!recovered.clean);
            // What is appended now stands where the torn bytes were.
            let next = recovered.last.unwrap().index + 1;
            append_ok(&log, entries(3, next..next + 1));
            drop(log);
            let expected = [expected.clone(), entries(3, next..next + 1)].concat();
            assert_eq!(content(&open(&disk).0), expected, "{kind} at byte {at}, appended");
        }
    }
}

/// Point 5: one flipped bit, anywhere.
#[test]
fn a_flipped_bit_refuses_to_open_unless_it_is_in_the_last_batch() {
    let (files, ends) = three_batches();
    let name = newest(&files);
    let all = image_of(&MemDisk::of(files.clone()));
    for at in 0..files[&name].len() {
        let mut flipped = files.clone();
        flipped.get_mut(&name).unwrap()[at] ^= 1 << (at % 8);
        let disk = MemDisk::of(flipped);
        if (at as u64) < ends[2] {
            let LogError::Damaged { path, offset, .. } = refuses(&disk) else { panic!("byte {at}") };
            assert!(path.ends_with(&name) && offset <= at as u64, "byte {at}: {path:?} {offset}");
        } else {
            let found = image_of(&disk);
            let last = if (at as u64) < ends[3] { id(1, 3) } else { id(2, 5) };
            assert_eq!(found.last, Some(last), "byte {at}");
            assert_eq!(found.entries, all.entries[..=usize::try_from(last.index).unwrap()], "byte {at}");
        }
    }
}

#[test]
fn after_a_clean_close_a_flipped_bit_in_the_last_entries_is_noticed_too() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    append_ok(&log, entries(1, 0..3));
    let end = usize::try_from(log.retained_bytes()).unwrap();
    log.close().unwrap();
    let files = disk.files();
    let name = newest(&files);
    for at in 0..end {
        let mut flipped = files.clone();
        flipped.get_mut(&name).unwrap()[at] ^= 0x10;
        assert!(matches!(refuses(&MemDisk::of(flipped)), LogError::Damaged { .. }), "byte {at}");
    }
}

#[test]
fn a_flipped_bit_in_a_sealed_segment_refuses_to_open() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    for index in 0..8 {
        append_ok(&log, vec![long(1, index)]);
    }
    let segments: Vec<_> =
        log.shared.inner.lock().segments.iter().map(|segment| (segment.name.clone(), segment.end)).collect();
    drop(log);
    let files = disk.files();
    let (name, end) = &segments[0];
    for at in 0..files[name].len() {
        let mut flipped = files.clone();
        flipped.get_mut(name).unwrap()[at] ^= 4;
        let disk = MemDisk::of(flipped);
        if (at as u64) < *end {
            assert!(matches!(refuses(&disk), LogError::Damaged { .. }), "byte {at}");
        } else {
            assert_eq!(image_of(&disk).last, Some(id(1, 7)), "the seal itself is not needed");
        }
    }
    for length in 0..usize::try_from(*end).unwrap() {
        let mut cut = files.clone();
        cut.get_mut(name).unwrap().truncate(length);
        assert!(matches!(refuses(&MemDisk::of(cut)), LogError::Damaged { .. }), "cut to {length}");
    }
}

#[test]
fn a_missing_segment_refuses_to_open() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    for index in 0..20 {
        append_ok(&log, vec![long(1, index)]);
    }
    drop(log);
    let files = disk.files();
    assert!(files.len() >= 4);
    for name in files.keys() {
        let mut missing = files.clone();
        missing.remove(name);
        let error = refuses(&MemDisk::of(missing)).to_string();
        assert!(error.contains("missing") && error.contains("must not start"), "without {name}: {error}");
    }
}

#[test]
fn segments_in_a_wrong_place_refuse_to_open() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    append_ok(&log, vec![long(1, 0)]);
    drop(log);
    let files = disk.files();
    let (name, bytes) = files.first_key_value().unwrap();
    for other in [name.replace("raft-3-", "raft-4-"), name.replace("-0000000001-", "-0000000002-")] {
        assert!(matches!(
            refuses(&MemDisk::of(Files::from([(other, bytes.clone())]))),
            LogError::Damaged { .. }
        ));
    }
    let mut twice = files.clone();
    twice.insert(name.replace("00.log", "07.log"), bytes.clone());
    assert!(refuses(&MemDisk::of(twice)).to_string().contains("same sequence"));
    let mut newer = bytes.clone();
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer[..252]);
    newer[252..256].copy_from_slice(&crc.to_le_bytes());
    assert!(refuses(&MemDisk::of(Files::from([(name.clone(), newer)]))).to_string().contains("version 2"));
}

#[test]
fn a_segment_of_another_log_refuses_to_open() {
    let life = |term: u64| {
        let disk = MemDisk::new();
        let (log, _) = open(&disk);
        for index in 0..8 {
            append_ok(&log, vec![long(term, index)]);
        }
        drop(log);
        disk.files()
    };
    let (ours, theirs) = (life(1), life(2));
    assert!(ours.len() >= 2 && ours.keys().eq(theirs.keys()));
    let mut mixed = theirs;
    let (name, bytes) = ours.into_iter().next().unwrap();
    mixed.insert(name, bytes);
    let error = refuses(&MemDisk::of(mixed)).to_string();
    assert!(error.contains("does not continue"), "{error}");
}

/// Point 12, with unlinks that reach the disk in another order than they were made.
#[test]
fn what_an_unfinished_purge_left_is_unlinked() {
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    for index in 0..30 {
        append_ok(&log, vec![long(1, index)]);
    }
    let before = disk.files();
    log.purge(id(1, 21)).unwrap();
    append_ok(&log, entries(1, 30..31));
    // A segment made after the purge knows of it in its head.
    for index in 31..35 {
        append_ok(&log, vec![long(1, index)]);
    }
    let expected = image(&log);
    drop(log);
    let after = disk.files();
    let dead: Vec<_> = before.keys().filter(|name| !after.contains_key(*name)).collect();
    assert!(dead.len() >= 3);
    for left in 0..1 << dead.len() {
        let mut files = after.clone();
        for (_, name) in dead.iter().enumerate().filter(|(bit, _)| left & (1 << bit) != 0) {
            files.insert((*name).clone(), before[*name].clone());
        }
        let disk = MemDisk::of(files);
        assert_eq!(image_of(&disk), expected, "left {left:b}");
        let (log, _) = open(&disk);
        log.purge(id(1, 21)).unwrap();
        assert_eq!(disk.files().len(), after.len(), "left {left:b}");
    }
}

/// Bytes of an older file in recycled blocks, and a copy of our own frames in another place.
#[test]
fn old_frames_behind_the_end_are_never_resurrected() {
    let (files, ends) = three_batches();
    let name = newest(&files);
    let other = {
        let disk = MemDisk::of(BTreeMap::new());
        let (log, _) = open(&disk);
        append_ok(&log, entries(1, 0..3));
        append_ok(&log, vec![long(1, 3)]);
        append_ok(&log, entries(2, 4..6));
        append_ok(&log, entries(2, 6..20));
        drop(log);
        disk.files().into_values().next().unwrap()
    };
    let end = usize::try_from(ends[3]).unwrap();
    let mut recycled = files[&name].clone();
    assert_eq!(other.len(), recycled.len());
    recycled[end..].copy_from_slice(&other[end..]);
    let mut moved = files[&name].clone();
    moved.copy_within(usize::try_from(ends[2]).unwrap()..end, end);
    for bytes in [recycled, moved] {
        let disk = MemDisk::of(Files::from([(name.clone(), bytes)]));
        let (log, recovered) = open(&disk);
        assert_eq!(recovered.last, Some(id(2, 5)));
        assert!(recovered.dropped_bytes > 0);
        drop(log);
        assert!(disk.files()[&name][end..].iter().all(|byte| *byte == 0));
    }
}

/// Point 13.
#[test]
fn the_committed_id_is_never_ahead_of_the_entries() {
    let one_at_a_time = Tuning { batch_bytes_max: 1, ..tuning() };
    for cut in 3..40 {
        let disk = MemDisk::new();
        disk.cut_power_after(cut);
        let Ok((log, _)) =
            RaftLog::open_on(Arc::new(disk.clone()), &options(Durability::High), one_at_a_time)
        else {
            continue;
        };
        let appended = append(&log, entries(1, 0..10));
        log.save_committed(id(1, 9));
        let _ = answer(&appended);
        drop(log);
        let disk = disk.after_kill();
        // Recovery hides an id that it does not find; here it must not even be in the file.
        let marks = replay(&disk, 3).unwrap().unwrap().marks;
        assert!(index_of(marks.committed) <= index_of(marks.last), "{marks:?}");
        let (_, recovered) = open(&disk);
        assert!(
            recovered.committed.is_none_or(|committed| Some(committed) == recovered.last),
            "{recovered:?}"
        );
    }
    // Nor does one survive that is not an entry of this log.
    let disk = MemDisk::new();
    let (log, _) = open(&disk);
    append_ok(&log, entries(1, 0..5));
    log.save_committed(id(1, 4));
    append_ok(&log, entries(1, 5..6));
    answer(&truncate(&log, Some(id(1, 2)))).unwrap();
    drop(log);
    assert_eq!(open(&disk).1.committed, None);
}

#[test]
fn an_unfinished_segment_is_removed() {
    let (files, _) = three_batches();
    let name = newest(&files).replace("-0000000001-", "-0000000002-") + ".new";
    let mut with = files.clone();
    with.insert(name, vec![7; usize::try_from(HEADER_BYTES).unwrap()]);
    let disk = MemDisk::of(with);
    assert_eq!(image_of(&disk).last, Some(id(2, 5)));
    assert_eq!(disk.files().len(), 1);
}
