//! libFuzzer's entry: hands each input to the target that `KVNODE_FUZZ_TARGET` names. See `make fuzz`.
#![no_main]

use std::sync::LazyLock;

use kvnode_server::fuzz::{self, Target};
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("KVNODE_FUZZ_TARGET").unwrap_or_default();
    fuzz::find(&name).unwrap_or_else(|| {
        let names: Vec<&str> = fuzz::TARGETS.iter().map(|target| target.name).collect();
        panic!("KVNODE_FUZZ_TARGET is {name:?}, not one of {}", names.join(", "))
    })
});

fuzz_target!(|data: &[u8]| (TARGET.run)(data));
