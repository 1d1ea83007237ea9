//! What a lock is and when it is there: rules over values.
//!
//! Never reads a clock or a file; whoever asks brings the moment. Only [`Lock::is_live`] looks
//! beyond, at the process a lock is bound to.

use crate::clock::{BootTime, Moment};
use crate::process::Process;
use chrono::{DateTime, Utc};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The longest name or holder, in bytes of UTF-8.
const MAX_NAME: usize = 255;

/// The last microsecond of the year 9999, the last that RFC 3339 can write.
const MAX_WALL: i64 = 253_402_300_799_999_999;

/// A name or a holder that breaks the rule: 1 to 255 bytes of UTF-8, no control characters.
///
/// [`Error::InvalidName`](crate::Error::InvalidName) carries it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {role} \"{}\": {rule}", Printable(text))]
pub struct InvalidName {
    role: &'static str,
    text: String,
    rule: &'static str,
}

impl InvalidName {
    fn check(role: &'static str, text: &str) -> Result<(), Self> {
        let rule = if text.is_empty() {
            "it is empty; give at least one character"
        } else if text.len() > MAX_NAME {
            "it is longer than 255 bytes of UTF-8; shorten it"
        } else if !is_plain(text) && text.chars().any(char::is_control) {
            "it holds a control character; leave that out"
        } else {
            return Ok(());
        };
        Err(Self {
            role,
            text: text.to_owned(),
            rule,
        })
    }

