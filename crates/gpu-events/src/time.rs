//! Clocks, timestamps, and the time between two of them.

use crate::error::{Error, ErrorKind, Result};
use std::{
    fmt,
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Names a clock: two timestamps can be compared if and only if their clocks have the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClockId(u64);

impl ClockId {
    /// A clock that no other device shares. For backends.
    pub fn unique() -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        // 0 is the host's clock. Relaxed: only uniqueness matters.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The host's monotonic clock, which all CPU devices share.
    pub const HOST: Self = Self(0);
}

/// A device's clock: what its timestamps count, and how finely (R20).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clock {
    id: ClockId,
    source: &'static str,
    resolution: Duration,
    /// Nanoseconds in a tick, as a fraction.
    period: (u64, u64),
}

impl Clock {
    /// A clock whose tick lasts `numerator / denominator` nanoseconds and whose readings are good to
    /// `resolution`. For backends.
    ///
    /// # Panics
    /// If the period is zero or no number.
    pub fn new(
        id: ClockId,
        source: &'static str,
        resolution: Duration,
        numerator: u64,
        denominator: u64,
    ) -> Self {
        assert!(numerator > 0 && denominator > 0, "a tick lasts {numerator}/{denominator} ns");
        Self { id, source, resolution, period: (numerator, denominator) }
    }

    /// The clock's identity.
    pub fn id(&self) -> ClockId {
        self.id
    }

    /// What is read, in the vendor's words: `"monotonic clock of the host"`, `"GPUEndTime"`, …
    pub fn source(&self) -> &'static str {
        self.source
    }

    /// The smallest difference that a reading can show.
    pub fn resolution(&self) -> Duration {
        self.resolution
    }

    /// The time that this many ticks last, in nanoseconds, rounded down. Exact for any 64-bit count (R25).
    pub fn nanos(&self, ticks: u64) -> u64 {
        let (numerator, denominator) = self.period;
        let nanos = u128::from(ticks) * u128::from(numerator) / u128::from(denominator);
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// A reading of this clock. For backends.
    pub fn at(&self, ticks: u64) -> Timestamp {
        Timestamp { ticks, clock: *self }
    }
}

/// When a recording completed, on its device's own clock (R20).
#[derive(Clone, Copy, PartialEq)]
pub struct Timestamp {
    ticks: u64,
    clock: Clock,
}

impl Timestamp {
    /// The raw reading, in ticks of the clock.
    pub fn ticks(&self) -> u64 {
        self.ticks
    }

    /// The reading in nanoseconds since the clock's own origin.
    pub fn nanos(&self) -> u64 {
        self.clock.nanos(self.ticks)
    }

    /// The clock that was read.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The time from `start` to this, on the clock that both were read from.
    ///
    /// # Errors
    /// [`ErrorKind::ClockMismatch`]; [`ErrorKind::EndBeforeStart`] with [`Error::lateness`] (R22).
    pub fn since(&self, start: &Self) -> Result<Elapsed> {
        if self.clock.id != start.clock.id {
            return Err(Error::new(ErrorKind::ClockMismatch));
        }
        match self.ticks.checked_sub(start.ticks) {
            // The difference first, then its conversion: nothing decays with the clock's age (R25).
            Some(ticks) => Ok(Elapsed { nanos: self.clock.nanos(ticks), resolution: self.clock.resolution }),
            None => {
                Err(Error::end_before_start(Duration::from_nanos(self.clock.nanos(start.ticks - self.ticks))))
            }
        }
    }

    /// Places this on the host's monotonic clock: the instant, and how far it may be off (R24).
    ///
    /// # Errors
    /// [`ErrorKind::ClockMismatch`] if `correlation` is of another clock.
    pub fn on_host(&self, correlation: &Correlation) -> Result<(Instant, Duration)> {
        if self.clock.id != correlation.device.clock.id {
            return Err(Error::new(ErrorKind::ClockMismatch));
        }
        let (from, to) = (correlation.device.ticks, self.ticks);
        let distance = Duration::from_nanos(self.clock.nanos(from.abs_diff(to)));
        let host = if to >= from {
            correlation.host.checked_add(distance)
        } else {
            correlation.host.checked_sub(distance)
        };
        let host = host
            .ok_or_else(|| Error::with_text(ErrorKind::NotMeasured, "outside of the host clock's range"))?;
        Ok((host, correlation.uncertainty + self.clock.resolution))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({} ns, {})", self.nanos(), self.clock.source)
    }
}

/// One reading of a device's clock beside one of the host's (R24). It ages as the two drift apart: take a fresh
/// one for what you place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Correlation {
    device: Timestamp,
    host: Instant,
    uncertainty: Duration,
}

impl Correlation {
    /// The two readings, and how far apart they may have been taken. For backends.
    pub fn new(device: Timestamp, host: Instant, uncertainty: Duration) -> Self {
        Self { device, host, uncertainty }
    }

    /// The reading of the device's clock.
    pub fn device(&self) -> Timestamp {
        self.device
    }

    /// The reading of the host's clock.
    pub fn host(&self) -> Instant {
        self.host
    }

    /// How far apart the two may have been taken.
    pub fn uncertainty(&self) -> Duration {
        self.uncertainty
    }
}

