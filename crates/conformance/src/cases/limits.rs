//! Many, large, foreign, closed and lost: what happens at the edges.

use super::{Case, Group, case};
use crate::{
    Context, Stop, Verdict,
    context::send,
    verdict::{ensure, equal},
};
use gpu_events::{
    Device, ErrorKind, Event, Gates, StallEnd, StallReport, Status, Stream, StreamOptions, StreamWait,
    WaitOutcome, WhenFull,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, ThreadId},
    time::Duration,
};

const fn row(id: u16, name: &'static str, rules: &'static [u8], run: fn(&Context) -> Verdict) -> Case {
    case(Group::Limits, id, name, rules, run)
}

pub(super) const CASES: &[Case] = &[
    row(75, "value-gaps-are-respected", &[9, 10], value_gaps_are_respected),
    row(76, "a-hundred-thousand-events-in-flight", &[5, 30], a_hundred_thousand_events_in_flight),
    row(77, "a-thousand-streams", &[6, 10], a_thousand_streams),
    row(78, "a-lost-device-and-a-new-one", &[26], a_lost_device_and_a_new_one),
    row(79, "an-adopted-stream", &[35], an_adopted_stream),
    row(80, "relay-with-a-blocked-callback", &[14, 17], relay_with_a_blocked_callback),
    row(81, "observing-a-held-stream", &[7], observing_a_held_stream),
    row(82, "more-in-flight-than-the-queue-takes", &[5], more_in_flight_than_the_queue_takes),
    row(83, "unobserved-work-starts-by-itself", &[7], unobserved_work_starts_by_itself),
    row(84, "the-last-handle-submits-the-batch", &[7, 32], the_last_handle_submits_the_batch),
    row(85, "external-recordings", &[37], external_recordings),
    row(86, "resources-are-kept-until-done", &[38], resources_are_kept_until_done),
    row(87, "host-signaled-events", &[39], host_signaled_events),
    row(88, "stall-report-names-the-gate", &[40], stall_report_names_the_gate),
    row(89, "close-ends-everything", &[16, 32], close_ends_everything),
    row(91, "fork", &[41], super::fork::run),
    row(115, "stall-report-names-a-cycle", &[40], stall_report_names_a_cycle),
    row(116, "capabilities-are-true", &[5, 6, 20], capabilities_are_true),
];

fn value_gaps_are_respected(ctx: &Context) -> Verdict {
    /// Above this a gap cannot be reached: nobody has that much in flight.
    const REACHABLE: u64 = 1_000_000;
    let device = ctx.device()?;
    let gap = ctx.subject().value_gap(&device)?;
    if gap > REACHABLE {
        return Err(Stop::skip(format!("the driver's limit of {gap} is beyond what can be in flight")));
    }
    let (source, dependent) = (device.create_stream()?, device.create_stream()?);
    let cells = ctx.cells(&device, 2)?;
    let hold = ctx.hold(&source)?;
    let event = device.pool().acquire();
    for _ in 0..gap {
        event.record(&source)?;
    }
    cells.write(&source, 0, 75)?;
    for _ in 0..10 {
        event.record(&source)?;
    }
    ensure(dependent.wait(&event)?.inserted(), "waiting far ahead inserted nothing")?;
    cells.copy(&dependent, 0, 1)?;
    let end = dependent.record()?;
    let (_callback, told) = ctx.listen(&event)?;
    ctx.stays_pending(&end)?;
    hold.release();
    ctx.settle(&end)?;
    equal("what was waited for from afar", cells.read(1), 75)?;
    ctx.hear_once("the callback", &told)??;
    ctx.settle(&event)
}

fn a_hundred_thousand_events_in_flight(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let room = device.capabilities().queue_depth.unwrap_or(u64::MAX);
    let events = usize::try_from(room).unwrap_or(usize::MAX).min(100_000);
    let stream = device.create_stream()?;
    let hold = ctx.hold(&stream)?;
    let events = (0..events).map(|_| stream.record()).collect::<Result<Vec<_>, _>>()?;
    for event in events.iter().step_by(997) {
        ctx.pending(event)?;
    }
    let middle = &events[events.len() / 2];
    let (_callback, told) = ctx.listen(middle)?;
    hold.release();
    ctx.settle(&events[events.len() - 1])?;
    ctx.hear_once("the callback in the middle", &told)??;
    let incomplete = events.iter().filter(|event| event.status() != Status::Complete).count();
    equal("events left behind by the last", incomplete, 0)
}

