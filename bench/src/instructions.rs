//! Paths of the library for callgrind to count the instructions of: `gpu-events-bench count`.
//!
//! A time is noise on a machine that others use as well; how many instructions an operation takes is not. A path does
//! its operation as often as it is told and nothing else, so that the difference between two runs is what the
//! operations took. `cargo xtask instructions` makes that difference and holds it to `bench/instructions.json`.

use super::seed::{SeedEvent, SeedHandle, SeedPool, SeedTable};
use super::{HeldStream, host, text};
use anyhow::{Context, Result, ensure};
use futures_lite::future;
use gpu_events::trace::Tracer;
use gpu_events::{
    Device, Event, EventPool, EventTable, Status, StreamWait, WaitOptions, WaitOutcome, WaitStrategy,
};
use serde::Serialize;
use std::hint::black_box;

/// Does one operation as often as it is told, for callgrind to count
#[derive(Debug, clap::Args)]
pub struct CountArgs {
    /// Print a JSON list of the paths instead
    #[arg(long, conflicts_with_all = ["path", "operations"])]
    list: bool,

    /// What to do
    #[arg(required_unless_present = "list")]
    path: Option<String>,

    /// How often
    #[arg(value_name = "OPERATIONS", required_unless_present = "list")]
    operations: Option<u64>,

    /// Do it the seed's way
    #[arg(long)]
    seed: bool,
}

/// Who carries an operation out, and so whose instructions count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Counted {
    /// The calling thread, within [`counted`].
    Caller,
    /// All threads, from start to end: the calling one and a single worker, who take turns.
    Process,
}

/// Does the operation so many times, having set up what it takes.
type Run = fn(&Device, u64) -> Result<()>;

/// An operation that is counted.
#[derive(Clone, Copy, Debug, Serialize)]
struct Path {
    name: &'static str,
    counted: Counted,
    #[serde(skip)]
    ours: Run,
    /// Whether there is the seed's way.
    #[serde(serialize_with = "is_some")]
    seed: Option<Run>,
}

/// The functions mean nothing to whoever reads the list.
fn is_some<S: serde::Serializer>(seed: &Option<Run>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bool(seed.is_some())
}

const fn path(name: &'static str, ours: Run, seed: Option<Run>) -> Path {
    Path { name, counted: Counted::Caller, ours, seed }
}

const PATHS: &[Path] = &[
    path("acquire+drop", acquire, Some(acquire_seed)),
    path(
        "acquire+record+complete+drop, untimed",
        |device, times| on_idle_stream(device, times, EventPool::acquire),
        Some(|_, times| record_seed(times, SeedEvent::complete)),
    ),
    path(
        "acquire+record+complete+drop, timed",
        |device, times| on_idle_stream(device, times, EventPool::acquire_timed),
        Some(|_, times| record_seed(times, SeedEvent::complete_timed)),
    ),
    path("acquire+record+drop on a busy stream", on_busy_stream, None),
    path("acquire+record+complete+release by id", by_id, Some(by_id_seed)),
    path("status, known", status_known, Some(|_, times| status_seed(times, true))),
    path("status, pending", status_pending, Some(|_, times| status_seed(times, false))),
    path("statuses of 64, pending", statuses, Some(statuses_seed)),
    path("host wait for a complete event", wait_complete, Some(wait_complete_seed)),
    path("stream wait for a complete event", stream_wait_complete, None),
    path("record, and a stream's wait for it, pending", stream_wait_pending, None),
    Path { name: "record, wait and hand-over", counted: Counted::Process, ours: hand_over, seed: None },
    path("poll and drop of a future", poll, None),
    path("on_complete+cancel", callback, None),
    path("elapsed", elapsed, None),
    path("host event, made and completed", host_event, None),
    path("span, tracing off", span_off, None),
];

/// Does one path's operations, or lists the paths.
///
/// # Errors
/// If there is no such path, if it has no seed's way, or if the library fails.
pub fn count(args: &CountArgs) -> Result<()> {
    let (Some(name), Some(operations)) = (&args.path, args.operations) else {
        return text::print_json(&PATHS);
    };
    let path = PATHS.iter().find(|path| path.name == name);
    let path = path.with_context(|| format!("no path is called {name:?}; --list lists them"))?;
    let run = if args.seed {
        path.seed.with_context(|| format!("there is no seed's way of {name:?}"))?
    } else {
        path.ours
    };
    // On one core the device has a single worker, and who does what is the same in every run.
    let _pinned = host::pin_to_core(0);
    let device = Device::open("cpu")?;
    settle(&device)?;
    run(&device, operations)
}

/// Sees the worker through all that it was given before: what it does meanwhile, and the memory that it does it in, is
/// otherwise now before and now after what is counted.
fn settle(device: &Device) -> Result<()> {
    let stream = device.create_stream()?;
    stream.cpu()?.enqueue(|| black_box(()))?;
    let outcome = stream.synchronize_with(&parked())?;
    ensure!(outcome == WaitOutcome::Complete, "a wait without a limit timed out");
    Ok(())
}

