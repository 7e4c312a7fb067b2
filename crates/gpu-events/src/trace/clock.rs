//! The trace's axis, and where the devices' clocks are on it.

use super::ClockId;
use crate::{device::Device, time::Correlation};
use std::time::Instant;

/// The host's clock, as nanoseconds that other processes can compare.
pub(super) struct Axis {
    pub(super) id: ClockId,
    /// How exactly the process's instants were put on it, nanoseconds.
    pub(super) uncertainty: u64,
    instant: Instant,
    nanos: i64,
}

impl Axis {
    pub(super) fn of_host() -> Self {
        shared::axis().unwrap_or_else(|| Self {
            id: ClockId::unique(),
            uncertainty: 0,
            instant: Instant::now(),
            nanos: 0,
        })
    }

    pub(super) fn now(&self) -> i64 {
        self.at(Instant::now())
    }

    pub(super) fn at(&self, instant: Instant) -> i64 {
        // 292 years fit.
        let after = instant.saturating_duration_since(self.instant).as_nanos() as i64;
        let before = self.instant.saturating_duration_since(instant).as_nanos() as i64;
        self.nanos + after - before
    }
}

/// Linux's monotonic clock, which is what an `Instant` is of, and the same for all processes since the machine was started.
#[cfg(target_os = "linux")]
mod shared {
    use super::{Axis, ClockId};
    use std::{fs, time::Instant};

    pub(super) fn axis() -> Option<Axis> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let id = u128::from_str_radix(&boot.trim().replace('-', ""), 16).ok()?;
        // In a time namespace it has an origin of its own.
        let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        let monotonic = offsets.lines().find(|line| line.starts_with("monotonic"));
        if monotonic.is_some_and(|line| line.split_whitespace().skip(1).any(|number| number != "0")) {
            return None;
        }
        // The closest of a few: the thread may be interrupted in between.
        let read = || {
            let before = Instant::now();
            let nanos = nanos();
            (before.elapsed(), before, nanos)
        };
        let (gap, before, nanos) = (0..16).map(|_| read()).min_by_key(|(gap, ..)| *gap)?;
        let uncertainty = (gap / 2).as_nanos() as u64 + 1;
        Some(Axis { id: ClockId(id), uncertainty, instant: before + gap / 2, nanos })
    }

    fn nanos() -> i64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes to `time` alone, which is ours, and can't fail: the clock is older than any Linux that Rust
        // runs on.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
        time.tv_sec * 1_000_000_000 + time.tv_nsec
    }
}

/// Elsewhere an `Instant` is of a clock that can't be compared across processes.
#[cfg(not(target_os = "linux"))]
mod shared {
    pub(super) fn axis() -> Option<super::Axis> {
        None
    }
}

/// A device's clock beside the host's.
pub(super) struct DeviceClock {
    pub(super) device: Device,
    /// Readings of both, in no order.
    pub(super) anchors: Vec<Correlation>,
}

impl DeviceClock {
    pub(super) fn new(device: Device) -> Self {
        Self { device, anchors: Vec::new() }
    }
}

/// What must have come before what, on a clock that nobody reads beside the host's: bounds of what has to be added to a time
/// of the device's to have the host's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Causality {
    /// Work begins after it was submitted.
    pub(super) least: i64,
    /// It was complete before it was seen to be.
    pub(super) most: i64,
}

impl Causality {
    pub(super) const UNKNOWN: Self = Self { least: i64::MIN, most: i64::MAX };

    pub(super) fn and(self, other: Self) -> Self {
        Self { least: self.least.max(other.least), most: self.most.min(other.most) }
    }
}

/// A function from a device's nanoseconds to the axis. Never falling.
#[derive(Debug)]
pub(super) struct Placement {
    /// Device and axis, by device.
    points: Vec<(u64, i64)>,
    pub(super) uncertainty: u64,
}

