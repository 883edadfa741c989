//! State of one client connection: protocol, selected database, name, read level.
