//! An hour of all that events do: does it take more memory at its end, or more time?
//!
//! Threads go through an event's whole life in every way there is, and check what comes of it: values, order, failure. A
//! further one times four things every few milliseconds. The last quarter is compared with the second one: the first is for
//! warming up. Of what is timed, the median may grow by a quarter, and the 99th percentile to twice and 16 ms more, which is
//! what others on the machine may take away. What can be measured here and was not is a failure as well. Threads rest for as
//! long as they worked, so that what is timed is not the queue in front of the processor.

mod probe;
mod verdict;
mod worker;
mod world;

use super::stats::Summary;
use super::{host, memory, text};
use anyhow::{Context, Result, anyhow, bail, ensure};
use gpu_events::Device;
use probe::Prober;
use serde::Serialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};
use verdict::{Finding, Interval, Timed, Verdict, header, line, table, verdicts};
use worker::Worker;
use world::{Stop, World, settle};

/// Use events in every way for long, and see whether memory and latencies stay as they are
#[derive(Debug, clap::Args)]
pub struct SoakArgs {
    /// Device to use
    #[arg(long, value_name = "D", default_value = "cpu")]
    device: String,

    /// For how many minutes, fractions too
    #[arg(long, value_name = "M", default_value_t = 60.0, value_parser = minutes)]
    minutes: f64,

    /// Print JSON, a line for each interval and one for the verdicts
    #[arg(long)]
    json: bool,
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.01..=100_000.0).contains(&minutes) { Ok(minutes) } else { Err("from 0.01 to 100000".to_owned()) }
}

/// After so long without any news, something hangs.
const PATIENCE: Duration = Duration::from_secs(60);
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Soaks, and prints.
///
/// # Errors
/// If there is no such device, if anything came out wrong, or if something did not stay as it was.
pub fn run(args: &SoakArgs) -> Result<()> {
    let outcome = soak(args)?;
    let verdicts = &outcome.verdicts;
    if args.json {
        print_line(&outcome)?
    } else {
        text::print(table(outcome.operations, verdicts)?)?
    }
    let failed: Vec<_> =
        verdicts.iter().filter(|verdict| !verdict.finding.is_good()).map(|verdict| &*verdict.what).collect();
    ensure!(failed.is_empty(), "not flat, or not measured: {}", failed.join("; "));
    Ok(())
}

fn print_line(value: &impl Serialize) -> Result<()> {
    text::print(serde_json::to_string(value)? + "\n")
}

#[derive(Debug, Serialize)]
struct Outcome {
    operations: u64,
    intervals: usize,
    verdicts: Vec<Verdict>,
}

fn soak(args: &SoakArgs) -> Result<Outcome> {
    let device = Device::open(&args.device)?;
    let total = Duration::from_secs_f64(args.minutes * 60.0);
    let interval = if args.minutes < 5.0 { total / 20 } else { Duration::from_secs(60) };
    let count = (total.as_secs_f64() / interval.as_secs_f64()).round() as usize;

    let workers = host::cores().min(4);
    let world = Arc::new(World::new(&device, workers)?);
    let (ended, ends) = mpsc::channel();
    for index in 0..workers {
        let own = world.clone();
        spawn(format!("soak {index}"), &ended, move || Worker::new(own, index)?.run())?;
    }
    let own = world.clone();
    spawn("soak probe".to_owned(), &ended, move || Prober::new(&own)?.run())?;
    drop(ended);

    let outcome = watch(args, &world, &ends, interval, count);
    world.stop.set();
    let intervals = outcome?;
    for _ in 0..=workers {
        let end = ends.recv_timeout(PATIENCE);
        end.map_err(|_| anyhow!("a thread does not come to its end\n{}", device.stall_report()))??;
    }

    // Relaxed: the threads have ended.
    let [begun, kept] = [&world.spans.begun, &world.spans.kept].map(|count| count.load(Ordering::Relaxed));
    ensure!(begun == 0 || kept > 0, "none of {begun} spans was kept");

    let mut verdicts = verdicts(&intervals);
    verdicts.push(drained(world)?);
    let operations = intervals.last().map_or(0, |last| last.operations);
    Ok(Outcome { operations, intervals: intervals.len(), verdicts })
}

/// Runs `body` on a thread of its own, which says how it ended.
fn spawn(
    name: String,
    ended: &mpsc::Sender<Result<()>>,
    body: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<()> {
    let ended = ended.clone();
    let context = name.clone();
    std::thread::Builder::new().name(name).spawn(move || {
        let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(anyhow!("it panicked")));
        // Nobody listens once another thread's end has ended everything.
        let _ = ended.send(outcome.context(context));
    })?;
    Ok(())
}

