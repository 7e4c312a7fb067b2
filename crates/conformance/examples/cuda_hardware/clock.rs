//! Times of events beside the kernels' own `%globaltimer`.

use crate::measure::{self, Bench, Gate, Summary, Times, failed, reach, sleep, step};
use gpu_events::{Device, Event, Result, Signal, Status, Stream, cuda};
use std::time::{Duration, Instant};

pub(crate) fn run(bench: &Bench) -> Result<()> {
    let mut stamps = Vec::new();
    for signal in [Signal::Cheap, Signal::Prompt] {
        let device = cuda::open(0, signal)?;
        println!("\n{signal:?}: {:?}", device.clock());
        for (time, rounds) in [(10, 1_000), (10_000, 100)] {
            intervals(bench, &device, Duration::from_micros(time), rounds, &mut stamps)?;
        }
        hold(&device)?;
    }
    intervals(bench, &cuda::open(0, Signal::Cheap)?, Duration::from_secs(10), 2, &mut stamps)?;
    granularity(stamps)
}

fn signed(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| failed("a time that is no time"))
}

/// An event right behind a kernel, another right behind the next: the time between the two events is the time between the
/// two kernels' ends, by another clock. What lies between a kernel's end and the event behind it is in both, and cancels.
fn intervals(
    bench: &Bench,
    device: &Device,
    time: Duration,
    rounds: usize,
    stamps: &mut Vec<u64>,
) -> Result<()> {
    let stream = device.create_stream()?;
    let raw = stream.cuda()?.raw();
    let mut gate = bench.gate()?;
    let (first, second) = (bench.times()?, bench.times()?);
    let (mut apart, mut beyond) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        step(format_args!("a kernel of {time:?} between two events, round {round}"), || {
            first.clear();
            second.clear();
            gate.close(bench, raw)?;
            bench.kernels.timed(raw, Duration::ZERO, first.pointer())?;
            let start = stream.record_timed()?;
            bench.kernels.timed(raw, time, second.pointer())?;
            let end = stream.record_timed()?;
            gate.open();
            end.synchronize()?;
            bench.drain(raw)?;
            let elapsed = signed(end.elapsed_since(&start)?.nanos())?;
            let between = signed(second.ended()?)? - signed(first.ended()?)?;
            apart.push((elapsed - between) as f64);
            beyond.push((elapsed - signed(second.took()?)?) as f64);
            stamps.extend([first.ended()?, second.begin.get(), second.ended()?]);
            Ok(())
        })?;
    }
    let of = Summary::of(&apart)?;
    let centred: Vec<f64> = apart.iter().map(|it| (it - of.median).abs()).collect();
    let beyond = Summary::of(&beyond)?;
    measure::table(
        &format!("a kernel of {time:?}: elapsed against %globaltimer"),
        "ns",
        &[
            ("elapsed - (end of this kernel - end of the one before)".to_owned(), of),
            ("  its distance from its median".to_owned(), Summary::of(&centred)?),
            ("elapsed - the kernel's own time (launch and all)".to_owned(), beyond),
        ],
    );
    let resolution = device.clock().resolution().as_nanos() as f64;
    let within = centred.iter().filter(|it| **it <= resolution).count() * 100 / centred.len();
    println!(
        "  = within the stated resolution: {within} % of the differences, from their median; the median itself {}",
        if of.median.abs() <= resolution { "too" } else { "NOT" }
    );
    println!(
        "  least difference {:.0} ns, most {:.0}; stated resolution {:?}; {:.4} ppm; least beyond the kernel's own time {:.0} ns{}",
        of.least,
        of.most,
        device.clock().resolution(),
        of.median / time.as_secs_f64() / 1e3,
        beyond.least,
        if beyond.least < 0.0 { ": SHORTER THAN THE KERNEL WITHIN" } else { "" },
    );
    Ok(())
}

