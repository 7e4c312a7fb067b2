//! The GPU's clock, out of the times between pairs of events.
//!
//! `cuEventElapsedTime` is all that the driver has, and it answers in milliseconds as a 32-bit float: exact to a
//! nanosecond over a tenth of a second, and off by a quarter of a millisecond after an hour. The times behind it are whole
//! multiples of a step (32 ns on Hopper). So as long as two events are half a second apart or less, the float says exactly
//! which multiple lies between them. A chain of *reference events*, recorded that often on a stream of our own while
//! anything timed is alive, therefore gives every event a count of ticks that is exact (R22, R25): its distance to the
//! nearest reference, and that one's to the next.

use super::{
    driver::Api,
    gpu::{Gpu, Handle},
    queue::Ring,
};
use crate::{
    backend::Stamp,
    error::{Error, ErrorKind, Result},
    primitive::lock,
    time::{Clock, ClockId, Correlation},
};
use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// How often a reference is recorded while anything timed is alive.
pub(super) const BEAT: Duration = Duration::from_millis(200);

/// The references that are kept: more than the pump takes to read what was timed beside one (see [`BEAT`]).
const KEPT: usize = 64;

/// The ticks of the first reference. Not zero: an event may be a little before the reference that it is measured from.
const ORIGIN: u64 = 1_000_000_000;

/// What CUDA's documentation states, for a GPU whose steps could not be found out.
const DOCUMENTED: u64 = 500;

/// The steps that GPUs are known or likely to count in, nanoseconds, the widest first.
const STEPS: [u64; 12] = [1_024, 1_000, 512, 500, 256, 128, 100, 64, 32, 16, 8, 4];

/// How long a reference may take to be reached before the clock does without.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct GpuClock {
    id: ClockId,
    /// What the times are multiples of, if that is known.
    step: OnceLock<Option<u64>>,
    state: Mutex<State>,
    /// Timed recordings that somebody can still ask.
    alive: AtomicUsize,
    /// The sum of what the chain's links may be off by, nanoseconds.
    error: AtomicU64,
}

#[derive(Default)]
struct State {
    stream: Option<Handle>,
    /// In the order of their times. The last is the newest.
    references: VecDeque<Reference>,
    /// Recorded, and not seen to be reached.
    next: Option<(Handle, Instant)>,
}

#[derive(Clone, Copy)]
struct Reference {
    event: Handle,
    ticks: u64,
    /// When it was recorded.
    at: Instant,
}

/// Milliseconds as a float, in nanoseconds: on the step if the float is fine enough to tell. And what it may be off by.
pub(super) fn nanos(milliseconds: f32, step: Option<u64>) -> (i64, u64) {
    let exact = f64::from(milliseconds) * 1e6;
    let magnitude = milliseconds.abs();
    let half_ulp = f64::from(magnitude.next_up() - magnitude) * 1e6 / 2.0;
    match step {
        Some(step) if half_ulp < step as f64 * 0.49 => {
            ((exact / step as f64).round() as i64 * step.cast_signed(), 0)
        }
        _ => (exact.round() as i64, half_ulp.ceil() as u64),
    }
}

/// The widest step that all of these times, in nanoseconds, are multiples of.
pub(super) fn step_of(times: &[f64]) -> Option<u64> {
    let fits = |step: u64| {
        times.iter().all(|time| {
            let steps = time / step as f64;
            (steps - steps.round()).abs() < 0.01
        })
    };
    STEPS.into_iter().find(|step| fits(*step))
}

impl GpuClock {
    pub(super) fn new() -> Self {
        Self {
            id: ClockId::unique(),
            step: OnceLock::new(),
            state: Mutex::default(),
            alive: AtomicUsize::new(0),
            error: AtomicU64::new(0),
        }
    }

