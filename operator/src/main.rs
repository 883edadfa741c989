//! The program: `kvnode-operator crd` prints the CRDs.

use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() != Some("crd") {
        let _ = writeln!(std::io::stderr(), "usage: kvnode-operator crd");
        return ExitCode::from(64);
    }
    match kvnode_operator::crd::yaml() {
        Ok(text) if std::io::stdout().write_all(text.as_bytes()).is_ok() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
