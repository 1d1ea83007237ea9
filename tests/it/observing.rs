//! Tests the view of an application on its manager: the counters of `stats`, and the events of the
//! feature `tracing`.

use crate::holding_support::{millis, secs, until, until_queued};
use crate::support::Home;
use lockmgr::{Error, GetOptions, RenewOptions, SetOptions};
use std::thread;

#[test]
fn stats_count_what_this_manager_did_and_no_other() {
    let home = Home::new();
    let (manager, clock) = home.open_with_clock();
    let other = home.open();
    manager.set_lock(["a", "b"], SetOptions::new()).unwrap();
    manager
        .set_lock(["a", "b", "c"], SetOptions::new())
        .unwrap();
    let lock = manager.get_lock("d", GetOptions::new()).unwrap();
    manager.renew_lock(&lock, RenewOptions::new()).unwrap();
    manager.get_lock("d", GetOptions::new()).unwrap_err();
    manager
        .set_lock(["d"], SetOptions::new().fail())
        .unwrap_err();
    manager.unlock_all(["a", "d", "nobody's"]).unwrap();
    let stats = manager.stats();
    assert_eq!((stats.granted, stats.renewed), (4, 3));
    assert_eq!((stats.refused, stats.released), (2, 2));
    clock.advance(secs(10_000));
    assert_eq!(manager.clean_locks().unwrap(), 2);
    manager.get_lock("e", GetOptions::new()).unwrap();
    manager.reset_locks().unwrap();
    let stats = manager.clone().stats();
    assert_eq!((stats.cleaned, stats.granted, stats.released), (2, 5, 3));
    assert!(stats.writes >= 8, "{stats:?}");
    assert_eq!(other.stats(), lockmgr::Stats::default());
}

#[test]
fn stats_count_waits_cancels_losses_and_renewals_of_the_keeper() {
    let home = Home::new();
    let manager = home.open();
    let held = home.open().acquire(["a"]).lock().unwrap();
    let request = manager.acquire(["a"]);
    let canceller = request.canceller();
    let waiter = thread::spawn(move || request.lock());
    until_queued(&manager, "", 1);
    canceller.cancel();
    assert!(matches!(waiter.join().unwrap(), Err(Error::Cancelled)));
    let refused = manager.acquire(["a"]).try_lock_for(millis(50));
    assert!(matches!(refused, Err(Error::Locked(_))));
    let request = manager.acquire(["a"]).lease(millis(300));
    let waiter = thread::spawn(move || request.lock());
    until_queued(&manager, "", 1);
    drop(held);
    let mut guard = waiter.join().unwrap().unwrap();
    until("the keeper renews", || manager.stats().renewed > 0);
    home.open().unlock("a").unwrap();
    assert!(guard.renew().is_err());
    let stats = manager.stats();
    assert_eq!((stats.queued, stats.cancelled, stats.refused), (3, 1, 1));
    assert_eq!((stats.granted, stats.lost, stats.released), (1, 1, 0));
    assert!(stats.longest_wait >= millis(45), "{stats:?}");
    assert!(stats.waited > stats.longest_wait, "{stats:?}");
}

#[cfg(feature = "tracing")]
mod events {
    use crate::support::Home;
    use std::cell::RefCell;
    use std::fmt::{self, Write};
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber, subscriber};

    thread_local! {
        static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    /// Keeps the events of lockmgr as lines of their thread. It listens to the tests beside this one
    /// too: a subscriber of one thread would miss events that they make first.
    struct Lines;

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            write!(self.0, " {field}={value:?}").unwrap();
        }
    }

    impl Subscriber for Lines {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "lockmgr"
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut line = Line(event.metadata().level().to_string());
            event.record(&mut line);
            LINES.with_borrow_mut(|lines| lines.push(line.0));
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn subscriber_hears_of_grants_refusals_losses_and_releases() {
        let home = Home::new();
        subscriber::set_global_default(Lines).unwrap();
        let manager = home.open();
        let first = manager.acquire(["a"]).lock().unwrap();
        manager.acquire(["a"]).try_lock().unwrap_err();
        manager.unlock("a").unwrap();
        assert!(!first.is_held().unwrap());
        let lines = LINES.take();
        assert_eq!(lines[0], "DEBUG message=granted name=a token=1 waited=None");
        assert!(lines[1].starts_with("DEBUG message=not granted error=cannot lock \"a\""));
        assert_eq!(lines[2], "DEBUG message=released count=1");
        assert_eq!(lines[3], "WARN message=lost name=a token=1");
    }
}
