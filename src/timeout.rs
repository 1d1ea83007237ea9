//! Defines timeouts and deadlines: spans of time, and the instants at which they end, on both
//! clocks.

use crate::clock::{BootTime, Moment};
use chrono::{DateTime, Utc};
use std::time::Duration;

/// The last microsecond of the year 9999, the last that RFC 3339 can write.
pub(crate) const MAX_WALL: i64 = 253_402_300_799_999_999;

/// Carries a timeout that is none: negative, not a number, or with a deadline past the year 9999.
///
/// [`Error::InvalidTimeout`](crate::Error::InvalidTimeout) carries it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid timeout {timeout}: {rule}")]
pub struct InvalidTimeout {
    timeout: String,
    rule: &'static str,
}

impl InvalidTimeout {
    /// Returns the rule that the timeout breaks, and a remedy.
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

/// Says how long a lock is held: for a span of time, or for ever.
///
/// The precision is one microsecond. A shorter remainder counts as a whole microsecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// The lock expires this long after `now`. Zero is [`Timeout::Never`].
    After(Duration),
    /// The lock never expires.
    Never,
}

impl Timeout {
    /// The timeout of a lock if the options name no other: 600 s, as in django-lockmgr.
    pub const DEFAULT: Self = Self::After(Duration::from_secs(600));

    /// Takes a number of seconds. Zero means that the lock never expires.
    ///
    /// # Errors
    /// [`InvalidTimeout`] if the number is negative, NaN, or too large for a [`Duration`].
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
        // A positive number that is too small for a Duration is a short lease, and not one for
        // ever.
        Ok(if timeout.is_zero() && secs > 0.0 {
            Self::After(Duration::from_micros(1))
        } else {
            Self::After(timeout).normal()
        })
    }

    /// Returns when a lease that begins then would end, by the wall clock, or none if it never
    /// ends.
    ///
    /// # Errors
    /// [`InvalidTimeout`] if the end is past the year 9999.
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

    /// Returns the same timeout, with one value for a timeout that never ends.
    pub(crate) fn normal(self) -> Self {
        match self {
            Self::After(timeout) if timeout.is_zero() => Self::Never,
            timeout => timeout,
        }
    }

    /// Refuses to add nothing to a lease: a computed time of zero is a mistake.
    pub(crate) fn check_renewal(self) -> Result<(), InvalidTimeout> {
        match self {
            Self::After(more) if more.is_zero() => Err(InvalidTimeout {
                timeout: "0 s".into(),
                rule: "it adds nothing to a lease; give more, or Timeout::Never",
            }),
            _ => Ok(()),
        }
    }

    /// Refuses a time that would keep a name taken for ever, or not at all.
    pub(crate) fn check_at_least(self) -> Result<(), InvalidTimeout> {
        match self.normal() {
            Self::Never => Err(InvalidTimeout {
                timeout: "0 s, or no timeout".into(),
                rule: "a name cannot stay taken for ever after its lock; give a time",
            }),
            Self::After(_) => Ok(()),
        }
    }

    /// Returns the deadline of a lease that begins now, or none if the lease never ends.
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
        Self::After(timeout)
    }
}

/// Says when a lock expires, on both clocks.
///
/// On the boot that the reading of the boot clock names, that reading decides. On another boot the
/// reading of the wall clock decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    /// Microseconds since 1970.
    pub(crate) wall: i64,
    pub(crate) boot: Option<BootTime>,
}

/// Counts the microseconds of a duration, and a part of one as a whole one.
pub(crate) fn whole_micros(duration: Duration) -> u128 {
    duration.as_micros() + u128::from(!duration.subsec_nanos().is_multiple_of(1_000))
}

impl Deadline {
    pub(crate) fn of(moment: Moment) -> Self {
        Self {
            wall: moment.wall,
            boot: moment.boot,
        }
    }

    pub(crate) fn plus(self, timeout: Duration) -> Result<Self, InvalidTimeout> {
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

    /// Counts the microseconds left at that moment, negative once the deadline has passed.
    pub(crate) fn micros_left(self, now: Moment) -> i128 {
        match (self.boot, now.boot) {
            (Some(until), Some(now)) if until.boot == now.boot => {
                i128::from(until.micros) - i128::from(now.micros)
            }
            _ => i128::from(self.wall) - i128::from(now.wall),
        }
    }

    /// Returns the same deadline with its reading of the boot clock moved to the present boot, so
    /// that a time added to the deadline counts there.
    pub(crate) fn on_this_boot(self, now: Moment) -> Self {
        let boot = now.boot.map(|time| BootTime {
            micros: u64::try_from(i128::from(time.micros) + self.micros_left(now))
                .unwrap_or_default(),
            ..time
        });
        Self { boot, ..self }
    }
}

pub(crate) fn instant(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(if micros < 0 {
        DateTime::<Utc>::MIN_UTC
    } else {
        DateTime::<Utc>::MAX_UTC
    })
}

#[cfg(feature = "serde")]
pub(crate) fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_that_is_none_says_why() {
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
    fn instants_outside_the_calendar_do_not_panic() {
        assert_eq!(instant(i64::MAX), DateTime::<Utc>::MAX_UTC);
        assert_eq!(instant(i64::MIN), DateTime::<Utc>::MIN_UTC);
    }
}