    /// Returns the text that was refused.
    ///
    /// ```
    /// let refused = lockmgr::LockName::new("tab\there").unwrap_err();
    /// assert_eq!(refused.text(), "tab\there");
    /// assert_eq!(
    ///     refused.to_string(),
    ///     r#"invalid lock name "tab\there": it holds a control character; leave that out"#,
    /// );
    /// ```
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Whether all of it is printable ASCII, as most names are: looked at without decoding them.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

macro_rules! name {
    ($(#[$docs:meta])* $type:ident, $role:literal) => {
        $(#[$docs])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks the rule: 1 to 255 bytes of UTF-8, no control characters.
            ///
            /// # Errors
            /// [`InvalidName`], with the text and what to change about it.
            ///
            /// ```
            #[doc = concat!("use lockmgr::", stringify!($type), ";")]
            #[doc = concat!("assert_eq!(", stringify!($type), "::new(\"job:1\")?.as_str(), \"job:1\");")]
            #[doc = concat!("assert!(", stringify!($type), "::new(\"\").is_err());")]
            /// # Ok::<(), lockmgr::InvalidName>(())
            /// ```
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                Self::check(text)?;
                Ok(Self(text.into()))
            }

            /// Checks the rule, and keeps nothing.
            pub(crate) fn check(text: &str) -> Result<(), InvalidName> {
                InvalidName::check($role, text)
            }

            /// Returns the text as it was given.
            ///
            /// ```
            #[doc = concat!("assert_eq!(lockmgr::", stringify!($type), "::new(\"é\")?.as_str(), \"é\");")]
            /// # Ok::<(), lockmgr::InvalidName>(())
            /// ```
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $type {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $type {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }
    };
}

name! {
    /// The name of a lock, unique in its store: 1 to 255 bytes of UTF-8 without control
    /// characters, checked once, here. Names sort by their bytes.
    LockName, "lock name"
}

name! {
    /// Who holds a lock (a host, an application, a node), by the same rule as a name.
    Holder, "holder"
}

impl Holder {
    /// The system's hostname, with what a holder must not have replaced.
    pub(crate) fn hostname() -> Self {
        Self::of_host(&gethostname::gethostname().to_string_lossy())
    }

    fn of_host(host: &str) -> Self {
        let mut text: String = host
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        while text.len() > MAX_NAME {
            text.pop();
        }
        Self(if text.is_empty() {
            "localhost".into()
        } else {
            text.into()
        })
    }
}

/// Shows text from outside so that it cannot steer a terminal, nor hide anything from a reader:
/// control characters, bidirectional overrides and characters without a shape appear as their Rust
/// escapes. Marks that combine with a letter and joined emoji are shown as they are.
///
/// ```
/// assert_eq!(lockmgr::Printable("a\u{1b}[2Jb\u{202e}é").to_string(), r"a\u{1b}[2Jb\u{202e}é");
/// assert_eq!(lockmgr::Printable("e\u{301} 👩‍🚀").to_string(), "e\u{301} 👩‍🚀");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chars = self.0.chars().peekable();
        // What was last shown as it is.
        let mut last = None;
        while let Some(c) = chars.next() {
            let is_shown = match c {
                '"' | '\'' => true,
                JOINER => {
                    last.is_some_and(is_of_emoji) && chars.peek().copied().is_some_and(is_of_emoji)
                }
                EMOJI_STYLE => last.is_some_and(is_of_emoji) || chars.peek() == Some(&KEYCAP),
                _ => is_visible(last, c),
            };
            let is_escaped = c.escape_debug().count() > 1;
            match (is_shown, is_escaped) {
                (true, _) => fmt::Write::write_char(f, c)?,
                (false, true) => write!(f, "{}", c.escape_debug())?,
                (false, false) => write!(f, "{}", c.escape_unicode())?,
            }
            last = is_shown.then_some(c);
        }
        Ok(())
    }
}

/// Makes one emoji of several.
const JOINER: char = '\u{200d}';

/// Says that what precedes is meant as an emoji.
const EMOJI_STYLE: char = '\u{fe0f}';

/// Draws a key around what precedes.
const KEYCAP: char = '\u{20e3}';

/// Whether it is an emoji, or one of its parts.
fn is_of_emoji(c: char) -> bool {
    matches!(c, '\u{a9}' | '\u{ae}' | '\u{203c}' | '\u{2049}' | '\u{2122}' | '\u{2139}'
        | '\u{2190}'..='\u{21ff}' | '\u{2300}'..='\u{27bf}' | '\u{2900}'..='\u{2bff}'
        | '\u{3030}' | '\u{303d}' | '\u{3297}' | '\u{3299}' | '\u{1f000}'..='\u{1faff}'
        | EMOJI_STYLE)
}

/// Whether a reader sees it. A mark needs a character to combine with.
fn is_visible(last: Option<char>, c: char) -> bool {
    // Letters and marks without a shape.
    let is_blank = matches!(c, '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}'
        | '\u{e0100}'..='\u{e01ef}');
    // Of a whole text, marks are escaped at its beginning alone.
    let combines = || String::from_iter(['x', c]).escape_debug().count() == 2;
    match last {
        _ if is_blank => false,
        _ if c.escape_debug().count() == 1 => true,
        Some(last) => last != ' ' && combines(),
        None => false,
    }
}

/// A timeout that is none: negative, not a number, or with a deadline past the year 9999.
///
/// [`Error::InvalidTimeout`](crate::Error::InvalidTimeout) carries it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid timeout {timeout}: {rule}")]
pub struct InvalidTimeout {
    timeout: String,
    rule: &'static str,
}

impl InvalidTimeout {
    /// Returns what is wrong with it, and what to give instead.
    ///
    /// ```
    /// let refused = lockmgr::Timeout::from_secs_f64(-1.0).unwrap_err();
    /// assert_eq!(refused.rule(), "it is negative; 0 means that the lock never expires");
    /// ```
    pub fn rule(&self) -> &str {
        self.rule
    }

    fn too_late(timeout: Duration) -> Self {
        Self {
            timeout: format!("{timeout:?}"),
            rule: "the deadline would be past the year 9999; give less, or no timeout",
        }
    }
}

/// How long a lock is held: a span of time, or for ever.
///
/// The precision is one microsecond; a shorter remainder counts as a whole one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// The lock expires this long after `now`. Zero is [`Timeout::Never`].
    After(Duration),
    /// The lock never expires.
    Never,
}

impl Timeout {
    /// What a lock gets where nothing else is asked for: 600 s, as in django-lockmgr.
    pub const DEFAULT: Self = Self::After(Duration::from_secs(600));

