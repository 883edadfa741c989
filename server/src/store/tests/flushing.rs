//! A flush that fails for anything but want of space.

use std::time::Duration;

use super::*;
use crate::clock;

#[test]
fn a_flush_that_cannot_end_is_an_error_and_not_waited_for() {
    let mut node = Node::new();
    node.apply(vec![set("a", "1")]);
    node.applier.flush(true).unwrap();
    node.apply(vec![set("b", "2")]);
    node.applier.check_flush().expect("none runs");
    // New tables cannot be made where there is no directory.
    let state = node.dir.path().join("state");
    std::fs::rename(&state, node.dir.path().join("elsewhere")).unwrap();
    node.applier.flush(false).expect("it only begins");
    let deadline = clock::monotonic() + Duration::from_secs(30);
    let failed = loop {
        if let Err(error) = node.applier.check_flush() {
            break error.to_string();
        }
        assert!(clock::monotonic() < deadline, "never told");
        std::thread::yield_now();
    };
    assert!(failed.starts_with("flush state in "), "{failed}");
    let failed = node.applier.flush(true).expect_err("nor for ever behind it").to_string();
    assert!(failed.starts_with("flush state in "), "{failed}");
    assert_eq!(node.store.durable(), Some(id(0)), "and nothing is taken to be durable");
}
