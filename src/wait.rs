//! Wakes the threads of a manager that wait, with one watcher for all of them.
//!
//! After a commit the writer pings each request that the commit concerns: a datagram with the
//! request's id, sent to the abstract socket of its manager. Datagrams cross pid, user and mount
//! namespaces. If one cannot arrive, the writer touches the store's file, and waiters that have to
//! do with other network namespaces watch the file.
//!
//! A ping is only a hint, and any process can send one. A ping makes a waiter look at the store, at
//! most once a millisecond. A lost ping delays the waiter until it looks by itself.

use crate::process::Process;
use crate::queue::Request;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

/// How long a waiter sleeps at most if it may be pinged and its watches are set.
pub(crate) const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// The bytes of ids that one datagram carries.
const MOST_IN_A_DATAGRAM: usize = 1024 * size_of::<u64>();

/// The shortest time between two looks that pings cause.
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// Names a request that a commit concerns, and the socket of its manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ping {
    pub(crate) address: u64,
    pub(crate) id: u64,
}

impl Ping {
    pub(crate) fn to(request: &Request) -> Option<Self> {
        let id = request.id;
        Some(Self {
            address: request.address?,
            id,
        })
    }
}

/// Says why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// A ping came, the store's file changed, or a process that is watched ended.
    Called,
    Cancelled,
    /// Nothing happened.
    Slept,
}

/// Says how far a wait has come.
pub(crate) enum Step<T> {
    /// The waiter sleeps for at most this long, and then takes the next step.
    Sleep(Duration),
    Done(T),
}

/// Carries calls to a sleeping thread, or to a task that does not sleep but is woken.
#[derive(Debug, Default)]
pub(crate) struct Sleeper {
    told: Mutex<Told>,
    moved: Condvar,
    task: OnceLock<Waker>,
}

#[derive(Debug, Default)]
struct Told {
    is_called: bool,
    is_poked: bool,
    is_cancelled: bool,
    /// The instant at which a call last ended a sleep.
    called_at: Option<Instant>,
}

impl Sleeper {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes this task from now on. The task asks [`poll`](Self::poll) why it was woken.
    #[cfg(feature = "async")]
    pub(crate) fn wakes(&self, task: Waker) {
        let _ = self.task.set(task);
    }

    fn wake(&self) {
        self.moved.notify_all();
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }

    pub(crate) fn call(&self) {
        self.told().is_called = true;
        self.wake();
    }

    /// Ends the sleep without news.
    pub(crate) fn poke(&self) {
        self.told().is_poked = true;
        self.wake();
    }

    pub(crate) fn cancel(&self) {
        self.told().is_cancelled = true;
        self.wake();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.told().is_cancelled
    }

