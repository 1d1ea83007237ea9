//! Judges the notes of the soak's processes, and finds broken promises.
//!
//! Judges only by certain facts. All times are microseconds since boot. A call takes effect between
//! its two times. Its answer about a lock was true at some instant between them.

use super::Figures;
use super::terms::{FORCED, KINDS, LONG, MINE, SLOTS};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::str::FromStr;
use std::time::Duration;

/// The largest error of a noted deadline.
const SLACK: u64 = 1_000;

/// The time by which a call may exceed its bound on a busy machine.
const MARGIN: Duration = Duration::from_secs(4);

/// The longest time until free locks are granted to the next request: longer than the stop of a
/// process in the middle of a write.
const SOON: u64 = 5_000_000;

/// Calls that may have ended a lock: the end and the beginning of each.
type Ends = Vec<(u64, u64)>;

/// The state of a lock before the call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Was {
    Unsaid,
    Absent,
    Present,
    Bearing(u64),
    NotBearing(u64),
}

/// The state of a lock after the call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Now {
    Unsaid,
    Absent,
    /// `until` is 0 if it had passed when it was noted.
    Held {
        token: u64,
        until: u64,
        is_bound: bool,
    },
}

/// The mode in which a lock was held, by the last note.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Mode {
    #[default]
    Exclusive,
    Shared,
    Slots(u32),
}

#[derive(Debug)]
struct Said {
    name: String,
    was: Was,
    now: Now,
    mode: Mode,
}

/// The process that the locks of a call are bound to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    No,
    Manager,
    Process,
    Job,
}

/// One call of one process.
#[derive(Debug)]
pub(super) struct Call {
    process: usize,
    verb: String,
    /// The bound of the wait, in microseconds. None if the call waits until it is granted.
    limit: Option<u64>,
    lease: u64,
    bound_to: Bound,
    targets: Vec<(String, Option<u64>)>,
    invoked: u64,
    /// The time of the answer. None if the process was killed before.
    returned: Option<u64>,
    /// The time after which the call has no further effect.
    over: u64,
    outcome: String,
    said: Vec<Said>,
}

/// One process, with the facts that its parent knows.
#[derive(Debug)]
pub(super) struct Life {
    /// The processes with the same locks of their own, one after the other.
    pub(super) slot: usize,
    /// Tells whether some other processes do not see its number.
    pub(super) is_apart: bool,
    /// The time of the kill, and the time when the process was certainly gone.
    pub(super) killed: u64,
    pub(super) gone: u64,
    /// The time when all its forked children were gone. They have copies of its descriptors, and
    /// other pid namespaces see only the descriptors.
    pub(super) all_gone: u64,
    pub(super) stops: Vec<(u64, u64)>,
}

/// A request, as it was first seen to wait.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) process: usize,
    /// The index of the call of its process.
    pub(super) call: usize,
    pub(super) seen: u64,
}

/// The known facts about a lock: about one token.
#[derive(Debug, Default)]
struct Known {
    name: String,
    mode: Mode,
    /// The call that created the lock, if the call returned.
    creator: Option<usize>,
    /// The first and the last time at which the lock was certainly there.
    from: u64,
    to: u64,
    /// The times at which a deadline was known, and the deadlines.
    deadlines: Vec<(u64, u64)>,
    /// The first time at which a call may have ended the lock, and the first at which one certainly
    /// had.
    may_end: u64,
    has_ended: u64,
}

/// The end of an obstacle for the requests for a name.
struct End {
    end: u64,
    is_death: bool,
    before: Before,
    by: usize,
}

/// The requests that an obstacle blocked.
enum Before {
    /// Requests that were granted later than this lock.
    Lock(u64),
    /// Requests that were seen to wait after this call began.
    Call(u64),
}

#[derive(Debug, Default)]
pub(super) struct History {
    calls: Vec<Call>,
    /// The calls of each process.
    by_process: BTreeMap<usize, Vec<usize>>,
    lives: BTreeMap<usize, Life>,
    waiting: BTreeMap<u64, Waiting>,
    /// The times that requests waited on when a holder or a waiter before them had died.
    pub(super) after_deaths: Vec<u64>,
    /// The same times, for processes with their own pid namespace.
    pub(super) after_deaths_apart: Vec<u64>,
    locks: BTreeMap<u64, Known>,
    /// For each name its new locks: the call, and the token.
    created: HashMap<String, Vec<(usize, u64)>>,
    pub(super) violations: Vec<String>,
}

fn has_kinds(name: &str) -> bool {
    KINDS.contains(&name)
}

fn number<T: FromStr>(text: &str) -> T {
    text.parse()
        .ok()
        .unwrap_or_else(|| panic!("not a number: {text}"))
}

