//! Decides which waiting requests are granted next: pure, over locks and requests.
//!
//! A request is a list of claims on names, and gets all of them or none. A request for any of
//! several names gets as many as it wants, or none. A request is granted when the holders of its
//! names admit it and it is the head of each name: the earliest living request that wants the name.
//! So no request starves. Requests for overlapping sets cannot wait for each other in a circle,
//! because a request waits only for earlier ones. A request that could be granted does not pass an
//! earlier one that cannot: shared newcomers wait behind an exclusive request.
//!
//! A plan looks only at the names that a transaction frees or wants, and judges only heads. One
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
//! first, then 3, which watches the request before its own, drops 2 and is granted b.

use crate::claim::{Claim, Claims, Holding, Mode};
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

/// How long a request is trusted to wait if no process can prove it alive or gone. A waiter renews
/// its trust at a third of this time. A dead request delays others for no longer.
pub(crate) const TRUST: Timeout = Timeout::After(Duration::from_secs(30));

/// Describes a request that waits for locks: its future holder, its names, its time of arrival.
///
/// [`LockManager::requests`](crate::LockManager::requests) lists them in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The number of the request, in the order of arrival.
    pub(crate) number: u64,
    /// The id of the request, drawn at random. Numbers begin again in a new file, and they go on in
    /// a copy of the file as in the file itself.
    pub(crate) id: u64,
    pub(crate) claims: Claims,
    pub(crate) lease: Lease,
    /// Microseconds since 1970.
    pub(crate) asked_at: i64,
    /// The instant at which the wait ends without a grant.
    pub(crate) until: Option<Deadline>,
    /// The instant until which the request counts as alive if its process cannot be judged.
    pub(crate) trusted_until: Option<Deadline>,
    /// The address at which its process is told of a grant.
    pub(crate) address: Option<u64>,
}

impl Request {
    /// Returns the names that the request waits for: all of them or none, unless it waits for
    /// [any](Self::any) of them.
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
    pub fn names(&self) -> Vec<&LockName> {
        self.claims.names().collect()
    }

    /// Returns the names that the request waits for, and how it wants to hold each.
    pub fn claims(&self) -> &[Claim] {
        &self.claims.list
    }

    /// Returns how many of its names are enough for the request, or none if it wants them all.
    pub fn any(&self) -> Option<u32> {
        self.claims.any
    }

    /// Returns the number of the request: later requests have larger numbers.
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

    /// Returns the future holder of the locks.
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

    /// Returns the process that asks, if that is known.
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

    /// Returns the note of the request: why it asks, in its own words.
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

    /// Returns when the request arrived, by the wall clock.
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

    /// Returns until when the request waits, by the wall clock, or none if it waits until it is
    /// granted.
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

    /// Tells whether the bound of the wait has passed.
    pub(crate) fn is_over(&self, now: Moment) -> bool {
        self.until.is_some_and(|until| until.is_over(now))
    }

    /// Returns the state of the request, given the standing of the thing that it is bound to.
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

        let mut request = serializer.serialize_struct("Request", 9)?;
        request.serialize_field("number", &self.number)?;
        request.serialize_field("names", &self.names())?;
        request.serialize_field("locked_by", self.locked_by())?;
        request.serialize_field("process_id", &self.process_id())?;
        request.serialize_field("asked_at", &rfc3339(self.asked_at()))?;
        request.serialize_field("waits_until", &self.waits_until().map(rfc3339))?;
        request.serialize_field("note", &self.note())?;
        request.serialize_field("claims", self.claims())?;
        request.serialize_field("any", &self.any())?;
        request.end()
    }
}

/// Says whether a request lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Living,
    /// The request cannot be judged, and its waiter renewed its trust lately.
    Trusted,
    /// The request ended, reached its bound, or is no longer trusted.
    Dead,
}

/// Shows a plan the requests and holds that it is made from.
pub(crate) trait View {
    type Error;

