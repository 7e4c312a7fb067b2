//! What all sub-commands share: the raw driver, taking turns, tables, and a watchdog.

use cudarc::driver::sys;
use gpu_events::{
    Error, ErrorKind, Event, Result, Signal, Stream, WaitOptions, WaitStrategy,
    cuda::{self, Api, RawContext, RawEvent, RawStream},
};
use gpu_events_conformance::cuda::Kernels;
use std::{
    fmt::Display,
    hint, ptr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

pub(crate) const NOT_READY: u32 = 600;
pub(crate) const UNTIMED: u32 = 2;
/// Untimed, and one that a thread can sleep for.
pub(crate) const BLOCKING: u32 = 1 | UNTIMED;

/// Greater than everything that is ever waited for, as the driver compares: it takes the difference as signed.
const OPEN_TO_ALL: u64 = i64::MAX as u64;

/// No step takes longer, or something stands still.
const PATIENCE: Duration = Duration::from_secs(20);

static GATES: Mutex<Vec<&'static AtomicU64>> = Mutex::new(Vec::new());
static STEP: Mutex<Option<(Instant, String)>> = Mutex::new(None);

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens every gate there is, for the end of the process.
pub(crate) fn open_all() {
    // Release: as any gate.
    lock(&GATES).iter().for_each(|gate| gate.store(OPEN_TO_ALL, Ordering::Release));
}

#[expect(clippy::disallowed_methods, reason = "a measurement on hardware takes the time that it takes")]
pub(crate) fn sleep(time: Duration) {
    thread::sleep(time);
}

/// Uses up time, without a system call that would let the core go to sleep.
pub(crate) fn idle(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        hint::spin_loop();
    }
}

fn watch() {
    loop {
        sleep(Duration::from_millis(20));
        let late = lock(&STEP).as_ref().filter(|(until, _)| Instant::now() > *until).map(|it| it.1.clone());
        if let Some(step) = late {
            eprintln!("FAILED: {step}: stood still; all gates are opened");
            open_all();
            sleep(Duration::from_millis(500));
            // SAFETY: ends the process at once; the driver's own clean-up might wait for ever.
            unsafe { libc::_exit(3) };
        }
    }
}

/// One step: its failure names it, and if it stands still the process ends.
pub(crate) fn step<T>(name: impl Display, call: impl FnOnce() -> Result<T>) -> Result<T> {
    let name = name.to_string();
    let outer = lock(&STEP).replace((Instant::now() + PATIENCE, name.clone()));
    let done = call();
    *lock(&STEP) = outer.map(|(_, name)| (Instant::now() + PATIENCE, name));
    done.map_err(|error| Error::with_text(error.kind(), format!("{name}: {error}")))
}

pub(crate) fn failed(text: impl Display) -> Error {
    Error::with_text(ErrorKind::Driver, text.to_string())
}

/// `Ok` for what CUDA calls success.
pub(crate) fn check(call: &str, code: u32) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(failed(format_args!("{call} answered {code}"))) }
}

/// A handle of the driver's, for threads.
#[derive(Clone, Copy)]
pub(crate) struct Handle(pub(crate) *mut std::ffi::c_void);

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Handle {}
// SAFETY: as for `Send`.
unsafe impl Sync for Handle {}

/// A word in pinned memory, in a cache line of its own.
#[derive(Clone, Copy)]
pub(crate) struct Word {
    pub(crate) word: &'static AtomicU64,
    pub(crate) pointer: u64,
}

impl Word {
    pub(crate) fn get(&self) -> u64 {
        // Acquire: pairs with the GPU's write.
        self.word.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, value: u64) {
        // Release: pairs with the GPU's read.
        self.word.store(value, Ordering::Release);
    }

    /// For kernels that look at 32 bits.
    pub(crate) fn as_u32(&self) -> *mut u32 {
        self.word.as_ptr().cast()
    }
}

/// Where the kernel `timed` writes when it began and ended, by the GPU's `%globaltimer`.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) begin: Word,
    pub(crate) end: Word,
}

impl Times {
    pub(crate) fn clear(&self) {
        self.begin.set(0);
        self.end.set(0);
    }

    pub(crate) fn pointer(&self) -> *mut u64 {
        self.begin.word.as_ptr()
    }

    /// When the kernel ended, which was seen.
    pub(crate) fn ended(&self) -> Result<u64> {
        match self.end.get() {
            0 => Err(failed("a kernel left no time")),
            time => Ok(time),
        }
    }

    /// How long it took, by its own account.
    pub(crate) fn took(&self) -> Result<u64> {
        let begin = self.begin.get();
        self.ended()?.checked_sub(begin).ok_or_else(|| failed("a kernel ended before it began"))
    }
}

/// A word that streams wait for. It opens at the latest when it is dropped.
pub(crate) struct Gate {
    pub(crate) word: Word,
    opens_at: u64,
}