impl Call {
    fn invoked(process: usize, line: &str, gone: u64) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let [time, verb, limit, lease, bound, targets] = words[..] else {
            panic!("{line}");
        };
        let target = |text: &str| match text.split_once('#') {
            Some((name, token)) => (name.to_owned(), Some(number(token))),
            None => (text.to_owned(), None),
        };
        Self {
            process,
            verb: verb.to_owned(),
            limit: (limit != "-").then(|| number(limit)),
            lease: number(lease),
            bound_to: match bound {
                "manager" => Bound::Manager,
                "process" => Bound::Process,
                "job" => Bound::Job,
                _ => Bound::No,
            },
            targets: targets.split(',').map(target).collect(),
            invoked: number(time),
            returned: None,
            over: gone,
            outcome: "killed".to_owned(),
            said: Vec::new(),
        }
    }

    fn returned(&mut self, line: &str) {
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        let returned = number(words.next().unwrap());
        self.returned = Some(returned);
        self.outcome = words.next().unwrap().to_owned();
        self.said = words.map(Said::parse).collect();
        if self.outcome == "no" {
            // The lock in the way may have been granted by this very call, and undone with it.
            self.said
                .retain(|said| said.name.starts_with(MINE) || said.sighted().is_none());
        }
        // A call that was given up during its commit may take effect later.
        if self.outcome != "busy" {
            self.over = returned;
        }
    }

    fn is_in_doubt(&self) -> bool {
        matches!(&*self.outcome, "busy" | "killed")
    }

    fn may_end_locks(&self) -> bool {
        matches!(
            &*self.verb,
            "unlock" | "unlock_all" | "guard.unlock" | "release" | "job.end"
        )
    }

    fn changes_nothing(&self) -> bool {
        matches!(&*self.verb, "locks" | "find" | "is_locked" | "clean")
    }
}

impl Said {
    fn parse(text: &str) -> Self {
        let parts: Vec<&str> = text.split('|').collect();
        let (name, was, now, mode) = match parts[..] {
            [name, was, now] => (name, was, now, Mode::Exclusive),
            [name, was, now, "s"] => (name, was, now, Mode::Shared),
            [name, was, now, taken] => (name, was, now, Mode::Slots(number(taken))),
            _ => panic!("{text}"),
        };
        Self {
            name: name.to_owned(),
            was: match (was, was.strip_prefix('~')) {
                (_, Some(token)) => Was::NotBearing(number(token)),
                ("?", _) => Was::Unsaid,
                ("-", _) => Was::Absent,
                ("+", _) => Was::Present,
                (token, _) => Was::Bearing(number(token)),
            },
            now: match *now.split('@').collect::<Vec<_>>() {
                [token, until, ref bound @ ..] => Now::Held {
                    token: number(token),
                    until: number(until),
                    is_bound: !bound.is_empty(),
                },
                ["-"] => Now::Absent,
                _ => Now::Unsaid,
            },
            mode,
        }
    }

    /// The lock that the call saw, or created.
    fn sighted(&self) -> Option<(u64, Option<u64>)> {
        match (self.was, self.now) {
            (_, Now::Held { token, until, .. }) => Some((token, Some(until))),
            (Was::Bearing(token), _) => Some((token, None)),
            _ => None,
        }
    }

    fn created(&self) -> Option<u64> {
        match (self.was, self.now) {
            (Was::Absent, Now::Held { token, .. }) => Some(token),
            _ => None,
        }
    }
}

impl History {
    /// Reads the notes of a process.
    pub(super) fn add(&mut self, process: usize, mut life: Life, notes: &str) {
        let calls = self.by_process.entry(process).or_default();
        // A line without a line feed was cut off.
        let whole = notes.rfind('\n').map_or("", |end| &notes[..end]);
        for line in whole.lines() {
            match line.split_at(2) {
                ("> ", rest) => {
                    calls.push(self.calls.len());
                    self.calls.push(Call::invoked(process, rest, life.gone));
                }
                ("< ", rest) => self.calls.last_mut().unwrap().returned(rest),
                // The process ended by itself, as its parent asked.
                (". ", rest) => life.killed = life.killed.min(number(rest)),
                ("@ ", _) => {}
                (_, rest) => self.violations.push(format!("process {process}: {rest}")),
            }
        }
        self.lives.insert(process, life);
    }