fn a_thousand_streams(ctx: &Context) -> Verdict {
    const STREAMS: usize = 1_000;
    let device = ctx.device()?;
    let cells = ctx.cells(&device, STREAMS)?;
    let streams = (0..STREAMS).map(|_| device.create_stream()).collect::<Result<Vec<_>, _>>()?;
    let hold = ctx.hold(&streams[0])?;
    cells.write(&streams[0], 0, 77)?;
    let mut last = streams[0].record()?;
    for (i, stream) in streams.iter().enumerate().skip(1) {
        ensure(stream.wait(&last)?.inserted(), "waiting for a pending event inserted nothing")?;
        cells.copy(stream, i - 1, i)?;
        last = stream.record()?;
    }
    ctx.pending(&last)?;
    hold.release();
    ctx.settle(&last)?;
    equal("what came through a thousand streams", cells.read(STREAMS - 1), 77)
}

fn a_lost_device_and_a_new_one(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let (stream, idle) = (device.create_stream()?, device.create_stream()?);
    let done = stream.record()?;
    ctx.settle(&done)?;
    let _hold = ctx.hold(&stream)?;
    let event = Arc::new(stream.record()?);
    let (_callback, told) = ctx.listen(&event)?;
    let theirs = event.clone();
    let thread = ctx.spawn(move || theirs.synchronize())?;
    ctx.subject().lose(&device)?;
    let error = ctx.failure(&event)?;
    equal("the failure", error.kind(), ErrorKind::DeviceLost)?;
    ensure(thread.finish()?.is_err(), "a wait for a lost device was a success")?;
    ensure(ctx.hear_once("the callback", &told)?.is_err(), "a callback was told of success")?;
    equal("what was complete before", done.status(), Status::Complete)?;
    match idle.record() {
        Ok(event) => drop(ctx.failure(&event)?),
        Err(error) => equal("recording on a lost device", error.kind(), ErrorKind::DeviceLost)?,
    }
    let device = ctx.device()?;
    ctx.settle(&device.create_stream()?.record()?)
}

fn an_adopted_stream(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let adopted = ctx.subject().adopt(&device, &device)??;
    let (stream, is_alive) = (adopted.stream, adopted.is_alive);
    let other = device.create_stream()?;
    let cells = ctx.cells(&device, 2)?;
    let hold = ctx.hold(&stream)?;
    cells.write(&stream, 0, 79)?;
    let event = stream.record()?;
    ensure(other.wait(&event)?.inserted(), "waiting for a pending event inserted nothing")?;
    cells.copy(&other, 0, 1)?;
    let end = other.record()?;
    drop(stream);
    ensure(is_alive(), "the keep-alive went with work in flight")?;
    ctx.stays_pending(&end)?;
    hold.release();
    ctx.settle(&end)?;
    equal("what came from the adopted stream", cells.read(1), 79)?;
    drop((event, end));
    ctx.until("the end of the keep-alive", || !is_alive())?;

    // Where there is one device alone, none can be the wrong one; the rest was seen all the same.
    let second = match ctx.second_device(&device) {
        Err(Stop::Skip(_)) => return Ok(()),
        second => second?,
    };
    let adopted = match ctx.subject().adopt(&device, &second) {
        // As where no driver tells whose a queue is.
        Err(Stop::Skip(_)) => return Ok(()),
        adopted => adopted?,
    };
    match adopted {
        Err(error) => equal("adopting for the wrong device", error.kind(), ErrorKind::WrongDevice),
        Ok(_) => Err(Stop::fail("another device's queue was adopted")),
    }
}

/// Blocks a device's callback thread until the guard that comes back is dropped.
fn block_callbacks(ctx: &Context, device: &Device) -> Verdict<mpsc::Sender<()>> {
    let (entering, entered) = mpsc::channel();
    let (leave, left) = mpsc::channel::<()>();
    let event = device.create_stream()?.record()?;
    let _callback = event.on_complete(move |_| {
        send(&entering, ());
        let _ = left.recv();
    })?;
    ctx.hear("the callback that blocks", &entered)?;
    Ok(leave)
}