impl Placement {
    pub(super) fn of(clock: &DeviceClock, causality: Causality, axis: &Axis) -> Self {
        let resolution = clock.device.clock().resolution().as_nanos() as u64;
        let mut anchors: Vec<_> = clock.anchors.iter().collect();
        anchors.sort_by_key(|anchor| anchor.device().nanos());
        anchors.dedup_by_key(|anchor| anchor.device().nanos());
        if anchors.is_empty() {
            return Self::by_causality(causality, resolution);
        }
        let doubt = anchors.iter().map(|anchor| anchor.uncertainty().as_nanos() as u64).max();
        let mut points: Vec<_> =
            anchors.iter().map(|anchor| (anchor.device().nanos(), axis.at(anchor.host()))).collect();
        let mut highest = i64::MIN;
        for (_, host) in &mut points {
            // Two readings within each other's doubt may be the wrong way round.
            highest = highest.max(*host);
            *host = highest;
        }
        // The host's own clock has nothing to be in doubt of: what it resolves is its step, and not an error.
        let own = clock.device.clock().id() == crate::time::ClockId::HOST;
        let uncertainty = doubt.unwrap_or(0).saturating_add(if own { 0 } else { resolution });
        Self { points, uncertainty }
    }

    fn by_causality(Causality { least, most }: Causality, resolution: u64) -> Self {
        // One bound alone: the shortest delay that there can be, and nothing about the longest.
        let (offset, doubt) = match (least == i64::MIN, most == i64::MAX) {
            (true, true) => (0, u64::MAX / 4),
            (false, true) => (least, u64::MAX / 4),
            (true, false) => (most, u64::MAX / 4),
            // Drift may have the bounds cross: then both are off by as much.
            (false, false) => (least / 2 + most / 2, most.abs_diff(least) / 2 + 1),
        };
        Self { points: vec![(0, offset)], uncertainty: doubt.saturating_add(resolution) }
    }

    /// Where a time of the device's is.
    pub(super) fn at(&self, nanos: u64) -> i64 {
        let after = self.points.partition_point(|(device, _)| *device <= nanos);
        // Beyond the outermost readings their clocks are taken to go alike.
        let along = |(device, host): (u64, i64)| host.saturating_add_unsigned(nanos.saturating_sub(device));
        match (after.checked_sub(1).and_then(|before| self.points.get(before)), self.points.get(after)) {
            (Some(&(from, at)), Some(&(to, until))) => {
                let share = i128::from(until - at) * i128::from(nanos - from) / i128::from(to - from);
                at + share as i64
            }
            (Some(&last), None) => along(last),
            (None, Some(&(device, host))) => host.saturating_sub_unsigned(device - nanos),
            (None, None) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(points: &[(u64, i64)]) -> Placement {
        Placement { points: points.to_vec(), uncertainty: 0 }
    }

    #[test]
    fn a_steady_drift_is_followed() {
        // 100 ppm fast, read twice.
        let placement = placement(&[(1_000_000, 500), (2_000_000, 1_000_600)]);
        assert_eq!(placement.at(1_500_000), 500 + 500_050);
        assert_eq!(placement.at(1_000_000), 500);
        assert_eq!(placement.at(2_000_000), 1_000_600);
        assert_eq!((placement.at(999_990), placement.at(2_000_010)), (490, 1_000_610));
    }

    #[test]
    fn a_clock_that_nobody_reads_is_placed_by_what_came_first() {
        // Submitted at 1,000 and seen complete at 1,400; on the device's clock from 50 to 250.
        let bounds = Causality { least: 1_000 - 50, most: 1_400 - 250 };
        let placement = Placement::by_causality(bounds, 1);
        assert_eq!(placement.at(50), 1_100);
        assert!(placement.uncertainty >= 100 && placement.uncertainty <= 103, "{}", placement.uncertainty);
        let nothing = Placement::by_causality(Causality::UNKNOWN, 1);
        assert!(nothing.uncertainty > 1 << 60);
    }

    #[test]
    fn instants_are_on_the_axis_in_both_directions() {
        let axis = Axis::of_host();
        let now = Instant::now();
        let second = std::time::Duration::from_secs(1);
        assert_eq!(axis.at(now + second) - axis.at(now), 1_000_000_000);
        assert_eq!(axis.at(now) - axis.at(now - second), 1_000_000_000);
        assert!(axis.now() >= axis.at(now));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn two_axes_of_a_machine_agree() {
        let (one, other) = (Axis::of_host(), Axis::of_host());
        if one.id != other.id {
            // A time namespace.
            return;
        }
        let now = Instant::now();
        let apart = one.at(now).abs_diff(other.at(now));
        assert!(apart <= one.uncertainty + other.uncertainty, "{apart} ns apart");
    }
}