    /// Looks for broken promises, given the waiters that were seen.
    pub(super) fn check(&mut self, waiting: BTreeMap<u64, Waiting>) {
        self.waiting = waiting;
        // Once that call has returned its guard asks for more in its name, maybe for the very same.
        self.waiting.retain(|_, waiting| {
            let calls = self.by_process.get(&waiting.process);
            let call = calls.and_then(|calls| Some(&self.calls[*calls.get(waiting.call)?]));
            call.is_some_and(|call| {
                call.returned
                    .is_none_or(|returned| waiting.seen <= returned)
            })
        });
        self.gather();
        self.check_one_holder_at_a_time();
        self.check_holders_go_together();
        self.check_tokens_rise();
        self.check_what_is_held_is_seen();
        self.check_first_come_first_served();
        self.check_ends_are_noticed();
        self.check_own_locks();
        self.check_limits();
    }

    fn violation(&mut self, what: &str, calls: &[usize]) {
        let calls = calls
            .iter()
            .map(|&call| format!("\n    {:?}", self.calls[call]));
        self.violations
            .push(format!("{what}{}", String::from_iter(calls)));
    }

    /// Collects the known facts about each lock.
    fn gather(&mut self) {
        for at in 0..self.calls.len() {
            let call = &self.calls[at];
            let Some(returned) = call.returned else {
                continue;
            };
            let mut twice = Vec::new();
            for said in &call.said {
                let Some((token, until)) = said.sighted() else {
                    continue;
                };
                let lock = self.locks.entry(token).or_insert_with(|| Known {
                    name: said.name.clone(),
                    from: u64::MAX,
                    may_end: u64::MAX,
                    has_ended: u64::MAX,
                    ..Known::default()
                });
                // One that is shared later was held alone before: it counts as shared.
                if said.mode != Mode::Exclusive {
                    lock.mode = said.mode;
                }
                lock.from = lock.from.min(returned);
                lock.to = lock.to.max(call.invoked);
                lock.deadlines.extend(until.map(|until| (returned, until)));
                if said.created().is_some() {
                    twice.extend(lock.creator.replace(at));
                    let created = self.created.entry(said.name.clone()).or_default();
                    created.push((at, token));
                }
                if said.now == Now::Absent {
                    lock.has_ended = lock.has_ended.min(returned);
                }
                if lock.name != said.name {
                    twice.push(at);
                }
            }
            for other in twice {
                self.violation("a token was issued twice", &[other, at]);
            }
        }
        self.note_when_locks_may_end();
    }

    fn note_when_locks_may_end(&mut self) {
        // The target of a call: a lock by its token, or any lock of the name.
        let mut ends: HashMap<(&str, Option<u64>), Ends> = HashMap::new();
        for call in self.calls.iter().filter(|call| call.may_end_locks()) {
            for (name, token) in &call.targets {
                let key = match token {
                    Some(_) => ("", *token),
                    None => (&**name, None),
                };
                ends.entry(key).or_default().push((call.over, call.invoked));
            }
        }
        for ends in ends.values_mut() {
            ends.sort_unstable();
            // Each call with the earliest beginning among it and the calls that ended later.
            for at in (1..ends.len()).rev() {
                ends[at - 1].1 = ends[at - 1].1.min(ends[at].1);
            }
        }
        for (token, lock) in &mut self.locks {
            let created = lock
                .creator
                .map_or(0, |creator| self.calls[creator].invoked);
            for key in [("", Some(*token)), (&*lock.name, None)] {
                let ends = ends.get(&key).map_or(&[][..], Ends::as_slice);
                let first = ends.partition_point(|(over, _)| *over < created);
                if let Some((_, invoked)) = ends.get(first) {
                    lock.may_end = lock.may_end.min(*invoked);
                }
            }
        }
    }

    /// Returns the time until which a lock is certainly live, by the facts known at that time.
    fn live_until(&self, lock: &Known, at: u64) -> u64 {
        let Some(creator) = lock.creator.map(|creator| &self.calls[creator]) else {
            return 0;
        };
        let known = lock
            .deadlines
            .iter()
            .filter(|(returned, _)| *returned <= at);
        let until = known.map(|(_, until)| until.saturating_sub(SLACK)).max();
        let killed = match creator.bound_to {
            Bound::No => u64::MAX,
            _ => self.lives[&creator.process].killed,
        };
        until.unwrap_or_default().min(lock.may_end).min(killed)
    }

