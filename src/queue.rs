//! Decides which waiting requests are granted next: pure, over locks and requests.
//!
//! A request wants a set of names and gets all of them or none. It is granted when all its names
//! are free and it is the head of each: the earliest living request that wants the name. So nobody
//! starves, and requests for overlapping sets cannot wait for each other in a circle, because a
//! request waits only for earlier ones.
//!
//! Only the names that a transaction frees or wants are looked at, and only heads are judged. One
//! example, with three requests over two names:
//!
//! ```text
//! a is held, b is free        wants      head of
//! 1 waits for a               a          a
//! 2 waits for a and b         a, b       b
//! 3 waits for b               b          -
//! ```
//!
//! 3 waits although b is free: 2 is the head of b. The transaction that releases a looks at a: its
//! head, 1, is the head of all its names and is granted. 2 is the head of a now, and is told. When
//! 1 releases a, 2 is the head of both and is granted, and 3 becomes the head of b. If 2 dies
//! first, 3, which watches the request before its own, drops 2 and is granted b.

use crate::clock::Moment;
use crate::lock::Lease;
use crate::name::{Holder, LockName, Note};
use crate::process::Standing;
#[cfg(feature = "serde")]
use crate::timeout::rfc3339;
use crate::timeout::{Deadline, Timeout, instant};
use chrono::{DateTime, Utc};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

/// How long a request is trusted to wait that nothing can prove alive or gone. It renews its trust
/// at a third. Dead, it delays others for no longer.
pub(crate) const TRUST: Timeout = Timeout::After(Duration::from_secs(30));

/// A request that waits for locks: its holder to be, its names, its time of arrival.
///
/// [`LockManager::requests`](crate::LockManager::requests) lists them in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// In the order of arrival.
    pub(crate) number: u64,
    /// Which one it is, drawn at random: numbers begin again in a new file, and go on in a copy of
    /// the file as in the file itself.
    pub(crate) id: u64,
    pub(crate) names: Vec<LockName>,
    pub(crate) lease: Lease,
    /// Microseconds since 1970.
    pub(crate) asked_at: i64,
    /// When the wait ends without a grant.
    pub(crate) until: Option<Deadline>,
    /// Until when it counts as alive if that cannot be judged.
    pub(crate) trusted_until: Option<Deadline>,
    /// Where its process can be told of a grant.
    pub(crate) bell: Option<u64>,
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
    /// #         request.try_lock_for(std::time::Duration::from_secs(60)).unwrap().release()
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
    /// #         request.try_lock_for(std::time::Duration::from_secs(60)).unwrap().release()
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

    /// Returns the holder that the locks are going to have.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # let guard = manager.acquire(["camera"]).lock()?;
    /// # std::thread::scope(|scope| {
    /// #     scope.spawn(|| {
    /// #         let request = manager.acquire(["camera", "gpu"]).locked_by("app-1");
    /// #         request.try_lock_for(std::time::Duration::from_secs(60)).unwrap().release()
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
    /// #         request.try_lock_for(std::time::Duration::from_secs(60)).unwrap().release()
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
        let bound_to = self.lease.bound_to;
        bound_to.map(|it| it.process.pid).or(self.lease.process_id)
    }

    /// Returns why it asks, in its own words.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// # let guard = manager.acquire(["camera"]).lock()?;
    /// # std::thread::scope(|scope| {
    /// #     scope.spawn(|| {
    /// #         let request = manager.acquire(["camera", "gpu"]).note("night run");
    /// #         request.try_lock_for(std::time::Duration::from_secs(60)).unwrap().release()
    /// #     });
    /// #     while manager.requests("")?.is_empty() {
    /// #         std::thread::yield_now();
    /// #     }
    /// // Somebody waits for "camera" and "gpu".
    /// let request = &manager.requests("")?[0];
    /// assert_eq!(request.note().unwrap(), "night run");
    /// #     guard.release()
    /// # })?;
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn note(&self) -> Option<&Note> {
        self.lease.note.as_ref()
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
    /// #         request.try_lock_for(std::time::Duration::from_secs(60)).unwrap().release()
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
    /// #         request.try_lock_for(std::time::Duration::from_secs(60)).unwrap().release()
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

    /// Whether it waited as long as it was told to.
    pub(crate) fn is_over(&self, now: Moment) -> bool {
        self.until.is_some_and(|until| until.is_over(now))
    }

    /// What is known of it, given what can be said of what it is bound to.
    pub(crate) fn state(&self, now: Moment, standing: Standing) -> State {
        if self.is_over(now) {
            return State::Dead;
        }
        match standing {
            Standing::Alive => State::Living,
            Standing::Gone => State::Dead,
            Standing::Unknown => match self.trusted_until {
                Some(until) if !until.is_over(now) => State::Trusted,
                _ => State::Dead,
            },
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Request {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let mut request = serializer.serialize_struct("Request", 7)?;
        request.serialize_field("number", &self.number)?;
        request.serialize_field("names", &self.names)?;
        request.serialize_field("locked_by", self.locked_by())?;
        request.serialize_field("process_id", &self.process_id())?;
        request.serialize_field("asked_at", &rfc3339(self.asked_at()))?;
        request.serialize_field("waits_until", &self.waits_until().map(rfc3339))?;
        request.serialize_field("note", &self.note())?;
        request.end()
    }
}

/// What is known of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Living,
    /// It cannot be judged, and said lately that it waits.
    Trusted,
    /// It ended, waited for as long as it was told to, or can no longer be trusted.
    Dead,
}

/// What a plan is made from.
pub(crate) trait View {
    type Error;

    /// The number of the earliest request that wants this name, from a number on and without some.
    fn head(
        &self,
        name: &LockName,
        from: u64,
        without: &HashSet<u64>,
    ) -> Result<Option<u64>, Self::Error>;
    fn request(&self, number: u64) -> Result<Request, Self::Error>;
    /// Whether no live lock has this name.
    fn is_free(&self, name: &LockName) -> Result<bool, Self::Error>;
    fn state(&self, request: &Request) -> State;
}

/// What follows for some names from the queue as it is.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Dead requests, to be removed.
    pub(crate) dropped: Vec<Request>,
    /// Requests that get their names now, and what is known of each.
    pub(crate) granted: Vec<(Rc<Request>, State)>,
    /// The living head of each name that it still waits for, although the name is free.
    pub(crate) reserved: HashMap<LockName, Rc<Request>>,
    /// Requests that became the head of a name: each has another lock to watch now.
    pub(crate) heads: Vec<Request>,
    /// Numbers of the dropped and the granted.
    gone: HashSet<u64>,
    taken: HashMap<LockName, Rc<Request>>,
    /// Living requests that were found not to be granted, as long as no other one is dropped.
    blocked: HashMap<u64, Rc<Request>>,
    /// For each name a number below which all requests are gone.
    from: HashMap<LockName, u64>,
}

