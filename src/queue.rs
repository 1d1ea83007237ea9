//! Who is granted next: pure, over the locks that are there and the requests that wait.
//!
//! A request wants a set of names and gets all of them or none. It is granted when all its names
//! are free and no earlier living request wants any of them. So nobody starves, and requests for
//! overlapping sets cannot wait for each other in a circle: who waits, waits for who came before.

use crate::clock::Moment;
use crate::lock::Lease;
use crate::name::{Holder, LockName};
use crate::process::{Process, Standing};
#[cfg(feature = "serde")]
use crate::timeout::rfc3339;
use crate::timeout::{Deadline, Timeout, instant};
use chrono::{DateTime, Utc};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::process;
use std::time::Duration;

/// How long a request whose process cannot be judged stands on its word that it lives, and how
/// long it has to give its word anew when it is asked. Dead, it delays nobody for longer than
/// both together: 30 s.
pub(crate) const PATIENCE: Timeout = Timeout::After(Duration::from_secs(15));

/// One that waits for locks: who asks, for what, since when.
///
/// [`LockManager::requests`](crate::LockManager::requests) lists them in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// In the order of arrival.
    pub(crate) number: u64,
    /// Which one it is, drawn at random: numbers begin anew in a new file, and go on in a copy of
    /// the file as in the file itself.
    pub(crate) id: u64,
    pub(crate) names: Vec<LockName>,
    pub(crate) lease: Lease,
    /// Microseconds since 1970.
    pub(crate) asked_at: i64,
    /// When the wait ends in vain.
    pub(crate) until: Option<Deadline>,
    /// Until when it stands where its process cannot be judged.
    pub(crate) stands_until: Option<Deadline>,
    /// Whether somebody asked it, since it last gave word, whether it lives.
    pub(crate) is_challenged: bool,
}