    /// Checks that no two locks of a name overlap. Each lasts from its first sight until its last
    /// sight or the end of its lease.
    fn check_one_holder_at_a_time(&mut self) {
        let mut by_name: HashMap<&str, Vec<(u64, u64, u64)>> = HashMap::new();
        for (token, lock) in self.locks.iter().filter(|(_, lock)| !has_kinds(&lock.name)) {
            let to = lock.to.max(self.live_until(lock, u64::MAX));
            if lock.from < to {
                let spans = by_name.entry(&lock.name).or_default();
                spans.push((lock.from, to, *token));
            }
        }
        let mut both = Vec::new();
        for spans in by_name.values_mut() {
            spans.sort_unstable();
            let mut last = (0, 0, 0);
            for span in spans {
                if span.0 < last.1 {
                    both.push((last, *span));
                }
                last = if span.1 > last.1 { *span } else { last };
            }
        }
        for (one, other) in both {
            let creators = [one, other].map(|(_, _, token)| self.locks[&token].creator);
            let calls: Vec<usize> = creators.into_iter().flatten().collect();
            let what = format!("two held it at once: {one:?}, {other:?} (from, to, token)");
            self.violation(&what, &calls);
        }
    }

    /// Checks that simultaneous holders of a name that has kinds are compatible.
    fn check_holders_go_together(&mut self) {
        let mut wrong = Vec::new();
        for name in KINDS {
            let locks = self.locks.iter().filter(|(_, lock)| lock.name == name);
            let spans = locks.map(|(token, lock)| {
                let to = lock.to.max(self.live_until(lock, u64::MAX));
                (lock.from, to, *token)
            });
            let mut spans: Vec<_> = spans.filter(|(from, to, _)| from < to).collect();
            spans.sort_unstable();
            let mut there: Vec<(u64, u64, u64)> = Vec::new();
            for span in spans {
                there.retain(|(_, to, _)| *to > span.0);
                there.push(span);
                let modes = there.iter().map(|(_, _, token)| self.locks[token].mode);
                let modes: Vec<Mode> = modes.collect();
                let taken = modes.iter().map(|mode| match mode {
                    Mode::Slots(taken) => *taken,
                    _ => SLOTS + 1,
                });
                let all_share = modes.iter().all(|mode| *mode == Mode::Shared);
                if modes.len() > 1 && !all_share && taken.sum::<u32>() > SLOTS {
                    wrong.push(there.clone());
                }
            }
        }
        for there in wrong {
            let creators = there
                .iter()
                .filter_map(|(_, _, token)| self.locks[token].creator);
            let calls: Vec<usize> = creators.collect();
            let what = format!("they do not go together: {there:?} (from, to, token)");
            self.violation(&what, &calls);
        }
    }

    /// Checks that a call that begins after another has returned gets larger tokens.
    fn check_tokens_rise(&mut self) {
        let all = self.created.values().flatten().copied();
        let mut by_begin: Vec<(usize, u64)> = all.collect();
        let mut by_end = by_begin.clone();
        by_begin.sort_unstable_by_key(|(call, _)| self.calls[*call].invoked);
        by_end.sort_unstable_by_key(|(call, _)| self.calls[*call].returned);
        let mut ended = by_end.into_iter().peekable();
        let (mut largest, mut fell) = ((0, 0), Vec::new());
        for (call, token) in by_begin {
            let begun = self.calls[call].invoked;
            while let Some(end) = ended.next_if(|(end, _)| self.calls[*end].returned < Some(begun))
            {
                largest = if end.1 > largest.1 { end } else { largest };
            }
            if token < largest.1 {
                fell.push((largest.0, call));
            }
        }
        for (one, next) in fell {
            self.violation("a token fell", &[one, next]);
        }
    }

    /// Checks that a live lock is never found absent, and that a lock that is gone is never found.
    fn check_what_is_held_is_seen(&mut self) {
        let mut by_name: HashMap<&str, Vec<(u64, u64)>> = HashMap::new();
        for (token, lock) in &self.locks {
            if lock.from < self.live_until(lock, u64::MAX) {
                by_name
                    .entry(&lock.name)
                    .or_default()
                    .push((lock.from, *token));
            }
        }
        by_name.values_mut().for_each(|locks| locks.sort_unstable());
        let mut wrong = Vec::new();
        for (at, call) in self.calls.iter().enumerate() {
            for said in &call.said {
                let held = match said.was {
                    Was::NotBearing(token) => Some(token),
                    // A new hold of such a name is one beside others.
                    Was::Absent if has_kinds(&said.name) => None,
                    Was::Absent => by_name.get(&*said.name).and_then(|locks| {
                        let before = locks.partition_point(|(from, _)| *from <= call.invoked);
                        Some(locks[before.checked_sub(1)?].1)
                    }),
                    _ => None,
                };
                let held = held.and_then(|token| self.locks.get(&token));
                if let Some(lock) = held
                    && Some(self.live_until(lock, call.invoked)) > call.returned
                {
                    wrong.push(("what is held is not found", lock.creator, at));
                }
                if self.sees_half(call, said) {
                    wrong.push(("half of a set is found", None, at));
                }
                let Some(lock) = said.sighted().map(|(token, _)| &self.locks[&token]) else {
                    continue;
                };
                if lock.has_ended < call.invoked {
                    wrong.push(("what was given back is found", lock.creator, at));
                }
                let creator = lock.creator.map(|creator| &self.calls[creator]);
                if creator.is_some_and(|creator| self.is_certainly_gone(creator, call)) {
                    wrong.push(("what a dead process held is found", lock.creator, at));
                }
            }
        }
        for (what, creator, at) in wrong {
            self.violation(what, &Vec::from_iter(creator.into_iter().chain([at])));
        }
    }

