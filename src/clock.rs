//! Reads time as a lease needs it: the wall clock for people, and the clock that counts since boot
//! for deadlines, which no step of the wall clock moves.
//!
//! No other module reads a clock to decide about a lock.

use chrono::{DateTime, Utc};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use system::BootClock;

/// Identifies a boot, so that readings of two boots are never compared. Zero if the boot is not
/// known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct BootId(pub(crate) [u8; 16]);

/// Holds a reading of the clock that counts since boot, suspension included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BootTime {
    pub(crate) boot: BootId,
    /// Microseconds since that boot.
    pub(crate) micros: u64,
}

#[cfg(target_os = "linux")]
pub(crate) use system::boot_id;

/// Holds one instant on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Microseconds since 1970 on the wall clock.
    pub(crate) wall: i64,
    /// The reading since boot, or none if the system has no such clock.
    pub(crate) boot: Option<BootTime>,
}

/// Reads the time for a [`LockManager`](crate::LockManager).
///
/// On Linux a deadline is kept on the clock that counts since boot (`CLOCK_BOOTTIME`), time in
/// suspension included, so setting, slewing or stepping the wall clock neither frees a lock early
/// nor holds it longer. After a reboot, and on systems other than Linux, the wall clock decides.
///
/// The default is the system's clocks. Tests use a [`ManualClock`].
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System(BootClock),
    Manual(ManualClock),
}

impl Clock {
    /// Reads the system's clocks.
    ///
    /// ```
    /// use lockmgr::{Clock, LockManager};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("locks.redb");
    /// let manager = LockManager::builder().clock(Clock::system()).open(&path)?;
    /// assert!(!manager.is_locked("hello")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn system() -> Self {
        Self(Source::System(BootClock::new()))
    }

    /// Tells whether the clock may jump at any time, and wakes no waiter.
    pub(crate) fn is_manual(&self) -> bool {
        matches!(self.0, Source::Manual(_))
    }

    pub(crate) fn now(&self) -> Moment {
        match &self.0 {
            Source::System(boot) => Moment {
                wall: wall_micros(),
                boot: boot.time(),
            },
            Source::Manual(clock) => clock.reading().moment(),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl From<ManualClock> for Clock {
    fn from(clock: ManualClock) -> Self {
        Self(Source::Manual(clock))
    }
}

/// Moves only when it is told to, for tests of programs that hold leases.
///
/// Clones are one clock. A thread that waits for a lock looks at the clock every 20 ms of real
/// time.
///
/// ```
/// use lockmgr::{GetOptions, LockManager, ManualClock};
/// use std::time::Duration;
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("locks.redb");
/// let clock = ManualClock::new("2019-11-22T02:00:00Z".parse()?);
/// let manager = LockManager::builder().clock(clock.clone()).open(&path)?;
/// manager.get_lock("hello", GetOptions::new().timeout(Duration::from_secs(60)))?;
///
/// clock.advance(Duration::from_secs(59));
/// assert!(manager.is_locked("hello")?);
/// clock.advance(Duration::from_secs(1));
/// assert!(!manager.is_locked("hello")?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<Reading>>);

#[derive(Clone, Copy, Debug)]
struct Reading {
    wall: DateTime<Utc>,
    boots: u64,
    since_boot: Duration,
}

impl Reading {
    fn moment(self) -> Moment {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.boots.to_le_bytes());
        Moment {
            wall: self.wall.timestamp_micros(),
            boot: Some(BootTime {
                boot: BootId(id),
                micros: u64::try_from(self.since_boot.as_micros()).unwrap_or(u64::MAX),
            }),
        }
    }
}

impl ManualClock {
    /// Starts a clock at this instant of the wall clock, on a machine that has just booted.
    ///
    /// ```
    /// use lockmgr::ManualClock;
    /// let clock = ManualClock::new("2019-11-22T02:00:00Z".parse()?);
    /// assert_eq!(clock.wall().to_rfc3339(), "2019-11-22T02:00:00+00:00");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(wall: DateTime<Utc>) -> Self {
        Self(Arc::new(Mutex::new(Reading {
            wall,
            boots: 1,
            since_boot: Duration::ZERO,
        })))
    }

    /// Returns the time that the wall clock shows.
    ///
    /// ```
    /// # use lockmgr::ManualClock;
    /// let clock = ManualClock::new("2019-11-22T02:00:00Z".parse()?);
    /// assert_eq!(clock.wall().timestamp(), 1_574_388_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wall(&self) -> DateTime<Utc> {
        self.reading().wall
    }

    /// Lets time pass, on both clocks. The wall clock stops at the last instant that it can show.
    ///
    /// ```
    /// # use lockmgr::ManualClock;
    /// # use std::time::Duration;
    /// let clock = ManualClock::new("2019-11-22T02:00:00Z".parse()?);
    /// clock.advance(Duration::from_secs(60));
    /// assert_eq!(clock.wall().to_rfc3339(), "2019-11-22T02:01:00+00:00");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn advance(&self, by: Duration) {
        let mut reading = self.reading();
        reading.since_boot = reading.since_boot.saturating_add(by);
        reading.wall = later(reading.wall, by);
    }

    /// Sets the wall clock, as an administrator or a time server does. No time passes.
    ///
    /// ```
    /// use lockmgr::{GetOptions, LockManager, ManualClock};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("locks.redb");
    /// let clock = ManualClock::new("2019-11-22T02:00:00Z".parse()?);
    /// let manager = LockManager::builder().clock(clock.clone()).open(&path)?;
    /// manager.get_lock("hello", GetOptions::new())?;
    ///
    /// clock.set_wall("2029-11-22T02:00:00Z".parse()?);
    /// assert!(manager.is_locked("hello")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_wall(&self, wall: DateTime<Utc>) {
        self.reading().wall = wall;
    }

    /// Boots the machine again after it was off for this long: the wall clock goes on, and the
    /// clock that counts since boot starts at zero.
    ///
    /// ```
    /// use lockmgr::{GetOptions, LockManager, ManualClock};
    /// use std::time::Duration;
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("locks.redb");
    /// let clock = ManualClock::new("2019-11-22T02:00:00Z".parse()?);
    /// let manager = LockManager::builder().clock(clock.clone()).open(&path)?;
    /// manager.get_lock("hello", GetOptions::new())?; // for 600 s
    ///
    /// clock.reboot(Duration::from_secs(60));
    /// assert!(manager.is_locked("hello")?);
    /// clock.reboot(Duration::from_secs(600));
    /// assert!(!manager.is_locked("hello")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reboot(&self, off: Duration) {
        let mut reading = self.reading();
        reading.boots += 1;
        reading.since_boot = Duration::ZERO;
        reading.wall = later(reading.wall, off);
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the wall clock in microseconds since 1970, negative before.
fn wall_micros() -> i64 {
    let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => micros(since),
        Err(before) => -micros(before.duration()),
    }
}