    /// Takes a number of seconds; zero means that the lock never expires.
    ///
    /// # Errors
    /// [`InvalidTimeout`] where the number is negative, NaN, or too large for a [`Duration`].
    ///
    /// ```
    /// use lockmgr::Timeout;
    /// use std::time::Duration;
    /// assert_eq!(Timeout::from_secs_f64(0.25)?, Timeout::After(Duration::from_millis(250)));
    /// assert_eq!(Timeout::from_secs_f64(0.0)?, Timeout::Never);
    /// assert!(Timeout::from_secs_f64(-1.0).is_err());
    /// assert!(Timeout::from_secs_f64(f64::NAN).is_err());
    /// # Ok::<(), lockmgr::InvalidTimeout>(())
    /// ```
    pub fn from_secs_f64(secs: f64) -> Result<Self, InvalidTimeout> {
        let rule = if secs.is_nan() {
            "it is not a number"
        } else if secs < 0.0 {
            "it is negative; 0 means that the lock never expires"
        } else {
            "it is longer than any deadline can be"
        };
        let timeout = Duration::try_from_secs_f64(secs).map_err(|_| InvalidTimeout {
            timeout: format!("{secs} s"),
            rule,
        })?;
        // A positive number too small for a Duration is a short lease, not one for ever.
        Ok(if timeout.is_zero() && secs > 0.0 {
            Self::After(Duration::from_micros(1))
        } else {
            timeout.into()
        })
    }

    /// Returns when a lease that begins then would end, by the wall clock; none where it never
    /// does.
    ///
    /// # Errors
    /// [`InvalidTimeout`] where that is past the year 9999.
    ///
    /// ```
    /// use lockmgr::Timeout;
    /// use std::time::Duration;
    /// let minute = Timeout::After(Duration::from_secs(60));
    /// let ends_at = minute.ends_at("2019-11-22T02:00:00Z".parse()?)?;
    /// assert_eq!(ends_at, Some("2019-11-22T02:01:00Z".parse()?));
    /// assert!(minute.ends_at("9999-12-31T23:59:30Z".parse()?).is_err());
    /// assert_eq!(Timeout::Never.ends_at("9999-12-31T23:59:30Z".parse()?)?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ends_at(
        self,
        begins_at: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, InvalidTimeout> {
        let begin = Moment {
            wall: begins_at.timestamp_micros(),
            boot: None,
        };
        let deadline = self.deadline(begin)?;
        Ok(deadline.map(|deadline| instant(deadline.wall)))
    }

    /// The same, with one word for what never ends.
    pub(crate) fn normal(self) -> Self {
        match self {
            Self::After(timeout) => timeout.into(),
            Self::Never => Self::Never,
        }
    }

    /// The deadline of a lease that begins now; none where it never ends.
    pub(crate) fn deadline(self, now: Moment) -> Result<Option<Deadline>, InvalidTimeout> {
        match self {
            Self::After(timeout) if !timeout.is_zero() => Deadline::of(now).plus(timeout).map(Some),
            _ => Ok(None),
        }
    }
}

impl Default for Timeout {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl From<Duration> for Timeout {
    fn from(timeout: Duration) -> Self {
        if timeout.is_zero() {
            Self::Never
        } else {
            Self::After(timeout)
        }
    }
}

/// When a lock expires, on both clocks.
///
/// On the boot that the boot clock's reading names, that reading decides; elsewhere the wall
/// clock's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    /// Microseconds since 1970.
    pub(crate) wall: i64,
    pub(crate) boot: Option<BootTime>,
}

/// Microseconds, a part of one as a whole one.
pub(crate) fn whole_micros(duration: Duration) -> u128 {
    duration.as_micros() + u128::from(!duration.subsec_nanos().is_multiple_of(1_000))
}

/// How long a lock is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    /// Without one it never expires.
    pub(crate) deadline: Option<Deadline>,
    pub(crate) bound_to: Option<Process>,
}

impl Term {
    /// Whether the lock is there: not expired, and not bound to a process that is gone.
    pub(crate) fn is_live(self, now: Moment) -> bool {
        self.is_live_where(now, |process| process.is_gone())
    }

    /// The same, by what somebody knows of processes.
    pub(crate) fn is_live_where(self, now: Moment, is_gone: impl FnOnce(Process) -> bool) -> bool {
        let is_expired = self.deadline.is_some_and(|deadline| deadline.is_over(now));
        !is_expired && !self.bound_to.is_some_and(is_gone)
    }
}

impl Deadline {
    fn of(moment: Moment) -> Self {
        Self {
            wall: moment.wall,
            boot: moment.boot,
        }
    }

    fn plus(self, timeout: Duration) -> Result<Self, InvalidTimeout> {
        let too_late = || InvalidTimeout::too_late(timeout);
        let micros = whole_micros(timeout);
        let wall = i64::try_from(micros)
            .ok()
            .and_then(|micros| self.wall.checked_add(micros))
            .filter(|&wall| wall <= MAX_WALL)
            .ok_or_else(too_late)?;
        let boot = match self.boot {
            None => None,
            Some(time) => Some(BootTime {
                micros: u64::try_from(micros)
                    .ok()
                    .and_then(|micros| time.micros.checked_add(micros))
                    .ok_or_else(too_late)?,
                ..time
            }),
        };
        Ok(Self { wall, boot })
    }