    /// Tells whether another call may find the process gone that the locks of one call are bound
    /// to.
    fn is_certainly_gone(&self, creator: &Call, for_call: &Call) -> bool {
        let life = &self.lives[&creator.process];
        let gone = match creator.bound_to {
            Bound::No => return false,
            Bound::Process if life.is_apart || self.lives[&for_call.process].is_apart => {
                return false;
            }
            Bound::Manager if self.lives[&for_call.process].is_apart => life.all_gone,
            Bound::Manager | Bound::Process => life.gone,
            // The job's input ends with the process that started the job.
            Bound::Job => life.gone + SOON,
        };
        gone < for_call.invoked
    }

    /// Tells whether a list has this lock, but not another lock that the same call created and that
    /// is certainly not gone yet.
    fn sees_half(&self, list: &Call, said: &Said) -> bool {
        let lock = said.sighted().and_then(|(token, _)| self.locks.get(&token));
        let Some(creator) = lock.and_then(|lock| Some(&self.calls[lock.creator?])) else {
            return false;
        };
        let is_listed = |token: u64| list.said.iter().any(|it| it.was == Was::Bearing(token));
        let is_asked = |name: &String| list.said.iter().any(|it| it.name == *name);
        let mut twins = creator.said.iter().filter(|twin| is_asked(&twin.name));
        list.verb == "locks"
            && twins.any(|twin| {
                twin.created().is_some_and(|token| {
                    let known = creator.returned.unwrap_or_default();
                    let until = self.live_until(&self.locks[&token], known);
                    !is_listed(token) && Some(until) > list.returned
                })
            })
    }

    /// Checks that a request that came after another one never gets one of its names before it.
    ///
    /// Judges requests that wait without a deadline, for locks that no call takes away and that
    /// last longer than any stop, and that were granted in the end. Such a request has one place in
    /// the queue until its grant. Later are: a call that began after the request was seen, and a
    /// request with a higher number.
    fn check_first_come_first_served(&mut self) {
        let mut later: HashMap<&str, Vec<(u64, u64, usize)>> = HashMap::new();
        for (name, created) in &self.created {
            let begun = created
                .iter()
                .map(|&(call, token)| (self.calls[call].invoked, token, call));
            let mut begun = Vec::from_iter(begun);
            begun.sort_unstable();
            // Each call with the smallest token among it and the calls after it.
            for at in (1..begun.len()).rev() {
                if begun[at].1 < begun[at - 1].1 {
                    (begun[at - 1].1, begun[at - 1].2) = (begun[at].1, begun[at].2);
                }
            }
            later.insert(name, begun);
        }
        let mut first_of_later_numbers: HashMap<&str, (u64, usize)> = HashMap::new();
        let mut barged = Vec::new();
        for waiting in self.waiting.values().rev() {
            let at = self.by_process[&waiting.process][waiting.call];
            let call = &self.calls[at];
            let is_judged = call.limit.is_none()
                && call.lease == LONG.as_micros() as u64
                && call
                    .targets
                    .iter()
                    .all(|(name, _)| !FORCED.contains(&&**name));
            for said in &call.said {
                let Some(token) = said.created() else {
                    continue;
                };
                let begun = &later[&*said.name];
                let next = begun.partition_point(|(begun, ..)| *begun <= waiting.seen);
                let after = begun.get(next).map(|&(_, token, call)| (token, call));
                let first = first_of_later_numbers.get(&*said.name).copied();
                for (other, by) in after.into_iter().chain(first).filter(|_| is_judged) {
                    if other < token {
                        barged.push((at, by));
                    }
                }
                let first = first.unwrap_or((u64::MAX, at)).min((token, at));
                first_of_later_numbers.insert(&said.name, first);
            }
        }
        for (passed, by) in barged {
            self.violation("one who came later was first", &[passed, by]);
        }
    }

