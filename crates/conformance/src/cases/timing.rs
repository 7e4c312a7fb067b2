//! What time it was, on whose clock, and how exactly.

use super::{Case, Group, case};
use crate::{
    Context, Stop, Verdict,
    toy::Toy,
    verdict::{ensure, equal},
};
use gpu_events::{Device, ErrorKind, Event, Stream};
use std::time::{Duration, Instant};

const fn row(id: u16, name: &'static str, rules: &'static [u8], run: fn(&Context) -> Verdict) -> Case {
    case(Group::Timing, id, name, rules, run)
}

pub(super) const CASES: &[Case] = &[
    row(56, "untimed-unrecorded-pending-other-clock", &[4, 20, 21], untimed_unrecorded_pending_other_clock),
    row(57, "zero-positive-and-end-before-start", &[22], zero_positive_and_end_before_start),
    row(58, "a-hold-of-500-ms-reads-500-ms", &[20, 22], a_hold_of_500_ms_reads_500_ms),
    row(59, "back-to-back-is-never-negative", &[22, 23], back_to_back_is_never_negative),
    row(60, "elapsed-twice-and-after-synchronize", &[11, 22], elapsed_twice_and_after_synchronize),
    row(61, "elapsed-after-recording-again", &[1, 22], elapsed_after_recording_again),
    row(62, "ten-thousand-times-never-go-back", &[23], ten_thousand_times_never_go_back),
    row(63, "placed-on-the-host-clock", &[24], placed_on_the_host_clock),
    row(64, "resolution-is-reported-and-honoured", &[20, 22], resolution_is_reported_and_honoured),
    row(65, "an-hour-keeps-its-microseconds", &[25], an_hour_keeps_its_microseconds),
    row(110, "elapsed-checks-come-in-order", &[21], elapsed_checks_come_in_order),
    row(111, "a-host-clock-s-place-does-not-drift", &[24], a_host_clock_s_place_does_not_drift),
];

/// A device whose recordings can be timed, and a stream of it.
fn timed(ctx: &Context) -> Verdict<(Device, Stream)> {
    let device = ctx.device()?;
    if !device.capabilities().timed {
        return Err(Stop::skip("this device has no timestamps"));
    }
    let stream = device.create_stream()?;
    Ok((device, stream))
}

/// Records a timed event that completes no earlier than `time` from now, whatever the device: by a hold.
fn record_after(ctx: &Context, stream: &Stream, time: Duration) -> Verdict<Event> {
    let hold = ctx.hold(stream)?;
    let event = stream.record_timed()?;
    stream.flush()?;
    ctx.linger_for(time);
    ctx.pending(&event)?;
    hold.release();
    ctx.settle(&event)?;
    Ok(event)
}

/// Nanoseconds from one event to another.
#[track_caller]
fn nanos(start: &Event, end: &Event) -> Verdict<u64> {
    Ok(end.elapsed_since(start)?.nanos())
}

fn kind(start: &Event, end: &Event) -> Option<ErrorKind> {
    end.elapsed_since(start).err().map(|error| error.kind())
}

/// How far a device's clock and the host's may run apart over `interval`: oscillators are good to some 100 ppm.
fn drift(interval: Duration) -> Duration {
    interval / 1_000
}

