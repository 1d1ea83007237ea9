//! Tells where a panic happened, and so whose it is: redb's, on pages that it did not write, or
//! that of a hook or of our own code.
//!
//! Only the panic hook learns the place. The hook of the program stays: it is called as before,
//! after the place is noted.

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Component, Path};
use std::sync::Once;
use std::thread;

thread_local! {
    /// The place where this thread panicked last.
    static PLACE: RefCell<Option<Place>> = const { RefCell::new(None) };
}

#[derive(Clone, Debug)]
struct Place {
    file: String,
    line: u32,
    column: u32,
}

/// Holds a panic that was caught.
#[derive(Clone, Debug)]
pub(super) struct Panicked {
    text: Option<String>,
    /// None if the program has set another panic hook since.
    place: Option<Place>,
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.as_deref().unwrap_or("a panic without a message"))
    }
}

impl Error for Panicked {}

impl Panicked {
    /// Returns the damage to the file, if redb panicked, or if the place of the panic is not known.
    pub(super) fn damage(&self) -> Option<&str> {
        let is_of_redb = self.place.as_ref().is_none_or(|it| is_of_redb(&it.file));
        // A failed assumption of redb says nothing to a reader.
        let text = self
            .text
            .as_deref()
            .filter(|it| !it.contains("unreachable"));
        is_of_redb.then(|| text.unwrap_or("unexpected contents"))
    }

    pub(super) fn place(&self) -> String {
        match &self.place {
            Some(Place { file, line, column }) => format!("{file}:{line}:{column}"),
            None => "an unknown place".into(),
        }
    }

    /// Returns the panic of a storage hook, on its way through redb.
    pub(super) fn in_error(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

/// Sets the hook that notes the places of panics from now on.
pub(super) fn watch() {
    static WATCHED: Once = Once::new();
    // On a thread that panics, no hook can be set.
    if thread::panicking() {
        return;
    }
    WATCHED.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let place = panic.location().map(|location| Place {
                file: location.file().to_owned(),
                line: location.line(),
                column: location.column(),
            });
            // A thread at its end has no slot to note the place in.
            let _ = PLACE.try_with(|noted| noted.replace(place));
            previous(panic);
        }));
    });
}

/// Runs `work`, and catches its panic.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    PLACE.take();
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let literal = || Some((*panic.downcast_ref::<&str>()?).to_owned());
        Panicked {
            text: text.or_else(literal),
            place: PLACE.take(),
        }
    })
}

/// Tells whether a source file is redb's, or the standard library's: code that redb calls there may
/// panic under its own name.
fn is_of_redb(file: &str) -> bool {
    let of_redb = |part: Component<'_>| {
        let name = part.as_os_str().to_string_lossy();
        let version = name
            .strip_prefix("redb")
            .map(|rest| rest.trim_start_matches('-'));
        version.is_some_and(|it| it.is_empty() || it.starts_with(|c: char| c.is_ascii_digit()))
    };
    let of_std = file.starts_with("/rustc/") || file.contains("/rustlib/src/rust/library/");
    of_std || Path::new(file).components().any(of_redb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_of_our_own_is_told_with_its_place() {
        watch();
        let line = line!() + 1;
        let panicked = caught(|| -> () { panic!("a bug") }).unwrap_err();
        assert_eq!(panicked.damage(), None);
        assert_eq!(panicked.to_string(), "a bug");
        let place = panicked.place();
        assert!(
            place.starts_with(&format!("{}:{line}:", file!())),
            "{place}"
        );
    }

    #[test]
    fn panic_in_the_source_of_redb_is_told_apart() {
        let registry = "/root/.cargo/registry/src/index/redb-4.6.0/src/tree_store/btree.rs";
        assert!(is_of_redb(registry));
        assert!(is_of_redb("/build/vendor/redb/src/db.rs"));
        assert!(is_of_redb("/rustc/5980/library/alloc/src/raw_vec.rs"));
        assert!(!is_of_redb("src/store/read.rs"));
        assert!(!is_of_redb("/home/user/redb-tools/src/main.rs"));
    }
}
