//! CPU time that waiting takes, of the process and of this crate's own threads.

use crate::{
    bench::{Bench, submit, work},
    measuring::{failed, sleep, step},
    report::{Goal, figure, goals},
};
use futures_lite::future::block_on;
use gpu_events::{Event, Result, Stream};
use std::{
    fs,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

const STREAMS: usize = 8;
const EVENTS: usize = 1_000;
const TIME: Duration = Duration::from_secs(2);

/// CPU time so far.
#[derive(Clone, Copy)]
struct Used {
    process: Duration,
    ours: Duration,
}

impl Used {
    fn now(bench: &Bench) -> Result<Self> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes to `time` alone.
        if unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) } != 0 {
            return Err(failed("clock_gettime refused the clock of the process"));
        }
        let process = Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0));
        let unread = |error| failed(format_args!("/proc/self/task: {error}"));
        let mut ours = Duration::ZERO;
        for task in fs::read_dir("/proc/self/task").map_err(unread)? {
            let task = task.map_err(unread)?.path();
            let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
            if is_ours(bench, name.trim_end()) {
                ours += cpu_time(&task);
            }
        }
        Ok(Self { process, ours })
    }
}

/// The pump, the thread that runs callbacks, and the one that drops what users gave; the system keeps 15 letters.
fn is_ours(bench: &Bench, name: &str) -> bool {
    let info = |device: &gpu_events::Device| [device.name().to_owned(), device.info().description.clone()];
    name.starts_with("gpu-events")
        || [&bench.device, &bench.system].into_iter().flat_map(info).any(|its| {
            let named = |full: String| full.bytes().take(15).eq(name.bytes());
            named(format!("{its} callbacks")) || named(its)
        })
}

/// By nanoseconds where the system counts those for each thread, and by ticks of 10 ms elsewhere.
fn cpu_time(task: &std::path::Path) -> Duration {
    let schedstat = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    if let Some(nanos) = schedstat.split(' ').next().and_then(|it| it.parse().ok()) {
        return Duration::from_nanos(nanos);
    }
    let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
    // Behind the name, in which there may be anything, the times are the 12th and 13th.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|it| it.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// What went by, and what of it was CPU time.
struct Row {
    name: &'static str,
    wall: Duration,
    process: Duration,
    ours: Duration,
}

impl Row {
    fn share(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() / self.wall.as_secs_f64() * 100.0
    }
}

/// A thread, a callback and a future for each of these, and how long until all of them know.
fn observed(
    bench: &Bench,
    name: &'static str,
    events: &[Event],
    during: impl FnOnce() -> Result<()>,
) -> Result<Row> {
    thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        for event in events {
            let callback = tell.clone();
            event.on_complete(move |outcome| drop(callback.send(outcome)))?;
            let blocked = tell.clone();
            scope.spawn(move || drop(blocked.send(event.synchronize())));
            let task = tell.clone();
            scope.spawn(move || drop(task.send(block_on(event.completion()))));
        }
        drop(tell);
        // They are all asleep.
        sleep(Duration::from_millis(50));
        let (begun, before) = (Instant::now(), Used::now(bench)?);
        let outcome = during();
        let (wall, after) = (begun.elapsed(), Used::now(bench)?);
        // After a failure, what is open goes with `during`.
        outcome?;
        for _ in 0..events.len() * 3 {
            told.recv().map_err(|_| failed("somebody was never told"))??;
        }
        let process = after.process.saturating_sub(before.process);
        Ok(Row { name, wall, process, ours: after.ours.saturating_sub(before.ours) })
    })
}

fn last_of_each(events: &[Event]) -> &[Event] {
    &events[events.len() - STREAMS..]
}

fn gated(bench: &Bench, streams: &[Stream]) -> Result<Row> {
    let (gate, open) = bench.device.host_event()?;
    for stream in streams {
        stream.wait(&gate)?;
    }
    let events = streams.iter().cycle().take(EVENTS).map(Stream::record).collect::<Result<Vec<_>>>()?;
    observed(
        bench,
        "behind a closed gate; on each stream a thread, a callback, a future",
        last_of_each(&events),
        || {
            sleep(TIME);
            open.complete();
            Ok(())
        },
    )
}

/// Work that runs for as long, cut into as many pieces.
fn running(bench: &Bench, streams: &[Stream], all: bool) -> Result<Row> {
    let piece = bench.lasting(TIME / EVENTS as u32)?;
    let mut events = Vec::new();
    for stream in streams.iter().cycle().take(EVENTS) {
        submit(stream, work(piece))?;
        events.push(stream.record()?);
    }
    let name = if all {
        "work that runs; the same, and a callback on every event"
    } else {
        "work that runs; on each stream a thread, a callback, a future"
    };
    if all {
        for event in &events {
            event.on_complete(drop)?;
        }
    }
    let last = last_of_each(&events);
    observed(bench, name, last, || streams.iter().try_for_each(Stream::synchronize))
}

/// Small pieces, that a thread keeps coming for as long.
fn fed(bench: &Bench, stream: &Stream) -> Result<Row> {
    let piece = bench.piece()?;
    let name = "pieces kept coming by a thread, a recording behind each, one callback in 16";
    observed(bench, name, &[], || {
        let begun = Instant::now();
        let mut count = 0_usize;
        while begun.elapsed() < TIME {
            submit(stream, work(piece))?;
            let event = stream.record()?;
            count += 1;
            if count.is_multiple_of(16) {
                event.on_complete(drop)?;
            }
        }
        stream.synchronize()
    })
}

pub(crate) fn run(bench: &Bench) -> Result<()> {
    let streams = (0..STREAMS).map(|_| bench.device.create_stream()).collect::<Result<Vec<_>>>()?;
    let mut rows = Vec::new();
    for _ in 0..2 {
        rows.push(step("a closed gate", || gated(bench, &streams))?);
        rows.push(step("running work", || running(bench, &streams, false))?);
        rows.push(step("running work", || running(bench, &streams, true))?);
        rows.push(step("fed work", || fed(bench, &streams[0]))?);
    }
    println!(
        "\n{EVENTS} pending events on {STREAMS} streams, twice each. On a device that is a CPU, the process is the device as well."
    );
    println!(
        "\n| CPU time, % of one core | this crate's threads | the process | seconds |\n| --- | --- | --- | --- |"
    );
    for row in &rows {
        println!(
            "| {} | {} | {} | {:.2} |",
            row.name,
            figure(row.share(row.ours)),
            figure(row.share(row.process)),
            row.wall.as_secs_f64()
        );
    }
    let worst = |index: usize, cpu: fn(&Row) -> Duration| {
        rows.iter().skip(index).step_by(4).map(|row| row.share(cpu(row))).fold(0.0, f64::max)
    };
    goals(&[
        ("a closed gate: the process, %", worst(0, |row| row.process), Goal::AtMost(2.0)),
        ("a closed gate: this crate's threads, %", worst(0, |row| row.ours), Goal::AtMost(2.0)),
        ("work that runs: this crate's threads, %", worst(1, |row| row.ours), Goal::AtMost(2.0)),
        ("the same, a callback on every event, %", worst(2, |row| row.ours), Goal::None),
        ("pieces kept coming: this crate's threads, %", worst(3, |row| row.ours), Goal::None),
    ]);
    Ok(())
}