    /// Checks that the private locks of successive processes are exactly as their owner left them.
    fn check_own_locks(&mut self) {
        let mut by_slot: BTreeMap<usize, Own> = BTreeMap::new();
        let mut wrong = Vec::new();
        for (process, life) in &self.lives {
            let own = by_slot.entry(life.slot).or_default();
            own.is_apart = life.is_apart;
            for &at in &self.by_process[process] {
                let call = &self.calls[at];
                for said in call.said.iter().filter(|said| said.name.starts_with(MINE)) {
                    if let Some(what) = own.contradicts(call, said) {
                        let since = own.since.get(&said.name).copied();
                        let late = own.late.get(&said.name).map(|(_, call)| &self.calls[*call]);
                        let what = format!("{}: {what} (given up before: {late:?})", said.name);
                        wrong.push((what, since, at));
                    }
                }
                if !own.is_whole(call) {
                    wrong.push(("half of a call was done".to_owned(), own.doubt, at));
                }
                own.follow(at, call);
            }
        }
        for (what, since, at) in wrong {
            self.violation(&what, &Vec::from_iter(since.into_iter().chain([at])));
        }
    }

    /// Adds the counts of the calls to the figures.
    pub(super) fn count(&self, figures: &mut Figures) {
        let waited: HashSet<_> = self
            .waiting
            .values()
            .map(|it| (it.process, it.call))
            .collect();
        for (process, calls) in &self.by_process {
            let life = &self.lives[process];
            for (number, call) in calls.iter().map(|&call| &self.calls[call]).enumerate() {
                *figures.calls.entry(call.verb.clone()).or_default() += 1;
                let hits = |at| {
                    let is_before = call.returned.is_none_or(|returned| at < returned);
                    !matches!(&*call.verb, "acquire" | "run") && call.invoked <= at && is_before
                };
                let harm = life
                    .stops
                    .iter()
                    .map(|(from, _)| *from)
                    .chain([life.killed]);
                figures.amid_calls += harm.filter(|at| hits(*at)).count();
                figures.busy += usize::from(call.outcome == "busy");
                if matches!(&*call.verb, "acquire" | "run") {
                    let has_waited = waited.contains(&(*process, number));
                    figures.grants += usize::from(call.outcome == "ok");
                    figures.hand_overs += usize::from(call.outcome == "ok" && has_waited);
                    figures.gave_up += usize::from(call.outcome == "no" && has_waited);
                }
            }
        }
    }

    /// Returns the obstacles of the requests for each name, and the time at which each was gone.
    fn ends(&self) -> HashMap<&str, Vec<End>> {
        let mut given_back: HashMap<u64, u64> = HashMap::new();
        let mut ends: HashMap<&str, Vec<End>> = HashMap::new();
        for (at, call) in self.calls.iter().enumerate() {
            let life = &self.lives[&call.process];
            if call.may_end_locks() && call.outcome == "ok" {
                for token in call.targets.iter().filter_map(|(_, token)| *token) {
                    given_back.insert(token, call.over);
                }
            }
            // A request that left the queue, and the possible grant of a killed process.
            let end = match (&*call.outcome, call.bound_to) {
                _ if call.changes_nothing() || call.may_end_locks() => continue,
                ("ok", _) => continue,
                ("killed", Bound::No) => life.gone + call.lease,
                ("killed", Bound::Process) if life.is_apart => life.gone + call.lease,
                ("killed", _) => life.gone,
                _ if matches!(&*call.verb, "acquire" | "run") => call.returned.unwrap(),
                _ => call.returned.unwrap() + call.lease,
            };
            for (name, _) in &call.targets {
                let is_death = call.outcome == "killed" && end == life.gone;
                let before = Before::Call(call.invoked);
                ends.entry(name).or_default().push(End {
                    end,
                    is_death,
                    before,
                    by: at,
                });
            }
        }
        for (token, lock) in &self.locks {
            let Some(at) = lock.creator else {
                continue;
            };
            let (call, life) = (&self.calls[at], &self.lives[&self.calls[at].process]);
            let until = lock.deadlines.iter().map(|(_, until)| *until).max();
            let until = until.unwrap_or(u64::MAX);
            let (end, is_death) = match (given_back.get(token), call.bound_to) {
                (Some(end), _) => (*end, false),
                (None, Bound::Manager) => (life.gone, true),
                (None, Bound::Job) => (life.gone, true),
                (None, Bound::Process) if !life.is_apart => (life.gone.min(until), false),
                (None, _) => (until, false),
            };
            let before = Before::Lock(*token);
            ends.entry(&lock.name).or_default().push(End {
                end,
                is_death,
                before,
                by: at,
            });
        }
        for ends in ends.values_mut() {
            ends.sort_unstable_by_key(|it| it.end);
        }
        ends
    }

