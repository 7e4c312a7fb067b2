//! Times of events beside the host's clock.

use crate::{
    bench::{Bench, submit, work},
    measuring::{Summary, failed, sleep, step},
    report::{Goal, figure, goals},
};
use gpu_events::{Event, Result, Stream};
use std::time::{Duration, Instant};

const STREAMS: usize = 8;
const ROUNDS: usize = 100;
const WORK: Duration = Duration::from_micros(200);
const DRIFT: Duration = Duration::from_secs(10);

pub(crate) fn run(bench: &Bench) -> Result<()> {
    let clock = bench.device.clock();
    println!("\nClock: {}, in steps of {:?}.", clock.source(), clock.resolution());
    windows(bench)?;
    uncertainty(bench)?;
    step("a long interval", || drift(bench))
}

/// Timed pairs around work on many streams at a time, each inside of what the host saw.
fn windows(bench: &Bench) -> Result<()> {
    let streams = (0..STREAMS).map(|_| bench.device.create_stream()).collect::<Result<Vec<_>>>()?;
    let commands = bench.lasting(WORK)?;
    let resolution = bench.device.clock().resolution();
    let (mut elapsed, mut windows) = (Vec::new(), Vec::new());
    let (mut pairs, mut longer, mut placed, mut outside) = (0, 0, 0, 0);
    step("timed pairs", || {
        for _ in 0..ROUNDS {
            let correlation = bench.device.correlate().ok();
            let begun = Instant::now();
            let pair = |stream: &Stream| -> Result<(Event, Event)> {
                let start = stream.record_timed()?;
                submit(stream, work(commands))?;
                Ok((start, stream.record_timed()?))
            };
            let recorded = streams.iter().map(pair).collect::<Result<Vec<_>>>()?;
            streams.iter().try_for_each(Stream::synchronize)?;
            let ended = Instant::now();
            for (start, end) in &recorded {
                let time = end.elapsed_since(start)?.duration();
                pairs += 1;
                longer += usize::from(time > ended - begun + resolution);
                elapsed.push(time.as_nanos() as f64 / 1e3);
                windows.push((ended - begun).as_nanos() as f64 / 1e3);
                for event in [start, end] {
                    let Some(correlation) = &correlation else { continue };
                    let (at, slack) = event.completion_time()?.on_host(correlation)?;
                    placed += 1;
                    outside += usize::from(at + slack < begun || at > ended + slack);
                }
            }
        }
        Ok(())
    })?;
    let (elapsed, windows) = (Summary::of(&elapsed)?, Summary::of(&windows)?);
    println!(
        "\n{pairs} timed pairs around {WORK:?} of work, on {STREAMS} streams at a time: {} µs (least {}, p99 {}) within host windows of {} µs.",
        figure(elapsed.median),
        figure(elapsed.least),
        figure(elapsed.p99),
        figure(windows.median)
    );
    goals(&[
        ("pairs longer than the host's window", longer as f64, Goal::AtMost(0.0)),
        (&format!("times placed outside of the window, of {placed}"), outside as f64, Goal::AtMost(0.0)),
    ]);
    Ok(())
}

fn uncertainty(bench: &Bench) -> Result<()> {
    let mut found = Vec::new();
    for _ in 0..ROUNDS {
        match bench.device.correlate() {
            Ok(correlation) => found.push(correlation.uncertainty().as_nanos() as f64),
            Err(error) => {
                println!("\n`correlate`: {error}");
                return Ok(());
            }
        }
    }
    let found = Summary::of(&found)?;
    println!(
        "\n`correlate`, {} times: uncertain by {} ns (p99 {}, most {}).",
        found.count,
        figure(found.median),
        figure(found.p99),
        figure(found.most)
    );
    Ok(())
}

/// A long interval by the device's clock and by the host's.
fn drift(bench: &Bench) -> Result<()> {
    let stream = bench.device.create_stream()?;
    let commands = bench.lasting(WORK)?;
    let stamp = || -> Result<(Event, Instant, Instant)> {
        let before = Instant::now();
        submit(&stream, work(commands))?;
        let event = stream.record_timed()?;
        event.synchronize()?;
        Ok((event, before, Instant::now()))
    };
    // The first submissions are slow.
    stamp()?;
    let first = (stamp()?, bench.device.correlate());
    sleep(DRIFT);
    let last = (stamp()?, bench.device.correlate());
    let ((start, before_start, after_start), (end, before_end, after_end)) = (first.0, last.0);
    let elapsed = end.elapsed_since(&start)?.duration();
    let (least, most) = (before_end - after_start, after_end - before_start);
    println!(
        "\nTwo events {DRIFT:?} apart: {elapsed:?}; by the host between {least:?} and {most:?}: {}.",
        if (least..=most).contains(&elapsed) { "within" } else { "**outside**" }
    );
    let (Ok(first), Ok(last)) = (first.1, last.1) else { return Ok(()) };
    let device = last.device().since(&first.device())?.duration();
    let host = last.host().checked_duration_since(first.host());
    let host = host.ok_or_else(|| failed("the host's clock went back"))?;
    let apart = device.as_nanos() as f64 - host.as_nanos() as f64;
    println!(
        "Between two correlations the device's clock went {} ns further than the host's: {:.3} ppm, uncertain by {:?}.",
        figure(apart),
        apart / host.as_secs_f64() / 1e3,
        first.uncertainty() + last.uncertainty()
    );
    Ok(())
}
