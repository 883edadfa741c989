//! Snapshot directories: written whole or not at all, listed, found, pruned, cleared after a crash.

use std::cell::RefCell;
use std::fs;

use kvnode_api::snapshot::IndexRange;

use super::super::export::{ExportContext, export};
use super::super::{Catalog, Meta, open_records, verify};
use super::*;
use crate::clock;
use crate::store::{DbStats, Fatal, ViewMeta};

fn view(records: &[Record]) -> ViewMeta {
    let mut totals = Totals::new(4);
    for record in records {
        totals.count(record, hash);
    }
    let Header { applied, log_time, .. } = header();
    ViewMeta { applied, log_time, membership: None, databases: totals.databases }
}

fn context(created: u64) -> ExportContext {
    ExportContext {
        cluster_id: 0xc1,
        node_id: 0x1f,
        server_version: "0.1.0".into(),
        created: UnixMs(created),
        quorum: true,
        parent: None,
        hash,
        bytes_per_second: 0,
    }
}

fn export_at(created: u64, dir: &Path) -> String {
    let (path, meta) =
        export(&view(&sample()), sample().into_iter().map(Ok), &context(created), dir).unwrap();
    assert_eq!(path, dir.join(&meta.id));
    meta.id
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A directory that looks like one of the ancestor's.
fn ancestor(dir: &Path, id: &str) {
    fs::create_dir_all(dir.join(id)).unwrap();
    for name in ["state.bin", "meta.json"] {
        fs::copy(testdata("ancestor").join(name), dir.join(id).join(name)).unwrap();
    }
}

#[test]
fn an_export_is_complete_and_proved() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data/snapshots");
    let wanted = ExportContext { quorum: false, parent: Some("3-1-2".into()), ..context(1_795_332_236_779) };
    let (path, meta) = export(&view(&sample()), sample().into_iter().map(Ok), &wanted, &dir).unwrap();
    assert_eq!(names(&dir), ["3-900-1795332236779"]);
    assert_eq!(names(&path), ["meta.json", "state.bin"]);

    let text = fs::read_to_string(path.join("meta.json")).unwrap();
    assert_eq!(text.lines().count(), 1);
    assert_eq!(serde_json::from_str::<kvnode_api::snapshot::SnapshotMeta>(&text).unwrap(), meta);
    assert_eq!((meta.term, meta.index, &*meta.created_at), (3, 900, "2026-11-22T07:23:56.779Z"));
    assert_eq!((meta.quorum, meta.parent.as_deref(), meta.keys_total()), (false, Some("3-1-2"), 6));
    assert_eq!(meta.index_range, Some(IndexRange { first: 0, last: 900 }));

    let (verified, records) = open_records(&path.join("state.bin"), hash).unwrap();
    assert_eq!(records.collect::<Result<Vec<_>, _>>().unwrap(), sample());
    assert!(verified.meta_checked);
    assert_eq!((verified.size_bytes, verified.header), (meta.size_bytes, Some(header())));
    assert_eq!(format!("{:032x}", verified.totals.digest()), meta.digest);
}

#[test]
fn a_content_without_entries_has_no_index_range() {
    let dir = tempfile::tempdir().unwrap();
    let view = ViewMeta { applied: None, ..view(&[]) };
    let (_, meta) = export(&view, std::iter::empty(), &context(5), dir.path()).unwrap();
    assert_eq!((&*meta.id, meta.index_range, meta.keys_total()), ("0-0-5", None, 0));
}

#[test]
fn meta_json_of_another_content_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join(export_at(1, dir.path()));
    let second = dir.path().join(export_at(2, dir.path()));
    fs::copy(first.join("meta.json"), second.join("meta.json")).unwrap();
    let error = verify(&second.join("state.bin"), hash).unwrap_err();
    assert!(matches!(error, SnapshotError::MetaMismatch { .. }), "{error}");
    assert!(error.to_string().contains("SHA-256"), "{error}");
}

#[test]
fn exports_of_the_same_millisecond_get_names_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| export_at(100, dir.path()));
        }
    });
    assert_eq!(names(dir.path()).len(), 8, "{:?}", names(dir.path()));
    for entry in Catalog::new(dir.path()).list().unwrap() {
        verify(&entry.state(), hash).unwrap();
    }
}

#[test]
fn an_error_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let failing = sample().into_iter().map(Ok).chain([Err(Fatal::new("read block 7", "checksum"))]);
    let error = export(&view(&sample()), failing, &context(1), dir.path()).unwrap_err();
    assert_eq!(error.to_string(), "read block 7: checksum");
    assert_eq!(names(dir.path()), [] as [&str; 0]);
}

#[test]
fn a_store_whose_counters_do_not_fit_is_not_exported() {
    let dir = tempfile::tempdir().unwrap();
    let changes: [fn(&mut DbStats); 3] = [|db| db.keys += 1, |db| db.expires += 1, |db| db.digest ^= 1];
    for change in changes {
        let mut view = view(&sample());
        change(&mut view.databases[1]);
        let error = export(&view, sample().into_iter().map(Ok), &context(1), dir.path()).unwrap_err();
        assert!(matches!(error, SnapshotError::StoreMismatch { .. }), "{error}");
        assert!(error.to_string().contains("database 1"), "{error}");
    }
    assert_eq!(names(dir.path()), [] as [&str; 0]);
}

#[test]
fn an_export_in_progress_is_neither_listed_nor_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::new(dir.path());
    fs::create_dir_all(dir.path().join("1-2-3.tmp")).unwrap();
    fs::write(dir.path().join("1-2-3.tmp/state.bin"), "torn").unwrap();
    let seen = RefCell::new(Vec::new());
    let records = sample().into_iter().map(|record| {
        seen.borrow_mut().push((catalog.list().unwrap().len(), catalog.remove_stale().unwrap()));
        Ok(record)
    });
    export(&view(&sample()), records, &context(1), dir.path()).unwrap();
    assert_eq!(*seen.borrow(), [(0, 1), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)]);
    assert_eq!(names(dir.path()), ["3-900-1"]);
}

