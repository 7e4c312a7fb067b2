//! The simulated device's counter.

use gpu_events::{Clock, ClockId, Correlation, Error, ErrorKind, Result};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Ticks in a second: 24 MHz, as some real GPUs count, so that no tick is a whole number of nanoseconds.
const TICKS: u64 = 3;
const NANOS: u64 = 125;
/// Where the counter stands when the clock is made: nobody may take it for a time since something.
const ORIGIN: u64 = 1 << 44;

/// A counter that runs with the host's clock, or is turned by hand.
#[derive(Debug)]
pub(super) struct TickClock {
    clock: Clock,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Host(Instant),
    Manual(AtomicU64),
}

impl TickClock {
    pub(super) fn running() -> Self {
        Self::new("simulated counter", Source::Host(Instant::now()))
    }

    pub(super) fn manual() -> Self {
        Self::new("simulated counter, turned by hand", Source::Manual(AtomicU64::new(0)))
    }

    fn new(name: &'static str, source: Source) -> Self {
        let resolution = Duration::from_nanos(NANOS.div_ceil(TICKS));
        Self { clock: Clock::new(ClockId::unique(), name, resolution, NANOS, TICKS), source }
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// The counter now.
    pub(super) fn ticks(&self) -> u64 {
        match &self.source {
            Source::Host(start) => {
                let nanos = start.elapsed().as_nanos();
                ORIGIN + (nanos * u128::from(TICKS) / u128::from(NANOS)) as u64
            }
            // Relaxed: a number that is only read for itself.
            Source::Manual(ticks) => ORIGIN + ticks.load(Ordering::Relaxed),
        }
    }

    /// Turns a manual clock on.
    pub(super) fn advance(&self, by: Duration) {
        if let Source::Manual(ticks) = &self.source {
            let by = by.as_nanos() * u128::from(TICKS) / u128::from(NANOS);
            ticks.fetch_add(by as u64, Ordering::Relaxed);
        }
    }

    /// The counter beside the host's clock, with the host read on either side.
    pub(super) fn correlate(&self) -> Result<Correlation> {
        if matches!(self.source, Source::Manual(_)) {
            return Err(Error::with_text(ErrorKind::NotMeasured, "the clock is turned by hand"));
        }
        let before = Instant::now();
        let ticks = self.ticks();
        let half = before.elapsed() / 2;
        Ok(Correlation::new(self.clock.at(ticks), before + half, half + self.clock.resolution()))
    }
}
