//! On a GPU: ours beside cudarc's safe layer, and beside the raw driver, which is the limit of both.

use super::Bench;
use super::harness::{Group, Measure, Plan, Samples};
use anyhow::{Context, Result, ensure};
use cudarc::driver::sys::{self, CUevent, CUresult, CUstream};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, result};
use gpu_events::{Event, EventPool, Stream, WaitOptions, WaitOutcome, WaitStrategy};
use std::ffi::c_void;
use std::hint::{black_box, spin_loop};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Calls that are timed together; then the streams are drained, outside of what is timed. No more than a stream's queue has
/// room for, since what waits for room is not what is asked for.
const CALLS: u64 = 100;

pub(super) fn group<'a>(bench: &'a Bench) -> Group<'a> {
    let mut group = Group::new("CUDA");
    let Some(ordinal) = ordinal(bench).filter(|_| bench.peers) else { return group };
    let plan = &bench.plan;
    let mut rows = |name: &str, ours: Measure<'a>, cudarc: Measure<'a>, raw: (&str, Measure<'a>)| {
        let ours = group.variant(name, ours);
        let cudarc = group.variant("cudarc's safe layer", cudarc);
        let limit = group.variant(raw.0, raw.1);
        group.row(format!("{name}, beside cudarc"), ours, cudarc, []);
        group.row(format!("{name}, beside its limit"), ours, limit, []);
    };

    rows(
        "acquire+record+drop",
        ours(bench, |pool, [stream, _]| Ok(pool.acquire().record(stream)?)),
        theirs(plan, ordinal, |context, [stream, _]| Ok(context.new_event(None)?.record(stream)?)),
        ("cuEventRecord, one event again and again", raw(plan, ordinal, record)),
    );
    let timed = sys::CUevent_flags::CU_EVENT_DEFAULT;
    rows(
        "acquire+record+drop, timed",
        ours(bench, |pool, [stream, _]| Ok(pool.acquire_timed().record(stream)?)),
        theirs(plan, ordinal, move |context, [stream, _]| {
            Ok(context.new_event(Some(timed))?.record(stream)?)
        }),
        ("cuEventRecord of a timed event", raw_timed(plan, ordinal)),
    );
    rows(
        "record again",
        ours_with(bench, |event, [stream, _]| Ok(event.record(stream)?)),
        theirs_with(plan, ordinal, |event, [stream, _]| Ok(event.record(stream)?)),
        ("cuEventRecord", raw(plan, ordinal, record)),
    );
    rows(
        "record, and another stream waits",
        ours_with(bench, |event, [first, second]| {
            event.record(first)?;
            black_box(second.wait(event)?);
            Ok(())
        }),
        theirs_with(plan, ordinal, |event, [first, second]| {
            event.record(first)?;
            Ok(second.wait(event)?)
        }),
        (
            "cuEventRecord and cuStreamWaitEvent",
            raw(plan, ordinal, |event, [first, second]| {
                record(event, [first, second])?;
                // SAFETY: both are alive until the measurement is dropped.
                check(unsafe { sys::cuStreamWaitEvent(second, event, 0) })
            }),
        ),
    );
    rows(
        "status of a complete recording",
        ours_with(bench, |event, _| {
            black_box(black_box(event).status());
            Ok(())
        }),
        theirs_with(plan, ordinal, |event, _| {
            black_box(black_box(event).is_complete());
            Ok(())
        }),
        (
            "cuEventQuery",
            raw(plan, ordinal, |event, _| {
                // SAFETY: it is alive until the measurement is dropped.
                check(unsafe { sys::cuEventQuery(event) })
            }),
        ),
    );
    rows(
        "synchronize with a complete recording",
        ours_with(bench, |event, _| Ok(event.synchronize()?)),
        theirs_with(plan, ordinal, |event, _| Ok(event.synchronize()?)),
        (
            "cuEventSynchronize",
            raw(plan, ordinal, |event, _| {
                // SAFETY: it is alive until the measurement is dropped.
                check(unsafe { sys::cuEventSynchronize(event) })
            }),
        ),
    );

    let name = "from the host to the GPU and back";
    let ours = group.variant(name, round_trip(bench));
    let limit =
        group.variant("a word that the GPU waits for, and one that it writes", raw_round_trip(plan, ordinal));
    group.row(name, ours, limit, []);
    group
}

/// Which GPU the bench's device is, where it is one of CUDA's.
fn ordinal(bench: &Bench) -> Option<usize> {
    bench.device.name().strip_prefix("cuda:")?.parse().ok()
}