fn relay_with_a_blocked_callback(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let others = [ctx.second_device(&device).ok(), Some(ctx.foreign_device(&device)?)];
    let blocked = block_callbacks(ctx, &device)?;
    for other in others.into_iter().flatten() {
        let also_blocked = block_callbacks(ctx, &other)?;
        for (from, to) in [(&device, &other), (&other, &device)] {
            let (source, dependent) = (from.create_stream()?, to.create_stream()?);
            let hold = ctx.hold(&source)?;
            let event = source.record()?;
            ensure(dependent.wait(&event)?.inserted(), "waiting for a pending event inserted nothing")?;
            let end = Arc::new(dependent.record()?);
            let theirs = end.clone();
            let thread = ctx.spawn(move || theirs.synchronize())?;
            hold.release();
            thread.finish()??;
            ctx.settle(&end)?;
        }
        drop(also_blocked);
        // One device's blocked callback is no other device's business.
        let event = other.create_stream()?.record()?;
        let (_callback, told) = ctx.listen(&event)?;
        ctx.hear_once("a callback of another device", &told)??;
    }
    let event = device.create_stream()?.record()?;
    let (_callback, told) = ctx.listen(&event)?;
    ctx.settle(&event)?;
    ctx.linger();
    ensure(told.try_recv().is_err(), "a callback ran beside one of the same device that blocks")?;
    drop(blocked);
    ctx.hear_once("the callback that had to queue", &told)??;
    Ok(())
}

fn observing_a_held_stream(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let (stream, other) = (device.create_stream()?, device.create_stream()?);
    let cells = ctx.cells(&device, 1)?;
    cells.write(&stream, 0, 81)?;
    let event = Arc::new(device.pool().acquire());
    let (gate, signal) = device.host_event()?;
    let behind = device.pool().acquire();

    let mut guard = stream.lock()?;
    guard.record(&event)?;
    ensure(guard.wait(&gate)?.inserted(), "waiting for a pending event inserted nothing")?;
    guard.record(&behind)?;

    // Others look on. None of them has to wait for the lock, and what they need submitted is submitted later.
    let (theirs, waiter, held) = (event.clone(), other.clone(), stream.clone());
    let looks = ctx.spawn(move || -> Verdict<Event> {
        let status = theirs.status();
        ensure(matches!(status, Status::Pending | Status::Complete), format_args!("status {status:?}"))?;
        theirs.is_complete()?;
        held.flush()?;
        let _ = theirs.wait_timeout(Duration::ZERO)?;
        let _ = theirs.wait_timeout(Duration::from_millis(2))?;
        drop(theirs.completion());
        let _callback = theirs.on_complete(drop)?;
        waiter.wait(&theirs)?;
        Ok(waiter.record()?)
    })?;
    let dependent = looks.finish()??;
    let theirs = event.clone();
    let blocking = ctx.spawn(move || theirs.synchronize())?;
    let recorder = stream.clone();
    let recording = ctx.spawn(move || recorder.record())?;
    ctx.linger();
    recording.still_runs()?;

    // The holder must not block on what only it can let go of.
    let deadlock = |result: gpu_events::Result<()>| result.map_err(|error| error.kind());
    let would = Err(ErrorKind::WouldDeadlock);
    equal("waiting as the holder", deadlock(behind.synchronize()), would)?;
    let finite = behind.wait_timeout(Duration::from_millis(1)).map(drop);
    equal("waiting for a while as the holder", deadlock(finite), would)?;
    equal("recording as the holder", deadlock(stream.record().map(drop)), would)?;
    equal("locking twice", deadlock(stream.lock().map(drop)), would)?;
    equal("synchronizing as the holder", deadlock(stream.synchronize()), would)?;
    // Flushing leaves a request, looking does not block, and blocking on what this lock does not hold back is fine.
    stream.flush()?;
    equal("status as the holder", behind.status(), Status::Pending)?;
    equal("a zero wait as the holder", behind.wait_timeout(Duration::ZERO)?, WaitOutcome::TimedOut)?;
    ctx.settle(&other.device().create_stream()?.record()?)?;

    drop(guard);
    blocking.finish()??;
    ctx.settle(&dependent)?;
    equal("the work before the lock", cells.read(0), 81)?;
    let recorded = recording.finish()??;
    ctx.stays_pending(&behind)?;
    signal.complete();
    ctx.settle_all([&behind, &recorded])
}