fn untimed_unrecorded_pending_other_clock(ctx: &Context) -> Verdict {
    let (device, stream) = timed(ctx)?;
    let done = stream.record_timed()?;
    ctx.settle(&done)?;
    nanos(&done, &done)?;

    let untimed = stream.record()?;
    ctx.settle(&untimed)?;
    equal("elapsed from an untimed event", kind(&untimed, &done), Some(ErrorKind::Untimed))?;
    equal("elapsed to an untimed event", kind(&done, &untimed), Some(ErrorKind::Untimed))?;
    let time = |event: &Event| event.completion_time().err().map(|error| error.kind());
    equal("the time of an untimed event", time(&untimed), Some(ErrorKind::Untimed))?;

    let unrecorded = device.pool().acquire_timed();
    equal("elapsed from an unrecorded event", kind(&unrecorded, &done), Some(ErrorKind::Unrecorded))?;
    equal("elapsed to an unrecorded event", kind(&done, &unrecorded), Some(ErrorKind::Unrecorded))?;
    equal("the time of an unrecorded event", time(&unrecorded), Some(ErrorKind::Unrecorded))?;

    let hold = ctx.hold(&stream)?;
    let pending = stream.record_timed()?;
    equal("elapsed from a pending event", kind(&pending, &done), Some(ErrorKind::NotComplete))?;
    equal("elapsed to a pending event", kind(&done, &pending), Some(ErrorKind::NotComplete))?;
    equal("the time of a pending event", time(&pending), Some(ErrorKind::NotComplete))?;
    hold.release();
    ctx.settle(&pending)?;
    nanos(&done, &pending)?;

    let foreign = ctx.foreign_device(&device)?;
    let elsewhere = foreign.create_stream()?.record_timed()?;
    ctx.settle(&elsewhere)?;
    elsewhere.completion_time()?;
    equal("elapsed from another clock", kind(&elsewhere, &done), Some(ErrorKind::ClockMismatch))?;
    equal("elapsed to another clock", kind(&done, &elsewhere), Some(ErrorKind::ClockMismatch))
}

fn zero_positive_and_end_before_start(ctx: &Context) -> Verdict {
    let (_device, stream) = timed(ctx)?;
    let start = stream.record_timed()?;
    ctx.settle(&start)?;
    equal("from an event to itself", nanos(&start, &start)?, 0)?;
    let end = record_after(ctx, &stream, Duration::from_millis(5))?;
    let positive = end.elapsed_since(&start)?;
    ensure(positive.nanos() > 0, "a hold of 5 ms took no time")?;
    equal("the duration", positive.duration(), Duration::from_nanos(positive.nanos()))?;
    let millis = positive.as_millis_f64();
    ensure(
        (millis * 1e6 - positive.nanos() as f64).abs() < 1.0,
        format_args!("{millis} ms is not {positive}"),
    )?;
    match start.elapsed_since(&end) {
        Ok(elapsed) => Err(Stop::fail(format_args!("end before start gave {elapsed}"))),
        Err(error) => {
            equal("end before start", error.kind(), ErrorKind::EndBeforeStart)?;
            equal("by how much", error.lateness(), Some(positive.duration()))
        }
    }
}

fn a_hold_of_500_ms_reads_500_ms(ctx: &Context) -> Verdict {
    let (device, stream) = timed(ctx)?;
    let window = Instant::now();
    let start = stream.record_timed()?;
    ctx.settle(&start)?;
    // The start is complete before this is read, and the end completes after the hold's end is.
    let held = Instant::now();
    let hold = ctx.hold(&stream)?;
    let end = stream.record_timed()?;
    stream.flush()?;
    ctx.linger_for(Duration::from_millis(500));
    ctx.pending(&end)?;
    let held = held.elapsed();
    hold.release();
    ctx.settle(&end)?;
    let window = window.elapsed();

    let elapsed = end.elapsed_since(&start)?.duration();
    let slack = device.clock().resolution() + drift(window);
    ensure(elapsed + slack >= held, format_args!("a hold of {held:?} read as {elapsed:?}"))?;
    ensure(elapsed <= window + slack, format_args!("{elapsed:?} passed within the host's {window:?}"))
}

fn back_to_back_is_never_negative(ctx: &Context) -> Verdict {
    let (_device, stream) = timed(ctx)?;
    for round in 0..20 {
        let hold = (round % 2 == 0).then(|| ctx.hold(&stream)).transpose()?;
        let events = (0..50).map(|_| stream.record_timed()).collect::<Result<Vec<_>, _>>()?;
        if let Some(hold) = hold {
            hold.release();
        }
        ctx.settle_all(&events)?;
        for pair in events.windows(2) {
            nanos(&pair[0], &pair[1])?;
        }
    }
    Ok(())
}