/// Who spins does so as often as the machine's load will have it.
fn parked() -> WaitOptions {
    WaitOptions::new().strategy(WaitStrategy::Park)
}

/// Callgrind finds this function by its name, and counts what is done within it.
#[inline(never)]
fn counted(times: u64, mut operation: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 0..times {
        operation()?;
    }
    Ok(())
}

/// A stream that a gate holds back, and that the worker has parked there.
fn held_stream(device: &Device) -> Result<HeldStream> {
    let held = HeldStream::new(device)?;
    settle(device)?;
    Ok(held)
}

fn acquire(device: &Device, times: u64) -> Result<()> {
    let pool = EventPool::new(device);
    counted(times, || {
        drop(black_box(black_box(&pool).acquire()));
        Ok(())
    })
}

fn acquire_seed(_device: &Device, times: u64) -> Result<()> {
    let pool = SeedPool::default();
    counted(times, || {
        drop(black_box(black_box(&pool).acquire()));
        Ok(())
    })
}

fn on_idle_stream(device: &Device, times: u64, acquire: impl Fn(&EventPool) -> Event) -> Result<()> {
    let (pool, stream) = (EventPool::new(device), device.create_stream()?);
    counted(times, || {
        let event = acquire(black_box(&pool));
        event.record(black_box(&stream))?;
        black_box(&event);
        Ok(())
    })?;
    let event = stream.record()?;
    ensure!(event.is_complete()?, "a recording on an idle stream is not complete on the spot");
    Ok(())
}

fn on_busy_stream(device: &Device, times: u64) -> Result<()> {
    let (pool, held) = (EventPool::new(device), held_stream(device)?);
    counted(times, || {
        let event = black_box(&pool).acquire();
        event.record(black_box(&held.stream))?;
        black_box(&event);
        Ok(())
    })?;
    Ok(held.release()?)
}

fn record_seed(times: u64, complete: impl Fn(&SeedEvent)) -> Result<()> {
    let pool = SeedPool::default();
    counted(times, || {
        let handle = black_box(&pool).acquire();
        handle.event().record();
        complete(handle.event());
        black_box(handle.event());
        Ok(())
    })
}

fn by_id(device: &Device, times: u64) -> Result<()> {
    let (table, stream) = (EventTable::new(&EventPool::new(device)), device.create_stream()?);
    counted(times, || {
        let id = black_box(&table).acquire(false)?;
        table.record(id, Some(black_box(&stream)), false)?;
        Ok(table.release(id)?)
    })
}

fn by_id_seed(_device: &Device, times: u64) -> Result<()> {
    let table = SeedTable::default();
    counted(times, || {
        let id = black_box(&table).acquire();
        table.with(id, SeedEvent::record);
        table.with(id, SeedEvent::complete);
        table.release(id);
        Ok(())
    })
}

/// A recording that has been seen to be complete.
fn complete(device: &Device) -> Result<Event> {
    let event = device.create_stream()?.record()?;
    event.synchronize()?;
    ensure!(event.status() == Status::Complete, "an event that was waited for is not complete");
    Ok(event)
}

/// A recording that stays pending, and what holds it.
fn pending(device: &Device) -> Result<(Event, HeldStream)> {
    let held = held_stream(device)?;
    let event = held.stream.record()?;
    ensure!(event.status() == Status::Pending, "an event behind a gate is not pending");
    Ok((event, held))
}

fn status_known(device: &Device, times: u64) -> Result<()> {
    let event = complete(device)?;
    ask(times, || black_box(&event).status())
}

fn status_pending(device: &Device, times: u64) -> Result<()> {
    let (event, held) = pending(device)?;
    ask(times, || black_box(&event).status())?;
    Ok(held.release()?)
}

fn ask<T>(times: u64, question: impl Fn() -> T) -> Result<()> {
    counted(times, || {
        black_box(question());
        Ok(())
    })
}

fn recorded_seed(pool: &SeedPool, complete: bool) -> SeedHandle {
    let handle = pool.acquire();
    handle.event().record();
    if complete {
        handle.event().complete();
    }
    handle
}

fn status_seed(times: u64, complete: bool) -> Result<()> {
    let handle = recorded_seed(&SeedPool::default(), complete);
    ask(times, || black_box(handle.event()).query())
}

fn statuses(device: &Device, times: u64) -> Result<()> {
    let held = held_stream(device)?;
    let events = (0..64).map(|_| held.stream.record()).collect::<gpu_events::Result<Vec<_>>>()?;
    ask(times, || gpu_events::statuses(black_box(&events)))?;
    Ok(held.release()?)
}

