//! The integration tests, a module per subject. They know the public API and the command alone.

mod bad_input;
mod command;
mod model;
mod processes;
mod support;
mod tidy;
mod verbs;