impl Request {
    /// Returns the names it waits for, all of them or none.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # let guard = manager.acquire(["camera"]).lock()?;
    /// # std::thread::scope(|scope| {
    /// #     scope.spawn(|| {
    /// #         let request = manager.acquire(["camera", "gpu"]).locked_by("app-1");
    /// #         request.wait(std::time::Duration::from_secs(60)).lock().unwrap().release()
    /// #     });
    /// #     while manager.requests("")?.is_empty() {
    /// #         std::thread::yield_now();
    /// #     }
    /// // Somebody waits for "camera" and "gpu", for a minute at most.
    /// let request = &manager.requests("")?[0];
    /// assert_eq!(request.names(), ["camera", "gpu"]);
    /// #     guard.release()
    /// # })?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn names(&self) -> &[LockName] {
        &self.names
    }

    /// Returns its number: later requests have larger ones.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # let guard = manager.acquire(["camera"]).lock()?;
    /// # std::thread::scope(|scope| {
    /// #     scope.spawn(|| {
    /// #         let request = manager.acquire(["camera", "gpu"]).locked_by("app-1");
    /// #         request.wait(std::time::Duration::from_secs(60)).lock().unwrap().release()
    /// #     });
    /// #     while manager.requests("")?.is_empty() {
    /// #         std::thread::yield_now();
    /// #     }
    /// // Somebody waits for "camera" and "gpu", for a minute at most.
    /// let request = &manager.requests("")?[0];
    /// assert_eq!(request.number(), 1);
    /// #     guard.release()
    /// # })?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns who is going to hold the locks.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # let guard = manager.acquire(["camera"]).lock()?;
    /// # std::thread::scope(|scope| {
    /// #     scope.spawn(|| {
    /// #         let request = manager.acquire(["camera", "gpu"]).locked_by("app-1");
    /// #         request.wait(std::time::Duration::from_secs(60)).lock().unwrap().release()
    /// #     });
    /// #     while manager.requests("")?.is_empty() {
    /// #         std::thread::yield_now();
    /// #     }
    /// // Somebody waits for "camera" and "gpu", for a minute at most.
    /// let request = &manager.requests("")?[0];
    /// assert_eq!(request.locked_by(), "app-1");
    /// #     guard.release()
    /// # })?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn locked_by(&self) -> &Holder {
        &self.lease.locked_by
    }

    /// Returns the process that asks, as far as that is known.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # let guard = manager.acquire(["camera"]).lock()?;
    /// # std::thread::scope(|scope| {
    /// #     scope.spawn(|| {
    /// #         let request = manager.acquire(["camera", "gpu"]).locked_by("app-1");
    /// #         request.wait(std::time::Duration::from_secs(60)).lock().unwrap().release()
    /// #     });
    /// #     while manager.requests("")?.is_empty() {
    /// #         std::thread::yield_now();
    /// #     }
    /// // Somebody waits for "camera" and "gpu", for a minute at most.
    /// let request = &manager.requests("")?[0];
    /// #     #[cfg(target_os = "linux")]
    /// assert_eq!(request.process_id(), Some(std::process::id()));
    /// #     guard.release()
    /// # })?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn process_id(&self) -> Option<u32> {
        self.process()
            .map(|process| process.pid)
            .or(self.lease.process_id)
    }

    /// Returns when it arrived, by the wall clock.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # let guard = manager.acquire(["camera"]).lock()?;
    /// # std::thread::scope(|scope| {
    /// #     scope.spawn(|| {
    /// #         let request = manager.acquire(["camera", "gpu"]).locked_by("app-1");
    /// #         request.wait(std::time::Duration::from_secs(60)).lock().unwrap().release()
    /// #     });
    /// #     while manager.requests("")?.is_empty() {
    /// #         std::thread::yield_now();
    /// #     }
    /// // Somebody waits for "camera" and "gpu", for a minute at most.
    /// let request = &manager.requests("")?[0];
    /// assert!(request.asked_at() <= chrono::Utc::now());
    /// #     guard.release()
    /// # })?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn asked_at(&self) -> DateTime<Utc> {
        instant(self.asked_at)
    }

    /// Returns until when it waits, by the wall clock; none where it waits until it is granted.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # let guard = manager.acquire(["camera"]).lock()?;
    /// # std::thread::scope(|scope| {
    /// #     scope.spawn(|| {
    /// #         let request = manager.acquire(["camera", "gpu"]).locked_by("app-1");
    /// #         request.wait(std::time::Duration::from_secs(60)).lock().unwrap().release()
    /// #     });
    /// #     while manager.requests("")?.is_empty() {
    /// #         std::thread::yield_now();
    /// #     }
    /// // Somebody waits for "camera" and "gpu", for a minute at most.
    /// let request = &manager.requests("")?[0];
    /// assert!(request.waits_until().unwrap() > request.asked_at());
    /// #     guard.release()
    /// # })?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn waits_until(&self) -> Option<DateTime<Utc>> {
        self.until.map(|until| instant(until.wall))
    }

    pub(crate) fn process(&self) -> Option<Process> {
        self.lease.bound_to
    }

    /// Draws the id of a request of that number that is made at that time. Both are drawn from too,
    /// with the process: one that was forked off has the random state of its parent.
    pub(crate) fn draw_id(number: u64, now: Moment) -> u64 {
        RandomState::new().hash_one((process::id(), number, now.wall))
    }

    pub(crate) fn wants(&self, name: &LockName) -> bool {
        self.names.contains(name)
    }

    pub(crate) fn is_over(&self, now: Moment) -> bool {
        self.until.is_some_and(|until| until.is_over(now))
    }

    /// Whether it still waits, as far as can be told.
    pub(crate) fn is_there(&self, now: Moment) -> bool {
        !self.is_over(now) && self.state(now) != State::Dead
    }

    /// What is known of it: that its process lives, or has ended; and where that cannot be told,
    /// whether it gave word in time.
    pub(crate) fn state(&self, now: Moment) -> State {
        match self.process().map(|process| process.standing()) {
            Some(Standing::Alive) => State::Living,
            Some(Standing::Gone) => State::Dead,
            Some(Standing::Unknown) | None => match self.stands_until {
                Some(until) if !until.is_over(now) && self.is_challenged => State::Challenged,
                Some(until) if !until.is_over(now) => State::OnItsWord,
                _ if self.is_challenged => State::Dead,
                _ => State::Silent,
            },
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Request {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let mut request = serializer.serialize_struct("Request", 6)?;
        request.serialize_field("number", &self.number)?;
        request.serialize_field("names", &self.names)?;
        request.serialize_field("locked_by", self.locked_by())?;
        request.serialize_field("process_id", &self.process_id())?;
        request.serialize_field("asked_at", &rfc3339(self.asked_at()))?;
        request.serialize_field("waits_until", &self.waits_until().map(rfc3339))?;
        request.end()
    }
}

/// What is known of one that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Living,
    /// It cannot be judged, and gave word lately.
    OnItsWord,
    /// It cannot be judged, was asked whether it lives, and has time left to answer.
    Challenged,
    /// It cannot be judged, and has to be asked.
    Silent,
    Dead,
}

/// What is to be done about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It gets its locks.
    Grant,
    /// It gets its locks, for as long as it takes to give word that it lives.
    GrantOnItsWord,
    /// It has to say whether it lives.
    Challenge,
    /// It is dead, or waited in vain.
    Drop,
}

/// What follows from the queue as it is.
#[derive(Debug, Default)]
pub(crate) struct Outlook {
    /// By the requests' places in the queue; the others go on waiting.
    pub(crate) verdicts: Vec<(usize, Verdict)>,
    /// The first that goes on waiting for each name, or gets it.
    pub(crate) claims: HashMap<LockName, usize>,
}

