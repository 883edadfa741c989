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
