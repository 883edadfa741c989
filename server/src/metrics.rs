//! Every metric, declared once, in a registry of our own.