    /// Checks that a request is granted soon after the last obstacle before it was gone.
    fn check_ends_are_noticed(&mut self) {
        let ends = self.ends();
        let (mut late, mut after_deaths, mut apart) = (Vec::new(), Vec::new(), Vec::new());
        for waiting in self.waiting.values() {
            let at = self.by_process[&waiting.process][waiting.call];
            let call = &self.calls[at];
            // For a name that has kinds, the last end alone does not tell when the obstacle was
            // gone.
            if call.targets.iter().any(|(name, _)| has_kinds(name)) {
                continue;
            }
            let Some(returned) = call.returned.filter(|_| call.outcome == "ok") else {
                continue;
            };
            let mut last: Option<&End> = None;
            let mut is_certain = true;
            for said in &call.said {
                let (Some(token), Some(ends)) = (said.created(), ends.get(&*said.name)) else {
                    continue;
                };
                let is_before = |end: &&End| match end.before {
                    Before::Lock(other) => other < token,
                    Before::Call(invoked) => invoked < waiting.seen,
                };
                let past = ends.partition_point(|it| it.end <= returned);
                let previous = ends[..past].iter().rev().find(is_before);
                last = last.into_iter().chain(previous).max_by_key(|it| it.end);
                // For some holders, the time of their end is unknown.
                let holders = ends.iter().filter_map(|it| match it.before {
                    Before::Lock(other) if other < token => Some((other, it.end)),
                    _ => None,
                });
                is_certain &= holders.max().is_none_or(|(_, end)| end <= returned);
            }
            let Some(last) = last.filter(|last| is_certain && last.end > waiting.seen) else {
                continue;
            };
            let stops = self.lives[&call.process].stops.iter();
            let stopped =
                stops.map(|&(from, to)| to.min(returned).saturating_sub(from.max(last.end)));
            let took = (returned - last.end).saturating_sub(stopped.sum());
            if last.is_death {
                after_deaths.push(took);
                if self.lives[&self.calls[last.by].process].is_apart {
                    apart.push(took);
                }
            }
            if took > SOON {
                late.push((took, at, last.by));
            }
        }
        self.after_deaths = after_deaths;
        self.after_deaths_apart = apart;
        for (took, at, by) in late {
            let what = format!("it was granted {took} µs after it could be");
            self.violation(&what, &[by, at]);
        }
    }

