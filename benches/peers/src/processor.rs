//! Reads the processor time of this process and of others.

use crate::stats::micros;
use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Returns the microseconds that all threads of this process have used, also ended ones.
pub(crate) fn of_this_process() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Returns the microseconds that the threads of these processes have used.
///
/// Read from outside, so that no sleeper is woken for it, and in nanoseconds, where
/// `/proc/PID/stat` counts in ticks of 10 ms. A thread that runs at the moment may lack its last
/// tick, and one that has ended is not counted.
pub(crate) fn of_processes(processes: &[u32]) -> Result<f64> {
    let here = Path::new("/proc/self/schedstat");
    ensure!(here.exists(), "the kernel has no {}", here.display());
    let mut sum = 0.0;
    for process in processes {
        let tasks = format!("/proc/{process}/task");
        let tasks = fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))?;
        for task in tasks {
            let path = task?.path().join("schedstat");
            // A thread may end between the list and the look.
            let Ok(stat) = fs::read_to_string(&path) else {
                continue;
            };
            let nanos = stat.split(' ').next().unwrap_or_default();
            let nanos: f64 = nanos
                .parse()
                .with_context(|| format!("{} says {stat:?}", path.display()))?;
            sum += nanos / 1e3;
        }
    }
    Ok(sum)
}

/// Returns the percent of a core that these processes use together, while this one sleeps.
pub(crate) fn while_asleep(processes: &[u32], window: Duration) -> Result<f64> {
    let before = of_processes(processes)?;
    let began = Instant::now();
    thread::sleep(window);
    let used = of_processes(processes)? - before;
    Ok(100.0 * used / micros(began.elapsed()))
}

/// The processor time of this process and of others from now on.
#[derive(Debug)]
pub(crate) struct Meter<'a> {
    others: &'a [u32],
    others_before: f64,
    ours_before: f64,
}

impl<'a> Meter<'a> {
    pub(crate) fn start(others: &'a [u32]) -> Result<Self> {
        Ok(Self {
            others,
            others_before: of_processes(others)?,
            // Read last, as reading the others takes time of this process.
            ours_before: of_this_process(),
        })
    }

    /// Returns the microseconds of all processes together.
    pub(crate) fn stop(self) -> Result<f64> {
        let ours = of_this_process() - self.ours_before;
        Ok(ours + of_processes(self.others)? - self.others_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_process_is_metered() {
        let meter = Meter::start(&[]).unwrap();
        let before = of_this_process();
        while of_this_process() < before + 2_000.0 {}
        assert!(meter.stop().unwrap() >= 2_000.0);
    }
}