/// Reads milliseconds on a clock that only goes forward, exact to a few of them and cheap to read,
/// for checks that are due every so often.
pub(crate) fn coarse_millis() -> u64 {
    system::coarse_millis()
}

fn later(wall: DateTime<Utc>, by: Duration) -> DateTime<Utc> {
    chrono::TimeDelta::from_std(by)
        .ok()
        .and_then(|by| wall.checked_add_signed(by))
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(target_os = "linux")]
mod system {
    use super::{BootId, BootTime};
    use rustix::time::{ClockId, clock_gettime};
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

    /// Returns the id of this boot, and whether the kernel itself says so. If a file was mounted
    /// over the kernel's, as containers do, the id lies on another device than its directory.
    pub(crate) fn boot_id() -> Option<(BootId, bool)> {
        let text = fs::read_to_string(BOOT_ID).ok()?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        let id = u128::from_str_radix(&digits, 16).ok()?;
        let device = |path: &Path| fs::metadata(path).ok().map(|it| it.dev());
        let path = Path::new(BOOT_ID);
        let is_genuine = device(path).is_some() && device(path) == path.parent().and_then(device);
        Some((BootId(id.to_be_bytes()), is_genuine))
    }

    /// Holds the values that reading the clock since boot needs, looked up when a clock is made.
    #[derive(Clone, Copy, Debug)]
    pub(super) struct BootClock {
        boot: Option<BootId>,
        /// The microseconds that a time namespace adds to the clock: processes inside and outside
        /// share a store.
        offset: i64,
    }

    impl BootClock {
        pub(super) fn new() -> Self {
            // The file tells of the namespace of the children, which may be another.
            let namespace = |of| fs::read_link(format!("/proc/self/ns/{of}")).ok();
            let is_own = namespace("time") == namespace("time_for_children");
            let offsets = fs::read_to_string("/proc/self/timens_offsets");
            let offsets = offsets.ok().filter(|_| is_own).unwrap_or_default();
            Self {
                boot: boot_id().map(|(boot, _)| boot),
                offset: offset_in(&offsets).unwrap_or_default(),
            }
        }

        pub(super) fn time(self) -> Option<BootTime> {
            let time = clock_gettime(ClockId::Boottime);
            let micros = time.tv_sec * 1_000_000 + time.tv_nsec / 1_000 - self.offset;
            Some(BootTime {
                boot: self.boot?,
                micros: u64::try_from(micros).ok()?,
            })
        }
    }

    /// Reads the offset from lines of a clock's name, seconds and nanoseconds.
    fn offset_in(text: &str) -> Option<i64> {
        let mut fields = text
            .lines()
            .map(str::split_ascii_whitespace)
            .find_map(|mut fields| (fields.next() == Some("boottime")).then_some(fields))?;
        let (secs, nanos): (i64, i64) =
            (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        secs.checked_mul(1_000_000)?.checked_add(nanos / 1_000)
    }

    pub(super) fn coarse_millis() -> u64 {
        let time = clock_gettime(ClockId::MonotonicCoarse);
        u64::try_from(time.tv_sec * 1_000 + time.tv_nsec / 1_000_000).unwrap_or_default()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn offset_of_a_time_namespace_is_read() {
            let text = "monotonic           0         0\nboottime       100000      2000\n";
            assert_eq!(offset_in(text), Some(100_000_000_002));
            assert_eq!(offset_in("boottime -5 0"), Some(-5_000_000));
            assert_eq!(offset_in("monotonic 1 0"), None);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::BootTime;
    use std::sync::LazyLock;
    use std::time::Instant;

    #[derive(Clone, Copy, Debug)]
    pub(super) struct BootClock;

    impl BootClock {
        pub(super) fn new() -> Self {
            Self
        }

        pub(super) fn time(self) -> Option<BootTime> {
            None
        }
    }

    pub(super) fn coarse_millis() -> u64 {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_clock_goes_forward_on_both_clocks() {
        let clock = Clock::system();
        let (first, second) = (clock.now(), clock.now());
        assert!(first.wall > 0);
        assert_eq!(first.boot.is_some(), cfg!(target_os = "linux"));
        if let (Some(first), Some(second)) = (first.boot, second.boot) {
            assert_eq!(first.boot, second.boot);
            assert!(first.micros <= second.micros);
        }
    }

    #[test]
    fn manual_clock_saturates_instead_of_panicking() {
        let clock = ManualClock::new(DateTime::UNIX_EPOCH);
        clock.advance(Duration::MAX);
        assert_eq!(clock.wall(), DateTime::<Utc>::MAX_UTC);
        clock.advance(Duration::MAX);
    }
}
