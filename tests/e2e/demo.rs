//! `make demo`, played without a terminal.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use kvnode_tests::{binary, scenario, tool};

#[test]
fn the_demo_kills_the_leader_and_loses_nothing() {
    scenario::run(async {
        let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
        demo.args(["--seconds", "3", "--kill-every", "1"])
            .env("KVNODE_SERVER_BIN", binary::server())
            .stdin(Stdio::null());
        let printed = tokio::task::spawn_blocking(move || tool::run(&mut demo)).await??;
        check(&printed)
    });
}

fn check(printed: &str) -> Result<()> {
    for expected in [
        "kill -9 of node",
        "no write for",
        "read back: 0 lost",
        "is back and caught up",
        "0 acknowledged writes lost",
    ] {
        ensure!(printed.contains(expected), "{expected:?} is missing in\n{printed}");
    }
    Ok(())
}
