//! Step 4: the one `match` on an action, and the only effects.