#[test]
fn the_rate_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let records = [record(0, b"a", None, &noise(5, 20_000))];
    let slow = ExportContext { bytes_per_second: 200_000, ..context(1) };
    let begun = clock::monotonic();
    export(&view(&records), records.iter().cloned().map(Ok), &slow, dir.path()).unwrap();
    assert!(begun.elapsed().as_millis() >= 100, "{:?}", begun.elapsed());
}

#[test]
fn what_a_crash_left_is_cleared_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let kept = export_at(7, dir.path());
    for name in ["1-2-3.tmp", "4-5-6.tmp", "notes.tmp", "1-2-3-4.tmp", "+1-2-3.tmp", "other"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("4-5-6.tmp/state.bin"), "half").unwrap();
    let catalog = Catalog::new(dir.path());
    assert_eq!(catalog.remove_stale().unwrap(), 2);
    assert_eq!(names(dir.path()), ["+1-2-3.tmp", "1-2-3-4.tmp", &kept, "notes.tmp", "other"]);
    assert_eq!(catalog.remove_stale().unwrap(), 0);
}

#[test]
fn a_directory_that_does_not_exist_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::new(dir.path().join("snapshots"));
    assert_eq!(catalog.list().unwrap(), []);
    assert_eq!((catalog.remove_stale().unwrap(), catalog.used_bytes().unwrap()), (0, 0));
    assert_eq!(catalog.prune(2, None).unwrap(), [] as [&str; 0]);
}

#[test]
fn both_programs_are_listed_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (late, early) = (export_at(1000, dir.path()), export_at(999, dir.path()));
    ancestor(dir.path(), "1-1437-1795332236779");
    fs::create_dir(dir.path().join("9-9-9")).unwrap();
    let catalog = Catalog::new(dir.path());
    let entries = catalog.list().unwrap();
    let ids: Vec<_> = entries.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!(ids, ["1-1437-1795332236779", &early, &late]);
    assert!(matches!(&entries[0].meta, Meta::Ancestor(meta) if meta.index == 1437));
    assert!(matches!(&entries[1].meta, Meta::Kvnode(meta) if meta.size_bytes == entries[1].size_bytes));
    let bytes: u64 = entries.iter().map(|entry| entry.size_bytes).sum();
    assert!(catalog.used_bytes().unwrap() > bytes);
}

#[test]
fn only_names_of_snapshots_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = dir.path().join("snapshots");
    let id = export_at(1, &snapshots);
    ancestor(dir.path(), "1-2-3");
    let catalog = Catalog::new(&snapshots);
    assert_eq!(catalog.find(&id).unwrap().dir, snapshots.join(&id));
    for wrong in
        ["", "3-900-2", "../1-2-3", "3-900-01", "3-900-1/", "./3-900-1", "3-900-1.tmp", "a-b-c", "\r\n"]
    {
        let error = catalog.find(wrong).unwrap_err();
        assert!(matches!(error, SnapshotError::NotFound { .. }), "{wrong:?}: {error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn pruning_keeps_the_newest_the_written_and_the_ancestors() {
    let dir = tempfile::tempdir().unwrap();
    let ids: Vec<_> = (1..=5).map(|ms| export_at(ms, dir.path())).collect();
    ancestor(dir.path(), "1-1-1");
    let catalog = Catalog::new(dir.path());
    assert_eq!(catalog.prune(2, Some(&ids[0])).unwrap(), ids[1..3]);
    assert_eq!(names(dir.path()), ["1-1-1", &ids[0], &ids[3], &ids[4]]);
    assert_eq!(catalog.prune(2, None).unwrap(), ids[..1]);
    assert_eq!(catalog.prune(0, Some(&ids[4])).unwrap(), ids[3..4]);
    assert_eq!(names(dir.path()), ["1-1-1", &ids[4]]);
}

#[test]
fn pruning_clears_what_an_interrupted_pruning_left() {
    let dir = tempfile::tempdir().unwrap();
    let id = export_at(1, dir.path());
    // A crash between the rename and the removal.
    fs::rename(dir.path().join(&id), dir.path().join(format!("{id}.tmp"))).unwrap();
    let catalog = Catalog::new(dir.path());
    assert_eq!(catalog.list().unwrap(), []);
    assert_eq!(catalog.remove_stale().unwrap(), 1);
    assert_eq!(names(dir.path()), [] as [&str; 0]);
}

#[test]
fn a_reader_keeps_its_file_while_it_is_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let id = export_at(1, dir.path());
    let (_, records) = open_records(&dir.path().join(&id).join("state.bin"), hash).unwrap();
    assert_eq!(Catalog::new(dir.path()).prune(0, None).unwrap(), [id]);
    assert_eq!(records.collect::<Result<Vec<_>, _>>().unwrap(), sample());
}

#[test]
fn a_newer_meta_json_is_not_guessed_at() {
    let dir = tempfile::tempdir().unwrap();
    let id = export_at(1, dir.path());
    let path = dir.path().join(&id).join("meta.json");
    let text = fs::read_to_string(&path).unwrap().replace(r#""format_version":1"#, r#""format_version":2"#);
    fs::write(&path, text).unwrap();
    let catalog = Catalog::new(dir.path());
    assert!(matches!(catalog.find(&id), Err(SnapshotError::Newer { .. })));
    assert_eq!(catalog.prune(0, None).unwrap(), [] as [&str; 0], "what is not understood is not removed");
}
