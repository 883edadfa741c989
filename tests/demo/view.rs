//! What the demo knows of its nodes, and how it draws that.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use kvnode_tests::client::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::load::ask;

/// A node that does not answer within this is shown as down.
const PATIENCE: Duration = Duration::from_millis(300);
const POLL: Duration = Duration::from_millis(100);
/// Columns of the strip of write rates.
const COLUMNS: usize = 72;

/// One node as it last described itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeView {
    /// Client address.
    pub(crate) addr: String,
    /// It answers.
    pub(crate) up: bool,
    /// As RAFTSTATE.
    pub(crate) state: String,
    /// Its term.
    pub(crate) term: u64,
    /// Last index of its log.
    pub(crate) last_index: u64,
    /// Last index it applied.
    pub(crate) applied: u64,
    /// Keys in database 0, by its own state.
    pub(crate) keys: i64,
}

/// Asks all nodes all the time.
pub(crate) struct Nodes {
    views: Vec<Arc<Mutex<NodeView>>>,
    _tasks: JoinSet<()>,
}

impl Nodes {
    pub(crate) fn watch(addrs: &[String]) -> Self {
        let mut tasks = JoinSet::new();
        let mut views = Vec::new();
        for addr in addrs {
            let view = Arc::new(Mutex::new(NodeView { addr: addr.clone(), ..NodeView::default() }));
            tasks.spawn(poll(addr.clone(), Arc::clone(&view)));
            views.push(view);
        }
        Self { views, _tasks: tasks }
    }

    pub(crate) fn now(&self) -> Vec<NodeView> {
        self.views.iter().map(|view| view.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    /// Index and term of the leader, by its own word in the highest term.
    pub(crate) fn leader(&self) -> Option<(usize, u64)> {
        let views = self.now().into_iter().enumerate();
        let leaders = views.filter(|(_, view)| view.up && view.state == "Leader");
        leaders.map(|(index, view)| (index, view.term)).max_by_key(|&(_, term)| term)
    }
}

async fn poll(addr: String, view: Arc<Mutex<NodeView>>) {
    let mut client: Option<Client> = None;
    let mut ticks = tokio::time::interval(POLL);
    loop {
        ticks.tick().await;
        if client.is_none() {
            client = Client::connect(&addr).await.ok().map(|client| client.with_patience(PATIENCE));
        }
        let answer = match client.as_mut() {
            Some(client) => ask(client).await.ok(),
            None => None,
        };
        if answer.is_none() {
            client = None;
        }
        let mut view = view.lock().unwrap_or_else(PoisonError::into_inner);
        view.up = answer.is_some();
        if let Some((stats, keys)) = answer {
            let number = |name: &str| stats.get(name).and_then(|text| text.parse().ok()).unwrap_or(0);
            view.state = stats.get("state").cloned().unwrap_or_default();
            view.term = number("term");
            view.last_index = number("last_log_index");
            view.applied = number("applied_index");
            view.keys = keys;
        }
    }
}

/// Numbers of one frame.
pub(crate) struct Frame<'a> {
    pub(crate) nodes: &'a [NodeView],
    pub(crate) seconds: u64,
    pub(crate) writes_per_second: u64,
    pub(crate) p99: Duration,
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) rates: &'a VecDeque<u64>,
    pub(crate) events: &'a [String],
    pub(crate) hint: &'a str,
}

