//! The clock of `vkCmdWriteTimestamp`: what its ticks last, where it stands on the host's clock, and what a counter that
//! wraps around has counted.

use super::{
    gpu::Gpu,
    port::{Family, Query},
};
use crate::{
    backend::Stamp,
    error::{Error, ErrorKind, Result},
    primitive::lock,
    time::{Clock, ClockId, Correlation, host_instant, host_nanos},
};
use ash::vk;
use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// How fast two clocks may drift apart at most: a crystal is good to some 100 parts in a million.
const DRIFT: u64 = 5_000;

/// What a reading of the two clocks may be off by, in nanoseconds, whatever the driver says.
const SLACK: u64 = 100_000;

pub(super) struct GpuClock {
    clock: Clock,
    calibrated: Option<ash::ext::calibrated_timestamps::Device>,
    /// How many bits of the counter there are at least.
    bits: u32,
    /// A reading whose whole count is known, for counters that wrap around.
    known: Mutex<Option<Known>>,
}

/// The counter, unwrapped, at a time of the host's that is known up to `slack` nanoseconds.
#[derive(Clone, Copy)]
struct Known {
    host: u64,
    ticks: u64,
    slack: u64,
}

/// The clock of the GPU with this `deviceUUID`: one clock, however often the GPU is opened, where its times are all of one
/// counter.
pub(super) fn of_gpu(uuid: [u8; vk::UUID_SIZE], period: f32, of_device: bool) -> Clock {
    static KNOWN: Mutex<Vec<([u8; vk::UUID_SIZE], ClockId)>> = Mutex::new(Vec::new());
    if !of_device {
        return of_period(ClockId::unique(), period);
    }
    let mut known = lock(&KNOWN);
    let id = match known.iter().find(|(gpu, _)| *gpu == uuid) {
        Some((_, id)) => *id,
        None => {
            let id = ClockId::unique();
            known.push((uuid, id));
            id
        }
    };
    of_period(id, period)
}