impl Gate {
    /// Closed from now on, for those who come.
    pub(crate) fn close(&mut self, bench: &Bench, stream: RawStream) -> Result<()> {
        self.opens_at = self.word.get() + 1;
        self.hold(bench, stream)
    }

    /// Holds one more stream behind the same closing.
    pub(crate) fn hold(&self, bench: &Bench, stream: RawStream) -> Result<()> {
        // SAFETY: the stream is there; the word is pinned, aligned and stays.
        let code = unsafe { (bench.api.stream_wait_value)(stream, self.word.pointer, self.opens_at, 0) };
        check("cuStreamWaitValue64", code)
    }

    #[inline]
    pub(crate) fn open(&self) {
        self.word.set(self.opens_at);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // After `open_all` the word is past this.
        if self.word.get() < self.opens_at {
            self.open();
        }
    }
}

/// The GPU, and its driver.
pub(crate) struct Bench {
    pub(crate) api: &'static Api,
    pub(crate) kernels: &'static Kernels,
    context: RawContext,
}

// SAFETY: the context is a handle of the driver's.
unsafe impl Sync for Bench {}

impl Bench {
    pub(crate) fn new() -> Result<Self> {
        let watchdog = thread::Builder::new().name("watchdog".into()).spawn(watch);
        watchdog.map_err(|error| failed(format_args!("no thread for the watchdog: {error}")))?;
        let bench = step("opening the GPU", || {
            let api = cuda::system_api()?;
            let device = cuda::open(0, Signal::Cheap)?;
            println!("# {}: {}", device.name(), device.info().description);
            let context = cuda::raw_context(&device)?;
            let mut version = 0;
            // SAFETY: the call writes to `version` alone.
            check("cuDriverGetVersion", unsafe { (api.driver_get_version)(&mut version) })?;
            let connections = std::env::var("CUDA_DEVICE_MAX_CONNECTIONS");
            println!(
                "# CUDA {version}, CUDA_DEVICE_MAX_CONNECTIONS {}, {:?}",
                connections.as_deref().unwrap_or("unset"),
                device.capabilities()
            );
            Ok(Self { api, kernels: Kernels::of(0)?, context })
        })?;
        bench.enter()?;
        Ok(bench)
    }

    /// Gives the calling thread the context, for good: peers would have it.
    pub(crate) fn enter(&self) -> Result<()> {
        // SAFETY: the context is the primary one, and stays.
        check("cuCtxPushCurrent", unsafe { (self.api.ctx_push_current)(self.context) })
    }

    pub(crate) fn word(&self) -> Result<Word> {
        let memory = self.kernels.shared_memory(64)?;
        // SAFETY: pinned memory, zeroed, aligned, never given back, and reached through atomics and by the GPU alone.
        let word = unsafe { AtomicU64::from_ptr(memory) };
        Ok(Word { word, pointer: memory.addr() as u64 })
    }

    pub(crate) fn times(&self) -> Result<Times> {
        let begin = self.word()?;
        // SAFETY: the next word of the same cache line, which nobody else has.
        let word = unsafe { AtomicU64::from_ptr(begin.word.as_ptr().wrapping_add(1)) };
        Ok(Times { begin, end: Word { word, pointer: begin.pointer + 8 } })
    }

    /// A word that kernels spin for until it is not zero, as they do in the end.
    pub(crate) fn flag(&self) -> Result<Word> {
        let flag = self.word()?;
        lock(&GATES).push(flag.word);
        Ok(flag)
    }

    /// A gate, open.
    pub(crate) fn gate(&self) -> Result<Gate> {
        let word = self.word()?;
        lock(&GATES).push(word.word);
        Ok(Gate { word, opens_at: 0 })
    }

    pub(crate) fn stream(&self) -> Result<RawStream> {
        self.kernels.make_stream()
    }

    pub(crate) fn event(&self, flags: u32) -> Result<RawEvent> {
        let mut event = ptr::null_mut();
        // SAFETY: the call writes to `event` alone.
        check("cuEventCreate", unsafe { (self.api.event_create)(&mut event, flags) })?;
        Ok(event)
    }

    pub(crate) fn events(&self, count: usize) -> Result<Vec<RawEvent>> {
        (0..count).map(|_| self.event(UNTIMED)).collect()
    }

    #[inline]
    pub(crate) fn record(&self, event: RawEvent, stream: RawStream) -> Result<()> {
        // SAFETY: both are there.
        let code = unsafe { (self.api.event_record)(event, stream) };
        if code == 0 { Ok(()) } else { check("cuEventRecord", code) }
    }

    #[inline]
    pub(crate) fn write(&self, stream: RawStream, word: Word, value: u64) -> Result<()> {
        // SAFETY: the stream is there; the word is pinned, aligned and stays.
        let code = unsafe { (self.api.stream_write_value)(stream, word.pointer, value, 0) };
        if code == 0 { Ok(()) } else { check("cuStreamWriteValue64", code) }
    }

