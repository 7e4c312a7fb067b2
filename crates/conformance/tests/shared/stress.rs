//! Threads that do everything at once, to streams of both kinds on one GPU.
//!
//! At most seven streams have work, so that a gate holds up nobody but its own (`Gates::Driver`).

use futures_lite::future::block_on;
use gpu_events::{
    Device, Event, Result, Status, Stream, StreamWait, WaitOptions, WaitOutcome, WaitStrategy, statuses,
    wait_all, wait_any,
};
use gpu_events_conformance::{Cells, Subject};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const THREADS: usize = 3;
const SHARED: usize = 4;
const BOUND: Duration = Duration::from_secs(60);

/// What the threads share.
struct Scene {
    devices: [Device; 2],
    streams: Vec<Stream>,
    cells: [Arc<dyn Cells>; 2],
    /// Callbacks that were registered, and that ran.
    registered: AtomicU64,
    ran: Arc<AtomicU64>,
}

/// A sequence of numbers that look random, the same ones for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Two subjects of one GPU; each thread does so many rounds.
pub(crate) fn run(subjects: &[&dyn Subject; 2], rounds: usize) {
    let devices = subjects.map(|subject| subject.open().expect("a device"));
    let scene = Arc::new(Scene {
        streams: (0..SHARED).map(|index| devices[index % 2].create_stream().expect("a stream")).collect(),
        cells: [0, 1].map(|index| subjects[index].cells(&devices[index], 3 * THREADS).expect("cells")),
        devices,
        registered: AtomicU64::new(0),
        ran: Arc::default(),
    });
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let scene = scene.clone();
            thread::spawn(move || Worker::new(&scene, thread).run(rounds))
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic").expect("no failure");
    }
    for stream in &scene.streams {
        settle(&stream.record().expect("a recording"));
    }
    let deadline = Instant::now() + BOUND;
    // Relaxed: the threads have ended; the others only count up.
    while scene.ran.load(Ordering::Relaxed) < scene.registered.load(Ordering::Relaxed) {
        assert!(Instant::now() < deadline, "callbacks that did not run");
        thread::yield_now();
    }
    assert_eq!(scene.ran.load(Ordering::Relaxed), scene.registered.load(Ordering::Relaxed));
    for device in &scene.devices {
        assert_eq!(device.pool().statistics().live, 0, "events that are still out");
    }
}

#[track_caller]
fn settle(event: &Event) {
    assert_eq!(event.wait_timeout(BOUND).expect("no failure"), WaitOutcome::Complete, "{event:?}");
}

struct Worker<'a> {
    scene: &'a Scene,
    thread: usize,
    random: Random,
    /// A stream of this thread's own, made anew now and then.
    own: Stream,
    /// Recorded some time ago, in order of their recording for each stream.
    window: Vec<Event>,
    tag: u32,
}

impl<'a> Worker<'a> {
    fn new(scene: &'a Scene, thread: usize) -> Self {
        let own = scene.devices[thread % 2].create_stream().expect("a stream");
        Self { scene, thread, random: Random(thread as u64 + 1), own, window: Vec::new(), tag: 0 }
    }

    fn run(mut self, rounds: usize) -> Result<()> {
        for _ in 0..rounds {
            match self.random.below(9) {
                0 | 1 => self.pass_a_value_on()?,
                2 => self.call_back()?,
                3 => self.time()?,
                4 => self.record_anew()?,
                5 => self.look_at_many()?,
                6 => block_on(self.any_stream().record()?.completion())?,
                7 => self.hold_and_let_go()?,
                _ => self.wait_for_many()?,
            }
        }
        Ok(())
    }

    fn any_stream(&mut self) -> Stream {
        let index = self.random.below(SHARED + 1);
        self.scene.streams.get(index).unwrap_or(&self.own).clone()
    }

    /// A value goes from one stream to another: it arrives only if the second waited for the first.
    fn pass_a_value_on(&mut self) -> Result<()> {
        let (from, to) = (self.any_stream(), self.any_stream());
        let cells = &self.scene.cells[0];
        let first = 3 * self.thread;
        self.tag += 1;
        cells.write(&from, first, self.tag)?;
        let _ = to.wait(&from.record()?)?;
        cells.copy(&to, first, first + 1)?;
        let strategy = match self.random.below(3) {
            0 => WaitStrategy::Park,
            1 => WaitStrategy::Spin,
            _ => WaitStrategy::SpinThenPark(Duration::from_micros(20)),
        };
        let end = to.record()?;
        let outcome = end.wait_with(&WaitOptions::new().strategy(strategy).timeout(BOUND))?;
        assert_eq!(outcome, WaitOutcome::Complete);
        assert_eq!(cells.read(first + 1), self.tag, "from {from:?} to {to:?}");
        Ok(())
    }

    fn call_back(&mut self) -> Result<()> {
        let event = self.any_stream().record()?;
        let ran = self.scene.ran.clone();
        // Relaxed, both: counts, compared at the end.
        self.scene.registered.fetch_add(1, Ordering::Relaxed);
        let callback = event.on_complete(move |outcome| {
            assert!(outcome.is_ok());
            ran.fetch_add(1, Ordering::Relaxed);
        })?;
        if self.random.below(4) == 0 && callback.cancel() {
            self.scene.registered.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn time(&mut self) -> Result<()> {
        let stream = self.any_stream();
        let start = stream.record_timed()?;
        self.scene.cells[0].write(&stream, 3 * self.thread + 2, 1)?;
        let end = stream.record_timed()?;
        settle(&end);
        assert!(end.elapsed_since(&start)?.duration() > Duration::ZERO);
        Ok(())
    }

    fn record_anew(&mut self) -> Result<()> {
        let stream = self.any_stream();
        let event = stream.device().pool().acquire();
        for _ in 0..self.random.below(20) {
            event.record(&stream)?;
        }
        if self.random.below(2) == 0 {
            settle(&event);
        }
        Ok(())
    }

    /// Complete once is complete for good, and completion goes in order.
    fn look_at_many(&mut self) -> Result<()> {
        let stream = self.any_stream();
        for _ in 0..self.random.below(20) {
            self.window.push(stream.record()?);
        }
        let before = statuses(&self.window);
        let after = statuses(&self.window);
        for (index, (before, after)) in before.iter().zip(&after).enumerate() {
            assert!(matches!(after, Status::Pending | Status::Complete));
            assert!(*before != Status::Complete || *after == Status::Complete, "event {index}");
        }
        let keep = self.random.below(40);
        let surplus = self.window.len().saturating_sub(keep);
        self.window.drain(..surplus);
        Ok(())
    }

    /// A gate in front of this thread's own stream, and the end of the stream with work on it.
    fn hold_and_let_go(&mut self) -> Result<()> {
        let device = self.own.device().clone();
        let (gate, open) = device.host_event()?;
        let wait = self.own.wait(&gate)?;
        assert_eq!(wait, StreamWait::Gated);
        let held = self.own.record()?;
        let look = held.status();
        assert_eq!(look, Status::Pending);
        open.complete();
        if self.random.below(2) == 0 {
            self.own = device.create_stream()?;
        }
        settle(&held);
        Ok(())
    }

    fn wait_for_many(&mut self) -> Result<()> {
        let events = (0..4).map(|_| self.any_stream().record()).collect::<Result<Vec<_>>>()?;
        let options = WaitOptions::new().timeout(BOUND);
        let _ = wait_any(&events, &options)?;
        assert_eq!(wait_all(&events, &options)?, WaitOutcome::Complete);
        assert!(statuses(&events).iter().all(|status| *status == Status::Complete));
        Ok(())
    }
}