/// Times `call` by the hundred, and has `drain` wait for what it left, untimed.
fn in_batches(
    plan: &Plan,
    samples: &mut Samples,
    mut call: impl FnMut() -> Result<()>,
    mut drain: impl FnMut() -> Result<()>,
) -> Result<()> {
    for _ in 0..plan.pick(16, 2) {
        let start = Instant::now();
        for _ in 0..CALLS {
            call()?;
        }
        let took = start.elapsed();
        drain()?;
        samples.batch(took, CALLS);
    }
    Ok(())
}

/// What a measurement works with is made when it first runs.
fn made<T>(slot: &mut Option<T>, make: impl FnOnce() -> Result<T>) -> Result<&mut T> {
    Ok(match slot {
        Some(made) => made,
        none => none.insert(make()?),
    })
}

fn ours<'a>(bench: &'a Bench, call: impl Fn(&EventPool, &[Stream; 2]) -> Result<()> + 'a) -> Measure<'a> {
    let pool = EventPool::new(&bench.device);
    let mut streams = None;
    Box::new(move |samples| {
        let streams =
            made(&mut streams, || Ok([bench.device.create_stream()?, bench.device.create_stream()?]))?;
        let drain = || Ok(streams.iter().try_for_each(Stream::synchronize)?);
        in_batches(&bench.plan, samples, || call(&pool, streams), drain)
    })
}

/// With an event that was recorded, and is complete.
fn ours_with<'a>(bench: &'a Bench, call: impl Fn(&Event, &[Stream; 2]) -> Result<()> + 'a) -> Measure<'a> {
    let mut event = None;
    let mut streams: Option<[Stream; 2]> = None;
    Box::new(move |samples| {
        let streams =
            made(&mut streams, || Ok([bench.device.create_stream()?, bench.device.create_stream()?]))?;
        let event = made(&mut event, || Ok(streams[0].record()?))?;
        event.synchronize()?;
        let drain = || Ok(streams.iter().try_for_each(Stream::synchronize)?);
        in_batches(&bench.plan, samples, || call(event, streams), drain)
    })
}

struct Theirs {
    context: Arc<CudaContext>,
    streams: [Arc<CudaStream>; 2],
    event: CudaEvent,
}

impl Theirs {
    fn new(ordinal: usize) -> Result<Self> {
        let context = CudaContext::new(ordinal)?;
        let streams = [context.new_stream()?, context.new_stream()?];
        let event = context.new_event(None)?;
        event.record(&streams[0])?;
        event.synchronize()?;
        Ok(Self { context, streams, event })
    }

    fn drain(&self) -> Result<()> {
        Ok(self.streams.iter().try_for_each(|stream| stream.synchronize())?)
    }
}

fn theirs<'a>(
    plan: &'a Plan,
    ordinal: usize,
    call: impl Fn(&Arc<CudaContext>, &[Arc<CudaStream>; 2]) -> Result<()> + 'a,
) -> Measure<'a> {
    let mut theirs = None;
    Box::new(move |samples| {
        let theirs = made(&mut theirs, || Theirs::new(ordinal))?;
        in_batches(plan, samples, || call(&theirs.context, &theirs.streams), || theirs.drain())
    })
}

fn theirs_with<'a>(
    plan: &'a Plan,
    ordinal: usize,
    call: impl Fn(&CudaEvent, &[Arc<CudaStream>; 2]) -> Result<()> + 'a,
) -> Measure<'a> {
    let mut theirs = None;
    Box::new(move |samples| {
        let theirs = made(&mut theirs, || Theirs::new(ordinal))?;
        in_batches(plan, samples, || call(&theirs.event, &theirs.streams), || theirs.drain())
    })
}

fn check(code: CUresult) -> Result<()> {
    Ok(code.result()?)
}

fn record(event: CUevent, [stream, _]: [CUstream; 2]) -> Result<()> {
    // SAFETY: both are alive until the measurement is dropped.
    check(unsafe { sys::cuEventRecord(event, stream) })
}

/// The driver's functions alone, on streams and an event that cudarc made.
fn raw<'a>(
    plan: &'a Plan,
    ordinal: usize,
    call: impl Fn(CUevent, [CUstream; 2]) -> Result<()> + 'a,
) -> Measure<'a> {
    let mut theirs = None;
    Box::new(move |samples| {
        let theirs = made(&mut theirs, || Theirs::new(ordinal))?;
        // The calls below go to whichever context is current to this thread.
        theirs.context.bind_to_thread()?;
        let (event, [first, second]) = (theirs.event.cu_event(), &theirs.streams);
        let streams = [first.cu_stream(), second.cu_stream()];
        in_batches(plan, samples, || call(event, streams), || theirs.drain())
    })
}