impl Plan {
    /// Plans for names that are freed or wanted, until nothing more follows.
    pub(crate) fn for_names<V: View>(
        view: &V,
        names: impl IntoIterator<Item = LockName>,
    ) -> Result<Self, V::Error> {
        let mut plan = Self::default();
        let mut work: BTreeSet<LockName> = names.into_iter().collect();
        while let Some(name) = work.pop_first() {
            if plan.taken.contains_key(&name) || !view.is_free(&name)? {
                continue;
            }
            let Some(number) = plan.head(view, &name)? else {
                continue;
            };
            // A set of many names is looked at once, and not once for each of them.
            if let Some(request) = plan.blocked.get(&number) {
                plan.reserved.insert(name, Rc::clone(request));
                continue;
            }
            let request = view.request(number)?;
            let state = view.state(&request);
            if state == State::Dead {
                plan.forget(&request);
                plan.blocked.clear();
                work.extend(request.names.iter().cloned());
                plan.dropped.push(request);
            } else if plan.can_grant(view, &request, &mut work)? {
                plan.grant(view, Rc::new(request), state)?;
            } else {
                let request = Rc::new(request);
                plan.blocked.insert(number, Rc::clone(&request));
                plan.reserved.insert(name, request);
            }
        }
        Ok(plan)
    }

    fn head<V: View>(&mut self, view: &V, name: &LockName) -> Result<Option<u64>, V::Error> {
        let from = self.from.get(name).copied().unwrap_or_default();
        let head = view.head(name, from, &self.gone)?;
        self.from.insert(name.clone(), head.unwrap_or(u64::MAX));
        Ok(head)
    }

    /// Whether a living request is the head of all its names and all are free. Other names that
    /// are free, and held up by an earlier request, are looked at too: that one may be dead.
    fn can_grant<V: View>(
        &mut self,
        view: &V,
        request: &Request,
        work: &mut BTreeSet<LockName>,
    ) -> Result<bool, V::Error> {
        let mut can = true;
        for name in &request.names {
            if self.taken.contains_key(name) || !view.is_free(name)? {
                can = false;
            } else if self.head(view, name)? != Some(request.number) {
                can = false;
                if !self.reserved.contains_key(name) {
                    work.insert(name.clone());
                }
            }
        }
        Ok(can)
    }

    fn grant<V: View>(
        &mut self,
        view: &V,
        request: Rc<Request>,
        state: State,
    ) -> Result<(), V::Error> {
        self.forget(&request);
        let taken = request.names.iter().cloned();
        self.taken
            .extend(taken.map(|name| (name, Rc::clone(&request))));
        let mut heads = BTreeSet::new();
        for name in &request.names {
            heads.extend(self.head(view, name)?);
        }
        for head in heads {
            self.heads.push(view.request(head)?);
        }
        self.granted.push((request, state));
        Ok(())
    }

