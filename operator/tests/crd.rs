//! `deploy/crd.yaml` is what the program prints.

use std::process::Command;

#[test]
fn the_file_is_what_the_program_prints() {
    let output = Command::new(env!("CARGO_BIN_EXE_kvnode-operator")).arg("crd").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/crd.yaml");
    let file = std::fs::read_to_string(path).unwrap_or_default();
    assert!(printed == file, "deploy/crd.yaml is old; write it anew: kvnode-operator crd > deploy/crd.yaml");
}

#[test]
fn the_list_of_reasons_is_what_the_program_prints() {
    let output = Command::new(env!("CARGO_BIN_EXE_kvnode-operator")).arg("reasons").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/REASONS.md");
    let file = std::fs::read_to_string(path).unwrap_or_default();
    assert!(printed == file, "write it anew: kvnode-operator reasons > deploy/REASONS.md");
    assert!(
        !printed.contains("|  |") && !printed.contains("[`"),
        "a word is not explained, or by a link of Rust"
    );
}

/// Readers of YAML 1.1, as kubectl and helm are, take these words for booleans.
#[test]
fn no_word_of_an_enum_is_a_boolean_to_an_old_reader() {
    let words = ["y", "n", "yes", "no", "on", "off", "true", "false"];
    let text = kvnode_operator::crd::yaml().unwrap();
    let items = text.lines().filter_map(|line| line.trim_start().strip_prefix("- "));
    let bare: Vec<_> = items.filter(|item| words.contains(&item.to_ascii_lowercase().as_str())).collect();
    assert!(bare.is_empty(), "{bare:?}");
    assert!(text.contains("- 'Off'"), "the words are there, in quotes");
}