    /// Whether an event was reached.
    #[inline]
    pub(crate) fn query(&self, event: RawEvent) -> Result<bool> {
        // SAFETY: it is there.
        match unsafe { (self.api.event_query)(event) } {
            0 => Ok(true),
            NOT_READY => Ok(false),
            code => Err(failed(format_args!("cuEventQuery answered {code}"))),
        }
    }

    /// Sleeps or spins until an event was reached, as its flags and the driver have it.
    pub(crate) fn synchronize(&self, event: RawEvent) -> Result<()> {
        // SAFETY: it is there.
        let code = unsafe { sys::cuEventSynchronize(event.cast()) };
        check("cuEventSynchronize", code as u32)
    }

    pub(crate) fn wait_event(&self, stream: RawStream, event: RawEvent) -> Result<()> {
        // SAFETY: both are there.
        check("cuStreamWaitEvent", unsafe { (self.api.stream_wait_event)(stream, event, 0) })
    }

    /// Waits until a raw stream has nothing to do.
    pub(crate) fn drain(&self, stream: RawStream) -> Result<()> {
        loop {
            // SAFETY: the stream is there.
            match unsafe { (self.api.stream_query)(stream) } {
                0 => return Ok(()),
                NOT_READY => hint::spin_loop(),
                code => return check("cuStreamQuery", code),
            }
        }
    }
}

pub(crate) fn spinning() -> WaitOptions {
    WaitOptions::new().strategy(WaitStrategy::Spin)
}

/// Waits until a stream of ours has nothing to do.
pub(crate) fn drain(stream: &Stream) -> Result<()> {
    stream.synchronize_with(&spinning()).map(drop)
}

/// Waits for an event without sleeping.
pub(crate) fn reach(event: &Event) -> Result<()> {
    event.wait_with(&spinning()).map(drop)
}

/// Nanoseconds since.
#[inline]
pub(crate) fn nanos(since: Instant) -> f64 {
    since.elapsed().as_nanos() as f64
}

/// What a heap of samples comes to.
#[derive(Clone, Copy)]
pub(crate) struct Summary {
    pub(crate) count: usize,
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) p99: f64,
    pub(crate) most: f64,
}

impl Summary {
    pub(crate) fn of(samples: &[f64]) -> Result<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
        };
        let (Some(least), Some(median), Some(p99), Some(most)) = (at(0.0), at(0.5), at(0.99), at(1.0)) else {
            return Err(failed("nothing was measured"));
        };
        Ok(Self { count: sorted.len(), least, median, p99, most })
    }
}

/// One of the things that take turns: a round sets up, measures, cleans up, and returns what it measured.
pub(crate) struct Entry<'a> {
    name: String,
    round: Box<dyn FnMut() -> Result<f64> + 'a>,
}

impl<'a> Entry<'a> {
    pub(crate) fn new(name: impl Into<String>, round: impl FnMut() -> Result<f64> + 'a) -> Self {
        Self { name: name.into(), round: Box::new(round) }
    }
}

/// So many rounds of each, A B C, B C A, C A B …, after a tenth as many that don't count. Prints the table.
pub(crate) fn in_turn(
    title: &str,
    unit: &str,
    rounds: usize,
    entries: Vec<Entry<'_>>,
) -> Result<Vec<Summary>> {
    let mut entries = entries;
    let mut samples = vec![Vec::with_capacity(rounds); entries.len()];
    let count = entries.len();
    let idle_rounds = rounds / 10 + 1;
    step(title, || {
        for round in 0..idle_rounds + rounds {
            for turn in 0..count {
                let index = (round + turn) % count;
                let entry = &mut entries[index];
                let sample = (entry.round)()
                    .map_err(|error| Error::with_text(error.kind(), format!("{}: {error}", entry.name)))?;
                if round >= idle_rounds {
                    samples[index].push(sample);
                }
            }
            // Still alive.
            if let Some((until, _)) = &mut *lock(&STEP) {
                *until = Instant::now() + PATIENCE;
            }
        }
        Ok(())
    })?;
    let summaries = samples.iter().map(|its| Summary::of(its)).collect::<Result<Vec<_>>>()?;
    let rows: Vec<_> = entries.iter().map(|it| it.name.clone()).zip(summaries.iter().copied()).collect();
    table(title, unit, &rows);
    Ok(summaries)
}

pub(crate) fn table(title: &str, unit: &str, rows: &[(String, Summary)]) {
    println!("\n{title} [{unit}]");
    println!("  {:<58} {:>12} {:>12} {:>12} {:>7}", "", "median", "p99", "max", "rounds");
    for (name, it) in rows {
        println!("  {name:<58} {:>12.2} {:>12.2} {:>12.2} {:>7}", it.median, it.p99, it.most, it.count);
    }
}

/// One figure over another, beside what it should be.
pub(crate) fn ratio(name: &str, over: f64, under: f64, goal: &str) {
    println!("  = {name}: {:.3} (goal {goal})", over / under);
}
