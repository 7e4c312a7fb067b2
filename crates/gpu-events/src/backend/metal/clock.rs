//! The clock of `GPUStartTime` and `GPUEndTime`: the host's own, "relative to system mach time".

use crate::{
    backend::Stamp,
    error::{Error, ErrorKind, Result},
    time::{Clock, ClockId, Correlation},
};
use std::{
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

/// Mach's absolute time, converted to nanoseconds.
#[cfg(target_vendor = "apple")]
const MACH_TIME: libc::clockid_t = libc::CLOCK_UPTIME_RAW;
/// What the simulated Metal has in its place.
#[cfg(not(target_vendor = "apple"))]
const MACH_TIME: libc::clockid_t = libc::CLOCK_MONOTONIC;

/// How far a plausible reading may lie outside of the window between commit and completion. The GPU's time is converted
/// to the host's by the driver, and nothing says how exactly; what this is to catch are zeros, other clocks, and times
/// of another buffer.
const SLACK: u64 = 1_000_000;

fn nanos(time: libc::timespec) -> u64 {
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Now, in ticks of the clock: nanoseconds.
pub(super) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to `time` alone, which is ours.
    unsafe { libc::clock_gettime(MACH_TIME, &mut time) };
    nanos(time)
}

/// What a reading in seconds is in ticks, if it is a time at all.
fn ticks(seconds: f64) -> Option<u64> {
    (seconds.is_finite() && seconds > 0.0).then_some((seconds * 1e9).round() as u64)
}

/// The clock of the GPU with this registry number: one clock, however often the GPU is opened.
pub(super) fn of_gpu(registry: u64) -> Clock {
    static KNOWN: Mutex<Vec<(u64, ClockId)>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let id = match known.iter().find(|(gpu, _)| *gpu == registry) {
        Some((_, id)) => *id,
        None => {
            let id = ClockId::unique();
            known.push((registry, id));
            id
        }
    };
    Clock::new(id, "GPUEndTime", resolution(), 1, 1)
}

/// The step of the clock, or of the floating-point seconds that it comes in, whichever is wider. The latter grows with
/// the time since the system was booted: 0.2 ns after a week, 7 ns after two years.
fn resolution() -> Duration {
    let mut step = libc::timespec { tv_sec: 0, tv_nsec: 1 };
    // SAFETY: the call writes to `step` alone, which is ours.
    unsafe { libc::clock_getres(MACH_TIME, &mut step) };
    let seconds = now() as f64 / 1e9;
    let ulp = (seconds.next_up() - seconds) * 1e9;
    Duration::from_nanos(nanos(step).max(ulp.ceil() as u64).max(1))
}

/// Reads the clock beside the host's.
pub(super) fn correlate(clock: &Clock) -> Correlation {
    // The closest of a few: the thread may be interrupted between two readings.
    let reading = || {
        let before = Instant::now();
        let ticks = now();
        (before, ticks, before.elapsed())
    };
    let mut best = reading();
    for _ in 0..3 {
        let next = reading();
        if next.2 < best.2 {
            best = next;
        }
    }
    let (before, ticks, gap) = best;
    // Rounded up: half a nanosecond is part of the doubt as well.
    Correlation::new(clock.at(ticks), before + gap / 2, gap / 2 + Duration::from_nanos(1))
}

/// The time of one recording: `GPUEndTime` of the buffer that it ends.
#[derive(Debug)]
pub(super) struct MetalStamp {
    /// When the buffer was about to be committed.
    committed: OnceLock<u64>,
    /// Zero for a reading that can't be right.
    ticks: OnceLock<u64>,
}

impl MetalStamp {
    pub(super) fn new() -> Self {
        Self { committed: OnceLock::new(), ticks: OnceLock::new() }
    }

    pub(super) fn commit(&self) {
        // Committed once.
        let _ = self.committed.set(now());
    }

    /// Takes over what the driver says, if it can be true: later than the commit, and earlier than now. `GPUStartTime` is
    /// not looked at: on some systems it comes out later than the end.
    ///
    /// A buffer may end a little before its predecessor does, having waited for that one's signal and not for its end.
    /// Then both positions are complete when the later of the two has ended, and no time is earlier than the one before
    /// (R23). Returns the earliest time that the next recording may have.
    pub(super) fn finish(&self, end_seconds: f64, earliest: u64) -> u64 {
        let committed = self.committed.get().copied().unwrap_or(u64::MAX);
        let plausible = committed.saturating_sub(SLACK)..=now() + SLACK;
        let end = ticks(end_seconds).filter(|end| plausible.contains(end) && end + SLACK >= earliest);
        let end = end.map(|end| end.max(earliest));
        // Completed once.
        let _ = self.ticks.set(end.unwrap_or(0));
        end.unwrap_or(earliest)
    }
}

impl Stamp for MetalStamp {
    fn ticks(&self) -> Result<u64> {
        match self.ticks.get() {
            None | Some(0) => Err(Error::with_text(
                ErrorKind::NotMeasured,
                "GPUEndTime lies outside of the time between commit and completion",
            )),
            Some(ticks) => Ok(*ticks),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(end: impl FnOnce(u64) -> f64) -> Result<u64> {
        let stamp = MetalStamp::new();
        stamp.commit();
        stamp.finish(end(now()), 1);
        stamp.ticks()
    }

    #[test]
    fn only_what_can_be_true_is_a_time() {
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        assert!(finished(seconds).is_ok());
        let refused = |end: fn(u64) -> f64| finished(end).map_err(|error| error.kind());
        let not = Err(ErrorKind::NotMeasured);
        assert_eq!(refused(|_| 0.0), not);
        assert_eq!(refused(|_| f64::NAN), not);
        assert_eq!(refused(|now| (now + 10 * SLACK) as f64 / 1e9), not);
        assert_eq!(refused(|now| (now - 10 * SLACK) as f64 / 1e9), not);
    }

    #[test]
    fn times_never_go_backwards() {
        let stamp = MetalStamp::new();
        stamp.commit();
        let end = now();
        assert_eq!(stamp.finish(end as f64 / 1e9, end + SLACK / 2), end + SLACK / 2);
        assert_eq!(stamp.ticks().ok(), Some(end + SLACK / 2));
        let stamp = MetalStamp::new();
        stamp.commit();
        assert_eq!(stamp.finish(end as f64 / 1e9, end + 2 * SLACK), end + 2 * SLACK);
        assert!(stamp.ticks().is_err());
    }

    #[test]
    fn a_gpu_has_one_clock() {
        assert_eq!(of_gpu(u64::MAX).id(), of_gpu(u64::MAX).id());
        assert_ne!(of_gpu(u64::MAX).id(), of_gpu(u64::MAX - 1).id());
        assert!(of_gpu(u64::MAX).resolution() >= Duration::from_nanos(1));
    }
}