    /// As the device's clock: its ticks are nanoseconds.
    pub(super) fn clock(&self) -> Clock {
        let step = self.step().unwrap_or(DOCUMENTED);
        Clock::new(self.id, "cuEventElapsedTime from chained references", Duration::from_nanos(step), 1, 1)
    }

    fn step(&self) -> Option<u64> {
        self.step.get().copied().flatten()
    }

    /// What the chain may be off by since it began.
    pub(super) fn error(&self) -> Duration {
        // Relaxed: a sum that only grows, for reports.
        Duration::from_nanos(self.error.load(Ordering::Relaxed))
    }

    /// Records the first reference, and finds the step.
    pub(super) fn start(&self, gpu: &Gpu) -> Result<()> {
        let stream = gpu.stream()?;
        let reach = |event: Handle| -> Result<()> {
            // SAFETY: both are ours.
            let code = unsafe { (gpu.api.event_record)(event.0, stream.0) };
            gpu.api.check("cuEventRecord", code)?;
            let asked = Instant::now();
            loop {
                match gpu.is_done(event) {
                    Ok(true) => return Ok(()),
                    Ok(false) if asked.elapsed() < PATIENCE => std::hint::spin_loop(),
                    Ok(false) => {
                        return Err(Error::with_text(
                            ErrorKind::Unavailable,
                            "the GPU does not get to any work",
                        ));
                    }
                    Err(code) => return Err(gpu.api.error("cuEventQuery", code)),
                }
            }
        };
        let first = gpu.event(true)?;
        reach(first)?;
        let at = Instant::now();
        let mut times = Vec::new();
        let probe = gpu.event(true)?;
        for _ in 0..24 {
            reach(probe)?;
            times.push(f64::from(elapsed(gpu, first, probe)?) * 1e6);
        }
        gpu.give_back(true, probe);
        // Set once.
        let _ = self.step.set(step_of(&times));
        let mut state = lock(&self.state);
        state.stream = Some(stream);
        state.references.push_back(Reference { event: first, ticks: ORIGIN, at });
        Ok(())
    }

    /// One more timed recording is about to be made. With the first one the chain has to go on.
    #[inline]
    pub(super) fn enlist(&self, gpu: &'static Gpu) {
        // Relaxed: the pump is rung behind it, through a lock.
        if self.alive.fetch_add(1, Ordering::Relaxed) == 0 {
            self.beat(gpu);
            gpu.pump.ring();
        }
    }

