//! Tests futures (feature `async`), on tokio and on smol: they never block the thread that polls. A
//! future that is dropped at any point leaves neither a lock nor a request.

use crate::dice::Dice;
use crate::holding_support::{millis, secs, until, until_queued};
use crate::support::Home;
use lockmgr::{Error, GetOptions, LockGuard, LockManager, Pending, SetOptions};
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Instant;

fn tokio() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap()
}

/// Polls a future once, with a waker that does nothing.
fn poll<T: Send + 'static>(future: &mut Pending<T>) -> Poll<lockmgr::Result<T>> {
    let mut context = Context::from_waker(Waker::noop());
    pin!(future).poll(&mut context)
}

fn wait<T: Send + 'static>(future: Pending<T>) -> lockmgr::Result<T> {
    smol::block_on(future)
}

/// Holds the store's writer until it is dropped.
struct Writer(mpsc::Sender<()>, thread::JoinHandle<()>);

impl Writer {
    fn new(manager: &LockManager) -> Self {
        let (end, ended) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel();
        let manager = manager.clone();
        manager.get_lock("writer", GetOptions::new()).unwrap();
        let thread = thread::spawn(move || {
            let wait = |_: &lockmgr::Lock| {
                begin.send(()).unwrap();
                let _ = ended.recv();
                true
            };
            manager.unlock_all_if(["writer"], wait).unwrap();
        });
        begun.recv().unwrap();
        Self(end, thread)
    }

    fn end(self) {
        drop(self.0);
        self.1.join().unwrap();
    }
}

#[track_caller]
fn nothing_stays(manager: &LockManager) {
    until("nothing is left", || {
        manager.requests("").unwrap().is_empty() && manager.locks("").unwrap().is_empty()
    });
}

#[test]
fn waiters_on_both_runtimes_and_a_thread_are_granted_in_their_order() {
    let home = Home::new();
    let manager = home.open();
    let held = manager.acquire(["a"]).lock().unwrap();
    let (order, granted) = mpsc::channel();
    let runtime = tokio();
    let with = |name: &'static str| {
        let (order, manager) = (order.clone(), home.open());
        async move {
            let guard = manager.acquire(["a"]).lock_async().await.unwrap();
            order.send(name).unwrap();
            guard.release_async().await.unwrap();
        }
    };
    let first = runtime.spawn(with("tokio"));
    until_queued(&manager, "", 1);
    let second = thread::spawn({
        let future = with("smol");
        move || smol::block_on(future)
    });
    until_queued(&manager, "", 2);
    let third = thread::spawn({
        let (order, request) = (order.clone(), manager.acquire(["a"]));
        move || {
            let _guard = request.lock().unwrap();
            order.send("thread").unwrap();
        }
    });
    until_queued(&manager, "", 3);
    drop(held);
    runtime.block_on(first).unwrap();
    second.join().unwrap();
    third.join().unwrap();
    assert_eq!(
        granted.try_iter().collect::<Vec<_>>(),
        ["tokio", "smol", "thread"]
    );
    nothing_stays(&manager);
}

#[test]
fn future_that_is_not_polled_does_nothing() {
    let home = Home::new();
    let manager = home.open();
    drop(manager.acquire(["a"]).lock_async());
    drop(manager.set_lock_async(["a"], SetOptions::new()));
    assert!(!manager.is_locked("a").unwrap());
    let threads = manager.acquire(["a"]).lock_async();
    let guard = manager.acquire(["a"]).try_lock().unwrap();
    drop((threads, guard));
    nothing_stays(&manager);
}

#[test]
fn future_dropped_at_its_first_poll_or_at_any_instant_after_leaves_nothing() {
    let home = Home::new();
    let manager = home.open();
    let mut dice = Dice(7);
    for round in 0..300u64 {
        // Free at first, and then held by another manager, which releases it at some instant.
        let held = (round % 3 != 0).then(|| manager.acquire(["a"]).lock().unwrap());
        let mut future = manager.acquire(["a", "b"]).lock_async();
        let _ = poll(&mut future);
        let pause = dice.below(2000);
        thread::sleep(std::time::Duration::from_micros(pause));
        if round % 3 == 1 {
            drop(held);
            thread::sleep(std::time::Duration::from_micros(dice.below(1000)));
            drop(future);
        } else {
            drop(future);
            drop(held);
        }
    }
    nothing_stays(&manager);
    assert!(manager.acquire(["a", "b"]).try_lock().is_ok());
}

#[test]
fn future_dropped_while_it_is_queued_gives_up_its_place() {
    let home = Home::new();
    let manager = home.open();
    let held = manager.acquire(["a"]).lock().unwrap();
    let mut future = manager.acquire(["a"]).lock_async();
    assert!(poll(&mut future).is_pending());
    until_queued(&manager, "", 1);
    drop(future);
    until_queued(&manager, "", 0);
    drop(held);
    nothing_stays(&manager);
}