    /// Takes a request out of the picture: what it held up is open again.
    fn forget(&mut self, request: &Request) {
        self.gone.insert(request.number);
        for name in &request.names {
            self.reserved.remove(name);
        }
    }

    /// The request that comes before a newcomer for this name, if the name is not locked.
    pub(crate) fn first_for(&self, name: &LockName) -> Option<&Request> {
        let first = self.reserved.get(name).or_else(|| self.taken.get(name));
        first.map(Rc::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::convert::Infallible;

    fn name(number: u8) -> LockName {
        LockName::new(&number.to_string()).unwrap()
    }

    fn request(number: u64, names: &[u8]) -> Request {
        Request {
            number,
            id: number,
            names: names.iter().copied().map(name).collect(),
            lease: Lease {
                timeout: Timeout::DEFAULT,
                locked_by: Holder::new("app").unwrap(),
                process_id: None,
                note: None,
                at_least: None,
                bound_to: None,
            },
            asked_at: 0,
            until: None,
            trusted_until: None,
            bell: None,
        }
    }

    /// A queue in memory, with its index.
    #[derive(Clone, Debug, Default)]
    struct World {
        requests: Vec<Request>,
        wants: BTreeSet<(LockName, u64)>,
        held: HashSet<LockName>,
        dead: HashSet<u64>,
        judged: RefCell<Vec<u64>>,
    }

    impl World {
        fn new(wanted: &[&[u8]], held: &[u8], dead: &[u64]) -> Self {
            let mut world = Self {
                held: held.iter().copied().map(name).collect(),
                dead: dead.iter().copied().collect(),
                ..Self::default()
            };
            for (number, names) in (0..).zip(wanted) {
                world.ask(request(number, names));
            }
            world
        }

        fn ask(&mut self, request: Request) {
            let wants = request
                .names
                .iter()
                .map(|name| (name.clone(), request.number));
            self.wants.extend(wants);
            self.requests.push(request);
        }

        fn remove(&mut self, number: u64) {
            self.requests.retain(|request| request.number != number);
            self.wants.retain(|(_, wanting)| *wanting != number);
        }

        fn apply(&mut self, plan: &Plan) {
            for request in &plan.dropped {
                self.remove(request.number);
            }
            for (request, _) in &plan.granted {
                self.remove(request.number);
                for name in &request.names {
                    assert!(self.held.insert(name.clone()), "two holders of {name}");
                }
            }
        }

        fn plan(&self, names: &[u8]) -> Plan {
            Plan::for_names(self, names.iter().copied().map(name)).unwrap()
        }
    }

    impl View for World {
        type Error = Infallible;

        fn head(
            &self,
            name: &LockName,
            from: u64,
            without: &HashSet<u64>,
        ) -> Result<Option<u64>, Infallible> {
            let range = (name.clone(), from)..=(name.clone(), u64::MAX);
            let wanting = self.wants.range(range);
            Ok(wanting
                .map(|(_, number)| *number)
                .find(|it| !without.contains(it)))
        }

        fn request(&self, number: u64) -> Result<Request, Infallible> {
            let mut requests = self.requests.iter();
            Ok(requests.find(|it| it.number == number).unwrap().clone())
        }

        fn is_free(&self, name: &LockName) -> Result<bool, Infallible> {
            Ok(!self.held.contains(name))
        }

        fn state(&self, request: &Request) -> State {
            self.judged.borrow_mut().push(request.number);
            match self.dead.contains(&request.number) {
                true => State::Dead,
                false => State::Living,
            }
        }
    }

    fn granted(plan: &Plan) -> Vec<u64> {
        plan.granted
            .iter()
            .map(|(request, _)| request.number)
            .collect()
    }

    fn dropped(plan: &Plan) -> Vec<u64> {
        plan.dropped.iter().map(|request| request.number).collect()
    }

    #[test]
    fn request_for_a_set_waits_for_the_rest_and_keeps_what_is_free() {
        let world = World::new(&[&[1, 2], &[2]], &[1], &[]);
        let plan = world.plan(&[2]);
        assert_eq!(granted(&plan), []);
        assert_eq!(plan.first_for(&name(2)).unwrap().number, 0);
        assert_eq!(dropped(&plan), []);
    }

    #[test]
    fn released_name_goes_to_its_head_and_the_next_is_told() {
        let world = World::new(&[&[1], &[1, 2], &[2]], &[], &[]);
        let plan = world.plan(&[1]);
        assert_eq!(granted(&plan), [0]);
        let heads: Vec<u64> = plan.heads.iter().map(|head| head.number).collect();
        assert_eq!(heads, [1]);
    }

    #[test]
    fn dead_head_is_dropped_with_all_it_held_up() {
        let world = World::new(&[&[1, 2], &[1], &[2]], &[], &[0]);
        let plan = world.plan(&[1]);
        assert_eq!(dropped(&plan), [0]);
        assert_eq!(granted(&plan), [1, 2]);
    }

    #[test]
    fn dead_head_of_another_free_name_is_found() {
        // 1 wants both; the name 2 is free, and a dead request is its head.
        let world = World::new(&[&[2], &[1, 2]], &[], &[0]);
        let plan = world.plan(&[1]);
        assert_eq!(dropped(&plan), [0]);
        assert_eq!(granted(&plan), [1]);
    }

    #[test]
    fn requests_for_other_names_are_not_judged() {
        let world = World::new(&[&[1], &[2], &[3], &[1]], &[], &[]);
        assert_eq!(granted(&world.plan(&[1])), [0]);
        assert_eq!(*world.judged.borrow(), [0]);
    }

    #[test]
    fn set_of_many_names_is_judged_once() {
        let names: Vec<u8> = (0..100).collect();
        let world = World::new(&[&names], &[99], &[]);
        let plan = world.plan(&names);
        assert_eq!(plan.reserved.len(), 99);
        assert_eq!(*world.judged.borrow(), [0]);
    }

    #[test]
    fn nobody_is_judged_if_nothing_is_free() {
        let world = World::new(&[&[1], &[1]], &[1], &[]);
        assert_eq!(granted(&world.plan(&[1])), []);
        assert!(world.judged.borrow().is_empty());
    }

    /// The rule of this module word by word: looks at every request, in their order.
    fn full_scan(world: &mut World) {
        loop {
            let dead = |it: &&Request| world.dead.contains(&it.number);
            if let Some(request) = world.requests.iter().find(dead) {
                let number = request.number;
                world.remove(number);
                continue;
            }
            let can = |at: &usize| {
                let names = &world.requests[*at].names;
                let is_wanted = |name| {
                    world.requests[..*at]
                        .iter()
                        .any(|it| it.names.contains(name))
                };
                names
                    .iter()
                    .all(|name| !world.held.contains(name) && !is_wanted(name))
            };
            let Some(at) = (0..world.requests.len()).find(can) else {
                return;
            };
            let request = world.requests[at].clone();
            world.remove(request.number);
            world.held.extend(request.names);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask(Vec<u8>),
        Release(Vec<u8>),
        Die(prop::sample::Index),
        GiveUp(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let names = || prop::collection::vec(0..6u8, 1..4);
        let step = prop_oneof![
            4 => names().prop_map(Step::Ask),
            4 => names().prop_map(Step::Release),
            1 => any::<prop::sample::Index>().prop_map(Step::Die),
            1 => any::<prop::sample::Index>().prop_map(Step::GiveUp),
        ];
        prop::collection::vec(step, 0..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1_000, ..ProptestConfig::default() })]

        /// After each step the index gives the locks and the queue that the full scan gives.
        #[test]
        fn plan_by_index_equals_the_full_scan(steps in steps()) {
            let mut world = World::default();
            for (number, step) in (0..).zip(steps) {
                let mut expected = world.clone();
                let names: Vec<LockName> = match step {
                    Step::Ask(mut names) => {
                        names.sort_unstable();
                        names.dedup();
                        world.ask(request(number, &names));
                        expected.ask(request(number, &names));
                        names.into_iter().map(name).collect()
                    }
                    Step::Release(names) => {
                        let names: Vec<LockName> = names.into_iter().map(name).collect();
                        for name in &names {
                            world.held.remove(name);
                            expected.held.remove(name);
                        }
                        names
                    }
                    Step::Die(at) | Step::GiveUp(at) if world.requests.is_empty() => {
                        let _ = at;
                        continue;
                    }
                    // Its follower notices and settles its names.
                    Step::Die(at) => {
                        let request = at.get(&world.requests).clone();
                        world.dead.insert(request.number);
                        expected.dead.insert(request.number);
                        request.names
                    }
                    Step::GiveUp(at) => {
                        let request = at.get(&world.requests).clone();
                        world.remove(request.number);
                        expected.remove(request.number);
                        request.names
                    }
                };
                let plan = Plan::for_names(&world, names).unwrap();
                world.apply(&plan);
                full_scan(&mut expected);
                // A dead request that nobody waits behind may stay for a while.
                let mut left = world.clone();
                full_scan(&mut left);
                prop_assert_eq!(&left.held, &world.held);
                prop_assert_eq!(&world.held, &expected.held);
                prop_assert_eq!(&left.requests, &expected.requests);
            }
        }
    }
}