    fn dismiss(&self) {
        // Relaxed: for the pump, which looks again within a beat.
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether references are wanted.
    pub(super) fn is_ticking(&self) -> bool {
        // Relaxed: see `enlist`.
        self.alive.load(Ordering::Relaxed) > 0
    }

    /// Records the next reference if it is time to. Never waits.
    pub(super) fn beat(&self, gpu: &Gpu) {
        let mut state = lock(&self.state);
        self.link(gpu, &mut state);
        let Some(stream) = state.stream else { return };
        let due = state.references.back().is_none_or(|last| last.at.elapsed() >= BEAT);
        if state.next.is_none() && due {
            // None is made for this: behind a closed gate that may take until it opens.
            let Some(event) = gpu.spare_event(true) else { return };
            // SAFETY: both are ours.
            if unsafe { (gpu.api.event_record)(event.0, stream.0) } == super::driver::SUCCESS {
                state.next = Some((event, Instant::now()));
            } else {
                gpu.give_back(true, event);
            }
        }
    }

    /// Adds the recorded reference to the chain, if it was reached.
    fn link(&self, gpu: &Gpu, state: &mut MutexGuard<'_, State>) {
        let (Some((event, at)), Some(last)) = (state.next, state.references.back().copied()) else { return };
        let Ok(true) = gpu.is_done(event) else { return };
        state.next = None;
        let Ok(milliseconds) = elapsed(gpu, last.event, event) else { return gpu.give_back(true, event) };
        let (distance, error) = nanos(milliseconds, self.step());
        // Relaxed: see `error`.
        self.error.fetch_add(error, Ordering::Relaxed);
        let ticks = last.ticks.saturating_add_signed(distance.max(0));
        state.references.push_back(Reference { event, ticks, at });
        if state.references.len() > KEPT
            && let Some(oldest) = state.references.pop_front()
        {
            gpu.give_back(true, oldest.event);
        }
    }

    /// When a timed event, which is complete, was reached.
    fn ticks(&self, gpu: &Gpu, event: Handle) -> Result<u64> {
        let mut state = lock(&self.state);
        self.link(gpu, &mut state);
        let from = |reference: Reference| -> Result<(u64, u64)> {
            let (distance, error) = nanos(elapsed(gpu, reference.event, event)?, self.step());
            Ok((reference.ticks.saturating_add_signed(distance), error))
        };
        let last = state.references.back().copied().ok_or(ErrorKind::NotMeasured)?;
        let (about, error) = from(last)?;
        // The nearest one on either side.
        let after = state.references.partition_point(|reference| reference.ticks < about);
        let nearest = [after.checked_sub(1), Some(after)]
            .into_iter()
            .flatten()
            .filter_map(|index| state.references.get(index).copied())
            .min_by_key(|reference| reference.ticks.abs_diff(about))
            .unwrap_or(last);
        let (ticks, error) = if nearest.ticks == last.ticks { (about, error) } else { from(nearest)? };
        // Far from every reference, since the clock's own stream was held up: it is in what is stated. Relaxed: as in `error`.
        self.error.fetch_add(error, Ordering::Relaxed);
        Ok(ticks)
    }

    /// The clock's own stream, which nobody else knows and nobody captures.
    pub(super) fn stream(&self) -> Option<Handle> {
        lock(&self.state).stream
    }

    /// Reads this clock beside the host's: an event between two readings (R24).
    pub(super) fn correlate(&self, gpu: &Gpu) -> Result<Correlation> {
        let not = |text: &str| Error::with_text(ErrorKind::NotMeasured, text);
        self.beat(gpu);
        let stream = lock(&self.state).stream.ok_or_else(|| not("the clock was never started"))?;
        let event = gpu.event(true)?;
        let mut best: Option<(Duration, Instant, u64)> = None;
        for _ in 0..8 {
            let before = Instant::now();
            // SAFETY: both are ours.
            let code = unsafe { (gpu.api.event_record)(event.0, stream.0) };
            gpu.api.check("cuEventRecord", code)?;
            loop {
                match gpu.is_done(event) {
                    Ok(true) => break,
                    Ok(false) if before.elapsed() < PATIENCE => std::hint::spin_loop(),
                    // The event is leaked: it is still on its way.
                    Ok(false) => return Err(not("the GPU did not get to an event within ten seconds")),
                    Err(code) => return Err(gpu.api.error("cuEventQuery", code)),
                }
            }
            let gap = before.elapsed();
            if best.is_none_or(|(narrowest, ..)| gap < narrowest) {
                best = Some((gap, before, self.ticks(gpu, event)?));
            }
        }
        gpu.give_back(true, event);
        let (gap, before, ticks) = best.ok_or_else(|| not("nothing was read"))?;
        Ok(Correlation::new(self.clock().at(ticks), before + gap / 2, gap / 2 + Duration::from_nanos(1)))
    }
}

fn elapsed(gpu: &Gpu, from: Handle, to: Handle) -> Result<f32> {
    let mut milliseconds = 0.0;
    let api: &Api = gpu.api;
    // SAFETY: both are events with times; the call writes to `milliseconds` alone.
    let code = gpu.quietly(|| unsafe { (api.event_elapsed_time)(&mut milliseconds, from.0, to.0) });
    api.check("cuEventElapsedTime", code)?;
    Ok(milliseconds)
}

/// The time of one recording: a timed event until it was read, a number from then on.
pub(super) struct CudaStamp {
    gpu: &'static Gpu,
    /// Where the event stands for the recording's position, if it does.
    ring: Option<Arc<Ring>>,
    time: Mutex<Time>,
}

/// An event that is there has been recorded, or will be, and nobody else has it.
#[derive(Default)]
struct Time {
    event: Option<Handle>,
    ticks: Option<u64>,
}

impl CudaStamp {
    pub(super) fn new(gpu: &'static Gpu, ring: Option<Arc<Ring>>) -> Result<Self> {
        let event = gpu.event(true)?;
        gpu.clock.enlist(gpu);
        Ok(Self { gpu, ring, time: Mutex::new(Time { event: Some(event), ticks: None }) })
    }