#[test]
fn future_dropped_after_its_grant_and_before_its_poll_gives_the_locks_back() {
    let home = Home::new();
    let manager = home.open();
    let mut future = manager.acquire(["a"]).lock_async();
    assert!(poll(&mut future).is_pending());
    until("it is granted", || manager.is_locked("a").unwrap());
    drop(future);
    nothing_stays(&manager);
}

#[test]
fn future_wakes_its_last_poller() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let home = Home::new();
    let manager = home.open();
    let held = manager.acquire(["a"]).lock().unwrap();
    let counts = [0, 0].map(|zero| Arc::new(Count(AtomicUsize::new(zero))));
    let mut future = pin!(manager.acquire(["a"]).lock_async());
    for count in &counts {
        let waker = Waker::from(Arc::clone(count));
        assert!(
            future
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
    }
    until_queued(&manager, "", 1);
    drop(held);
    until("it is woken", || counts[1].0.load(Ordering::SeqCst) == 1);
    assert_eq!(counts[0].0.load(Ordering::SeqCst), 0);
    let mut context = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_ready());
}

#[test]
fn bound_counts_from_the_first_poll_and_ends_with_what_is_in_the_way() {
    let home = Home::new();
    let manager = home.open();
    let held = manager.acquire(["a"]).lock().unwrap();
    let future = manager.acquire(["a"]).try_lock_for_async(millis(200));
    thread::sleep(millis(100));
    let began = Instant::now();
    assert!(matches!(wait(future), Err(Error::Locked(lock)) if lock.name() == "a"));
    assert!(began.elapsed() >= millis(190));
    let until = Instant::now() + millis(20);
    let late = manager.acquire(["a"]).try_lock_until_async(until);
    assert!(matches!(wait(late), Err(Error::Locked(_))));
    assert!(matches!(
        wait(manager.acquire(["a"]).try_lock_async()),
        Err(Error::Locked(_))
    ));
    drop(held);
    drop(wait(manager.acquire(["a"]).try_lock_async()).unwrap());
    nothing_stays(&manager);
}

#[test]
fn canceller_ends_the_wait_of_a_future() {
    let home = Home::new();
    let manager = home.open();
    let _held = manager.acquire(["a"]).lock().unwrap();
    let request = manager.acquire(["a"]);
    let canceller = request.canceller();
    let future = thread::spawn(move || wait(request.lock_async()));
    until_queued(&manager, "", 1);
    canceller.cancel();
    assert!(matches!(future.join().unwrap(), Err(Error::Cancelled)));
}

/// A call that blocked here would block for ever: the writer ends after all is done.
#[test]
fn polling_thread_never_blocks_while_another_writes() {
    let home = Home::new();
    let manager = home.open();
    let guard = wait(manager.acquire(["held"]).lock_async()).unwrap();
    let other = manager.acquire(["other"]).lock().unwrap();
    let third = wait(manager.acquire(["third"]).lock_async()).unwrap();
    let writer = Writer::new(&home.open());
    let mut asked = manager.acquire(["a"]).lock_async();
    let mut dropped = manager.acquire(["b"]).lock_async();
    let mut set = manager.set_lock_async(["c"], SetOptions::new());
    let mut released = third.release_async();
    assert!(poll(&mut asked).is_pending());
    assert!(poll(&mut dropped).is_pending());
    assert!(poll(&mut set).is_pending());
    assert!(poll(&mut released).is_pending());
    drop(dropped);
    drop(guard);
    // Also the release of a guard that was not requested by a future.
    drop(other.release_async());
    writer.end();
    drop(wait(asked).unwrap());
    assert_eq!(wait(set).unwrap().counts().created, 1);
    wait(released).unwrap();
    assert!(wait(manager.unlock_async("c")).unwrap());
    nothing_stays(&manager);
}

#[test]
fn last_manager_dropped_while_a_guard_is_released_in_the_background_does_not_block() {
    let home = Home::new();
    let manager = home.open();
    let guard = wait(manager.acquire(["a"]).lock_async()).unwrap();
    let other = home.open();
    let writer = Writer::new(&other);
    drop(guard);
    // Time for the thread to begin.
    thread::sleep(millis(50));
    let began = Instant::now();
    drop(manager);
    // It would take `busy_timeout`, 10 s.
    assert!(began.elapsed() < secs(5));
    writer.end();
    nothing_stays(&other);
}

#[test]
fn guard_of_a_future_tells_of_a_loss_that_its_drop_finds() {
    let home = Home::new();
    let manager = home.open();
    let (lost, loser) = mpsc::channel();
    let on_lost = move |lock: &lockmgr::Lock| lost.send(lock.name().to_string()).unwrap();
    let request = manager.acquire(["a", "b"]).on_lost(on_lost);
    let guard = wait(request.lock_async()).unwrap();
    home.open().unlock("b").unwrap();
    drop(guard);
    assert_eq!(loser.recv_timeout(secs(20)).as_deref(), Ok("b"));
    nothing_stays(&manager);
}

