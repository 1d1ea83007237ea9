//! Works for all futures of a manager on one thread, so that no thread of a runtime blocks.
//!
//! A task is a chain of steps. Between two of them it sleeps, which costs no thread: the thread
//! takes the next step of any task that is called or due. The thread starts with the first task,
//! and ends with its manager. Every task keeps the manager, so the thread ends only when all tasks
//! are done.

use crate::spawn::Background;
use crate::wait::Step;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::time::Instant;

/// Takes the next step of a task.
pub(crate) type Task = Box<dyn FnMut() -> Step<()> + Send>;

/// Runs the thread that works for the futures of one manager.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    shared: Arc<Shared>,
    thread: Background,
}

#[derive(Debug, Default)]
struct Shared {
    todo: Mutex<Todo>,
    changed: Condvar,
}

#[derive(Default)]
struct Todo {
    news: News,
    next: u64,
    is_over: bool,
}

/// Holds the tasks and the calls that the thread does not know yet.
#[derive(Default)]
struct News {
    begun: Vec<(u64, Task)>,
    called: BTreeSet<u64>,
}

/// Calls one task.
struct Caller {
    id: u64,
    shared: Arc<Shared>,
}

impl Wake for Caller {
    fn wake(self: Arc<Self>) {
        self.shared.todo().news.called.insert(self.id);
        self.shared.changed.notify_one();
    }
}

impl std::fmt::Debug for Todo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Todo")
            .field("begun", &self.news.begun.len())
            .field("called", &self.news.called)
            .finish_non_exhaustive()
    }
}

impl Worker {
    /// Begins a task, which is made with the waker that calls it. Does not wait for its first step.
    pub(crate) fn begin(&self, task: impl FnOnce(Waker) -> Task) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        self.thread.start("lockmgr-async", move || shared.run())?;
        let id = {
            let mut todo = self.shared.todo();
            todo.next += 1;
            todo.next
        };
        let shared = Arc::clone(&self.shared);
        let task = task(Arc::new(Caller { id, shared }).into());
        self.shared.todo().news.begun.push((id, task));
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.thread.is_inherited() {
            return;
        }
        self.shared.todo().is_over = true;
        self.shared.changed.notify_one();
        self.thread.join();
    }
}

/// Holds a task that sleeps.
struct Asleep {
    task: Task,
    due: Option<Instant>,
}

impl Shared {
    fn todo(&self) -> MutexGuard<'_, Todo> {
        self.todo.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut tasks: HashMap<u64, Asleep> = HashMap::new();
        let mut due: BTreeSet<(Instant, u64)> = BTreeSet::new();
        while let Some(News { begun, called }) = self.next(due.first().map(|(at, _)| *at)) {
            let mut ready: Vec<u64> = Vec::with_capacity(begun.len() + called.len());
            for (id, task) in begun {
                tasks.insert(id, Asleep { task, due: None });
                ready.push(id);
            }
            ready.extend(called);
            let now = Instant::now();
            ready.extend(
                due.iter()
                    .take_while(|(at, _)| *at <= now)
                    .map(|(_, id)| *id),
            );
            for id in ready {
                // The task is done by now, or was called twice.
                let Some(mut asleep) = tasks.remove(&id) else {
                    continue;
                };
                if let Some(at) = asleep.due.take() {
                    due.remove(&(at, id));
                }
                if let Step::Sleep(most) = (asleep.task)() {
                    // If the clock cannot count so far, the task waits for a call.
                    asleep.due = Instant::now().checked_add(most);
                    due.extend(asleep.due.map(|at| (at, id)));
                    tasks.insert(id, asleep);
                }
            }
        }
    }

    /// Sleeps until there is work, at most until that instant, and returns the new tasks and
    /// the calls, or none once the manager is gone.
    fn next(&self, until: Option<Instant>) -> Option<News> {
        let mut todo = self.todo();
        loop {
            if !todo.news.begun.is_empty() || !todo.news.called.is_empty() {
                return Some(std::mem::take(&mut todo.news));
            }
            if todo.is_over {
                return None;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            todo = match left {
                Some(left) if left.is_zero() => return Some(News::default()),
                Some(left) => {
                    let woken = self.changed.wait_timeout(todo, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let woken = self.changed.wait(todo);
                    woken.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }
}