    fn check_limits(&mut self) {
        let mut late = Vec::new();
        for (at, call) in self.calls.iter().enumerate() {
            let life = &self.lives[&call.process];
            let end = call.returned.unwrap_or(life.killed);
            let stopped = life
                .stops
                .iter()
                .map(|&(from, to)| to.min(end).saturating_sub(from.max(call.invoked)));
            let took = end.saturating_sub(call.invoked + stopped.sum::<u64>());
            if call
                .limit
                .is_some_and(|limit| took > limit + MARGIN.as_micros() as u64)
            {
                late.push((took, at));
            }
        }
        for (took, at) in late {
            self.violation(&format!("a call took {took} µs of its own"), &[at]);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum OwnLock {
    Absent,
    Held {
        token: u64,
        until: u64,
        bound_to: Option<usize>,
    },
}

/// The private locks of successive processes. The state of a lock that is not in here is unknown.
#[derive(Debug, Default)]
struct Own {
    /// Tells whether no process can prove that the owners are gone.
    is_apart: bool,
    locks: HashMap<String, OwnLock>,
    /// The last call with an answer.
    since: HashMap<String, usize>,
    /// Names that a call without an answer changed all or none of, and that call.
    whole: Vec<String>,
    doubt: Option<usize>,
    /// Names of calls that were given up for a busy store, with the process. The commit of such a
    /// call may come as long as the process lives.
    late: HashMap<String, (usize, usize)>,
}

impl Own {
    /// Tells whether a lock is live all through a call, or not at all. None if that is uncertain.
    fn is_live(&self, lock: OwnLock, call: &Call) -> Option<bool> {
        let OwnLock::Held {
            until, bound_to, ..
        } = lock
        else {
            return Some(false);
        };
        if bound_to.is_some_and(|process| process != call.process) {
            return (!self.is_apart).then_some(false);
        }
        if until.saturating_add(SLACK) < call.invoked {
            return Some(false);
        }
        (until.saturating_sub(SLACK) > call.over).then_some(true)
    }

    fn contradicts(&self, call: &Call, said: &Said) -> Option<&'static str> {
        let present = self.locks.get(&said.name).copied();
        let is_live = present.and_then(|lock| self.is_live(lock, call));
        let old = match present {
            Some(OwnLock::Held { token, until, .. }) => Some((token, until)),
            _ => None,
        };
        let had = |token| old.is_some_and(|(old, _)| old == token);
        match said.was {
            Was::Absent if is_live == Some(true) => return Some("it is lost"),
            Was::Present if is_live == Some(false) => return Some("it came back"),
            Was::Bearing(_) if is_live == Some(false) => return Some("it came back"),
            Was::Bearing(token) if present.is_some() && !had(token) => {
                return Some("it is another");
            }
            Was::NotBearing(token) if is_live == Some(true) && had(token) => {
                return Some("it is lost");
            }
            _ => {}
        }
        let Now::Held { token, until, .. } = said.now else {
            return None;
        };
        if said.was == Was::Unsaid && is_live.is_some_and(|is_live| is_live != had(token)) {
            return Some("it is not the lock that it was, or still is");
        }
        let new = match call.lease {
            0 => (u64::MAX, u64::MAX),
            lease => (call.invoked + lease, call.over + lease),
        };
        let (least, most) = match (old, &*call.verb) {
            _ if said.was == Was::Absent || !had(token) && old.is_some() => new,
            (None, _) => return None,
            (Some((_, old)), "renew.add_time") => match call.lease {
                0 => new,
                lease => (old.saturating_add(lease), old.saturating_add(lease)),
            },
            (Some((_, old)), "set" | "set.only_renew" | "renew" | "renew.create")
                if call.outcome == "ok" =>
            {
                (old.max(new.0), old.max(new.1))
            }
            (Some((_, old)), _) => (old, old),
        };
        let fits = (least.saturating_sub(SLACK)..=most.saturating_add(SLACK)).contains(&until);
        (until > 0 && !fits).then_some("its deadline is not what it was made")
    }

    /// Checks that the call without an answer before this one took effect whole or not at all.
    fn is_whole(&self, call: &Call) -> bool {
        let said = call
            .said
            .iter()
            .filter(|said| self.whole.contains(&said.name));
        let mut absent = said.map(|said| said.was == Was::Absent);
        let first = absent.next();
        call.verb != "locks" || absent.all(|it| Some(it) == first)
    }

    fn follow(&mut self, at: usize, call: &Call) {
        let targets = call
            .targets
            .iter()
            .filter(|(name, _)| name.starts_with(MINE));
        if targets.clone().count() == 0 {
            return;
        }
        self.whole.clear();
        if call.is_in_doubt() && !call.changes_nothing() {
            let is_changed = |name: &String| match self.locks.get(name) {
                Some(OwnLock::Absent) => {
                    matches!(&*call.verb, "set" | "set.fail" | "set.no_renew")
                }
                Some(OwnLock::Held {
                    until,
                    bound_to: None,
                    ..
                }) => call.verb == "unlock_all" && *until > call.over + LONG.as_micros() as u64,
                _ => false,
            };
            let whole = targets
                .clone()
                .filter(|(name, token)| token.is_none() && is_changed(name));
            self.whole = whole.map(|(name, _)| name.clone()).collect();
            self.doubt = Some(at);
            for (name, _) in targets {
                self.locks.remove(name);
                if call.outcome == "busy" {
                    self.late.insert(name.clone(), (call.process, at));
                }
            }
            return;
        }
        for said in call.said.iter().filter(|said| said.name.starts_with(MINE)) {
            let known = self.locks.get(&said.name).copied();
            let lock = match (said.was, said.now) {
                (_, Now::Held { until: 0, .. }) => None,
                (
                    _,
                    Now::Held {
                        token,
                        until,
                        is_bound,
                    },
                ) => Some(OwnLock::Held {
                    token,
                    until,
                    bound_to: is_bound.then(|| match (said.was, known) {
                        // The lock lasts longer than the process that it is bound to.
                        (
                            Was::Bearing(_),
                            Some(OwnLock::Held {
                                bound_to,
                                token: old,
                                ..
                            }),
                        ) if self.is_apart && old == token => bound_to.unwrap_or(call.process),
                        (Was::Absent, _) => call.process,
                        _ if self.is_apart => usize::MAX,
                        _ => call.process,
                    }),
                }),
                // Another process may be unable to prove that the bound process is gone.
                (Was::Absent, _)
                    if self.is_apart
                        && !matches!(
                            known,
                            Some(OwnLock::Absent | OwnLock::Held { bound_to: None, .. })
                        ) =>
                {
                    None
                }
                (_, Now::Absent) | (Was::Absent, _) => Some(OwnLock::Absent),
                _ => continue,
            };
            self.since.insert(said.name.clone(), at);
            let late = self.late.get(&said.name);
            let lock = lock.filter(|_| late.is_none_or(|(process, _)| *process != call.process));
            match lock {
                Some(lock) => self.locks.insert(said.name.clone(), lock),
                None => self.locks.remove(&said.name),
            };
        }
    }
}
