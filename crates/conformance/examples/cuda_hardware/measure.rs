//! What all sub-commands share: the raw driver, and tables.

use crate::measuring::{self, lock, take_turns};
pub(crate) use crate::measuring::{Entry, Summary, failed, nanos, reach, sleep, spinning, step};
use cudarc::driver::sys;
use gpu_events::{
    Result, Signal, Stream,
    cuda::{self, Api, RawContext, RawEvent, RawStream},
};
use gpu_events_conformance::cuda::Kernels;
use std::{
    hint, ptr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub(crate) const NOT_READY: u32 = 600;
pub(crate) const UNTIMED: u32 = 2;
/// Untimed, and one that a thread can sleep for.
pub(crate) const BLOCKING: u32 = 1 | UNTIMED;

/// Greater than everything that is ever waited for, as the driver compares: it takes the difference as signed.
const OPEN_TO_ALL: u64 = i64::MAX as u64;

static GATES: Mutex<Vec<&'static AtomicU64>> = Mutex::new(Vec::new());
/// Opens every gate there is, for the end of the process.
pub(crate) fn open_all() {
    // Release: as any gate.
    lock(&GATES).iter().for_each(|gate| gate.store(OPEN_TO_ALL, Ordering::Release));
}

/// `Ok` for what CUDA calls success.
pub(crate) fn check(call: &str, code: u32) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(failed(format_args!("{call} answered {code}"))) }
}

/// Uses up time, without a system call that would let the core go to sleep.
pub(crate) fn idle(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        hint::spin_loop();
    }
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
        measuring::watch(open_all)?;
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

/// Waits until a stream of ours has nothing to do.
pub(crate) fn drain(stream: &Stream) -> Result<()> {
    stream.synchronize_with(&spinning()).map(drop)
}

/// So many rounds of each, in turn. Prints the table.
pub(crate) fn in_turn(
    title: &str,
    unit: &str,
    rounds: usize,
    entries: Vec<Entry<'_>>,
) -> Result<Vec<Summary>> {
    let rows = take_turns(title, rounds, entries)?;
    table(title, unit, &rows);
    Ok(rows.into_iter().map(|(_, summary)| summary).collect())
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
