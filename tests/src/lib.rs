//! Harness of the suites that run the real program.
