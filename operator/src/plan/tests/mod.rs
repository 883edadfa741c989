//! The plan against a fake cluster that carries its steps out: what happens, and what never does.

mod cases;
mod model;
mod sizes;
mod walk;