#[test]
fn panic_of_a_call_reaches_its_awaiter_and_the_next_call_works() {
    let home = Home::new();
    let manager = home.open();
    let work = |_: &LockManager| -> lockmgr::Result<()> { panic!("of the caller") };
    let ended = panic::catch_unwind(AssertUnwindSafe(|| wait(manager.call_async(work))));
    assert_eq!(
        *ended.unwrap_err().downcast::<&str>().unwrap(),
        "of the caller"
    );
    assert_eq!(
        wait(manager.call_async(|it| it.locks(""))).unwrap().len(),
        0
    );
}

#[test]
fn invalid_request_is_an_error_of_the_await() {
    let home = Home::new();
    let manager = home.open();
    let invalid = |error: &Error| matches!(error, Error::InvalidName(_));
    assert!(invalid(
        &wait(manager.acquire([""]).lock_async()).unwrap_err()
    ));
    let set = manager.set_lock_async(["a", ""], SetOptions::new());
    assert!(invalid(&wait(set).unwrap_err()));
    assert!(!manager.is_locked("a").unwrap());
}

#[test]
fn runtime_that_shuts_down_loses_no_guard_and_leaves_no_request() {
    let home = Home::new();
    let manager = home.open();
    let runtime = tokio();
    let guard = runtime
        .block_on(manager.acquire(["a"]).lock_async())
        .unwrap();
    let waiter = manager.acquire(["a"]);
    runtime.spawn(async move { waiter.lock_async().await });
    until_queued(&manager, "", 1);
    runtime.shutdown_background();
    until_queued(&manager, "", 0);
    assert!(guard.is_held().unwrap());
    drop(guard);
    nothing_stays(&manager);
}

#[test]
fn last_manager_may_end_with_a_future() {
    let home = Home::new();
    let manager = home.open();
    let held = home.open().acquire(["a"]).lock().unwrap();
    let mut future = manager.acquire(["a"]).lock_async();
    assert!(poll(&mut future).is_pending());
    until_queued(&home.open(), "", 1);
    drop(manager);
    drop(future);
    until_queued(&home.open(), "", 0);
    drop(held);
    nothing_stays(&home.open());
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// Waits, and may be dropped at any point.
async fn waits(manager: LockManager, dice: u64) -> Option<LockGuard> {
    let names = [["a", "b"], ["b", "c"]][usize::from(dice.is_multiple_of(2))];
    manager.acquire(names).lock_async().await.ok()
}

/// Returns how many futures wait at once: in slow tests, as many as an application may have.
fn many() -> u64 {
    match std::env::var_os("LOCKMGR_SLOW_TESTS") {
        Some(_) => 10_000,
        None => 500,
    }
}

#[test]
fn many_waiters_cancelled_at_random_on_tokio_leave_nothing() {
    let home = Home::in_memory();
    let manager = home.open();
    let held = manager.acquire(["a", "c"]).lock().unwrap();
    let runtime = tokio();
    let mut dice = Dice(11);
    let waiters: Vec<_> = (0..many())
        .map(|_| runtime.spawn(waits(manager.clone(), dice.below(1 << 20))))
        .collect();
    until("half of them wait", || {
        manager.requests("").unwrap().len() as u64 >= many() / 2
    });
    // The threads of the runtime, of the manager, and of the tests beside this one.
    assert!(threads() < 300, "{}", threads());
    let mut waiters = waiters;
    while !waiters.is_empty() {
        let at = dice.below(waiters.len() as u64) as usize;
        waiters.swap_remove(at).abort();
    }
    drop(held);
    nothing_stays(&manager);
    let all = manager.acquire(["a", "b", "c"]).lock_async();
    drop(runtime.block_on(all).unwrap());
}

#[test]
fn many_waiters_cancelled_at_random_on_smol_leave_nothing() {
    let home = Home::in_memory();
    let manager = home.open();
    let held = manager.acquire(["a", "c"]).lock().unwrap();
    let executor = smol::LocalExecutor::new();
    let mut dice = Dice(12);
    let mut waiters: Vec<_> = (0..many())
        .map(|_| executor.spawn(waits(manager.clone(), dice.below(1 << 20))))
        .collect();
    smol::block_on(executor.run(async {
        while (manager.requests("").unwrap().len() as u64) < many() / 2 {
            smol::future::yield_now().await;
        }
        while !waiters.is_empty() {
            let at = dice.below(waiters.len() as u64) as usize;
            // The drop cancels the future.
            drop(waiters.swap_remove(at));
            smol::future::yield_now().await;
        }
        drop(held);
        drop(manager.acquire(["a", "b", "c"]).lock_async().await.unwrap());
    }));
    nothing_stays(&manager);
}