    pub(crate) fn is_over(self, now: Moment) -> bool {
        self.micros_left(now) <= 0
    }

    pub(crate) fn time_left(self, now: Moment) -> Duration {
        let left = self.micros_left(now).max(0);
        Duration::from_micros(u64::try_from(left).unwrap_or(u64::MAX))
    }

    /// Microseconds left at that moment, negative once the deadline has passed.
    fn micros_left(self, now: Moment) -> i128 {
        match (self.boot, now.boot) {
            (Some(until), Some(now)) if until.boot == now.boot => {
                i128::from(until.micros) - i128::from(now.micros)
            }
            _ => i128::from(self.wall) - i128::from(now.wall),
        }
    }

    /// The same deadline with its reading of the boot clock moved to the present boot, so that
    /// what is added to it counts there.
    fn on_this_boot(self, now: Moment) -> Self {
        let boot = now.boot.map(|time| BootTime {
            micros: u64::try_from(i128::from(time.micros) + self.micros_left(now))
                .unwrap_or_default(),
            ..time
        });
        Self { boot, ..self }
    }
}

/// A named lease: who holds what, until when, under which token.
///
/// A lock is a value, the state that a call saw; it does not follow the store. Who wants to hold
/// it and give it back keeps the lock and passes it to
/// [`renew_lock`](crate::LockManager::renew_lock) and [`unlock`](crate::LockManager::unlock),
/// which act only while the stored lock still bears this token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    pub(crate) name: LockName,
    pub(crate) locked_by: Holder,
    pub(crate) process_id: Option<u32>,
    pub(crate) deadline: Option<Deadline>,
    /// Microseconds since 1970.
    pub(crate) created_at: i64,
    /// Microseconds since 1970.
    pub(crate) updated_at: i64,
    pub(crate) token: u64,
    /// The process that it lives no longer than.
    pub(crate) bound_to: Option<Process>,
    /// The id of the request that it was granted to, where somebody waited for it.
    pub(crate) request: Option<u64>,
    /// How many requests wait for it.
    pub(crate) waiting: usize,
}

impl Lock {
    /// Returns what is locked.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", lockmgr::GetOptions::new())?;
    /// assert_eq!(lock.name(), "hello");
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn name(&self) -> &LockName {
        &self.name
    }

    /// Returns who holds it: a host, an application, a node.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", lockmgr::GetOptions::new().locked_by("app-1"))?;
    /// assert_eq!(lock.locked_by(), "app-1");
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn locked_by(&self) -> &Holder {
        &self.locked_by
    }

