//! Step 1: sockets.