/// As the conformance suite's case 58.
fn hold(device: &Device) -> Result<()> {
    let stream = device.create_stream()?;
    for _ in 0..3 {
        step("a hold of 500 ms", || {
            let (window, start) = (Instant::now(), stream.record_timed()?);
            reach(&start)?;
            let held = Instant::now();
            let (gate, open) = device.host_event()?;
            stream.wait(&gate)?;
            let end = stream.record_timed()?;
            sleep(Duration::from_millis(500));
            if end.status() != Status::Pending {
                return Err(failed("not pending behind a closed gate"));
            }
            let held = held.elapsed();
            open.complete();
            reach(&end)?;
            let window = window.elapsed();
            let elapsed = end.elapsed_since(&start)?.duration();
            let slack = device.clock().resolution() + window / 10_000;
            let verdict =
                if elapsed + slack >= held && elapsed <= window + slack { "agrees" } else { "DISAGREES" };
            println!(
                "  a gate's hold: {elapsed:?}; the host held it for {held:?} within {window:?}: {verdict}"
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// What `%globaltimer` itself counts in.
fn granularity(mut stamps: Vec<u64>) -> Result<()> {
    stamps.sort_unstable();
    stamps.dedup();
    let gaps: Vec<u64> = stamps.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let least = gaps.iter().min().ok_or_else(|| failed("there are no times"))?;
    let common = gaps.iter().fold(0_u64, |mut common, gap| {
        let mut gap = *gap;
        while gap != 0 {
            (common, gap) = (gap, common % gap);
        }
        common
    });
    println!(
        "\n%globaltimer: {} distinct readings, all apart by multiples of {common} ns, the closest two by {least} ns",
        stamps.len()
    );
    Ok(())
}

/// Events behind kernels that end at once: how far the events' clock is from the kernels', give or take a constant.
fn offsets(bench: &Bench, stream: &Stream, gate: &mut Gate, times: Times) -> Result<(Vec<f64>, Vec<Event>)> {
    let raw = stream.cuda()?.raw();
    let mut events = Vec::new();
    let mut offsets = Vec::new();
    for _ in 0..50 {
        step("an event behind a kernel", || {
            times.clear();
            gate.close(bench, raw)?;
            bench.kernels.timed(raw, Duration::ZERO, times.pointer())?;
            let event = stream.record_timed()?;
            gate.open();
            reach(&event)?;
            bench.drain(raw)?;
            // Before the floating point: the two clocks began years apart.
            let offset = signed(event.completion_time()?.nanos())? - signed(times.ended()?)?;
            offsets.push(offset);
            events.push(event);
            Ok(())
        })?;
    }
    let origin = *ORIGIN.get_or_init(|| offsets[0]);
    Ok((offsets.iter().map(|it| (it - origin) as f64).collect(), events))
}

/// The first offset of the process, from which the others are told.
static ORIGIN: std::sync::OnceLock<i64> = std::sync::OnceLock::new();

/// A long interval: with the chain of references going on, or, with everything timed dropped, paused in between.
pub(crate) fn long(bench: &Bench, minutes: f64, paused: bool) -> Result<()> {
    let device = cuda::open(0, Signal::Cheap)?;
    let stream = device.create_stream()?;
    let mut gate = bench.gate()?;
    let times = bench.times()?;
    let (before, events) = offsets(bench, &stream, &mut gate, times)?;
    let start = events.last().ok_or_else(|| failed("there is no event"))?.completion_time()?;
    let begun = Instant::now();
    let stated = cuda::rebase_error(&device)?;
    let kept = (!paused).then_some(events);
    sleep(Duration::from_secs_f64(minutes * 60.0));
    let host = begun.elapsed();
    let (after, events) = offsets(bench, &stream, &mut gate, times)?;
    let first = events.first().ok_or_else(|| failed("there is no event"))?;
    let elapsed = first.completion_time()?.since(&start)?;
    let stated = cuda::rebase_error(&device)?.saturating_sub(stated);
    drop(kept);
    let (before, after) = (Summary::of(&before)?, Summary::of(&after)?);
    let title = format!(
        "{minutes} minutes, {}: events' clock less %globaltimer, from the first one",
        if paused { "the chain paused" } else { "the chain going on" }
    );
    measure::table(
        &title,
        "ns",
        &[("at the beginning".to_owned(), before), ("at the end".to_owned(), after)],
    );
    let apart = after.median - before.median;
    let allowed = stated + elapsed.resolution();
    let within = apart.abs() <= allowed.as_nanos() as f64;
    println!(
        "  elapsed {:?}, the host's clock {host:?}; {apart:.0} ns off %globaltimer, {:.6} ppm",
        elapsed.duration(),
        apart / elapsed.nanos() as f64 * 1e6
    );
    println!(
        "  = stated: resolution {:?}, rebase error {stated:?}: {}",
        elapsed.resolution(),
        if within { "within" } else { "NOT WITHIN" }
    );
    Ok(())
}
