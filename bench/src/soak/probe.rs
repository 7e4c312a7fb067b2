//! The thread that times a few things every few milliseconds.

use super::world::{World, settle};
use super::{PATIENCE, lock};
use crate::host;
use anyhow::{Context, Result, ensure};
use gpu_events::{ErrorKind, Event, Stream};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How often the timed things are timed.
const PROBE_EVERY: Duration = Duration::from_millis(5);

const BATCHES: usize = 8;
const BATCH: usize = 32;
/// How many lives a sample is the mean of.
pub(super) const LIVES: u32 = (BATCHES * BATCH) as u32;
/// How many hand-overs a sample is the mean of.
pub(super) const HAND_OVERS: u32 = 16;

/// Times a few things, again and again.
pub(super) struct Prober<'a> {
    world: &'a World,
    one: Stream,
    other: Stream,
    told: (mpsc::Sender<Instant>, mpsc::Receiver<Instant>),
}

impl<'a> Prober<'a> {
    pub(super) fn new(world: &'a World) -> Result<Self> {
        let (one, other) = (world.device.create_stream()?, world.device.create_stream()?);
        Ok(Self { world, one, other, told: mpsc::channel() })
    }

    pub(super) fn run(&self) -> Result<()> {
        while !self.world.stop.pause(PROBE_EVERY) {
            let taken = [
                Some(self.life().context("an event's life")?),
                Some(self.host_return().context("a host wait")?),
                self.hand_over().context("a hand-over")?,
                Some(self.callback().context("a callback")?),
            ];
            for (samples, taken) in lock(&self.world.samples).iter_mut().zip(taken) {
                samples.extend(taken);
            }
            if let Some(cpu) = host::thread_cpu() {
                // Relaxed: a number to subtract.
                self.world.probing.store(cpu.as_nanos() as u64, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Something to wait for: an idle stream of the CPU's completes on the spot.
    fn work(&self, stream: &Stream) -> Result<()> {
        if self.world.closures {
            stream.cpu()?.enqueue(|| ())?;
        }
        Ok(())
    }

    fn life(&self) -> Result<f64> {
        let pool = &self.world.pool;
        let start = Instant::now();
        for _ in 0..BATCHES {
            let events: [Event; BATCH] = std::array::from_fn(|_| pool.acquire());
            for event in &events {
                event.record(&self.one)?;
            }
            // The last one's completion is the others' (R10).
            settle(&events[BATCH - 1])?;
            ensure!(events[0].is_complete()?, "a later recording completed first");
        }
        Ok(start.elapsed().as_nanos() as f64 / f64::from(LIVES))
    }

    fn host_return(&self) -> Result<f64> {
        self.work(&self.one)?;
        let start = Instant::now();
        let event = self.one.record()?;
        settle(&event)?;
        Ok(start.elapsed().as_nanos() as f64)
    }

    /// Two streams in turn, all of it queued behind a gate, and timed by the device.
    fn hand_over(&self) -> Result<Option<f64>> {
        if !self.world.timed {
            return Ok(None);
        }
        let (gate, open) = self.world.device.host_event()?;
        self.one.wait(&gate)?;
        let start = self.one.record_timed()?;
        for _ in 0..HAND_OVERS / 2 {
            self.other.wait(&self.one.record()?)?;
            self.one.wait(&self.other.record()?)?;
        }
        let end = self.one.record_timed()?;
        open.complete();
        settle(&end)?;
        match end.elapsed_since(&start) {
            Ok(took) => Ok(Some(took.as_millis_f64() * 1e6 / f64::from(HAND_OVERS))),
            Err(error) if error.kind() == ErrorKind::NotMeasured => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn callback(&self) -> Result<f64> {
        self.work(&self.one)?;
        let tell = self.told.0.clone();
        let start = Instant::now();
        // Who left would be told of nothing any more.
        self.one.record()?.on_complete(move |_| {
            let _ = tell.send(Instant::now());
        })?;
        let called = self.told.1.recv_timeout(PATIENCE).context("it does not run")?;
        Ok((called - start).as_nanos() as f64)
    }
}