/// The frame as text, one entry per line.
pub(crate) fn lines(frame: &Frame<'_>) -> Vec<String> {
    let mut lines = vec![
        format!(
            "kvnode: three nodes on this machine, durability high, consistency high   {:02}:{:02}",
            frame.seconds / 60,
            frame.seconds % 60
        ),
        String::new(),
        format!(
            "  node  {:<22} {:<10} {:>6} {:>11} {:>11} {:>8}",
            "address", "state", "term", "log", "applied", "keys"
        ),
    ];
    for (index, node) in frame.nodes.iter().enumerate() {
        let mut line = format!("  {:<5} {:<22} ", index + 1, node.addr);
        let written = if node.up {
            let NodeView { state, term, last_index, applied, keys, .. } = node;
            write!(line, "{state:<10} {term:>6} {last_index:>11} {applied:>11} {keys:>8}")
        } else {
            write!(line, "down")
        };
        debug_assert!(written.is_ok());
        lines.push(line);
    }
    lines.extend([
        String::new(),
        format!("  {} writes/s   p99 {:.1} ms", frame.writes_per_second, frame.p99.as_secs_f64() * 1000.0),
        format!("  {}", strip(frame.rates)),
        format!(
            "  {} acknowledged, {} refused, {} without a reply (their own node died)",
            frame.acknowledged, frame.refused, frame.unknown
        ),
        String::new(),
    ]);
    lines.extend(frame.events.iter().rev().take(6).rev().map(|event| format!("  {event}")));
    lines.extend([String::new(), format!("  {}", frame.hint)]);
    lines
}

/// Rates as a strip of bars, the newest at the right; a gap is seen as one.
fn strip(rates: &VecDeque<u64>) -> String {
    const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = || rates.iter().skip(rates.len().saturating_sub(COLUMNS));
    let most = shown().max().copied().unwrap_or(0).max(1);
    shown().map(|&rate| BARS[usize::try_from((rate * 8).div_ceil(most)).unwrap_or(8).min(8)]).collect()
}

/// The terminal in raw mode on its second screen, given back on drop.
pub(crate) struct Terminal {
    saved: Option<String>,
}

impl Terminal {
    pub(crate) fn enter() -> Result<Self> {
        let saved = Command::new("stty").arg("-g").stdin(std::process::Stdio::inherit()).output().ok();
        let saved = saved.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        Command::new("stty").args(["-icanon", "-echo", "min", "1"]).status()?;
        let mut out = std::io::stdout();
        out.write_all(b"\x1b[?1049h\x1b[?25l")?;
        out.flush()?;
        Ok(Self { saved: saved.filter(|saved| !saved.is_empty()) })
    }

    pub(crate) fn draw(lines: &[String]) -> Result<()> {
        let mut screen = String::from("\x1b[H");
        for line in lines {
            screen.push_str(line);
            screen.push_str("\x1b[K\r\n");
        }
        screen.push_str("\x1b[J");
        let mut out = std::io::stdout();
        out.write_all(screen.as_bytes())?;
        Ok(out.flush()?)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut out = std::io::stdout();
        // Nothing can be done about a terminal that is gone.
        let _ = out.write_all(b"\x1b[?25h\x1b[?1049l").and_then(|()| out.flush());
        let _ = Command::new("stty").arg(self.saved.as_deref().unwrap_or("sane")).status();
    }
}

/// Keys as they are pressed. A thread of its own: a blocking read would hold up the end of the runtime.
pub(crate) fn keys() -> mpsc::Receiver<u8> {
    let (pressed, keys) = mpsc::channel(16);
    std::thread::spawn(move || {
        use std::io::Read as _;
        for key in std::io::stdin().lock().bytes().map_while(Result::ok) {
            if pressed.blocking_send(key).is_err() {
                return;
            }
        }
    });
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_a_hole_in_the_strip() {
        assert_eq!(strip(&VecDeque::from([8, 4, 0, 1])), "█▄ ▁");
        assert_eq!(strip(&VecDeque::new()), "");
        assert_eq!(strip(&VecDeque::from(vec![5; 2 * COLUMNS])).chars().count(), COLUMNS);
    }

    #[test]
    fn a_node_that_is_down_shows_no_old_numbers() {
        let node = NodeView { addr: "a:1".into(), term: 7, keys: 42, ..NodeView::default() };
        let frame = Frame {
            nodes: &[node],
            seconds: 61,
            writes_per_second: 5,
            p99: Duration::from_micros(1500),
            acknowledged: 1,
            refused: 0,
            unknown: 0,
            rates: &VecDeque::new(),
            events: &[],
            hint: "q quits",
        };
        let text = lines(&frame).join("\n");
        assert!(text.contains("a:1") && text.contains("down") && !text.contains("42"), "{text}");
        assert!(text.contains("01:01") && text.contains("p99 1.5 ms"), "{text}");
    }
}
