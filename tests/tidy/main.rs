//! The rules of the house that a machine can check: sizes, heads, who imports whom, fences, leftovers, fresh files, links.

mod rules;
mod tree;

use std::process::Command;

use kvnode_tests::binary;
use rules::Fault;
use tree::{Source, markdown_files, sources};

/// Fails with all faults at once.
fn none(faults: &[Fault]) {
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", lines.len(), lines.join("\n"));
}

fn each(rule: impl Fn(&Source) -> Vec<Fault>) {
    let all = sources();
    assert!(all.len() > 20, "only {} source files found", all.len());
    none(&all.iter().flat_map(rule).collect::<Vec<_>>());
}

#[test]
fn files_are_short() {
    each(rules::short);
}

#[test]
fn files_begin_with_what_they_are() {
    each(rules::headed);
}

#[test]
fn modules_import_only_what_the_table_allows() {
    each(rules::imports);
}

#[test]
fn external_crates_stay_behind_their_fences() {
    each(rules::fences);
}

#[test]
fn nothing_is_left_over() {
    each(rules::leftovers);
}

#[test]
fn tests_do_not_sleep() {
    each(rules::sleeps);
}

/// A crate that left the workspace's lints would be free of all of them.
#[test]
fn unsafe_code_is_forbidden_in_every_crate() {
    let root = std::fs::read_to_string(binary::repository().join("Cargo.toml"))
        .expect("the workspace has a manifest");
    none(&rules::forbids_unsafe(&root));
    let members = rules::members(&root);
    assert!(members.len() >= 4, "{members:?}");
    for member in members {
        let file = format!("{member}/Cargo.toml");
        let text =
            std::fs::read_to_string(binary::repository().join(&file)).expect("a member has a manifest");
        none(&rules::takes_the_lints(&file, &text));
    }
    each(rules::unsafe_is_not_allowed);
}

#[test]
fn every_command_is_played_by_a_script() {
    let all = sources();
    let table: Vec<String> = all.iter().flat_map(rules::command_names).collect();
    assert!(table.len() > 20, "only {} commands found: {table:?}", table.len());
    let played = tree::played_text().to_uppercase();
    // A subcommand is `CLIENT|LIST` in the table and `CLIENT LIST` to a client.
    let as_typed = |name: &str| name.replace('|', " ");
    let missing: Vec<&String> =
        table.iter().filter(|name| !rules::mentions(&played, &as_typed(name))).collect();
    assert!(missing.is_empty(), "no conformance script and no e2e test plays {missing:?}");
}

/// A name that the table does not have is refused by the compiler.
#[test]
fn every_crash_point_of_the_table_stands_at_one_place() {
    let all = sources();
    let mut rows: Vec<String> = all.iter().flat_map(rules::crash_rows).collect();
    let mut places: Vec<String> = all.iter().flat_map(rules::crash_places).collect();
    assert!(rows.len() >= 34, "only {} rows found: {rows:?}", rows.len());
    rows.sort();
    places.sort();
    assert_eq!(rows, places, "the rows of server/src/crash/points.rs, and the places of crash_point!");
}

#[test]
fn generated_files_are_fresh() {
    let file = binary::repository().join("server/COMMANDS.md");
    let found = std::fs::read_to_string(&file).expect("server/COMMANDS.md is in the repository");
    let output =
        Command::new(binary::server()).args(["commands", "--markdown"]).output().expect("the server runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(found.as_bytes() == output.stdout, "server/COMMANDS.md is stale: make gen");
}

/// The fuzzer is a workspace of its own, which `make fuzz` builds as its lock file says; nothing else would notice.
#[test]
fn the_fuzzer_locks_what_the_server_needs() {
    let read = |file: &str| std::fs::read_to_string(binary::repository().join(file)).expect(file);
    let (place, manifest) = ("tests/fuzz/Cargo.lock", read("server/Cargo.toml"));
    none(&rules::locks("kvnode-server", &manifest, place, &read(place)));
}

/// The image is built without the tests: their members are cut from the manifest, those that are left must be copied.
#[test]
fn the_image_has_the_manifests_of_the_members_that_it_keeps() {
    let file =
        std::fs::read_to_string(binary::repository().join("Dockerfile")).expect("there is a Dockerfile");
    let cut = file.lines().find_map(|line| line.trim().strip_prefix("sed -i '")?.split_once("' Cargo.toml"));
    let (cut, _) = cut.expect("the Dockerfile cuts members from Cargo.toml by sed");
    let sed =
        Command::new("sed").arg(cut).arg(binary::repository().join("Cargo.toml")).output().expect("sed");
    let members = rules::members(&String::from_utf8_lossy(&sed.stdout));
    assert!(members.len() >= 2, "{members:?}");
    let missing: Vec<&String> = members
        .iter()
        .filter(|member| !file.lines().any(|line| line == format!("COPY {member}/Cargo.toml {member}/")))
        .collect();
    assert!(
        missing.is_empty(),
        "the Dockerfile copies no manifest of {missing:?}, and does not cut them either"
    );
}

#[test]
fn relative_links_in_markdown_resolve() {
    let files = markdown_files();
    assert!(!files.is_empty(), "no Markdown file found");
    none(&files.iter().flat_map(|file| rules::links(file)).collect::<Vec<_>>());
}