fn raw_timed<'a>(plan: &'a Plan, ordinal: usize) -> Measure<'a> {
    let mut timed = None;
    Box::new(move |samples| {
        let (theirs, event) = made(&mut timed, || {
            let theirs = Theirs::new(ordinal)?;
            let event = theirs.context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))?;
            Ok((theirs, event))
        })?;
        theirs.context.bind_to_thread()?;
        let streams = [theirs.streams[0].cu_stream(), theirs.streams[1].cu_stream()];
        in_batches(plan, samples, || record(event.cu_event(), streams), || theirs.drain())
    })
}

/// A stream waits for the host and is recorded; from the host's word to its knowing that the recording is complete.
fn round_trip<'a>(bench: &'a Bench) -> Measure<'a> {
    let mut stream = None;
    Box::new(move |samples| {
        let stream = made(&mut stream, || Ok(bench.device.create_stream()?))?;
        let spin = WaitOptions::new().strategy(WaitStrategy::Spin);
        for _ in 0..bench.plan.pick(32, 2) {
            let (gate, open) = bench.device.host_event()?;
            stream.wait(&gate)?;
            let event = stream.record()?;
            stream.flush()?;
            let start = Instant::now();
            open.complete();
            let outcome = event.wait_with(&spin)?;
            ensure!(outcome == WaitOutcome::Complete, "a wait without a limit timed out");
            samples.batch(start.elapsed(), 1);
        }
        Ok(())
    })
}

/// Two words in pinned memory, as the host and as the GPU sees them.
struct Words {
    theirs: Theirs,
    host: *const AtomicU64,
    gpu: sys::CUdeviceptr,
    turn: u64,
}

/// In bytes: a word in a line of its own.
const LINE: usize = 128;

impl Words {
    fn new(ordinal: usize) -> Result<Self> {
        let theirs = Theirs::new(ordinal)?;
        theirs.context.bind_to_thread()?;
        // SAFETY: the context is current.
        let host = unsafe { result::malloc_host(2 * LINE, 0) }?;
        // SAFETY: they are as many bytes, and nobody else's.
        unsafe { ptr::write_bytes(host.cast::<u8>(), 0, 2 * LINE) };
        let mut gpu = 0;
        // SAFETY: the memory is pinned, by the call above.
        check(unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut gpu, host, 0) })?;
        Ok(Self { theirs, host: host.cast::<AtomicU64>().cast_const(), gpu, turn: 0 })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: there are two of them, a line apart.
        let word = unsafe { self.host.byte_add(index * LINE) };
        // SAFETY: they are aligned, initialized, and live until `self` is dropped; the GPU writes them whole.
        unsafe { &*word }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // What is left undone at the end of a measurement that failed goes with the process.
        if self.theirs.drain().is_ok() {
            // SAFETY: it came from `malloc_host`, and nothing on the GPU refers to it any more.
            let _ = unsafe { result::free_host(self.host.cast_mut().cast::<c_void>()) };
        }
    }
}

fn raw_round_trip<'a>(plan: &'a Plan, ordinal: usize) -> Measure<'a> {
    let mut words = None;
    Box::new(move |samples| {
        let words = made(&mut words, || Words::new(ordinal))?;
        words.theirs.context.bind_to_thread()?;
        let stream = words.theirs.streams[0].cu_stream();
        for _ in 0..plan.pick(32, 2) {
            words.turn += 1;
            let at_least = sys::CUstreamWaitValue_flags::CU_STREAM_WAIT_VALUE_GEQ as u32;
            // SAFETY: stream and word are alive until all of it is drained.
            check(unsafe { sys::cuStreamWaitValue64_v2(stream, words.gpu, words.turn, at_least) })?;
            let back = words.gpu + LINE as u64;
            let plainly = sys::CUstreamWriteValue_flags::CU_STREAM_WRITE_VALUE_DEFAULT as u32;
            // SAFETY: as above.
            check(unsafe { sys::cuStreamWriteValue64_v2(stream, back, words.turn, plainly) })?;
            let start = Instant::now();
            // Release and acquire: as with another thread.
            words.word(0).store(words.turn, Ordering::Release);
            while words.word(1).load(Ordering::Acquire) < words.turn {
                spin_loop();
            }
            samples.batch(start.elapsed(), 1);
        }
        let seen = words.word(1).load(Ordering::Acquire);
        ensure!(seen == words.turn, "the GPU wrote {seen}, not {}", words.turn);
        words.theirs.drain().context("draining")
    })
}