    /// Returns the process noted with it, for people to read; it frees nothing.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", lockmgr::GetOptions::new().process_id(4242))?;
    /// assert_eq!(lock.process_id(), Some(4242));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn process_id(&self) -> Option<u32> {
        self.process_id
    }

    /// Returns the deadline on the wall clock, to the microsecond; none where it never expires.
    ///
    /// This is for people and for other boots: on the boot that set it, the clock that counts
    /// since boot decides (see [`Clock`](crate::Clock)). The time left by that clock is
    /// [`LockManager::time_left`](crate::LockManager::time_left).
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", lockmgr::GetOptions::new())?;
    /// assert_eq!(lock.locked_until(), Some(lock.created_at() + chrono::TimeDelta::seconds(600)));
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn locked_until(&self) -> Option<DateTime<Utc>> {
        self.deadline.map(|deadline| instant(deadline.wall))
    }

    /// Returns when it was created, by the wall clock.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", lockmgr::GetOptions::new())?;
    /// assert!(lock.created_at() <= chrono::Utc::now());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn created_at(&self) -> DateTime<Utc> {
        instant(self.created_at)
    }

    /// Returns when it was last created or renewed, by the wall clock.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let lock = manager.get_lock("hello", lockmgr::GetOptions::new())?;
    /// assert_eq!(lock.updated_at(), lock.created_at());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn updated_at(&self) -> DateTime<Utc> {
        instant(self.updated_at)
    }

    /// Returns the fencing token: larger than every token the store issued before.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let first = manager.get_lock("hello", lockmgr::GetOptions::new())?;
    /// manager.unlock(&first)?;
    /// let second = manager.get_lock("hello", lockmgr::GetOptions::new())?;
    /// assert!(second.token() > first.token());
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Returns the process that the lock is bound to: it goes when that process ends, whatever
    /// its deadline.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// let options = lockmgr::GetOptions::new().bound_to(std::process::id());
    /// let lock = manager.get_lock("hello", options)?;
    /// if cfg!(target_os = "linux") {
    ///     assert_eq!(lock.bound_to(), Some(std::process::id()));
    /// }
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn bound_to(&self) -> Option<u32> {
        self.bound_to.map(|process| process.pid)
    }

    /// Returns how many requests waited for the lock when it was read.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// manager.get_lock("hello", lockmgr::GetOptions::new())?;
    /// assert_eq!(manager.find("hello")?.unwrap().waiting(), 0);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether the lock is there: not expired, and not bound to a process that is gone.
    pub(crate) fn is_live(&self, now: Moment) -> bool {
        let term = Term {
            deadline: self.deadline,
            bound_to: self.bound_to,
        };
        term.is_live(now)
    }

    /// Whether the lease has run out: from the deadline's instant on.
    pub(crate) fn is_expired(&self, now: Moment) -> bool {
        self.deadline.is_some_and(|deadline| deadline.is_over(now))
    }

    pub(crate) fn time_left(&self, now: Moment) -> Option<Duration> {
        Some(self.deadline?.time_left(now))
    }

    /// The lock renewed to expire `timeout` from now, never earlier than it would have.
    pub(crate) fn renewed(&self, timeout: Timeout, now: Moment) -> Result<Self, InvalidTimeout> {
        let deadline = match (self.deadline, timeout.deadline(now)?) {
            (Some(old), Some(new)) if old.micros_left(now) < new.micros_left(now) => Some(new),
            (Some(old), Some(_)) => Some(old.on_this_boot(now)),
            _ => None,
        };
        Ok(self.with_deadline(deadline, now))
    }

    /// The lock renewed to expire `timeout` after its present deadline.
    pub(crate) fn extended(&self, timeout: Timeout, now: Moment) -> Result<Self, InvalidTimeout> {
        let deadline = match (self.deadline, timeout) {
            (Some(old), Timeout::After(timeout)) if !timeout.is_zero() => {
                Some(old.on_this_boot(now).plus(timeout)?)
            }
            _ => None,
        };
        Ok(self.with_deadline(deadline, now))
    }

    fn with_deadline(&self, deadline: Option<Deadline>, now: Moment) -> Self {
        Self {
            deadline,
            updated_at: now.wall,
            ..self.clone()
        }
    }
}

/// What a new lock is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) timeout: Timeout,
    pub(crate) locked_by: Holder,
    pub(crate) process_id: Option<u32>,
    pub(crate) bound_to: Option<Process>,
}

impl Lease {
    pub(crate) fn create(
        &self,
        name: LockName,
        token: u64,
        now: Moment,
    ) -> Result<Lock, InvalidTimeout> {
        Ok(Lock {
            name,
            locked_by: self.locked_by.clone(),
            process_id: self.process_id,
            deadline: self.timeout.deadline(now)?,
            created_at: now.wall,
            updated_at: now.wall,
            token,
            bound_to: self.bound_to,
            request: None,
            waiting: 0,
        })
    }
}

/// How messages write an instant.
pub(crate) const SECONDS: &str = "%Y-%m-%dT%H:%M:%SZ";

/// Says who holds it, since when and until when, in words that cannot steer a terminal.
///
/// ```
/// use lockmgr::{GetOptions, LockManager, ManualClock};
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("locks.redb");
/// let clock = ManualClock::new("2019-11-22T02:00:00Z".parse().unwrap());
/// let manager = LockManager::builder().clock(clock).locked_by("app-1").open(&path)?;
/// let lock = manager.get_lock("hello", GetOptions::new().process_id(4242))?;
/// assert_eq!(
///     lock.to_string(),
///     "\"hello\": app-1 (process 4242) holds it since 2019-11-22T02:00:00Z \
///      until 2019-11-22T02:10:00Z"
/// );
/// # Ok::<(), lockmgr::Error>(())
/// ```
impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Printable(self.name.as_str());
        let holder = Printable(self.locked_by.as_str());
        write!(f, "\"{name}\": {holder}")?;
        if let Some(pid) = self.bound_to().or(self.process_id) {
            write!(f, " (process {pid})")?;
        }
        write!(f, " holds it since {}", self.created_at().format(SECONDS))?;
        match self.locked_until() {
            Some(until) => write!(f, " until {}", until.format(SECONDS)),
            None => f.write_str(", without a deadline"),
        }
    }
}

