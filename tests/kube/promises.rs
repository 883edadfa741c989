//! What was promised and what was measured.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A promise that is missed by more than this factor fails the suite: a busy machine is not a broken product.
const TOLERANCE: f64 = 3.0;

struct Row {
    what: String,
    promised: Duration,
    measured: Duration,
}

/// The table.
#[derive(Default)]
pub(crate) struct Promises {
    rows: Mutex<Vec<Row>>,
}

impl Promises {
    /// One measurement.
    pub(crate) fn measured(&self, what: &str, promised: Duration, measured: Duration) {
        say!("{what}: {:.2} s (promised {:.2} s)", measured.as_secs_f64(), promised.as_secs_f64());
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.push(Row { what: what.to_owned(), promised, measured });
    }

    /// Prints the table; how many promises were missed by more than the tolerance.
    pub(crate) fn table(&self) -> usize {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.is_empty() {
            return 0;
        }
        println!("\n| promise | promised | measured | |\n| --- | ---: | ---: | --- |");
        let mut missed = 0;
        for row in rows.iter() {
            let factor = row.measured.as_secs_f64() / row.promised.as_secs_f64();
            let verdict = if factor <= 1.0 {
                "kept"
            } else if factor <= TOLERANCE {
                "late"
            } else {
                missed += 1;
                "MISSED"
            };
            let (promised, measured) = (row.promised.as_secs_f64(), row.measured.as_secs_f64());
            println!("| {} | {promised:.1} s | {measured:.2} s | {verdict} |", row.what);
        }
        println!();
        missed
    }
}
