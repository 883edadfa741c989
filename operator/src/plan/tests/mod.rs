//! The plan against a fake cluster that carries its steps out: what happens, and what never does.

mod cases;
mod diverged;
mod model;
mod sizes;
mod walk;