fn elapsed_twice_and_after_synchronize(ctx: &Context) -> Verdict {
    let (_device, stream) = timed(ctx)?;
    let start = stream.record_timed()?;
    let end = record_after(ctx, &stream, Duration::from_millis(2))?;
    let first = nanos(&start, &end)?;
    let task = ctx.spawn(move || {
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(end.elapsed_since(&start).map(|elapsed| elapsed.nanos()));
            start.synchronize()?;
            end.synchronize()?;
        }
        all.into_iter().collect::<gpu_events::Result<Vec<_>>>()
    })?;
    equal("elapsed, asked again and again", task.finish()??, vec![first; 3])
}

fn elapsed_after_recording_again(ctx: &Context) -> Verdict {
    let (_device, stream) = timed(ctx)?;
    let (start, middle) = (stream.record_timed()?, stream.record_timed()?);
    let end = record_after(ctx, &stream, Duration::from_millis(2))?;
    let first = nanos(&start, &end)?;
    let time = end.completion_time()?;

    let hold = ctx.hold(&stream)?;
    end.record(&stream)?;
    equal("elapsed to an end recorded again", kind(&start, &end), Some(ErrorKind::NotComplete))?;
    nanos(&start, &middle)?;
    ctx.linger_for(Duration::from_millis(2));
    hold.release();
    ctx.settle(&end)?;
    let second = nanos(&start, &end)?;
    ensure(second > first, format_args!("{second} ns to the later end, {first} ns to the earlier one"))?;
    ensure(end.completion_time()?.ticks() > time.ticks(), "the later recording completed no later")?;

    start.record(&stream)?;
    ctx.settle(&start)?;
    let late = kind(&start, &end);
    // The start is the later of the two by now, or, on a coarse clock, as late.
    ensure(
        late == Some(ErrorKind::EndBeforeStart) || (late.is_none() && nanos(&start, &end)? == 0),
        format_args!("from a start recorded after the end: {late:?}"),
    )?;
    end.record(&stream)?;
    ctx.settle(&end)?;
    // However long the host took in between, the new start is later than what was recorded right behind the old one.
    let (new, old) = (nanos(&start, &end)?, nanos(&middle, &end)?);
    ensure(new < old, format_args!("{new} ns from the new start, {old} ns from just behind the old one"))
}

fn ten_thousand_times_never_go_back(ctx: &Context) -> Verdict {
    let (device, stream) = timed(ctx)?;
    let each = device.capabilities().queue_depth.unwrap_or(u64::MAX).min(1_000);
    let mut last = None;
    for chunk in 0..10_000 / each {
        let hold = (chunk % 2 == 0).then(|| ctx.hold(&stream)).transpose()?;
        let events = (0..each).map(|_| stream.record_timed()).collect::<Result<Vec<_>, _>>()?;
        if let Some(hold) = hold {
            hold.release();
        }
        for event in &events {
            ctx.settle(event)?;
            let ticks = event.completion_time()?.ticks();
            ensure(last <= Some(ticks), format_args!("the clock went from {last:?} back to {ticks}"))?;
            last = Some(ticks);
        }
    }
    ensure(last > Some(0), "every time was zero")
}

/// Where the host's clock stood when an event completed, by way of a fresh correlation: no earlier, no later.
fn placed(ctx: &Context, device: &Device, stream: &Stream) -> Verdict<()> {
    let opened = Instant::now();
    let event = stream.record_timed()?;
    ctx.settle(&event)?;
    let closed = Instant::now();
    let correlation = device.correlate()?;
    let (at, uncertainty) = event.completion_time()?.on_host(&correlation)?;
    let age = correlation.host().saturating_duration_since(opened);
    let slack = uncertainty + drift(age);
    ensure(at + slack >= opened, format_args!("placed {:?} too early (± {slack:?})", opened - at))?;
    ensure(at <= closed + slack, format_args!("placed {:?} too late (± {slack:?})", at - closed))?;
    ensure(
        uncertainty < Duration::from_millis(100),
        format_args!("{uncertainty:?} of uncertainty places nothing"),
    )
}