fn more_in_flight_than_the_queue_takes(ctx: &Context) -> Verdict {
    const DEPTH: u64 = 4;
    let device = ctx.device()?;
    let other = device.create_stream()?;
    let options = StreamOptions::new().queue_depth(DEPTH);
    let stream = device.create_stream_with(&options.clone().when_full(WhenFull::WouldBlock))?;
    let hold = ctx.hold(&stream)?;
    let events = (0..DEPTH).map(|_| stream.record()).collect::<Result<Vec<_>, _>>()?;
    let refused = |stream: &Stream| stream.record().map(drop).map_err(|error| error.kind());
    for _ in 0..3 {
        equal("one recording more", refused(&stream), Err(ErrorKind::WouldBlock))?;
        ctx.settle(&other.record()?)?;
    }
    events.iter().try_for_each(|event| ctx.pending(event))?;
    ensure(stream.error().is_none(), "a full queue is a failure")?;
    hold.release();
    ctx.settle_all(&events)?;
    for _ in 0..2 * DEPTH {
        ctx.settle(&stream.record()?)?;
    }

    // The other way: it waits for room, and holds nobody up meanwhile.
    let stream = device.create_stream_with(&options)?;
    let hold = ctx.hold(&stream)?;
    let events = (0..DEPTH).map(|_| stream.record()).collect::<Result<Vec<_>, _>>()?;
    let blocked = stream.clone();
    let task = ctx.spawn(move || blocked.record())?;
    ctx.linger();
    task.still_runs()?;
    events.iter().try_for_each(|event| ctx.pending(event))?;
    ctx.settle(&other.record()?)?;
    let locked = stream.clone();
    let inside = device.pool().acquire();
    let guarded = ctx.spawn(move || -> Verdict {
        let mut guard = locked.lock()?;
        // Room may take others' submissions to come, and they wait for the guard.
        let refused = guard.record(&inside).map_err(|error| error.kind());
        equal("recording on a full queue under the lock", refused, Err(ErrorKind::WouldBlock))
    })?;
    guarded.finish()??;
    task.still_runs()?;
    hold.release();
    ctx.settle(&task.finish()??)?;
    ctx.settle_all(&events)
}

fn unobserved_work_starts_by_itself(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let cells = ctx.cells(&device, 2)?;
    for round in 1..=5 {
        cells.write(&stream, 0, round)?;
        let event = (round % 2 == 0).then(|| stream.record()).transpose()?;
        cells.write(&stream, 1, round)?;
        // Reading memory is no observation of an event: nobody asks for anything to be submitted here.
        ctx.until("the effect of unobserved work", || (0..2).all(|cell| cells.read(cell) == round))?;
        if let Some(event) = event {
            ctx.settle(&event)?;
        }
    }
    // The same behind a gate: once it opens, what is behind it goes.
    let hold = ctx.hold(&stream)?;
    cells.write(&stream, 0, 83)?;
    ctx.linger();
    equal("work behind a gate", cells.read(0), 5)?;
    hold.release();
    ctx.until("the effect of unobserved work behind an open gate", || cells.read(0) == 83)
}

fn the_last_handle_submits_the_batch(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let cells = ctx.cells(&device, 1)?;
    for round in 1..=10 {
        let stream = device.create_stream()?;
        let twin = stream.clone();
        // Held in some rounds, so that the batch is bigger than what a device that is idle would take at once.
        let hold = (round % 2 == 0).then(|| ctx.hold(&stream)).transpose()?;
        cells.write(&stream, 0, round)?;
        let event = stream.record()?;
        drop(stream);
        drop(twin);
        if let Some(hold) = hold {
            hold.release();
        }
        ctx.until("the effect of work whose stream is gone", || cells.read(0) == round)?;
        ctx.settle(&event)?;
    }
    Ok(())
}

