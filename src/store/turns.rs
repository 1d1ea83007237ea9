//! Gives the threads of one handle their turns, first come, first served, each wait bounded.
//!
//! redb has a queue of its own for its writers, but an unbounded one.

use super::bounded;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(super) struct Turns {
    queue: Mutex<Queue>,
}

/// Holds the tickets of the waiting threads, after that of the thread whose turn it is.
#[derive(Debug, Default)]
struct Queue {
    tickets: VecDeque<(u64, Arc<Condvar>)>,
    next: u64,
}

impl Queue {
    fn is_turn_of(&self, ticket: u64) -> bool {
        let first = self.tickets.front();
        first.is_some_and(|(first, _)| *first == ticket)
    }
}

/// Holds a thread's turn, which is over when this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    ticket: u64,
}

impl Turns {
    /// Waits for a turn. Returns none if the turn does not come within the bound of the present
    /// call, or within this bound outside of any call.
    pub(super) fn take(&self, bound: Duration) -> Option<Turn<'_>> {
        let mut queue = self.queue();
        let ticket = queue.next;
        queue.next += 1;
        let come = Arc::new(Condvar::new());
        queue.tickets.push_back((ticket, Arc::clone(&come)));
        let turn = Turn {
            turns: self,
            ticket,
        };
        if queue.is_turn_of(ticket) {
            return Some(turn);
        }
        let has_come = bounded::wait(bound, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            let not_yet = |queue: &mut Queue| !queue.is_turn_of(ticket);
            let waited = come.wait_timeout_while(queue, left, not_yet);
            !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
        });
        has_come.then_some(turn)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.turns.queue();
        queue.tickets.retain(|(ticket, _)| *ticket != self.ticket);
        // Only the next thread is woken. If all threads woke at each turn, each turn would cost all
        // those wakes.
        if let Some((_, next)) = queue.tickets.front() {
            next.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    const FAR: Duration = Duration::from_secs(60);

    fn wait_for_tickets(turns: &Turns, count: usize) {
        while turns.queue().tickets.len() < count {
            thread::yield_now();
        }
    }

    #[test]
    fn turns_are_given_in_the_order_of_arrival() {
        let turns = Turns::default();
        let first = turns.take(FAR);
        let (order, ordered) = mpsc::channel();
        thread::scope(|scope| {
            for i in 0..10 {
                let (order, turns) = (order.clone(), &turns);
                scope.spawn(move || {
                    let _turn = turns.take(FAR).unwrap();
                    order.send(i).unwrap();
                });
                wait_for_tickets(turns, i + 2);
            }
            drop(first);
        });
        drop(order);
        assert!(ordered.iter().eq(0..10));
    }

    #[test]
    fn thread_that_gave_up_holds_no_other_up() {
        let turns = Turns::default();
        let first = turns.take(FAR).unwrap();
        assert!(turns.take(Duration::from_millis(5)).is_none());
        thread::scope(|scope| {
            let second = scope.spawn(|| turns.take(FAR).is_some());
            wait_for_tickets(&turns, 2);
            drop(first);
            assert!(second.join().unwrap());
        });
    }
}