fn statuses_seed(_device: &Device, times: u64) -> Result<()> {
    let pool = SeedPool::default();
    let handles: Vec<SeedHandle> = (0..64).map(|_| recorded_seed(&pool, false)).collect();
    ask(times, || black_box(&handles).iter().map(|handle| handle.event().query()).collect::<Vec<_>>())
}

fn wait_complete(device: &Device, times: u64) -> Result<()> {
    let event = complete(device)?;
    counted(times, || Ok(black_box(&event).synchronize()?))
}

fn wait_complete_seed(_device: &Device, times: u64) -> Result<()> {
    let handle = recorded_seed(&SeedPool::default(), true);
    counted(times, || {
        black_box(handle.event()).synchronize();
        Ok(())
    })
}

fn stream_wait_complete(device: &Device, times: u64) -> Result<()> {
    let (event, stream) = (complete(device)?, device.create_stream()?);
    ask(times, || black_box(&stream).wait(black_box(&event)))?;
    ensure!(stream.wait(&event)? == StreamWait::Nothing, "a wait for what is complete was inserted");
    Ok(())
}

fn stream_wait_pending(device: &Device, times: u64) -> Result<()> {
    let (source, waiting) = (held_stream(device)?, held_stream(device)?);
    counted(times, || {
        let event = black_box(&source.stream).record()?;
        black_box(black_box(&waiting.stream).wait(&event)?);
        Ok(())
    })?;
    ensure!(
        waiting.stream.wait(&source.stream.record()?)?.inserted(),
        "a wait for what is pending is needed"
    );
    source.release()?;
    Ok(waiting.release()?)
}

/// Two streams play ping-pong, all of it queued behind one gate. An operation is one hand-over with all that it takes,
/// from its recording on.
fn hand_over(device: &Device, times: u64) -> Result<()> {
    let (mut from, mut to) = (device.create_stream()?, device.create_stream()?);
    let (gate, open) = device.host_event()?;
    from.wait(&gate)?;
    to.wait(&gate)?;
    settle(device)?;
    for _ in 0..times {
        to.wait(&from.record()?)?;
        std::mem::swap(&mut from, &mut to);
    }
    let last = from.record()?;
    open.complete();
    let outcome = last.wait_with(&parked())?;
    ensure!(outcome == WaitOutcome::Complete, "a wait without a limit timed out");
    Ok(())
}

fn poll(device: &Device, times: u64) -> Result<()> {
    let (event, held) = pending(device)?;
    counted(times, || {
        let polled = future::block_on(future::poll_once(black_box(&event).completion()));
        ensure!(polled.is_none(), "an event behind a gate is complete");
        Ok(())
    })?;
    Ok(held.release()?)
}

fn callback(device: &Device, times: u64) -> Result<()> {
    let (event, held) = pending(device)?;
    counted(times, || {
        let callback = black_box(&event).on_complete(|result| drop(black_box(result)))?;
        ensure!(callback.cancel(), "the callback of a pending event can't be canceled");
        Ok(())
    })?;
    Ok(held.release()?)
}

fn elapsed(device: &Device, times: u64) -> Result<()> {
    let stream = device.create_stream()?;
    let (start, end) = (stream.record_timed()?, stream.record_timed()?);
    end.synchronize()?;
    counted(times, || {
        black_box(black_box(&end).elapsed_since(black_box(&start))?);
        Ok(())
    })
}

fn host_event(device: &Device, times: u64) -> Result<()> {
    counted(times, || {
        let (event, signal) = black_box(device).host_event()?;
        signal.complete();
        black_box(&event);
        Ok(())
    })
}

fn span_off(device: &Device, times: u64) -> Result<()> {
    let (tracer, stream) = (Tracer::off(), device.create_stream()?);
    counted(times, || {
        let span = black_box(&tracer).span(black_box(&stream), "span");
        black_box(());
        drop(span);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn args(path: &str, seed: bool) -> CountArgs {
        CountArgs { list: false, path: Some(path.to_owned()), operations: Some(100), seed }
    }

    #[test]
    fn every_path_runs_in_both_ways() {
        let mut names = HashSet::new();
        for path in PATHS {
            assert!(names.insert(path.name), "{} is there twice", path.name);
            count(&args(path.name, false)).unwrap();
            assert_eq!(count(&args(path.name, true)).is_ok(), path.seed.is_some(), "{}", path.name);
        }
    }

    #[test]
    fn an_unknown_path_is_named() {
        let error = count(&args("no such path", false)).unwrap_err();
        assert!(error.to_string().contains("no such path"), "{error}");
    }

    #[test]
    fn the_list_says_what_xtask_asks_for() {
        let list = serde_json::to_value(PATHS).unwrap();
        assert_eq!(list[0], serde_json::json!({ "name": "acquire+drop", "counted": "caller", "seed": true }));
    }
}
