//! The admin API on its own port.
