//! Reports our own faults: the message of a panic and its place, and nothing else.

use lockmgr::Printable;
use std::panic::{self, UnwindSafe};
use std::sync::{Mutex, PoisonError};

/// The place and the message of the last panic.
static LAST: Mutex<Option<String>> = Mutex::new(None);

/// Runs the command. A panic that escapes is a fault of ours, and its report is the error. A panic
/// that the library catches, such as redb's on a damaged file, prints nothing.
pub(crate) fn caught<T>(command: impl FnOnce() -> T + UnwindSafe) -> Result<T, String> {
    let last = || LAST.lock().unwrap_or_else(PoisonError::into_inner);
    panic::set_hook(Box::new(move |panic| {
        let payload = panic.payload();
        let said = payload.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| payload.downcast_ref::<&str>().copied());
        let place = panic.location().map(ToString::to_string);
        let place = place.unwrap_or_else(|| "an unknown place".into());
        *last() = Some(format!("{place}: {}", said.unwrap_or("no message")));
    }));
    panic::catch_unwind(command).map_err(|_| {
        let told = last().take().unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION");
        let told = Printable(&told);
        format!("a fault of lockmgr {version} at {told}; please report it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_is_reported_with_its_place_and_a_caught_panic_is_not() {
        let told = caught(|| {
            let _ = panic::catch_unwind(|| panic!("of another"));
            panic!("of {}", "ours")
        });
        let told: String = told.map(|(): ()| ()).unwrap_err();
        assert!(told.contains("src/bin/lockmgr/fault.rs:"), "{told}");
        assert!(told.ends_with(": of ours; please report it"), "{told}");
        let done = caught(|| panic::catch_unwind(|| panic!("of another")).is_err());
        assert_eq!(done, Ok(true));
        let _ = panic::take_hook();
    }
}