    /// The event to record, if it was not given back yet.
    pub(super) fn event(&self) -> Option<Handle> {
        lock(&self.time).event
    }

    /// Reads the time if it can be read. The recording is complete.
    pub(super) fn settle(&self) {
        let mut time = lock(&self.time);
        if let (None, Some(event)) = (time.ticks, time.event) {
            time.ticks = self.gpu.clock.ticks(self.gpu, event).ok();
        }
    }

    /// Gives the event back, if the time was read. The recording was seen to be complete by whoever looks.
    pub(super) fn give_back(&self) {
        let mut time = lock(&self.time);
        if time.ticks.is_some() {
            let event = time.event.take();
            drop(time);
            self.release(event);
        }
    }

    fn release(&self, event: Option<Handle>) {
        match (event, &self.ring) {
            (Some(event), Some(ring)) => ring.give_back(event),
            (Some(event), None) => self.gpu.give_back(true, event),
            (None, _) => {}
        }
    }
}

impl Stamp for CudaStamp {
    fn ticks(&self) -> Result<u64> {
        let mut time = lock(&self.time);
        match (time.ticks, time.event) {
            (Some(ticks), _) => Ok(ticks),
            (None, Some(event)) => {
                let ticks = self.gpu.clock.ticks(self.gpu, event)?;
                time.ticks = Some(ticks);
                Ok(ticks)
            }
            (None, None) => Err(Error::new(ErrorKind::NotMeasured)),
        }
    }
}

impl Drop for CudaStamp {
    fn drop(&mut self) {
        if crate::fork::happened() {
            return;
        }
        self.gpu.clock.dismiss();
        // Its recording was seen to be reached, or its stream has gone: the queue has a reference until then.
        let event = lock(&self.time).event.take();
        self.release(event);
    }
}

impl fmt::Debug for CudaStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaStamp").finish_non_exhaustive()
    }
}

impl fmt::Debug for GpuClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuClock").field("step", &self.step()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_float_of_milliseconds_tells_the_step_up_to_half_a_second() {
        for steps in (1..16_000_000_u64).step_by(9_973) {
            let exact = steps * 32;
            let float = (exact as f64 / 1e6) as f32;
            let (read, error) = nanos(float, Some(32));
            if exact < 500_000_000 {
                assert_eq!((read, error), (exact.cast_signed(), 0), "{steps} steps");
            }
            assert_eq!(nanos(-float, Some(32)), (-read, error));
        }
    }

    #[test]
    fn where_it_can_not_tell_it_says_by_how_much() {
        let ten_minutes = 600_000_000_032_i64;
        let (read, error) = nanos((ten_minutes as f64 / 1e6) as f32, Some(32));
        assert!(error > 16 && error < 40_000, "{error}");
        assert!(read.abs_diff(ten_minutes) <= error, "{read}");
        assert!(nanos(1.5, None).1 > 0);
    }

    #[test]
    fn the_step_is_the_widest_that_fits() {
        assert_eq!(step_of(&[13_504.0, 15_328.0, 23_392.0, 29_472.0]), Some(32));
        assert_eq!(step_of(&[1_000.0, 7_000.0, 11_000.0]), Some(1_000));
        assert_eq!(step_of(&[13_504.0, 15_329.0, 2.5]), None);
    }
}