fn placed_on_the_host_clock(ctx: &Context) -> Verdict {
    let (device, stream) = timed(ctx)?;
    for _ in 0..20 {
        placed(ctx, &device, &stream)?;
    }
    let foreign = ctx.foreign_device(&device)?;
    let event = stream.record_timed()?;
    ctx.settle(&event)?;
    let by_another = event.completion_time()?.on_host(&foreign.correlate()?).map_err(|error| error.kind());
    ensure(by_another == Err(ErrorKind::ClockMismatch), "placed by the correlation of another clock")
}

fn a_host_clock_s_place_does_not_drift(ctx: &Context) -> Verdict {
    let (device, stream) = timed(ctx)?;
    let event = stream.record_timed()?;
    ctx.settle(&event)?;
    let time = event.completion_time()?;
    let early = device.correlate()?;
    placed(ctx, &device, &stream)?;
    ctx.linger_for(Duration::from_millis(200));
    let late = device.correlate()?;
    ensure(late.host() > early.host(), "a later correlation is no later")?;
    ensure(late.device().ticks() > early.device().ticks(), "the device's clock stood still for 200 ms")?;
    // The same moment, placed by both.
    let ((one, by_one), (other, by_other)) = (time.on_host(&early)?, time.on_host(&late)?);
    let apart = if one > other { one - other } else { other - one };
    let slack = by_one + by_other + drift(late.host() - early.host());
    ensure(apart <= slack, format_args!("two correlations place one moment {apart:?} apart (± {slack:?})"))
}

fn resolution_is_reported_and_honoured(ctx: &Context) -> Verdict {
    /// In milliseconds. The last is long beside the one before and beside what a busy host takes in between: times of submission,
    /// which are one hold late, do not pass for times of completion.
    const HOLDS: [u64; 3] = [1, 2, 40];

    let (device, stream) = timed(ctx)?;
    let resolution = device.clock().resolution();
    ensure(!resolution.is_zero(), "a clock has no resolution")?;
    ensure(resolution <= Duration::from_millis(1), format_args!("a resolution of {resolution:?}"))?;
    ensure(!device.clock().source().is_empty(), "a clock does not say what is read")?;

    let start = stream.record_timed()?;
    ctx.settle(&start)?;
    let time = start.completion_time()?;
    equal("the time's clock", time.clock().id(), device.clock().id())?;
    equal("the time's source", time.clock().source(), device.clock().source())?;
    equal("the time's resolution", time.clock().resolution(), resolution)?;

    // The parts of an interval add up to the whole, but for the resolution of each reading.
    let mut marks = vec![start];
    for millis in HOLDS {
        marks.push(record_after(ctx, &stream, Duration::from_millis(millis))?);
    }
    let parts = marks.windows(2).map(|pair| nanos(&pair[0], &pair[1])).collect::<Verdict<Vec<_>>>()?;
    let whole = marks[3].elapsed_since(&marks[0])?;
    equal("elapsed's resolution", whole.resolution(), resolution)?;
    let apart = Duration::from_nanos(parts.iter().sum::<u64>().abs_diff(whole.nanos()));
    ensure(apart <= resolution * 4, format_args!("parts of {parts:?} ns make {whole}"))?;
    for (part, millis) in parts.iter().zip(HOLDS) {
        let (part, held) = (Duration::from_nanos(*part), Duration::from_millis(millis));
        ensure(
            part + resolution + drift(held) >= held,
            format_args!("a hold of {held:?} read as {part:?} on a clock good to {resolution:?}"),
        )?;
    }
    Ok(())
}