impl GpuClock {
    pub(super) fn new(
        clock: Clock,
        bits: u32,
        calibrated: Option<ash::ext::calibrated_timestamps::Device>,
    ) -> Self {
        Self { clock, calibrated, bits, known: Mutex::new(None) }
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// Whether times of different queues compare: Vulkan says so of one queue's alone, unless the counter is read as the
    /// device's.
    pub(super) fn is_of_device(&self) -> bool {
        self.calibrated.is_some()
    }

    /// Reads the clock beside the host's.
    pub(super) fn correlate(&self) -> Result<Correlation> {
        let (known, uncertainty) = self.read()?;
        let host = host_instant(known.host);
        Ok(Correlation::new(self.clock.at(known.ticks), host, Duration::from_nanos(uncertainty)))
    }

    fn read(&self) -> Result<(Known, u64)> {
        let Some(calibrated) = &self.calibrated else {
            return Err(Error::with_text(
                ErrorKind::NotMeasured,
                "the device has no VK_EXT_calibrated_timestamps, so nobody can place its clock",
            ));
        };
        let device = [vk::CalibratedTimestampInfoEXT::default().time_domain(vk::TimeDomainEXT::DEVICE)];
        let reading = || -> Result<(u64, u64, u64)> {
            let before = host_nanos();
            // SAFETY: the extension is enabled, and every device that has it has this domain.
            let read = unsafe { calibrated.get_calibrated_timestamps(&device) };
            let after = host_nanos();
            let (ticks, _) =
                read.map_err(|code| super::driver::error("vkGetCalibratedTimestampsEXT", code))?;
            let ticks = ticks.first().copied().unwrap_or(0);
            Ok((before, after, ticks))
        };
        // The closest of a few: the thread may be interrupted between two readings.
        let mut best = reading()?;
        for _ in 0..4 {
            let next = reading()?;
            if next.1 - next.0 < best.1 - best.0 {
                best = next;
            }
        }
        let (before, after, ticks) = best;
        let gap = after - before;
        let host = before + gap / 2;
        let ticks = self.continued(ticks, host)?;
        // Rounded up: half a nanosecond is part of the doubt as well.
        Ok((Known { host, ticks, slack: SLACK }, gap / 2 + 1))
    }

    /// Nanoseconds in a tick.
    fn tick(&self) -> f64 {
        self.clock.nanos(1 << 32) as f64 / (1_u64 << 32) as f64
    }

    /// A reading of the device's clock, whose upper bits a driver may or may not have, as the count that goes on from the
    /// last one.
    fn continued(&self, raw: u64, host: u64) -> Result<u64> {
        if self.bits >= 64 {
            return Ok(raw);
        }
        let period = 1_u64 << self.bits;
        let raw = raw & (period - 1);
        let mut known = lock(&self.known);
        let ticks = match *known {
            None => raw + period,
            Some(last) => {
                let passed = (host.saturating_sub(last.host) as f64 / self.tick()) as u64;
                if passed / DRIFT > period / 4 {
                    return Err(Error::with_text(
                        ErrorKind::NotMeasured,
                        format!(
                            "the counter has {} bits, and nobody has looked at it for too long",
                            self.bits
                        ),
                    ));
                }
                // The nearest one to what it should be.
                let low = (last.ticks + passed).saturating_sub(period / 2);
                unwrap(raw, self.bits, low, low + period - 1).unwrap_or(raw)
            }
        };
        *known = Some(Known { host, ticks, slack: SLACK });
        Ok(ticks)
    }

    /// What a counter of so many bits had counted when it showed `raw`, some time between these two of the host's.
    fn unwrapped(&self, raw: u64, bits: u32, from: u64, to: u64) -> Result<u64> {
        if bits >= 64 {
            return Ok(raw);
        }
        let read = self.read();
        let mut known = lock(&self.known);
        let reference = match (read, *known) {
            (Ok((read, _)), _) => read,
            (Err(_), Some(known)) => known,
            // The first one is as good a beginning as any: where the clock's zero is means nothing.
            (Err(_), None) => {
                Known { host: from.midpoint(to), ticks: raw + (1 << bits), slack: (to - from) / 2 + SLACK }
            }
        };
        let tick = self.tick();
        let at = |host: u64| {
            let away = host.abs_diff(reference.host);
            let (ticks, doubt) =
                ((away as f64 / tick) as u64, ((reference.slack + away / DRIFT) as f64 / tick) as u64);
            let middle = if host >= reference.host {
                reference.ticks.saturating_add(ticks)
            } else {
                reference.ticks.saturating_sub(ticks)
            };
            (middle.saturating_sub(doubt), middle.saturating_add(doubt))
        };
        let ticks = unwrap(raw, bits, at(from).0, at(to).1).ok_or_else(|| {
            Error::with_text(
                ErrorKind::NotMeasured,
                format!("the counter has {bits} bits, and may have wrapped around since"),
            )
        })?;
        if self.calibrated.is_none() {
            *known = Some(Known { host: from.midpoint(to), ticks, slack: (to - from) / 2 + SLACK });
        }
        Ok(ticks)
    }
}

/// The one number between `low` and `high` whose last `bits` bits are `raw`.
fn unwrap(raw: u64, bits: u32, low: u64, high: u64) -> Option<u64> {
    let period = 1_u64 << bits;
    let raw = raw & (period - 1);
    let first = (low & !(period - 1)) + raw;
    let first = if first < low { first.checked_add(period)? } else { first };
    (first <= high && first.checked_add(period).is_none_or(|second| second > high)).then_some(first)
}

/// A clock with this many nanoseconds in a tick. Vulkan says it in a float, which has no room for 83.3̅: if the float is
/// what a whole number of Hertz comes to, that is what is meant.
fn of_period(id: ClockId, period: f32) -> Clock {
    const SOURCE: &str = "vkCmdWriteTimestamp";
    let period = if period.is_finite() && period > 0.0 { period } else { 1.0 };
    let resolution = Duration::from_nanos((f64::from(period)).ceil().max(1.0) as u64);
    let hertz = (1e9 / f64::from(period)).round();
    if hertz >= 1.0 && (1e9 / hertz) as f32 == period {
        return Clock::new(id, SOURCE, resolution, 1_000_000_000, hertz as u64);
    }
    // A float is a whole number over a power of two.
    let mut denominator = 1_u64;
    let mut scaled = f64::from(period);
    while scaled.fract() != 0.0 && denominator < 1 << 40 {
        scaled *= 2.0;
        denominator *= 2;
    }
    Clock::new(id, SOURCE, resolution, (scaled.round() as u64).max(1), denominator)
}

/// The time of one recording: a query that the GPU writes.
pub(super) struct VulkanStamp {
    gpu: Arc<Gpu>,
    family: Arc<Family>,
    query: Query,
    /// When it was submitted, and when it was first seen to be complete, on the host's clock. Zero before.
    submitted: AtomicU64,
    seen: AtomicU64,
}

impl VulkanStamp {
    pub(super) fn new(gpu: &Arc<Gpu>, family: &Arc<Family>, query: Query) -> Self {
        Self {
            gpu: gpu.clone(),
            family: family.clone(),
            query,
            submitted: AtomicU64::new(0),
            seen: AtomicU64::new(0),
        }
    }

    /// The commands that write it.
    pub(super) fn commands(&self) -> vk::CommandBuffer {
        self.query.commands
    }

    pub(super) fn submit(&self) {
        // Relaxed: whoever reads it has seen the recording complete, which came later by way of the timeline.
        self.submitted.store(host_nanos(), Ordering::Relaxed);
    }

