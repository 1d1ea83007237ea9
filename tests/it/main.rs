//! The integration tests, a module per subject. They know the public API and the command alone.

mod after_a_crash;
mod acting;
mod bad_input;
mod bound;
mod command;
mod containers;
mod crashes;
mod errors;
mod failing_storage;
mod forks;
mod guards;
mod holding_support;
mod hostile;
mod model;
mod processes;
mod run;
mod soak;
mod support;
mod tidy;
mod users;
mod verbs;
mod waiting;
