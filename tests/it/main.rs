//! The integration tests, a module per subject. They know the public API and the command alone.

mod bad_input;
mod bound;
mod command;
mod crashes;
mod failing_storage;
mod flock;
mod getting;
mod guards;
mod holding_support;
mod hostile;
mod model;
mod places;
mod processes;
mod run;
mod signals;
mod soak;
mod support;
mod terminal;
mod tidy;
mod verbs;
mod waiting;
