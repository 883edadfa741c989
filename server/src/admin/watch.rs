//! `GET /v1/watch`: leader changes as server-sent events.
//!
//! The buffer of a watcher is one state: a slow reader misses states between, never the newest. A comment every 15 s
//! keeps proxies from closing the stream and lets the write timeout find readers that are gone.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;
use kvnode_api::watch::LeaderEvent;

use super::answer::Refusal;
use super::{Admin, ControlError};

const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) async fn watch(
    State(admin): State<Admin>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let place = admin
        .watches
        .clone()
        .try_acquire_owned()
        .map_err(|_| ControlError::Busy("too many watches are open".into()))?;
    let mut states = admin.node.watch();
    // The state now is the first event.
    states.mark_changed();
    let shutdown = admin.shutdown;
    let events = unfold((states, shutdown, place), |(mut states, shutdown, place)| async move {
        let changed = tokio::select! {
            () = shutdown.cancelled() => return None,
            changed = states.changed() => changed,
        };
        changed.ok()?;
        let event = event(&states.borrow_and_update());
        Some((Ok(event), (states, shutdown, place)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

fn event(state: &LeaderEvent) -> Event {
    // Serialising numbers, words and addresses cannot fail.
    let data = serde_json::to_string(state).unwrap_or_default();
    Event::default().event("leader").id(state.term.to_string()).data(data)
}