fn external_recordings(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let unsubmitted = |event: &Event| -> Verdict {
        let not = Err(ErrorKind::NotSubmitted);
        equal("status", event.status(), Status::NotSubmitted)?;
        equal("is_complete", event.is_complete().map(drop).map_err(|error| error.kind()), not)?;
        equal("synchronize", event.synchronize().map_err(|error| error.kind()), not)?;
        let zero = event.wait_timeout(Duration::ZERO).map(drop);
        equal("a zero wait", zero.map_err(|error| error.kind()), not)?;
        equal("a stream's wait", stream.wait(event).map(drop).map_err(|error| error.kind()), not)?;
        let callback = event.on_complete(drop).map(drop);
        equal("a callback", callback.map_err(|error| error.kind()), not)?;
        let future = futures_lite::future::block_on(event.completion());
        equal("a future", future.map_err(|error| error.kind()), not)
    };

    let (event, token) = device.external_event()?;
    unsubmitted(&event)?;
    // What could not wait is none the worse: the stream goes on.
    ctx.settle(&stream.record()?)?;
    let running = token.submitted();
    ctx.stays_pending(&event)?;
    ensure(stream.wait(&event)?.inserted(), "waiting for submitted work inserted nothing")?;
    let behind = stream.record()?;
    let (_callback, told) = ctx.listen(&event)?;
    ctx.pending(&behind)?;
    // It has a timeline of its own: other streams neither wait for it nor count it.
    ctx.settle(&device.create_stream()?.record()?)?;
    running.complete();
    ctx.settle_all([&event, &behind])?;
    ctx.hear_once("the callback", &told)??;

    let (event, token) = device.external_event()?;
    token.submitted().fail("somebody else's work");
    let error = ctx.failure(&event)?;
    equal(
        "a failed submission",
        (error.kind(), error.detail()),
        (ErrorKind::WorkFailed, Some("somebody else's work")),
    )?;

    for how in 0..3 {
        let (event, token) = device.external_event()?;
        match how {
            0 => token.abandon(),
            1 => drop(token),
            _ => drop(token.submitted()),
        }
        equal(format_args!("abandoned in way {how}"), ctx.failure(&event)?.kind(), ErrorKind::Abandoned)?;
        let dependent = device.create_stream()?;
        dependent.wait(&event)?;
        ctx.failure(&dependent.record()?)?;
    }
    Ok(())
}

/// Says on which thread it was dropped.
struct Resource(mpsc::Sender<ThreadId>);

impl Drop for Resource {
    fn drop(&mut self) {
        let _ = self.0.send(thread::current().id());
    }
}

impl Resource {
    fn new() -> (Self, mpsc::Receiver<ThreadId>) {
        let (tell, told) = mpsc::channel();
        (Self(tell), told)
    }
}

fn resources_are_kept_until_done(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let caller = thread::current().id();
    // On success, and on failure.
    for fails in [false, true] {
        let hold = ctx.hold(&stream)?;
        if fails {
            // The stream's own work: where the failure is another's, passed on, a driver may go on with the work all the
            // same (R26), and the resource is leaked.
            match ctx.subject().fail(&stream) {
                Err(Stop::Skip(_)) => break,
                verdict => verdict?,
            }
        }
        let event = stream.record()?;
        let (resource, dropped) = Resource::new();
        stream.keep_until(&event, resource)?;
        drop(event);
        ctx.linger();
        ensure(dropped.try_recv().is_err(), "a resource went with the work that uses it still held")?;
        let release = ctx.spawn(move || {
            hold.release();
            thread::current().id()
        })?;
        let releaser = release.finish()?;
        let on = ctx.hear_once("the resource's end", &dropped)?;
        ensure(
            on != caller && on != releaser,
            "a resource was dropped on the thread that completed the work",
        )?;
    }
    // For what is complete or was never recorded: at once, and on that thread all the same.
    let stream = device.create_stream()?;
    let complete = stream.record()?;
    ctx.settle(&complete)?;
    for event in [&complete, &device.pool().acquire()] {
        let (resource, dropped) = Resource::new();
        stream.keep_until(event, resource)?;
        let on = ctx.hear_once("the end of a resource that nobody uses", &dropped)?;
        ensure(on != caller, "a resource was dropped on its owner's thread")?;
    }
    // For another device's event, with this stream and its device gone by then.
    let foreign = ctx.foreign_device(&device)?;
    let (event, signal) = foreign.host_event()?;
    let lone = ctx.device()?;
    let (resource, dropped) = Resource::new();
    lone.create_stream()?.keep_until(&event, resource)?;
    drop(lone);
    ctx.linger();
    ensure(dropped.try_recv().is_err(), "a resource went with its device, and the work that uses it held")?;
    signal.complete();
    ctx.hear_once("the end of a resource of a device without handles", &dropped)?;
    // Closed with the work in flight, nobody knows when the device is done with it: leaked.
    let _hold = ctx.hold(&stream)?;
    let event = stream.record()?;
    let (resource, dropped) = Resource::new();
    stream.keep_until(&event, resource)?;
    let (_callback, told) = ctx.listen(&event)?;
    device.close();
    // This one was registered later, so the resource's turn has come and gone.
    ensure(ctx.hear_once("the callback of a closed device", &told)?.is_err(), "success on a closed device")?;
    match dropped.try_recv() {
        Err(mpsc::TryRecvError::Empty) => Ok(()),
        _ => Err(Stop::fail("a resource was freed under a closed device that may still use it")),
    }
}