    /// Returns the number of the earliest request that wants this name, from a number on and
    /// without some.
    fn head(
        &self,
        name: &LockName,
        from: u64,
        without: &HashSet<u64>,
    ) -> Result<Option<u64>, Self::Error>;
    fn request(&self, number: u64) -> Result<Request, Self::Error>;
    /// Returns how the living holders hold the name.
    fn holding(&self, name: &LockName) -> Result<Holding, Self::Error>;
    fn state(&self, request: &Request) -> State;
}

/// Names a request that gets its locks.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) request: Rc<Request>,
    /// The claims that are granted: all claims of the request, or as many as are enough.
    pub(crate) claims: Vec<Claim>,
    /// The state of the request.
    pub(crate) state: State,
}

/// Lists the grants and removals that follow for some names from the present queue.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The dead requests to remove.
    pub(crate) dropped: Vec<Request>,
    /// The requests that get their names now, in their order for each name.
    pub(crate) granted: Vec<Grant>,
    /// The living head of each name that it still waits for, although the name could admit others.
    pub(crate) reserved: HashMap<LockName, Rc<Request>>,
    /// The requests that became the head of a name: each has another lock to watch now.
    pub(crate) heads: Vec<Request>,
    /// The numbers of the dropped and the granted requests.
    gone: HashSet<u64>,
    /// The last request that got each name, and how that is held since.
    taken: HashMap<LockName, (Rc<Request>, Holding)>,
    /// The living requests that cannot be granted, as long as nothing has changed since.
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
            let Some(number) = plan.head(view, &name)? else {
                continue;
            };
            // A full name grants nothing, so its head is not judged.
            if plan.holding(view, &name)?.is_full() {
                continue;
            }
            // A set of many names is judged once, and not once for each of them.
            if let Some(request) = plan.blocked.get(&number) {
                plan.reserved.insert(name, Rc::clone(request));
                continue;
            }
            let request = view.request(number)?;
            let state = view.state(&request);
            if state == State::Dead {
                plan.forget(&request, &mut work);
                plan.dropped.push(request);
                continue;
            }
            let request = Rc::new(request);
            match plan.grantable(view, &request, &mut work)? {
                Some(claims) => plan.grant(view, request, claims, state, &mut work)?,
                None => {
                    plan.blocked.insert(number, Rc::clone(&request));
                    plan.reserved.insert(name, request);
                }
            }
        }
        plan.find_heads(view)?;
        Ok(plan)
    }

    /// Returns how a name is held once the plan is done.
    fn holding<V: View>(&self, view: &V, name: &LockName) -> Result<Holding, V::Error> {
        match self.taken.get(name) {
            Some((_, holding)) => Ok(*holding),
            None => view.holding(name),
        }
    }

    fn head<V: View>(&mut self, view: &V, name: &LockName) -> Result<Option<u64>, V::Error> {
        let from = self.from.get(name).copied().unwrap_or_default();
        let head = view.head(name, from, &self.gone)?;
        self.from.insert(name.clone(), head.unwrap_or(u64::MAX));
        Ok(head)
    }

    /// Returns the claims that a living request can get now: none unless the request is the head of
    /// enough of its names, and admitted. If an earlier request holds up other names that are not
    /// full, those names are looked at too, because the earlier request may be dead.
    fn grantable<V: View>(
        &mut self,
        view: &V,
        request: &Request,
        work: &mut BTreeSet<LockName>,
    ) -> Result<Option<Vec<Claim>>, V::Error> {
        let needed = request.claims.needed();
        let mut claims = Vec::with_capacity(needed);
        for claim in &request.claims.list {
            let holding = self.holding(view, &claim.name)?;
            if holding.is_full() {
                continue;
            }
            if self.head(view, &claim.name)? != Some(request.number) {
                if !self.reserved.contains_key(&claim.name) {
                    work.insert(claim.name.clone());
                }
            } else if holding.admits(claim.mode) && claims.len() < needed {
                claims.push(claim.clone());
            }
        }
        Ok((claims.len() == needed).then_some(claims))
    }

    fn grant<V: View>(
        &mut self,
        view: &V,
        request: Rc<Request>,
        claims: Vec<Claim>,
        state: State,
        work: &mut BTreeSet<LockName>,
    ) -> Result<(), V::Error> {
        for claim in &claims {
            let holding = self.holding(view, &claim.name)?.and(claim.mode);
            let taken = (Rc::clone(&request), holding);
            self.taken.insert(claim.name.clone(), taken);
        }
        self.forget(&request, work);
        self.granted.push(Grant {
            request,
            claims,
            state,
        });
        Ok(())
    }

    /// Forgets a request, and looks again at the names that it held up.
    fn forget(&mut self, request: &Request, work: &mut BTreeSet<LockName>) {
        self.gone.insert(request.number);
        self.blocked.clear();
        for name in request.claims.names() {
            self.reserved.remove(name);
            work.insert(name.clone());
        }
    }

    /// Finds the requests that come after those that are granted or dropped.
    fn find_heads<V: View>(&mut self, view: &V) -> Result<(), V::Error> {
        let granted = self.granted.iter();
        let gone = granted.map(|grant| grant.request.as_ref());
        let gone = gone.chain(&self.dropped);
        let names: HashSet<LockName> = gone
            .flat_map(|request| request.claims.names().cloned())
            .collect();
        let mut heads = BTreeSet::new();
        for name in &names {
            heads.extend(self.head(view, name)?);
        }
        for head in heads {
            self.heads.push(view.request(head)?);
        }
        Ok(())
    }

    /// Returns the request that comes before a newcomer with this mode for this name, if the
    /// earlier holders of the name admit that request.
    pub(crate) fn first_for(&self, name: &LockName, mode: Mode) -> Option<&Request> {
        let taken = self.taken.get(name);
        let taken = taken.filter(|(_, holding)| !holding.admits(mode));
        let first = self.reserved.get(name);
        first.or(taken.map(|(request, _)| request)).map(Rc::as_ref)
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

    fn exclusive(names: &[u8]) -> Claims {
        Claims::exclusive(names.iter().copied().map(name))
    }

    fn claims(list: &[(u8, Mode)]) -> Claims {
        let claim = |&(number, mode): &(u8, Mode)| Claim {
            name: name(number),
            mode,
        };
        Claims {
            list: list.iter().map(claim).collect(),
            any: None,
        }
    }

    fn any_of(any: u32, names: &[u8]) -> Claims {
        Claims {
            any: Some(any),
            ..exclusive(names)
        }
    }

    fn slots(take: u32, of: u32) -> Mode {
        Mode::Slots { take, of }
    }

    fn request(number: u64, claims: Claims) -> Request {
        Request {
            number,
            id: number,
            claims,
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
            address: None,
        }
    }

    /// Models a queue in memory, with its index and the holds.
    #[derive(Clone, Debug, Default)]
    struct World {
        requests: Vec<Request>,
        wants: BTreeSet<(LockName, u64)>,
        held: Vec<Claim>,
        dead: HashSet<u64>,
        judged: RefCell<Vec<u64>>,
    }

    impl World {
        fn new(wanted: &[Claims], held: &[(u8, Mode)], dead: &[u64]) -> Self {
            let mut world = Self {
                held: claims(held).list,
                dead: dead.iter().copied().collect(),
                ..Self::default()
            };
            for (number, claims) in (0..).zip(wanted) {
                world.ask(request(number, claims.clone()));
            }
            world
        }

        fn of_names(wanted: &[&[u8]], held: &[u8], dead: &[u64]) -> Self {
            let wanted: Vec<Claims> = wanted.iter().map(|names| exclusive(names)).collect();
            let held: Vec<_> = held.iter().map(|it| (*it, Mode::Exclusive)).collect();
            Self::new(&wanted, &held, dead)
        }

        fn ask(&mut self, request: Request) {
            let names = request.claims.names();
            let wants = names.map(|name| (name.clone(), request.number));
            self.wants.extend(wants);
            self.requests.push(request);
        }

        fn remove(&mut self, number: u64) {
            self.requests.retain(|request| request.number != number);
            self.wants.retain(|(_, wanting)| *wanting != number);
        }

        /// Applies the rule by counting, for one more hold.
        fn fits(&self, claim: &Claim) -> bool {
            let held = || self.held.iter().filter(|held| held.name == claim.name);
            match claim.mode {
                Mode::Exclusive => held().count() == 0,
                Mode::Shared => held().all(|held| held.mode == Mode::Shared),
                Mode::Slots { take, of } => {
                    let mut left = i64::from(of) - i64::from(take);
                    held().all(|held| match held.mode {
                        Mode::Slots { take, of: other } if other == of => {
                            left -= i64::from(take);
                            left >= 0
                        }
                        _ => false,
                    }) && left >= 0
                }
            }
        }

        fn hold(&mut self, claims: &[Claim]) {
            for claim in claims {
                assert!(self.fits(claim), "{claim:?} beside {:?}", self.held);
                self.held.push(claim.clone());
            }
        }

        fn apply(&mut self, plan: &Plan) {
            for request in &plan.dropped {
                self.remove(request.number);
            }
            for grant in &plan.granted {
                self.remove(grant.request.number);
                self.hold(&grant.claims);
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

        fn holding(&self, name: &LockName) -> Result<Holding, Infallible> {
            let held = self.held.iter().filter(|held| held.name == *name);
            Ok(held.fold(Holding::Free, |holding, held| holding.and(held.mode)))
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
        let granted = plan.granted.iter();
        granted.map(|grant| grant.request.number).collect()
    }

    fn dropped(plan: &Plan) -> Vec<u64> {
        plan.dropped.iter().map(|request| request.number).collect()
    }

    fn heads(plan: &Plan) -> Vec<u64> {
        plan.heads.iter().map(|head| head.number).collect()
    }

    #[test]
    fn request_for_a_set_waits_for_the_rest_and_keeps_the_free_names() {
        let world = World::of_names(&[&[1, 2], &[2]], &[1], &[]);
        let plan = world.plan(&[2]);
        assert_eq!(granted(&plan), []);
        assert_eq!(plan.first_for(&name(2), Mode::Exclusive).unwrap().number, 0);
        assert_eq!(dropped(&plan), []);
    }

    #[test]
    fn released_name_goes_to_its_head_and_the_next_is_told() {
        let world = World::of_names(&[&[1], &[1, 2], &[2]], &[], &[]);
        let plan = world.plan(&[1]);
        assert_eq!(granted(&plan), [0]);
        assert_eq!(heads(&plan), [1]);
    }

    #[test]
    fn dead_head_is_dropped_with_all_it_held_up() {
        let world = World::of_names(&[&[1, 2], &[1], &[2]], &[], &[0]);
        let plan = world.plan(&[1]);
        assert_eq!(dropped(&plan), [0]);
        assert_eq!(granted(&plan), [1, 2]);
    }

    #[test]
    fn dead_head_of_another_free_name_is_found() {
        // 1 wants both. The name 2 is free, and a dead request is its head.
        let world = World::of_names(&[&[2], &[1, 2]], &[], &[0]);
        let plan = world.plan(&[1]);
        assert_eq!(dropped(&plan), [0]);
        assert_eq!(granted(&plan), [1]);
    }

    #[test]
    fn requests_for_other_names_are_not_judged() {
        let world = World::of_names(&[&[1], &[2], &[3], &[1]], &[], &[]);
        assert_eq!(granted(&world.plan(&[1])), [0]);
        assert_eq!(*world.judged.borrow(), [0]);
    }

    #[test]
    fn set_of_many_names_is_judged_once() {
        let names: Vec<u8> = (0..100).collect();
        let world = World::of_names(&[&names], &[99], &[]);
        let plan = world.plan(&names);
        assert_eq!(plan.reserved.len(), 99);
        assert_eq!(*world.judged.borrow(), [0]);
    }

    #[test]
    fn head_of_a_full_name_is_not_judged() {
        let world = World::of_names(&[&[1], &[1]], &[1], &[]);
        assert_eq!(granted(&world.plan(&[1])), []);
        assert!(world.judged.borrow().is_empty());
    }

    #[test]
    fn shared_requests_are_granted_together_up_to_the_first_exclusive_one() {
        let shared = claims(&[(1, Mode::Shared)]);
        let wanted = [shared.clone(), shared.clone(), exclusive(&[1]), shared];
        let world = World::new(&wanted, &[(1, Mode::Shared)], &[]);
        let plan = world.plan(&[1]);
        assert_eq!(granted(&plan), [0, 1]);
        assert_eq!(heads(&plan), [2]);
        // A newcomer that shares does not pass the exclusive waiter.
        assert_eq!(plan.first_for(&name(1), Mode::Shared).unwrap().number, 2);
    }

    #[test]
    fn shared_newcomer_is_admitted_beside_a_shared_grant_of_the_same_plan() {
        let shared = claims(&[(1, Mode::Shared)]);
        let plan = World::new(&[shared], &[], &[]).plan(&[1]);
        assert!(plan.first_for(&name(1), Mode::Shared).is_none());
        assert_eq!(plan.first_for(&name(1), Mode::Exclusive).unwrap().number, 0);
    }

    #[test]
    fn slots_are_granted_while_they_suffice_and_no_smaller_request_passes() {
        let take = |take| claims(&[(1, slots(take, 4))]);
        let wanted = [take(1), take(3), take(1)];
        let plan = World::new(&wanted, &[(1, slots(1, 4))], &[]).plan(&[1]);
        assert_eq!(granted(&plan), [0]);
        assert_eq!(plan.first_for(&name(1), slots(1, 4)).unwrap().number, 1);
    }

    #[test]
    fn any_of_takes_the_first_that_are_free_and_keeps_all_until_then() {
        let wanted = [any_of(2, &[1, 2, 3]), exclusive(&[3])];
        let held = [(1, Mode::Exclusive), (2, Mode::Exclusive)];
        let plan = World::new(&wanted, &held, &[]).plan(&[3]);
        assert_eq!(granted(&plan), []);
        let plan = World::new(&wanted, &held[1..], &[]).plan(&[1]);
        assert_eq!(granted(&plan), [0]);
        assert_eq!(plan.granted[0].claims, exclusive(&[1, 3]).list);
        // The next request can have the names that this one does not take.
        let plan = World::new(&wanted, &[], &[]).plan(&[1, 2]);
        assert_eq!(granted(&plan), [0, 1]);
    }

    /// Applies the rule of this module literally: looks at every request. The next of those that
    /// can be granted is drawn, because the order must not matter.
    fn full_scan(world: &mut World, mut draw: usize) {
        let dead = std::mem::take(&mut world.dead);
        for number in &dead {
            world.remove(*number);
        }
        world.dead = dead;
        loop {
            let gets = |at: usize| {
                let asked = &world.requests[at].claims;
                let earlier = &world.requests[..at];
                let is_wanted = |name: &LockName| {
                    earlier
                        .iter()
                        .any(|it| it.claims.names().any(|n| n == name))
                };
                let mut gets = asked.list.clone();
                gets.retain(|claim| world.fits(claim) && !is_wanted(&claim.name));
                gets.truncate(asked.any.map_or(usize::MAX, |any| any as usize));
                let needed = asked.any.map_or(asked.list.len(), |any| any as usize);
                (gets.len() == needed).then_some((world.requests[at].number, gets))
            };
            let can: Vec<_> = (0..world.requests.len()).filter_map(gets).collect();
            if can.is_empty() {
                return;
            }
            draw = draw.wrapping_mul(31).wrapping_add(7);
            let (number, gets) = &can[draw % can.len()];
            world.remove(*number);
            world.hold(gets);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask(Claims),
        /// Releases one hold of each of these names.
        Release(Vec<u8>),
        Die(prop::sample::Index),
        GiveUp(prop::sample::Index),
    }

    fn asked() -> impl Strategy<Value = Claims> {
        let names = || prop::collection::btree_set(0..5u8, 1..4);
        let mode = || {
            prop_oneof![
                3 => Just(Mode::Exclusive),
                3 => Just(Mode::Shared),
                3 => (1..4u32).prop_map(|take| slots(take, 4)),
                1 => (1..3u32).prop_map(|take| slots(take, 2)),
            ]
        };
        let mixed = prop::collection::btree_map(0..5u8, mode(), 1..4);
        let mixed = mixed.prop_map(|it| claims(&it.into_iter().collect::<Vec<_>>()));
        let any = (1..4u32, names()).prop_map(|(any, names)| {
            let names: Vec<u8> = names.into_iter().collect();
            any_of(any.min(names.len() as u32), &names)
        });
        prop_oneof![4 => mixed, 1 => any]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => asked().prop_map(Step::Ask),
            4 => prop::collection::vec(0..5u8, 1..4).prop_map(Step::Release),
            1 => any::<prop::sample::Index>().prop_map(Step::Die),
            1 => any::<prop::sample::Index>().prop_map(Step::GiveUp),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1_000, ..ProptestConfig::default() })]

        /// After each step the index gives the same locks and the same queue as the full scan, in
        /// any order.
        #[test]
        fn plan_by_index_equals_the_full_scan(steps in steps(), draw: usize) {
            let mut world = World::default();
            for (number, step) in (0..).zip(steps) {
                let mut expected = world.clone();
                let names: Vec<LockName> = match step {
                    Step::Ask(claims) => {
                        world.ask(request(number, claims.clone()));
                        expected.ask(request(number, claims.clone()));
                        claims.names().cloned().collect()
                    }
                    Step::Release(names) => {
                        let names: Vec<LockName> = names.into_iter().map(name).collect();
                        for world in [&mut world, &mut expected] {
                            for name in &names {
                                let held = world.held.iter().position(|it| it.name == *name);
                                held.map(|at| world.held.remove(at));
                            }
                        }
                        names
                    }
                    Step::Die(at) | Step::GiveUp(at) if world.requests.is_empty() => {
                        let _ = at;
                        continue;
                    }
                    // The follower of the dead request notices its end, and settles its names.
                    Step::Die(at) => {
                        let request = at.get(&world.requests).clone();
                        world.dead.insert(request.number);
                        expected.dead.insert(request.number);
                        request.claims.names().cloned().collect()
                    }
                    Step::GiveUp(at) => {
                        let request = at.get(&world.requests).clone();
                        world.remove(request.number);
                        expected.remove(request.number);
                        request.claims.names().cloned().collect()
                    }
                };
                let plan = Plan::for_names(&world, names).unwrap();
                world.apply(&plan);
                full_scan(&mut expected, draw);
                // A dead request with no waiter behind it may stay for a while.
                let mut left = world.clone();
                full_scan(&mut left, draw);
                let held = |world: &World| {
                    let mut held: Vec<_> = world.held.iter().map(|it| (it.name.clone(), it.mode)).collect();
                    held.sort();
                    held
                };
                prop_assert_eq!(held(&left), held(&world));
                prop_assert_eq!(held(&world), held(&expected));
                prop_assert_eq!(&left.requests, &expected.requests);
            }
        }
    }
}