    pub(super) fn see(&self) {
        // Only where it makes a difference.
        if self.family.valid_bits < 64 {
            // Relaxed: as above.
            self.seen.store(host_nanos(), Ordering::Relaxed);
        }
    }
}

impl Stamp for VulkanStamp {
    fn ticks(&self) -> Result<u64> {
        // Its value, and whether it is there.
        let mut result = [[0_u64; 2]];
        let flags = vk::QueryResultFlags::TYPE_64 | vk::QueryResultFlags::WITH_AVAILABILITY;
        // SAFETY: the query is this stamp's for as long as it lives.
        let read = unsafe {
            self.gpu.functions().get_query_pool_results(self.query.pool, self.query.index, &mut result, flags)
        };
        let [[ticks, available]] = result;
        match read {
            Ok(()) if available != 0 => {}
            Ok(()) | Err(vk::Result::NOT_READY) => {
                return Err(Error::with_text(ErrorKind::NotMeasured, "the GPU has written no timestamp"));
            }
            Err(code) => return Err(super::driver::error("vkGetQueryPoolResults", code)),
        }
        // Relaxed: see `submit`.
        let from = self.submitted.load(Ordering::Relaxed);
        let to = match self.seen.load(Ordering::Relaxed) {
            0 => host_nanos(),
            seen => seen,
        };
        self.gpu.clock.unwrapped(ticks, self.family.valid_bits, from, to.max(from))
    }
}

impl Drop for VulkanStamp {
    fn drop(&mut self) {
        // Its batch holds it as long as the GPU may write to it.
        self.family.give_back(self.query);
    }
}

impl fmt::Debug for VulkanStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VulkanStamp").field("query", &self.query.index).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_meant_in_hertz() {
        let second = |period: f32, ticks: u64| of_period(ClockId::unique(), period).nanos(ticks);
        assert_eq!(second(1.0, 1_000_000_000), 1_000_000_000);
        assert_eq!(second(83.333_336, 12_000_000), 1_000_000_000);
        assert_eq!(second(52.083_332, 19_200_000), 1_000_000_000);
        assert_eq!(second(10.0, 100_000_000), 1_000_000_000);
        // Intel's 19.2 MHz, an hour of it, to the nanosecond.
        assert_eq!(second(52.083_332, 19_200_000 * 3_600), 3_600_000_000_000);
        for nonsense in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert_eq!(second(nonsense, 5), 5);
        }
    }

    #[test]
    fn a_counter_is_unwrapped_if_only_one_answer_fits() {
        assert_eq!(unwrap(5, 8, 0, 255), Some(5));
        assert_eq!(unwrap(5, 8, 6, 261), Some(261));
        assert_eq!(unwrap(5, 8, 6, 260), None);
        assert_eq!(unwrap(5, 8, 0, 261), None, "two answers");
        assert_eq!(unwrap(0x1_05, 8, 1_000, 1_100), Some(1_029));
        assert_eq!(unwrap(u64::MAX, 36, u64::MAX - 10, u64::MAX), Some(u64::MAX));
    }

    #[test]
    fn what_was_counted_is_found_again() {
        for bits in [16, 32, 36, 48] {
            let period = 1_u64 << bits;
            for truth in [0, 1, period - 1, period, 7 * period + 12_345, 1 << 50] {
                for (before, after) in [(0, 0), (period / 3, period / 3), (0, period - 1), (period - 1, 0)] {
                    let low = truth.saturating_sub(before);
                    assert_eq!(unwrap(truth & (period - 1), bits, low, truth + after), Some(truth));
                }
            }
        }
    }

    #[test]
    fn a_clock_that_wraps_around_goes_on() {
        let clock = GpuClock::new(of_gpu([0; vk::UUID_SIZE], 1.0, false), 32, None);
        let read = |ticks: u64, host: u64| clock.continued(ticks, host);
        let first = read(4_000_000_000, 1_000).unwrap();
        assert_eq!(read(4_000_000_000 + 1_000_000_000, 1_000_001_000).unwrap() - first, 1_000_000_000);
        // As it is with a driver that gives the counter's bits alone, and half a period later.
        assert_eq!(
            read((4_000_000_000 + 3_500_000_000) & 0xffff_ffff, 3_500_001_000).unwrap() - first,
            3_500_000_000
        );
        // The two drift apart.
        assert_eq!(
            read((4_000_000_000 + 7_000_100_000) & 0xffff_ffff, 7_000_001_000).unwrap() - first,
            7_000_100_000
        );
        let late = read(5, 7_000_001_000 + (1 << 32) * DRIFT).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::NotMeasured);
    }

    #[test]
    fn without_calibration_the_first_reading_is_the_reference() {
        let clock = GpuClock::new(of_gpu([0; vk::UUID_SIZE], 1.0, false), 32, None);
        let first = clock.unwrapped(4_000_000_000, 32, 0, 1_000).unwrap();
        // A second later the counter has wrapped around.
        let second =
            clock.unwrapped((4_000_000_000 + 1_000_000_000) & 0xffff_ffff, 32, 1_000_000_000, 1_000_001_000);
        assert_eq!(second.unwrap() - first, 1_000_000_000);
        // Nobody can tell how often it has in so long a time.
        let late = clock.unwrapped(7, 32, 2_000_000_000, 10_000_000_000).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::NotMeasured);
        assert_eq!(clock.correlate().unwrap_err().kind(), ErrorKind::NotMeasured);
    }
}