fn host_signaled_events(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let (event, signal) = device.host_event()?;
    ctx.stays_pending(&event)?;
    let completion = event.completion();
    let future = ctx.spawn(move || futures_lite::future::block_on(completion))?;
    let (_callback, told) = ctx.listen(&event)?;
    ensure(stream.wait(&event)?.inserted(), "waiting for a pending event inserted nothing")?;
    let behind = stream.record()?;
    ctx.pending(&behind)?;
    let event = Arc::new(event);
    let theirs = event.clone();
    let thread = ctx.spawn(move || theirs.synchronize())?;
    signal.complete();
    thread.finish()??;
    future.finish()??;
    ctx.hear_once("the callback", &told)??;
    ctx.settle_all([&*event, &behind])?;
    ensure(!stream.wait(&event)?.inserted(), "a wait for a complete event was inserted")?;

    let (event, signal) = device.host_event()?;
    let failing = device.create_stream()?;
    failing.wait(&event)?;
    let behind = failing.record()?;
    signal.fail("the host says no");
    for event in [&event, &behind] {
        let error = ctx.failure(event)?;
        equal(
            "the failure",
            (error.kind(), error.detail()),
            (ErrorKind::WorkFailed, Some("the host says no")),
        )?;
    }

    let (event, signal) = device.host_event()?;
    let abandoned = device.create_stream()?;
    abandoned.wait(&event)?;
    let behind = abandoned.record()?;
    drop(signal);
    for event in [&event, &behind] {
        equal("a signal that nobody gave", ctx.failure(event)?.kind(), ErrorKind::Abandoned)?;
    }

    // An event like any other: recorded anew, it is the stream's, and the signal is none of its business.
    let (event, signal) = device.host_event()?;
    event.record(&stream)?;
    ctx.settle(&event)?;
    drop(signal);
    ctx.settle(&event)
}

fn stall_report_names_the_gate(ctx: &Context) -> Verdict {
    const LABELS: [&str; 4] = ["upload", "compute", "reduce", "download"];
    let device = ctx.device()?;
    let (gate, signal) = device.host_event_labeled("the gate")?;
    let mut streams = Vec::new();
    let mut last = gate;
    for label in LABELS {
        let stream = device.create_stream_with(&StreamOptions::new().label(label))?;
        ensure(stream.wait(&last)?.inserted(), "waiting for a pending event inserted nothing")?;
        last = stream.record()?;
        streams.push(stream);
    }
    let last = Arc::new(last);
    let theirs = last.clone();
    let waiter = ctx.spawn(move || theirs.synchronize())?;
    ctx.pending(&last)?;

    // A stream that has to be run to come to its wait may not be there yet: the last report is the one that counts.
    let named = |report: &StallReport| -> Verdict {
        let text = report.to_string();
        let chain = report
            .chains()
            .iter()
            .find(|chain| chain.links.first().is_some_and(|link| link.contains("download")))
            .ok_or_else(|| Stop::fail(format_args!("no chain begins at the last stream:\n{text}")))?;
        equal("links of the chain", chain.links.len(), LABELS.len() + 1)?;
        for (link, label) in chain.links.iter().zip(LABELS.iter().rev()) {
            ensure(link.contains(label), format_args!("{link} stands where {label} should:\n{text}"))?;
        }
        match &chain.end {
            StallEnd::HostSignal(name) if name.contains("the gate") => {}
            end => return Err(Stop::fail(format_args!("the chain ends in {end:?}:\n{text}"))),
        }
        for name in LABELS.iter().chain(&["the gate"]) {
            ensure(text.contains(name), format_args!("the report does not print {name}:\n{text}"))?;
        }
        let waits = report.stalled().iter().flat_map(|stalled| &stalled.waits_for).count();
        equal("waits of four streams", waits, LABELS.len())
    };
    let mut verdict = Ok(());
    let seen = ctx.until("a whole report", || {
        verdict = named(&device.stall_report());
        verdict.is_ok()
    });
    verdict.and(seen)?;

    signal.complete();
    waiter.finish()??;
    ctx.settle(&last)?;
    for stream in &streams {
        ctx.settle(&stream.record()?)?;
    }
    ctx.until("an empty report", || device.stall_report().is_empty())
}