/// The time between two recordings, exact to [`resolution`](Self::resolution) (R22).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed {
    nanos: u64,
    resolution: Duration,
}

impl Elapsed {
    /// Whole nanoseconds.
    pub fn nanos(&self) -> u64 {
        self.nanos
    }

    /// As a duration.
    pub fn duration(&self) -> Duration {
        Duration::from_nanos(self.nanos)
    }

    /// In milliseconds, as the seed and CUDA count; exact to the nanosecond up to 104 days.
    pub fn as_millis_f64(&self) -> f64 {
        self.nanos as f64 / 1e6
    }

    /// The resolution of the clock that both ends were read from.
    pub fn resolution(&self) -> Duration {
        self.resolution
    }
}

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ± {:?}", self.duration(), self.resolution)
    }
}

/// Where the host's nanoseconds are counted from.
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// The host's monotonic clock now, in nanoseconds since this crate first read it. The one clock that the core
/// knows; it says since when somebody waits, and it is the CPU device's.
#[inline]
pub(crate) fn host_nanos() -> u64 {
    // 584 years fit.
    origin().elapsed().as_nanos() as u64
}

/// As [`host_nanos`], at a quarter of its cost and only to a few milliseconds: since when somebody waits. Reading the
/// fine clock was a fifth of a hand-over, and of a future's first poll.
#[cfg(target_os = "linux")]
#[inline]
pub(crate) fn coarse_nanos() -> u64 {
    /// What has to be added to the coarse clock to have the fine one's origin.
    static OFFSET: OnceLock<u64> = OnceLock::new();

    fn read() -> u64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes to `time` alone, which is ours. It can't fail: the clock is older than any Linux that
        // Rust runs on; and if it did, the time would be zero.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut time) };
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }
    let offset = *OFFSET.get_or_init(|| host_nanos().wrapping_sub(read()));
    read().wrapping_add(offset)
}

/// There is no coarser clock here.
#[cfg(not(target_os = "linux"))]
#[inline]
pub(crate) fn coarse_nanos() -> u64 {
    host_nanos()
}

/// The instant that [`host_nanos`] read as `nanos`.
#[cfg(any(feature = "cpu", all(feature = "vulkan", not(gpu_events_loom))))]
pub(crate) fn host_instant(nanos: u64) -> Instant {
    origin() + Duration::from_nanos(nanos)
}

/// The host's monotonic clock as a device's: the resolution is the smallest step that successive readings show.
#[cfg(feature = "cpu")]
pub(crate) fn host_clock() -> Clock {
    static CLOCK: OnceLock<Clock> = OnceLock::new();
    *CLOCK.get_or_init(|| {
        let step = (0..64)
            .map(|_| {
                let first = host_nanos();
                loop {
                    let step = host_nanos() - first;
                    if step > 0 {
                        return step;
                    }
                }
            })
            .min()
            .unwrap_or(1);
        Clock::new(ClockId::HOST, "monotonic clock of the host", Duration::from_nanos(step), 1, 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(numerator: u64, denominator: u64) -> Clock {
        Clock::new(ClockId::unique(), "simulated", Duration::from_nanos(1), numerator, denominator)
    }

    #[test]
    fn an_hour_keeps_its_microseconds() {
        // 52.083 ns a tick, as some mobile GPUs count.
        let clock = clock(625, 12);
        let hour = 3_600_000_000_000 * 12 / 625;
        let (start, end) = (clock.at(u64::MAX / 2), clock.at(u64::MAX / 2 + hour + 19));
        let elapsed = end.since(&start).unwrap();
        assert_eq!(elapsed.nanos(), 3_600_000_000_000 + 989);
    }

    #[test]
    fn the_coarse_clock_is_the_fine_one_but_for_milliseconds() {
        for _ in 0..1_000 {
            let before = host_nanos();
            let coarse = coarse_nanos();
            let after = host_nanos();
            // A tick of the slowest kernel is 10 ms, and it counts twice: in the offset and in the reading.
            assert!(
                coarse + 20_000_000 >= before && coarse <= after + 20_000_000,
                "{before} {coarse} {after}"
            );
        }
    }

    #[test]
    fn end_before_start_says_by_how_much() {
        let clock = clock(2, 1);
        let error = clock.at(10).since(&clock.at(25)).unwrap_err();
        assert_eq!(
            (error.kind(), error.lateness()),
            (ErrorKind::EndBeforeStart, Some(Duration::from_nanos(30)))
        );
        assert_eq!(clock.at(10).since(&clock.at(10)).unwrap().nanos(), 0);
    }

    #[test]
    fn clocks_do_not_mix() {
        let error = clock(1, 1).at(1).since(&clock(1, 1).at(0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ClockMismatch);
    }

    #[test]
    fn placed_before_and_after_the_correlation() {
        let clock = clock(1, 1);
        let host = Instant::now() + Duration::from_secs(1);
        let correlation = Correlation::new(clock.at(1_000), host, Duration::from_nanos(5));
        assert_eq!(clock.at(1_500).on_host(&correlation).unwrap().0, host + Duration::from_nanos(500));
        assert_eq!(
            clock.at(400).on_host(&correlation).unwrap(),
            (host - Duration::from_nanos(600), Duration::from_nanos(6))
        );
    }
}