pub(crate) fn instant(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(if micros < 0 {
        DateTime::<Utc>::MIN_UTC
    } else {
        DateTime::<Utc>::MAX_UTC
    })
}

/// Names a lock for [`renew_lock`](crate::LockManager::renew_lock) and
/// [`unlock`](crate::LockManager::unlock): by name alone, an administrator's verb that acts on
/// whoever holds it, or with a token, a holder's verb that acts only while the stored lock still
/// bears it.
///
/// A `&str` or a `&LockName` is a name alone; a `&Lock` brings its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRef<'a> {
    pub(crate) name: &'a str,
    pub(crate) token: Option<u64>,
}

impl<'a> LockRef<'a> {
    /// Names a lock, whoever holds it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// use lockmgr::LockRef;
    /// assert!(!manager.unlock(LockRef::new("hello"))?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn new(name: &'a str) -> Self {
        Self { name, token: None }
    }

    /// Names a lock only while it bears this token.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let manager = lockmgr::LockManager::open(dir.path().join("locks.redb"))?;
    /// use lockmgr::{GetOptions, LockRef};
    /// let lock = manager.get_lock("hello", GetOptions::new())?;
    /// assert!(!manager.unlock(LockRef::with_token("hello", lock.token() + 1))?);
    /// assert!(manager.unlock(LockRef::with_token("hello", lock.token()))?);
    /// # Ok::<(), lockmgr::Error>(())
    /// ```
    pub fn with_token(name: &'a str, token: u64) -> Self {
        Self {
            name,
            token: Some(token),
        }
    }

    pub(crate) fn names(&self, lock: &Lock) -> bool {
        self.token.is_none_or(|token| token == lock.token)
    }
}

impl<'a> From<&'a str> for LockRef<'a> {
    fn from(name: &'a str) -> Self {
        Self::new(name)
    }
}

impl<'a> From<&'a String> for LockRef<'a> {
    fn from(name: &'a String) -> Self {
        Self::new(name)
    }
}

impl<'a> From<&'a LockName> for LockRef<'a> {
    fn from(name: &'a LockName) -> Self {
        Self::new(name.as_str())
    }
}

impl<'a> From<&'a Lock> for LockRef<'a> {
    fn from(lock: &'a Lock) -> Self {
        Self::with_token(lock.name.as_str(), lock.token)
    }
}

#[cfg(feature = "serde")]
pub(crate) fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

#[cfg(feature = "serde")]
mod serialise {
    use super::{Holder, Lock, LockName, rfc3339};
    use serde::ser::{Serialize, SerializeStruct, Serializer};

    #[derive(serde::Serialize)]
    struct BoundTo {
        pid: u32,
        alive: bool,
    }

