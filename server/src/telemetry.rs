//! Log lines: to standard error, as text or JSON, through a filter that can be replaced while the node runs.
//!
//! The subscriber belongs to the process: only `main` installs it. A program that embeds the library installs its own,
//! then [`filter`] is `None` and `PUT /v1/log-filter` says so.
//!
//! The text form escapes control characters of values, so a client's bytes cannot forge a line.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use parking_lot::Mutex;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, reload};

use crate::config::LogFormat;

static FILTER: OnceLock<Filter> = OnceLock::new();

/// The filter of the running process.
pub struct Filter {
    handle: reload::Handle<EnvFilter, Registry>,
    text: Mutex<String>,
}

impl Filter {
    /// A filter of a subscriber that nobody uses; it lives as long as the process.
    #[cfg(test)]
    pub(crate) fn leaked(text: &str) -> &'static Filter {
        let (layer, handle) = reload::Layer::new(parse(text).expect("a filter"));
        Box::leak(Box::new(layer));
        Box::leak(Box::new(Filter { handle, text: Mutex::new(text.to_owned()) }))
    }

    /// The directives in force.
    #[must_use]
    pub fn text(&self) -> String {
        self.text.lock().clone()
    }

    /// Replaces the directives.
    ///
    /// # Errors
    /// The text is no filter; the old one stays.
    pub fn replace(&self, text: &str) -> Result<(), String> {
        let filter = parse(text)?;
        let mut current = self.text.lock();
        self.handle.reload(filter).map_err(|e| e.to_string())?;
        text.clone_into(&mut current);
        Ok(())
    }
}

/// Checks directives without using them.
///
/// # Errors
/// What is wrong with them.
pub fn check_filter(text: &str) -> Result<(), String> {
    parse(text).map(|_| ())
}

fn parse(text: &str) -> Result<EnvFilter, String> {
    if text.trim().is_empty() {
        return Err("an empty filter would hide errors; write off to mean that".into());
    }
    EnvFilter::builder().parse(text).map_err(|e| e.to_string())
}

/// Installs the subscriber of the process.
///
/// # Errors
/// The filter is wrong, or a subscriber is installed already.
pub fn install(filter: &str, format: LogFormat) -> Result<(), String> {
    let (layer, handle) = reload::Layer::new(parse(filter)?);
    let lines = match format {
        LogFormat::Text => {
            fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).boxed()
        }
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
    };
    tracing_subscriber::registry().with(layer).with(lines).try_init().map_err(|e| e.to_string())?;
    let installed = Filter { handle, text: Mutex::new(filter.to_owned()) };
    FILTER.set(installed).map_err(|_| "the filter is installed already".into())
}

/// The filter that [`install`] made.
#[must_use]
pub fn filter() -> Option<&'static Filter> {
    FILTER.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_checked_before_it_replaces_the_old_one() {
        let (layer, handle) = reload::Layer::<EnvFilter, Registry>::new(parse("info").unwrap());
        let filter = Filter { handle, text: Mutex::new("info".into()) };
        filter.replace("warn,kvnode_server::raft=debug").unwrap();
        assert_eq!(filter.text(), "warn,kvnode_server::raft=debug");
        for wrong in ["", " ", "kvnode=loud", "a=b=c"] {
            assert!(filter.replace(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(filter.text(), "warn,kvnode_server::raft=debug");
        drop(layer);
        assert!(filter.replace("info").is_err(), "a filter without its subscriber cannot change");
    }
}