fn an_hour_keeps_its_microseconds(ctx: &Context) -> Verdict {
    // Arithmetic: no device is held for an hour, one whose clock is turned by hand will do.
    let toy = Toy::with_manual_clock();
    let device = toy.open();
    let stream = device.create_stream()?;
    let mark = || -> Verdict<Event> {
        let event = stream.record_timed()?;
        ctx.settle(&event)?;
        Ok(event)
    };
    let start = mark()?;
    let (hour, little) = (Duration::from_secs(3_600), Duration::from_micros(1));
    let resolution = device.clock().resolution();
    toy.advance_clock(hour);
    let at_the_hour = mark()?;
    toy.advance_clock(little);
    let after = mark()?;
    for (end, expected) in [(&at_the_hour, hour), (&after, hour + little)] {
        let elapsed = end.elapsed_since(&start)?;
        let off = Duration::from_nanos(elapsed.nanos().abs_diff(expected.as_nanos() as u64));
        ensure(off <= resolution, format_args!("{expected:?} read as {elapsed}"))?;
        let millis = Duration::from_secs_f64(elapsed.as_millis_f64() / 1e3);
        let off = millis.abs_diff(expected);
        ensure(off <= resolution * 2, format_args!("{expected:?} read as {millis:?} in milliseconds"))?;
    }
    let microsecond = Duration::from_nanos(nanos(&at_the_hour, &after)?);
    ensure(
        microsecond.abs_diff(little) <= resolution,
        format_args!("a microsecond after an hour read as {microsecond:?}"),
    )
}

fn elapsed_checks_come_in_order(ctx: &Context) -> Verdict {
    let (device, stream) = timed(ctx)?;
    let pool = device.pool();
    let foreign = ctx.foreign_device(&device)?;
    let foreign_stream = foreign.create_stream()?;
    let done = stream.record_timed()?;
    ctx.settle(&done)?;
    let elsewhere = foreign_stream.record_timed()?;
    ctx.settle(&elsewhere)?;
    let (untimed, unrecorded) = (pool.acquire(), pool.acquire_timed());
    let failed_stream = device.create_stream()?;
    ctx.fail(&failed_stream)?;
    let failed = failed_stream.record_timed()?;
    let failure = ctx.failure(&failed)?.kind();
    // Where a failure is the whole device's, nothing on it can be pending beside it.
    let pending = if device.capabilities().failure_is_per_stream {
        let hold = ctx.hold(&stream)?;
        Some((hold, stream.record_timed()?))
    } else {
        None
    };

    let both = |what: &str, one: &Event, other: &Event, expected: ErrorKind| -> Verdict {
        equal(format_args!("{what}, as start and end"), kind(one, other), Some(expected))?;
        equal(format_args!("{what}, as end and start"), kind(other, one), Some(expected))
    };
    both("untimed and unrecorded", &untimed, &unrecorded, ErrorKind::Untimed)?;
    both("untimed and failed", &untimed, &failed, ErrorKind::Untimed)?;
    both("untimed and another clock", &untimed, &elsewhere, ErrorKind::Untimed)?;
    both("unrecorded and another clock", &unrecorded, &elsewhere, ErrorKind::Unrecorded)?;
    both("unrecorded and failed", &unrecorded, &failed, ErrorKind::Unrecorded)?;
    both("another clock and failed", &elsewhere, &failed, ErrorKind::ClockMismatch)?;
    both("failed and complete", &failed, &done, failure)?;
    if let Some((hold, pending)) = pending {
        both("unrecorded and pending", &unrecorded, &pending, ErrorKind::Unrecorded)?;
        both("another clock and pending", &elsewhere, &pending, ErrorKind::ClockMismatch)?;
        both("failed and pending", &failed, &pending, failure)?;
        both("complete and pending", &done, &pending, ErrorKind::NotComplete)?;
        hold.release();
        ctx.settle(&pending)?;
    }
    Ok(())
}