fn stall_report_names_a_cycle(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let [one, two] =
        ["one", "two"].map(|label| device.create_stream_with(&StreamOptions::new().label(label)));
    let (one, two) = (one?, two?);
    // Stream waits alone cannot form a cycle: what is waited for was recorded before. Work that waits on the host
    // for its own consequences can.
    let Ok(work) = one.cpu() else {
        return Err(Stop::skip("no work on this device can wait for the host, so there are no cycles"));
    };
    let (hand, handed) = mpsc::channel::<Event>();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    work.enqueue(move || {
        let Ok(consequence) = handed.recv() else { return };
        // Relaxed: only a flag to stop by.
        while !stopped.load(Ordering::Relaxed) {
            let _ = consequence.wait_timeout(Duration::from_millis(200));
        }
    })?;
    let event = one.record()?;
    ensure(two.wait(&event)?.inserted(), "waiting for a pending event inserted nothing")?;
    send(&hand, two.record()?);
    let mut text = String::new();
    let seen = ctx.until("a report of the cycle", || {
        let report = device.stall_report();
        text = report.to_string();
        report.chains().iter().any(|chain| {
            chain.end == StallEnd::Cycle
                && ["one", "two"].iter().all(|label| chain.links.iter().any(|link| link.contains(label)))
        })
    });
    stop.store(true, Ordering::Relaxed);
    seen.map_err(|stop| match stop {
        Stop::Fail(reason) => Stop::Fail(format!("{reason}; the report:\n{text}")),
        skip => skip,
    })?;
    ctx.settle(&two.record()?)
}

fn close_ends_everything(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let (twin, other) = (ctx.device()?, ctx.foreign_device(&device)?);
    let stream = device.create_stream()?;
    let done = stream.record()?;
    ctx.settle(&done)?;
    let hold = ctx.hold(&stream)?;
    let event = Arc::new(stream.record()?);
    // Many, since a device's streams come to their ends one after the other, and each of them may be let go by another's.
    let dependents = (0..20).map(|_| {
        let stream = device.create_stream()?;
        ensure(stream.wait(&event)?.inserted(), "waiting for a pending event inserted nothing")?;
        let dependent = stream.record()?;
        ctx.pending(&dependent)?;
        Ok(dependent)
    });
    let dependents = dependents.collect::<Verdict<Vec<_>>>()?;
    let abroad = other.create_stream()?;
    ensure(abroad.wait(&event)?.inserted(), "waiting for a pending event inserted nothing")?;
    let abroad = abroad.record()?;
    let theirs = event.clone();
    let thread = ctx.spawn(move || theirs.synchronize())?;
    let completion = event.completion();
    let future = ctx.spawn(move || futures_lite::future::block_on(completion))?;
    let (_callback, told) = ctx.listen(&event)?;
    let never = device.pool().acquire();

    ensure(!device.is_closed(), "closed before its time")?;
    let closing = device.clone();
    ctx.spawn(move || closing.close())?.finish()?;
    ensure(device.is_closed(), "not closed")?;
    device.close();

    let closed = Err(ErrorKind::Closed);
    let kind = |result: gpu_events::Result<()>| result.map_err(|error| error.kind());
    equal("the thread", kind(thread.finish()?), closed)?;
    equal("the future", kind(future.finish()?), closed)?;
    equal("the callback", kind(ctx.hear_once("the callback", &told)?), closed)?;
    for (what, event) in [("the event", &*event), ("one abroad", &abroad)] {
        equal(what, ctx.failure(event)?.kind(), ErrorKind::Closed)?;
    }
    for dependent in &dependents {
        equal("a dependent", ctx.failure(dependent)?.kind(), ErrorKind::Closed)?;
    }
    equal("the host's event", hold.event().status(), Status::Failed)?;
    // What was seen stays, what is unrecorded stays, and nothing new begins.
    equal("what was complete", done.status(), Status::Complete)?;
    equal("what was not recorded", never.status(), Status::Unrecorded)?;
    equal("a new stream", kind(device.create_stream().map(drop)), closed)?;
    equal("a new recording", kind(stream.record().map(drop)), closed)?;
    equal("a new wait", kind(stream.wait(&event).map(drop)), closed)?;
    equal("a new host event", kind(device.host_event().map(drop)), closed)?;
    equal("the stream", kind(stream.synchronize()), closed)?;
    // Too late, and harmless.
    hold.release();
    equal("status after a late signal", event.status(), Status::Failed)?;
    drop((event, done, never, stream, dependents));

    // The same hardware, opened otherwise, goes on.
    ctx.settle(&twin.create_stream()?.record()?)?;
    ctx.settle(&other.create_stream()?.record()?)?;
    ctx.settle(&ctx.device()?.create_stream()?.record()?)
}