/// Decides about all requests, given in their order. A request is judged only where a name that
/// it wants is free for it, or held up by one that may be dead: the others wait whatever they are.
pub(crate) fn settle<E>(
    requests: &[Request],
    now: Moment,
    mut is_free: impl FnMut(&LockName) -> Result<bool, E>,
    mut state: impl FnMut(&Request) -> State,
) -> Result<Outlook, E> {
    let mut outlook = Outlook::default();
    // Free names that one holds up who may be dead: all who want them are asked at once.
    let mut stalled: HashSet<LockName> = HashSet::new();
    for (place, request) in requests.iter().enumerate() {
        if request.is_over(now) {
            outlook.verdicts.push((place, Verdict::Drop));
            continue;
        }
        let (mut some_free, mut all_free) = (false, true);
        for name in &request.names {
            let is_free = !outlook.claims.contains_key(name) && is_free(name)?;
            some_free |= is_free;
            all_free &= is_free;
        }
        if some_free || request.names.iter().any(|name| stalled.contains(name)) {
            let state = state(request);
            if matches!(state, State::Silent | State::Challenged) {
                stalled.extend(request.names.iter().cloned());
            }
            let verdict = match state {
                State::Dead => Some(Verdict::Drop),
                State::Silent => Some(Verdict::Challenge),
                State::Living if all_free => Some(Verdict::Grant),
                State::OnItsWord if all_free => Some(Verdict::GrantOnItsWord),
                State::Living | State::OnItsWord | State::Challenged => None,
            };
            outlook
                .verdicts
                .extend(verdict.map(|verdict| (place, verdict)));
            if verdict == Some(Verdict::Drop) {
                continue;
            }
        }
        for name in &request.names {
            outlook.claims.entry(name.clone()).or_insert(place);
        }
    }
    Ok(outlook)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    const NOW: Moment = Moment {
        wall: 1_000_000,
        boot: None,
    };

    fn name(number: u8) -> LockName {
        LockName::new(&number.to_string()).unwrap()
    }

    fn request(number: usize, names: &[u8]) -> Request {
        Request {
            number: number as u64,
            id: number as u64,
            names: names.iter().copied().map(name).collect(),
            lease: Lease {
                timeout: Timeout::DEFAULT,
                locked_by: Holder::new("app").unwrap(),
                process_id: None,
                bound_to: None,
            },
            asked_at: 0,
            until: None,
            stands_until: None,
            is_challenged: false,
        }
    }

    fn outlook(wanted: &[&[u8]], held: &[u8], states: &[State]) -> Outlook {
        let requests: Vec<Request> = (0..)
            .zip(wanted)
            .map(|(n, names)| request(n, names))
            .collect();
        let held: HashSet<LockName> = held.iter().copied().map(name).collect();
        let is_free = |name: &LockName| Ok::<_, Infallible>(!held.contains(name));
        let state = |request: &Request| {
            *states
                .get(request.number as usize)
                .unwrap_or(&State::Living)
        };
        settle(&requests, NOW, is_free, state).unwrap()
    }

    fn granted(wanted: &[&[u8]], held: &[u8]) -> Vec<usize> {
        let verdicts = outlook(wanted, held, &[]).verdicts;
        verdicts.into_iter().map(|(place, _)| place).collect()
    }

    /// One that stands on its word until then, and was challenged or not.
    fn standing(until: i64, is_challenged: bool) -> Request {
        let until = Deadline {
            wall: until,
            boot: None,
        };
        Request {
            stands_until: Some(until),
            is_challenged,
            ..request(0, &[1])
        }
    }

    #[test]
    fn a_request_is_what_was_asked() {
        let mut asked = request(7, &[1, 2]);
        asked.lease.process_id = Some(42);
        asked.until = standing(NOW.wall + 1, false).stands_until;
        assert_eq!(asked.number(), 7);
        assert_eq!(asked.names(), [name(1), name(2)]);
        assert_eq!(asked.process_id(), Some(42));
        assert_eq!(asked.waits_until(), Some(instant(NOW.wall + 1)));
        assert!(asked.wants(&name(2)) && !asked.wants(&name(3)));
    }

    #[test]
    fn what_cannot_be_judged_stands_on_its_word_and_once_challenged_has_to_give_it() {
        let (ahead, over) = (NOW.wall + 1, NOW.wall);
        assert_eq!(standing(ahead, false).state(NOW), State::OnItsWord);
        assert_eq!(standing(ahead, true).state(NOW), State::Challenged);
        assert_eq!(standing(over, false).state(NOW), State::Silent);
        assert_eq!(standing(over, true).state(NOW), State::Dead);
    }

    #[test]
    fn who_is_dead_or_waited_in_vain_is_no_longer_there() {
        assert!(standing(NOW.wall, false).is_there(NOW));
        assert!(!standing(NOW.wall, true).is_there(NOW));
        let in_vain = Request {
            until: standing(NOW.wall, false).stands_until,
            ..request(0, &[1])
        };
        assert!(!in_vain.is_there(NOW));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_that_can_be_judged_is() {
        let mut asked = standing(NOW.wall, true);
        asked.lease.bound_to = Process::current();
        assert_eq!(asked.state(NOW), State::Living);
        let started = asked.lease.bound_to.map_or(0, |process| process.started);
        asked.lease.bound_to = Process::current().map(|process| Process {
            started: started + 1,
            ..process
        });
        assert_eq!(asked.state(NOW), State::Dead);
    }

    #[test]
    fn nobody_is_granted_a_part_of_the_names_whatever_is_known_of_it() {
        for state in [State::Living, State::OnItsWord, State::Challenged] {
            assert!(outlook(&[&[1, 2]], &[2], &[state]).verdicts.is_empty());
        }
    }

    #[test]
    fn the_first_request_for_a_name_gets_it() {
        assert_eq!(granted(&[&[1], &[1], &[2]], &[]), [0, 2]);
    }

    #[test]
    fn a_request_waits_for_all_its_names() {
        assert_eq!(granted(&[&[1, 2]], &[2]), [0; 0]);
        assert_eq!(granted(&[&[1, 2]], &[3]), [0]);
    }

    #[test]
    fn a_later_request_does_not_overtake_one_that_wants_one_of_its_names() {
        assert_eq!(granted(&[&[1, 2], &[1], &[3]], &[2]), [2]);
        assert_eq!(granted(&[&[1, 2], &[2, 3], &[3]], &[1]), [0; 0]);
    }

    #[test]
    fn the_dead_hold_nobody_up() {
        let outlook = outlook(&[&[1, 2], &[1]], &[2], &[State::Dead]);
        assert_eq!(outlook.verdicts, [(0, Verdict::Drop), (1, Verdict::Grant)]);
        assert_eq!(outlook.claims, [(name(1), 1)].into());
    }

    #[test]
    fn one_that_cannot_be_judged_is_asked_before_it_is_granted_and_keeps_its_place() {
        let of = |state| outlook(&[&[1], &[1]], &[], &[state]).verdicts;
        assert_eq!(of(State::Silent), [(0, Verdict::Challenge)]);
        assert_eq!(of(State::Challenged), []);
        assert_eq!(of(State::OnItsWord), [(0, Verdict::GrantOnItsWord)]);
    }

    #[test]
    fn all_who_may_be_dead_are_asked_at_once() {
        let states = [State::Silent, State::Silent, State::Dead, State::Living];
        let verdicts = outlook(&[&[1], &[1], &[1], &[1]], &[], &states).verdicts;
        let expected = [
            (0, Verdict::Challenge),
            (1, Verdict::Challenge),
            (2, Verdict::Drop),
        ];
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn who_waited_in_vain_is_dropped() {
        let mut over = request(0, &[1]);
        over.until = Timeout::After(Duration::from_micros(1))
            .deadline(Moment {
                wall: 0,
                boot: None,
            })
            .unwrap();
        let requests = [over, request(1, &[1])];
        let outlook = settle(
            &requests,
            NOW,
            |_| Ok::<_, Infallible>(true),
            |_| State::Living,
        );
        let verdicts = outlook.unwrap().verdicts;
        assert_eq!(verdicts, [(0, Verdict::Drop), (1, Verdict::Grant)]);
    }

    #[test]
    fn nobody_is_judged_where_nothing_is_free() {
        let requests = [request(0, &[1]), request(1, &[1])];
        let judge = |_: &Request| panic!("judged");
        let outlook = settle(&requests, NOW, |_| Ok::<_, Infallible>(false), judge).unwrap();
        assert_eq!(outlook.verdicts, []);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// The rule of this module, word by word and slowly.
        #[test]
        fn granted_is_who_finds_all_names_free_and_unwanted_by_earlier_ones(
            wanted in prop::collection::vec(prop::collection::vec(0..6u8, 1..4), 0..8),
            held in prop::collection::vec(0..6u8, 0..3),
        ) {
            let wanted: Vec<&[u8]> = wanted.iter().map(Vec::as_slice).collect();
            let expected: Vec<usize> = (0..wanted.len())
                .filter(|&i| wanted[i].iter().all(|n| {
                    !held.contains(n) && !wanted[..i].iter().any(|earlier| earlier.contains(n))
                }))
                .collect();
            prop_assert_eq!(granted(&wanted, &held), expected);
        }
    }
}