/// Prints a line after each interval, until the time is over or a thread ends before its time.
fn watch(
    args: &SoakArgs,
    world: &World,
    ends: &mpsc::Receiver<Result<()>>,
    interval: Duration,
    count: usize,
) -> Result<Vec<Interval>> {
    if !args.json {
        text::print(header())?;
    }
    let start = Instant::now();
    let mut intervals: Vec<Interval> = Vec::with_capacity(count);
    let mut before = Before::read(world);
    let mut moved = vec![(start, 0); world.operations.len()];
    for n in 1..=count {
        let due = start + interval * n as u32;
        match ends.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(Err(error)) => return Err(error),
            Ok(Ok(())) | Err(mpsc::RecvTimeoutError::Disconnected) => bail!("a thread ended before its time"),
        }
        for (index, (since, last)) in moved.iter_mut().enumerate() {
            // Relaxed, here and below: a number to show.
            let now = world.operations[index].0.load(Ordering::Relaxed);
            if now != *last {
                (*since, *last) = (Instant::now(), now);
            }
            ensure!(
                since.elapsed() < PATIENCE + interval,
                "worker {index} stands still\n{}",
                world.device.stall_report()
            );
        }
        let now = Before::read(world);
        let row = now.since(&before, world, start.elapsed());
        if args.json {
            print_line(&row)?
        } else {
            text::print(line(&row)?)?
        }
        intervals.push(row);
        before = now;
    }
    Ok(intervals)
}

/// Readings that the next interval's are compared with.
struct Before {
    at: Instant,
    operations: u64,
    cpu: Option<Duration>,
    watch: host::Watch,
}

impl Before {
    fn read(world: &World) -> Self {
        let operations = world.operations.iter().map(|count| count.0.load(Ordering::Relaxed)).sum();
        let probing = Duration::from_nanos(world.probing.load(Ordering::Relaxed));
        let cpu = host::process_cpu().map(|cpu| cpu.saturating_sub(probing));
        Self { at: Instant::now(), operations, cpu, watch: host::Watch::start() }
    }

    fn since(&self, before: &Self, world: &World, elapsed: Duration) -> Interval {
        let operations = self.operations - before.operations;
        let cpu = self.cpu.zip(before.cpu).map(|(now, before)| now.saturating_sub(before));
        let statistics = world.pool.statistics();
        let mut samples = lock(&world.samples);
        let probes = samples.each_mut().map(|samples| {
            let summary = Summary::of(samples);
            samples.clear();
            summary.map(|summary| Timed { median_ns: summary.median, p99_ns: summary.p99 })
        });
        Interval {
            seconds: elapsed.as_secs_f64(),
            operations: self.operations,
            per_second: operations as f64 / (self.at - before.at).as_secs_f64(),
            cpu_ns: cpu.filter(|_| operations > 0).map(|cpu| cpu.as_nanos() as f64 / operations as f64),
            resident: memory::resident_bytes().ok(),
            live: statistics.live,
            idle: statistics.idle,
            probes,
            others: before.watch.read().map(|meanwhile| meanwhile.others + meanwhile.stolen),
        }
    }
}

/// Lets go of everything and sees that no event is left. Callback threads may still be at it for a moment.
fn drained(world: Arc<World>) -> Result<Verdict> {
    let (device, pool) = (world.device.clone(), world.pool.clone());
    let before = pool.statistics().live;
    for shared in &world.shared {
        settle(&shared.stream.record()?)?;
    }
    lock(&world.parcels).clear();
    drop(world);
    let (since, nap) = (Instant::now(), Stop::default());
    while pool.statistics().live > 0 && since.elapsed() < PATIENCE / 6 {
        nap.pause(Duration::from_millis(1));
    }
    let live = pool.statistics().live;
    if live > 0 {
        text::print(format!("{}\n", device.stall_report()))?;
    }
    Ok(Verdict {
        what: "live events, before and after a drain".to_owned(),
        second_quarter: Some(before as f64),
        last_quarter: Some(live as f64),
        limit: Some(0.0),
        finding: if live == 0 { Finding::Flat } else { Finding::NotFlat },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_more_than_none() {
        for bad in ["0", "-1", "NaN", "inf", "an hour"] {
            minutes(bad).unwrap_err();
        }
        assert_eq!(minutes("0.05"), Ok(0.05));
    }

    /// Whether it is flat is not for three seconds of a debug build to say.
    #[test]
    fn three_seconds_come_out_right() {
        let outcome = soak(&SoakArgs { device: "cpu".to_owned(), minutes: 0.05, json: true }).unwrap();
        assert_eq!(outcome.intervals, 20);
        assert!(outcome.operations > 1_000, "{outcome:?}");
        let drained = outcome.verdicts.last().unwrap();
        assert_eq!(drained.finding, Finding::Flat, "{drained:?}");
    }

    #[test]
    fn there_has_to_be_such_a_device() {
        soak(&SoakArgs { device: "none".to_owned(), minutes: 0.05, json: false }).unwrap_err();
    }
}
