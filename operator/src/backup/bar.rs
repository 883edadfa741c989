//! A bar on a terminal, redrawn in place; nothing anywhere else.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use super::progress::{Progress, Reporter};
use crate::clock;

const REDRAW: Duration = Duration::from_millis(200);
const WIDTH: usize = 24;

/// Does the work and shows its progress on standard error, if that is a terminal.
pub(super) async fn shown<T>(work: impl Future<Output = T>, reporter: &Reporter) -> T {
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    let progress = reporter.subscribe();
    let mut tick = tokio::time::interval(REDRAW);
    let (mut phase, mut since) = (None, clock::monotonic());
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                draw("");
                return done;
            }
            _ = tick.tick() => {
                let now = progress.borrow().clone();
                if phase != Some(now.phase) {
                    (phase, since) = (Some(now.phase), clock::monotonic());
                }
                draw(&line(&now, clock::monotonic().saturating_duration_since(since)));
            }
        }
    }
}

fn draw(line: &str) {
    // Back to the first column, the line, and the rest of the old line cleared.
    let _ = write!(std::io::stderr(), "\r{line}\x1b[K");
    let _ = std::io::stderr().flush();
}

fn line(progress: &Progress, passed: Duration) -> String {
    let phase = format!("{:?}", progress.phase);
    let Some(per_cent) = progress.per_cent() else { return format!("{phase:<10} ...") };
    let full = usize::from(per_cent) * WIDTH / 100;
    let rate = u128::from(progress.bytes) * 1000 / passed.as_millis().max(1);
    format!(
        "{phase:<10} [{}{}] {per_cent:>3} %  {} of {}  {}/s",
        "#".repeat(full),
        " ".repeat(WIDTH - full),
        size(u128::from(progress.bytes)),
        size(u128::from(progress.bytes_total)),
        size(rate)
    )
}

/// Three digits and a unit.
fn size(bytes: u128) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = bytes * 10;
    let mut unit = 0;
    while scaled >= 10_240 && unit + 1 < units.len() {
        scaled /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", scaled / 10, scaled % 10, units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::backup::BackupPhase;

    #[test]
    fn a_line_has_all_that_one_wants_to_know() {
        let progress = Progress {
            phase: BackupPhase::Uploading,
            bytes: 512 * 1024 * 1024,
            bytes_total: 2048 * 1024 * 1024,
            attempts: 1,
            source: None,
            preview: None,
        };
        let text = line(&progress, Duration::from_secs(4));
        assert_eq!(text, "Uploading  [######                  ]  25 %  512.0 MiB of 2.0 GiB  128.0 MiB/s");
        assert_eq!(line(&Progress::default(), Duration::ZERO), "Running    ...");
    }
}