    /// Sleeps for at most this long.
    pub(crate) fn sleep(&self, most: Duration) -> Woken {
        let began = Instant::now();
        let mut told = self.told();
        loop {
            match told.after(most.saturating_sub(began.elapsed())) {
                Ok(woken) => return woken,
                Err(left) => {
                    let woken = self.moved.wait_timeout(told, left);
                    told = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Says why a sleep ends of which this much is left, or how long to sleep on.
    #[cfg(feature = "async")]
    pub(crate) fn poll(&self, left: Duration) -> Result<Woken, Duration> {
        self.told().after(left)
    }
}

impl Told {
    fn after(&mut self, left: Duration) -> Result<Woken, Duration> {
        if self.is_cancelled {
            return Ok(Woken::Cancelled);
        }
        let pause = match self.called_at.filter(|_| self.is_called) {
            Some(last) => BETWEEN_LOOKS.saturating_sub(last.elapsed()),
            None => Duration::ZERO,
        };
        if self.is_called && pause.is_zero() {
            self.is_called = false;
            self.called_at = Some(Instant::now());
            return Ok(Woken::Called);
        }
        if left.is_zero() || std::mem::take(&mut self.is_poked) {
            return Ok(Woken::Slept);
        }
        Err(if self.is_called {
            pause.min(left)
        } else {
            left
        })
    }
}

/// Lists the sleeping threads of one manager, by the ids that they are pinged by.
#[derive(Debug, Default)]
pub(crate) struct Sleepers(Mutex<HashMap<u64, Arc<Sleeper>>>);

impl Sleepers {
    fn map(&self) -> MutexGuard<'_, HashMap<u64, Arc<Sleeper>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the thread that is pinged by this id, and says whether there is one.
    fn call(&self, id: u64) -> bool {
        let sleeper = self.map().get(&id).cloned();
        sleeper.inspect(|sleeper| sleeper.call()).is_some()
    }

    fn call_all(&self) {
        let all: Vec<_> = self.map().values().cloned().collect();
        all.iter().for_each(|sleeper| sleeper.call());
    }
}

/// Wakes the waiting threads of one manager, and pings those of others.
#[derive(Debug)]
pub(crate) struct Watcher {
    sleepers: Arc<Sleepers>,
    system: system::Watcher,
}

impl Watcher {
    /// Makes a watcher that costs nothing until a thread waits.
    pub(crate) fn new(here: &Process) -> Self {
        let sleepers = Arc::<Sleepers>::default();
        Self {
            system: system::Watcher::new(here, Arc::clone(&sleepers)),
            sleepers,
        }
    }

    /// Returns the address at which this manager is pinged, or none if it cannot be pinged.
    pub(crate) fn address(&self) -> Option<u64> {
        self.system.address()
    }

    /// Lets a thread be pinged by this id, from now until the thread strikes the id out.
    pub(crate) fn list(&self, id: u64, sleeper: &Arc<Sleeper>) {
        self.sleepers.map().insert(id, Arc::clone(sleeper));
    }

    pub(crate) fn strike(&self, id: u64) {
        self.sleepers.map().remove(&id);
    }

    /// Lets a thread be pinged by this id, from now until the result is dropped.
    pub(crate) fn enlist(self: &Arc<Self>, id: u64, sleeper: &Arc<Sleeper>) -> Enlisted {
        self.list(id, sleeper);
        Enlisted {
            watcher: Arc::clone(self),
            id,
            sleeper: Arc::clone(sleeper),
            watched: Vec::new(),
        }
    }

    /// Pings all of these requests, after a commit. Returns whether every ping could be sent.
    pub(crate) fn ping(&self, pings: &[Ping]) -> bool {
        let mut elsewhere: HashMap<u64, Vec<u8>> = HashMap::new();
        for ping in pings {
            if !self.sleepers.call(ping.id) {
                let ids = elsewhere.entry(ping.address).or_default();
                ids.extend(ping.id.to_le_bytes());
            }
        }
        // Send one datagram for a manager: its socket holds only a few that are unread.
        let chunks = elsewhere.iter().flat_map(|(address, ids)| {
            ids.chunks(MOST_IN_A_DATAGRAM)
                .map(move |ids| (*address, ids))
        });
        chunks.fold(true, |all_sent, (address, ids)| {
            self.system.send(address, ids).is_ok() && all_sent
        })
    }
}

/// Lists a thread that can be pinged, until it is dropped.
pub(crate) struct Enlisted {
    watcher: Arc<Watcher>,
    id: u64,
    sleeper: Arc<Sleeper>,
    watched: Vec<Process>,
}

impl Enlisted {
    /// Watches these processes from now on, and no others. Returns whether the end of every one
    /// will wake this thread. A process that has ended already wakes the thread at once.
    pub(crate) fn watch(&mut self, processes: &[Process]) -> bool {
        let system = &self.watcher.system;
        for gone in self.watched.iter().filter(|it| !processes.contains(it)) {
            system.forget(gone, &self.sleeper);
        }
        let is_watched = |process: &&Process| system.watch(process, &self.sleeper);
        self.watched = processes.iter().filter(is_watched).copied().collect();
        self.watched.len() == processes.len()
    }

    /// Also wakes this thread, and all others of the manager, when the store's file is touched.
    pub(crate) fn watch_file(&self, path: &Path) {
        self.watcher.system.watch_file(path);
    }
}

impl Drop for Enlisted {
    fn drop(&mut self) {
        self.watch(&[]);
        self.watcher.strike(self.id);
    }
}

#[cfg(target_os = "linux")]
mod system {
    use super::{
        Arc, HashMap, MOST_IN_A_DATAGRAM, Mutex, Path, PoisonError, Process, Sleeper, Sleepers, io,
    };
    use crate::beacon::draw_id;
    use crate::process::{Origin, pidfd};
    use rustix::buffer::spare_capacity;
    use rustix::event::{EventfdFlags, epoll, eventfd};
    use rustix::fs::inotify;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::sync::{MutexGuard, OnceLock};
    use std::thread::{self, JoinHandle};

    /// How often a send to a full socket is tried.
    const TRIES: usize = 10;

    /// The numbers in the events of descriptors that are not of a process.
    const STOP: u64 = 0;
    const SOCKET: u64 = 1;
    const FILE: u64 = 2;
    const FIRST_PROCESS: u64 = 16;

    #[derive(Debug)]
    pub(super) struct Watcher {
        here: Process,
        origin: Origin,
        sleepers: Arc<Sleepers>,
        /// The thread, started by the first thread that waits, or none if the system has no
        /// descriptors left.
        at_work: OnceLock<Option<AtWork>>,
        /// The socket that sends the pings of a manager that cannot be pinged.
        sender: OnceLock<Option<UnixDatagram>>,
    }

    #[derive(Debug)]
    struct AtWork {
        shared: Arc<Shared>,
        thread: Option<JoinHandle<()>>,
    }

    #[derive(Debug)]
    struct Shared {
        address: Option<u64>,
        socket: UnixDatagram,
        epoll: OwnedFd,
        stop: OwnedFd,
        inotify: OnceLock<Option<OwnedFd>>,
        processes: Mutex<Processes>,
        sleepers: Arc<Sleepers>,
    }

    /// Lists the processes whose ends a thread waits for.
    #[derive(Debug, Default)]
    struct Processes {
        watched: HashMap<u64, Watched>,
        keys: HashMap<Process, u64>,
        next: u64,
    }

    #[derive(Debug)]
    struct Watched {
        process: Process,
        /// The descriptor of the process. It is closed, and so forgotten by epoll, when no thread
        /// watches the process any more.
        _pidfd: OwnedFd,
        sleepers: Vec<Arc<Sleeper>>,
    }

    fn socket_at(address: u64) -> io::Result<SocketAddr> {
        SocketAddr::from_abstract_name(format!("lockmgr-{address:016x}"))
    }

    impl Watcher {
        pub(super) fn new(here: &Process, sleepers: Arc<Sleepers>) -> Self {
            Self {
                here: *here,
                origin: Origin::here(),
                sleepers,
                at_work: OnceLock::new(),
                sender: OnceLock::new(),
            }
        }

        fn at_work(&self) -> Option<&Arc<Shared>> {
            let start = || AtWork::start(Arc::clone(&self.sleepers)).ok();
            let at_work = self.at_work.get_or_init(start);
            at_work.as_ref().map(|at_work| &at_work.shared)
        }

        pub(super) fn address(&self) -> Option<u64> {
            self.at_work()?.address
        }

        /// Sends ids to a manager. If its socket is full, this tries again for a moment.
        pub(super) fn send(&self, address: u64, ids: &[u8]) -> io::Result<()> {
            let at_work = self.at_work.get().and_then(Option::as_ref);
            let unbound = || {
                let socket = UnixDatagram::unbound().ok()?;
                socket.set_nonblocking(true).ok()?;
                Some(socket)
            };
            let socket = match at_work {
                Some(at_work) => Some(&at_work.shared.socket),
                None => self.sender.get_or_init(unbound).as_ref(),
            };
            let socket = socket.ok_or(io::ErrorKind::Unsupported)?;
            let to = socket_at(address)?;
            for _ in 0..TRIES {
                match socket.send_to_addr(ids, &to) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::yield_now(),
                    sent => return sent.map(drop),
                }
            }
            Err(io::ErrorKind::WouldBlock.into())
        }

        /// Watches a process. Returns whether its end will wake the thread.
        pub(super) fn watch(&self, process: &Process, sleeper: &Arc<Sleeper>) -> bool {
            let Some(shared) = self.at_work() else {
                return false;
            };
            let mut processes = shared.processes();
            if let Some(key) = processes.keys.get(process).copied() {
                let watched = processes.watched.get_mut(&key);
                return watched.is_some_and(|it| {
                    if !it.sleepers.iter().any(|other| Arc::ptr_eq(other, sleeper)) {
                        it.sleepers.push(Arc::clone(sleeper));
                    }
                    true
                });
            }
            let Some(pidfd) = pidfd(&self.here, process) else {
                return false;
            };
            let key = FIRST_PROCESS + processes.next;
            let event = epoll::EventData::new_u64(key);
            // A process that has ended meanwhile is readable, and wakes the thread at once.
            if epoll::add(&shared.epoll, &pidfd, event, epoll::EventFlags::IN).is_err() {
                return false;
            }
            processes.next += 1;
            processes.keys.insert(*process, key);
            let watched = Watched {
                process: *process,
                _pidfd: pidfd,
                sleepers: vec![Arc::clone(sleeper)],
            };
            processes.watched.insert(key, watched);
            true
        }

        pub(super) fn forget(&self, process: &Process, sleeper: &Arc<Sleeper>) {
            let Some(shared) = self.at_work() else {
                return;
            };
            let mut processes = shared.processes();
            let Some(key) = processes.keys.get(process).copied() else {
                return;
            };
            let is_watched = processes.watched.get_mut(&key).is_some_and(|it| {
                it.sleepers.retain(|other| !Arc::ptr_eq(other, sleeper));
                !it.sleepers.is_empty()
            });
            if !is_watched {
                processes.remove(key);
            }
        }

        pub(super) fn watch_file(&self, path: &Path) {
            if let Some(shared) = self.at_work() {
                shared.watch_file(path);
            }
        }
    }

    impl Drop for Watcher {
        fn drop(&mut self) {
            // The thread was not forked along.
            if self.origin.elsewhere().is_none()
                && let Some(Some(mut at_work)) = self.at_work.take()
            {
                let _ = rustix::io::write(&at_work.shared.stop, &1u64.to_ne_bytes());
                if let Some(thread) = at_work.thread.take() {
                    let _ = thread.join();
                }
            }
        }
    }

    impl Processes {
        fn remove(&mut self, key: u64) -> Vec<Arc<Sleeper>> {
            let Some(watched) = self.watched.remove(&key) else {
                return Vec::new();
            };
            self.keys.remove(&watched.process);
            watched.sleepers
        }
    }

    impl AtWork {
        fn start(sleepers: Arc<Sleepers>) -> io::Result<Self> {
            let (address, socket) = bind()?;
            socket.set_nonblocking(true)?;
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
            let readable = epoll::EventFlags::IN;
            epoll::add(&epoll, &stop, epoll::EventData::new_u64(STOP), readable)?;
            let data = epoll::EventData::new_u64(SOCKET);
            epoll::add(&epoll, &socket, data, readable)?;
            let shared = Arc::new(Shared {
                address,
                socket,
                epoll,
                stop,
                inotify: OnceLock::new(),
                processes: Mutex::default(),
                sleepers,
            });
            let watch = Arc::clone(&shared);
            let thread = thread::Builder::new().name("lockmgr-watch".into());
            let thread = Some(thread.spawn(move || watch.run())?);
            Ok(Self { shared, thread })
        }
    }

    /// Binds a socket to a name that no process has taken. Without a name, no process can ping it.
    fn bind() -> io::Result<(Option<u64>, UnixDatagram)> {
        for _ in 0..3 {
            let address = draw_id();
            if let Ok(socket) = UnixDatagram::bind_addr(&socket_at(address)?) {
                return Ok((Some(address), socket));
            }
        }
        Ok((None, UnixDatagram::unbound()?))
    }

    impl Shared {
        fn processes(&self) -> MutexGuard<'_, Processes> {
            let processes = self.processes.lock();
            processes.unwrap_or_else(PoisonError::into_inner)
        }

        fn watch_file(&self, path: &Path) {
            let begin = || {
                let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
                let inotify = inotify::init(flags).ok()?;
                let event = epoll::EventData::new_u64(FILE);
                epoll::add(&self.epoll, &inotify, event, epoll::EventFlags::IN).ok()?;
                Some(inotify)
            };
            if let Some(inotify) = self.inotify.get_or_init(begin) {
                // Watch again for each waiter: another file may have the name by now.
                let _ = inotify::add_watch(inotify, path, inotify::WatchFlags::ATTRIB);
            }
        }

        fn run(&self) {
            let mut events = Vec::with_capacity(16);
            loop {
                events.clear();
                let waited = epoll::wait(&self.epoll, spare_capacity(&mut events), None);
                if waited.is_err_and(|error| error != rustix::io::Errno::INTR) {
                    return;
                }
                for event in &events {
                    match event.data.u64() {
                        STOP => return,
                        SOCKET => self.receive(),
                        FILE => self.drain(),
                        process => {
                            let sleepers = self.processes().remove(process);
                            sleepers.iter().for_each(|sleeper| sleeper.call());
                        }
                    }
                }
            }
        }

        fn receive(&self) {
            let mut buffer = [0; MOST_IN_A_DATAGRAM];
            while let Ok(len) = self.socket.recv(&mut buffer) {
                for id in buffer[..len].as_chunks().0 {
                    self.sleepers.call(u64::from_le_bytes(*id));
                }
            }
        }

        fn drain(&self) {
            let mut buffer = [MaybeUninit::uninit(); 1024];
            if let Some(Some(inotify)) = self.inotify.get() {
                let mut events = inotify::Reader::new(inotify, &mut buffer);
                while events.next().is_ok() {}
            }
            self.sleepers.call_all();
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::{Arc, Path, Process, Sleeper, Sleepers, io};

    #[derive(Debug)]
    pub(super) struct Watcher;

    impl Watcher {
        pub(super) fn new(_: &Process, _: Arc<Sleepers>) -> Self {
            Self
        }

        pub(super) fn address(&self) -> Option<u64> {
            None
        }

        pub(super) fn send(&self, _: u64, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn watch(&self, _: &Process, _: &Arc<Sleeper>) -> bool {
            false
        }

        pub(super) fn forget(&self, _: &Process, _: &Arc<Sleeper>) {}

        pub(super) fn watch_file(&self, _: &Path) {}
    }
}