    impl Serialize for LockName {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(self.as_str())
        }
    }

    impl Serialize for Holder {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(self.as_str())
        }
    }

    impl Serialize for Lock {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut lock = serializer.serialize_struct("Lock", 9)?;
            lock.serialize_field("name", &self.name)?;
            lock.serialize_field("locked_by", &self.locked_by)?;
            lock.serialize_field("process_id", &self.process_id)?;
            lock.serialize_field("locked_until", &self.locked_until().map(rfc3339))?;
            lock.serialize_field("created_at", &rfc3339(self.created_at()))?;
            lock.serialize_field("updated_at", &rfc3339(self.updated_at()))?;
            lock.serialize_field("token", &self.token)?;
            // A lock whose process is gone is absent, and in nobody's hands.
            let bound_to = self.bound_to.map(|process| BoundTo {
                pid: process.pid,
                alive: true,
            });
            lock.serialize_field("bound_to", &bound_to)?;
            lock.serialize_field("waiting", &self.waiting)?;
            lock.end()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::BootId;

    #[test]
    fn marks_and_emoji_are_shown_and_what_has_no_shape_is_escaped() {
        for shown in [
            "naïve",
            "nai\u{308}ve",
            "日本語",
            "👩‍🚀",
            "👩🏽‍🚀",
            "❤\u{fe0f}",
            "1\u{fe0f}\u{20e3}",
            "🏳️‍🌈",
            "नमस्ते",
            "\"it's\"",
        ] {
            assert_eq!(Printable(shown).to_string(), shown);
        }
        for (text, shown) in [
            ("a\u{200d}b", r"a\u{200d}b"),
            ("👩\u{200d}", r"👩\u{200d}"),
            ("a\u{200b}b", r"a\u{200b}b"),
            ("a\u{200c}b", r"a\u{200c}b"),
            ("a\u{feff}", r"a\u{feff}"),
            ("a\u{fe0f}b", r"a\u{fe0f}b"),
            ("a\u{e0100}b", r"a\u{e0100}b"),
            ("a\u{34f}b", r"a\u{34f}b"),
            ("a\u{3164}b", r"a\u{3164}b"),
            ("\u{301}a", r"\u{301}a"),
            ("a \u{301}", r"a \u{301}"),
            ("a\u{2066}b", r"a\u{2066}b"),
            ("a\tb", r"a\tb"),
            (r"a\b", r"a\\b"),
        ] {
            assert_eq!(Printable(text).to_string(), shown);
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn at(boot: u8, since_boot: u64, wall: i64) -> Moment {
        Moment {
            wall,
            boot: Some(BootTime {
                boot: BootId([boot; 16]),
                micros: since_boot,
            }),
        }
    }

    fn lock(deadline: Option<Deadline>) -> Lock {
        Lock {
            name: LockName::new("a").unwrap(),
            locked_by: Holder::new("app").unwrap(),
            process_id: None,
            deadline,
            created_at: 0,
            updated_at: 0,
            token: 1,
            bound_to: None,
            request: None,
            waiting: 0,
        }
    }

    #[test]
    fn a_lock_expires_at_its_deadline_and_not_a_microsecond_earlier() {
        let created = at(1, 0, 5_000_000);
        let lock = lock(Timeout::After(SECOND).deadline(created).unwrap());
        assert!(!lock.is_expired(at(1, 999_999, 0)));
        assert!(lock.is_expired(at(1, 1_000_000, 0)));
    }

    #[test]
    fn any_hostname_makes_a_holder() {
        assert_eq!(Holder::of_host("host-1.local"), "host-1.local");
        assert_eq!(Holder::of_host("a\nb"), "a?b");
        assert_eq!(Holder::of_host(""), "localhost");
        let longest = "h".repeat(MAX_NAME);
        assert_eq!(Holder::of_host(&longest), *longest);
        assert_eq!(Holder::of_host(&format!("{longest}h")), *longest);
        assert_eq!(Holder::of_host(&"é".repeat(200)).as_str().len(), 254);
    }

    #[test]
    fn a_timeout_that_is_none_says_why() {
        let why = |secs| Timeout::from_secs_f64(secs).unwrap_err().to_string();
        assert!(
            why(-0.5).contains("-0.5 s: it is negative"),
            "{}",
            why(-0.5)
        );
        assert!(
            why(1e300).contains("longer than any deadline"),
            "{}",
            why(1e300)
        );
        assert!(why(f64::NAN).contains("not a number"), "{}", why(f64::NAN));
    }

    #[test]
    fn any_count_of_microseconds_is_an_instant() {
        assert_eq!(instant(-1).timestamp_micros(), -1);
        assert_eq!(instant(i64::MIN), DateTime::<Utc>::MIN_UTC);
        assert_eq!(instant(i64::MAX), DateTime::<Utc>::MAX_UTC);
    }

    #[test]
    fn another_boot_compares_the_wall_clock() {
        let lock = lock(
            Timeout::After(SECOND)
                .deadline(at(1, 70, 5_000_000))
                .unwrap(),
        );
        assert!(!lock.is_expired(at(2, 90_000_000, 5_999_999)));
        assert!(lock.is_expired(at(2, 0, 6_000_000)));
    }

    #[test]
    fn a_system_without_a_boot_clock_compares_the_wall_clock() {
        let now = |wall| Moment { wall, boot: None };
        let lock = lock(Timeout::After(SECOND).deadline(now(0)).unwrap());
        assert!(!lock.is_expired(now(999_999)));
        assert!(lock.is_expired(now(1_000_000)));
    }

    #[test]
    fn a_renewal_never_shortens_even_after_the_wall_clock_went_back() {
        let created = at(1, 0, 3_600_000_000);
        let held = lock(Timeout::After(60 * SECOND).deadline(created).unwrap());
        let stepped_back = at(1, 1_000_000, 0);
        let renewed = held
            .renewed(Timeout::After(10 * SECOND), stepped_back)
            .unwrap();
        assert_eq!(renewed.time_left(stepped_back), Some(59 * SECOND));
        assert_eq!(renewed.locked_until(), held.locked_until());

        let renewed = held
            .renewed(Timeout::After(100 * SECOND), stepped_back)
            .unwrap();
        assert_eq!(renewed.time_left(stepped_back), Some(100 * SECOND));
        assert_eq!(renewed.locked_until().unwrap().timestamp(), 100);
    }

    #[test]
    fn a_deadline_of_another_boot_moves_to_this_one_when_it_is_renewed() {
        let held = lock(Timeout::After(60 * SECOND).deadline(at(1, 0, 0)).unwrap());
        let rebooted = at(2, 7_000_000, 20_000_000);
        let renewed = held.renewed(Timeout::After(SECOND), rebooted).unwrap();
        assert_eq!(renewed.time_left(rebooted), Some(40 * SECOND));
        let wall_moved = at(2, 8_000_000, 0);
        assert_eq!(renewed.time_left(wall_moved), Some(39 * SECOND));

        let extended = held.extended(Timeout::After(SECOND), rebooted).unwrap();
        assert_eq!(extended.time_left(rebooted), Some(41 * SECOND));
    }

    #[test]
    fn never_stays_never_and_no_timeout_makes_it_never() {
        let now = at(1, 0, 0);
        let never = lock(None);
        let leased = lock(Timeout::After(SECOND).deadline(now).unwrap());
        for renew in [Lock::renewed, Lock::extended] {
            assert_eq!(renew(&never, Timeout::DEFAULT, now).unwrap().deadline, None);
            assert_eq!(renew(&leased, Timeout::Never, now).unwrap().deadline, None);
            let zero = Timeout::After(Duration::ZERO);
            assert_eq!(renew(&leased, zero, now).unwrap().deadline, None);
        }
        assert!(!never.is_expired(at(9, u64::MAX, i64::MAX)));
    }

    #[test]
    fn a_deadline_is_at_most_the_end_of_the_year_9999() {
        let now = at(1, 0, 0);
        let most = Duration::from_micros(MAX_WALL as u64);
        assert!(Timeout::After(most).deadline(now).is_ok());
        let more = most + Duration::from_nanos(1);
        for timeout in [more, Duration::MAX, Duration::from_secs(u64::MAX)] {
            assert!(Timeout::After(timeout).deadline(now).is_err());
        }
        let held = lock(Timeout::After(SECOND).deadline(now).unwrap());
        assert!(held.extended(Timeout::After(most), now).is_err());
    }

    #[test]
    fn the_shortest_timeout_is_a_microsecond_and_not_for_ever() {
        let now = at(1, 0, 0);
        for timeout in [
            Timeout::After(Duration::from_nanos(1)),
            Timeout::from_secs_f64(1e-12).unwrap(),
        ] {
            let held = lock(timeout.deadline(now).unwrap());
            assert_eq!(held.time_left(now), Some(Duration::from_micros(1)));
        }
    }

    #[test]
    fn names_are_one_to_255_bytes_without_control_characters() {
        for good in ["a", "with space", "名前", &"x".repeat(255), "\u{202e}"] {
            assert_eq!(LockName::new(good).unwrap(), good);
        }
        for bad in [
            "",
            &"x".repeat(256),
            "é".repeat(128).as_str(),
            "\u{7f}",
            "\u{85}",
            "a\n",
        ] {
            assert_eq!(LockName::new(bad).unwrap_err().text(), bad);
        }
    }

    #[test]
    fn the_hostname_is_a_valid_holder() {
        let host = Holder::hostname();
        assert_eq!(Holder::new(host.as_str()), Ok(host));
    }

    #[test]
    fn instants_outside_the_calendar_do_not_panic() {
        assert_eq!(instant(i64::MAX), DateTime::<Utc>::MAX_UTC);
        assert_eq!(instant(i64::MIN), DateTime::<Utc>::MIN_UTC);
    }
}