fn capabilities_are_true(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let capabilities = device.capabilities();
    equal("the device's name", device.name(), device.info().name.as_str())?;
    ensure(!device.info().description.is_empty(), "the device has no description")?;
    ensure(device.name().starts_with(device.info().backend), "the device's name does not name its backend")?;

    let (source, dependent) = (device.create_stream()?, device.create_stream()?);
    let event = source.record_timed()?;
    ctx.settle(&event)?;
    match (capabilities.timed, event.completion_time().map_err(|error| error.kind())) {
        (true, Ok(_)) | (false, Err(ErrorKind::NotMeasured | ErrorKind::Unsupported)) => {}
        (timed, time) => return Err(Stop::fail(format_args!("timed: {timed}, and a time is {time:?}"))),
    }

    let (event, _signal) = device.host_event()?;
    match (&capabilities.gates, dependent.wait(&event).map_err(|error| error.kind())) {
        (Gates::None, Err(ErrorKind::Unsupported)) => {}
        (Gates::None, wait) => {
            return Err(Stop::fail(format_args!("no gates, and a wait that needs one: {wait:?}")));
        }
        (_, Ok(wait)) if wait.inserted() => {}
        (gates, wait) => return Err(Stop::fail(format_args!("{gates:?} gates, and a wait: {wait:?}"))),
    }

    if capabilities.gates != Gates::None && capabilities.native_waits.contains(&device.info().backend) {
        let (source, dependent) = (device.create_stream()?, device.create_stream()?);
        // Held up by work, if that can be had: nothing that waits for the host need reach the driver (R6).
        let hold = match ctx.subject().busy(&source, Duration::from_millis(100)) {
            Ok(()) => None,
            Err(Stop::Skip(_)) => Some(ctx.hold(&source)?),
            Err(stop) => return Err(stop),
        };
        let event = source.record()?;
        source.flush()?;
        equal("a wait of the device's own", dependent.wait(&event)?, StreamWait::Native)?;
        if let Some(hold) = hold {
            hold.release();
        }
        ctx.settle(&dependent.record()?)?;
    }

    if let Some(depth) = capabilities.queue_depth.filter(|&depth| depth <= 100_000) {
        let stream = device.create_stream_with(&StreamOptions::new().when_full(WhenFull::WouldBlock))?;
        let hold = ctx.hold(&stream)?;
        let event = device.pool().acquire();
        for _ in 0..depth {
            event.record(&stream)?;
        }
        let more = event.record(&stream).map_err(|error| error.kind());
        equal("one recording more than the queue takes", more, Err(ErrorKind::WouldBlock))?;
        hold.release();
        ctx.settle(&event)?;
    }
    Ok(())
}
