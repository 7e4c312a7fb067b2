//! What happens when work fails: it is sticky, the first failure wins, everyone is told, and nobody hangs.

use super::{Case, Group, case};
use crate::{
    Context, Stop, Verdict,
    context::{Task, finish_all},
    toy::Toy,
    verdict::{ensure, equal},
};
use gpu_events::{
    ErrorKind, Event, EventPool, Status, StreamOptions, WaitAny, WaitOptions, WaitStrategy, WhenFull,
    wait_all, wait_any,
};
use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const fn row(id: u16, name: &'static str, rules: &'static [u8], run: fn(&Context) -> Verdict) -> Case {
    case(Group::Failure, id, name, rules, run)
}

pub(super) const CASES: &[Case] = &[
    row(66, "failing-work-reaches-every-observer", &[26, 27], failing_work_reaches_every_observer),
    row(67, "the-first-failure-wins", &[26], the_first_failure_wins),
    row(68, "earlier-recordings-stay-complete", &[26], earlier_recordings_stay_complete),
    row(69, "dependents-fail-and-do-not-hang", &[26], dependents_fail_and_do_not_hang),
    row(70, "independent-streams-go-on", &[26], independent_streams_go_on),
    row(71, "waiters-of-killed-work-return", &[26], waiters_of_killed_work_return),
    row(72, "wait-then-fail-and-fail-then-wait", &[26], wait_then_fail_and_fail_then_wait),
    row(73, "a-panic-s-text-arrives", &[28], a_panic_s_text_arrives),
    row(74, "failure-during-a-pool-s-drop", &[26, 32], failure_during_a_pool_s_drop),
    row(90, "later-positions-fail-though-signaled", &[26], later_positions_fail_though_signaled),
    row(112, "a-refused-record-leaves-the-event-alone", &[29], a_refused_record_leaves_the_event_alone),
    row(113, "a-refused-submission-fails-the-stream", &[29], a_refused_submission_fails_the_stream),
    row(114, "racing-failures-agree", &[26, 34], racing_failures_agree),
    row(117, "failure-goes-before-every-gate", &[26], failure_goes_before_every_gate),
];

fn failing_work_reaches_every_observer(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let (stream, other) = (device.create_stream()?, device.create_stream()?);
    let hold = ctx.hold(&stream)?;
    ctx.fail(&stream)?;
    let event = Arc::new(stream.record()?);
    let (_callback, told) = ctx.listen(&event)?;
    let completion = event.completion();
    let future = ctx.spawn(move || futures_lite::future::block_on(completion))?;
    let theirs = event.clone();
    let thread = ctx.spawn(move || theirs.synchronize())?;
    let theirs = stream.clone();
    let drain = ctx.spawn(move || theirs.synchronize())?;
    ensure(other.wait(&event)?.inserted(), "waiting for work that will fail inserted nothing")?;
    let behind = other.record()?;
    // Submitted, so that the device could go on with it the moment that what it waits for is over.
    ctx.pending(&behind)?;
    hold.release();

    let error = ctx.failure(&event)?;
    let expected = Err(error.kind());
    let kind = |result: gpu_events::Result<()>| result.map_err(|error| error.kind());
    equal("the callback", kind(ctx.hear_once("the callback", &told)?), expected)?;
    equal("the future", kind(future.finish()?), expected)?;
    equal("the thread", kind(thread.finish()?), expected)?;
    equal("the stream's synchronize", kind(drain.finish()?), expected)?;
    equal("the stream's error", stream.error().map(|error| error.kind()), Some(error.kind()))?;
    equal("the stream's flush", kind(stream.flush()), expected)?;
    equal("the stream that waited", ctx.failure(&behind)?.kind(), error.kind())?;

    // Sticky: whoever comes later is told the same, and of later recordings as well.
    let later = stream.record()?;
    equal("a later recording", ctx.failure(&later)?.kind(), error.kind())?;
    let (_late, told) = ctx.listen(&event)?;
    equal("a late callback", kind(ctx.hear_once("a late callback", &told)?), expected)?;
    let completion = event.completion();
    let late = ctx.spawn(move || futures_lite::future::block_on(completion))?.finish()?;
    equal("a late future", kind(late), expected)?;
    // And the event is as good as new: it is the stream that failed.
    event.reset();
    equal("status after a reset", event.status(), Status::Unrecorded)
}

fn the_first_failure_wins(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let first = ctx.hold(&stream)?;
    let event = stream.record()?;
    let second = ctx.hold(&stream)?;
    let behind = stream.record()?;
    first.fail("the first");
    ctx.failure(&event)?;
    second.fail("the second");
    ctx.linger();
    for (what, event) in
        [("the event", &event), ("the one behind the second", &behind), ("a new one", &stream.record()?)]
    {
        let error = ctx.failure(event)?;
        equal(what, error.kind(), ErrorKind::WorkFailed)?;
        equal(what, error.detail(), Some("the first"))?;
    }
    equal("the stream's error", stream.error().as_ref().and_then(|error| error.detail()), Some("the first"))
}

fn earlier_recordings_stay_complete(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let seen = stream.record()?;
    ctx.settle(&seen)?;
    let hold = ctx.hold(&stream)?;
    let unseen = stream.record()?;
    ctx.fail(&stream)?;
    let failed = stream.record()?;
    // Where the failure was waited for and is known at once, what is held before it is still pending.
    ensure(unseen.status() == Status::Pending, "a held recording failed with one behind it")?;
    hold.release();
    // Looked at from behind: when the failure is known, nobody has seen the earlier one complete.
    ctx.failure(&failed)?;
    ctx.settle_all([&unseen, &seen])?;
    for (what, event) in [("seen", &seen), ("not seen", &unseen)] {
        ensure(event.error().is_none(), format_args!("what was complete, and {what}, has an error"))?;
        let (_callback, told) = ctx.listen(event)?;
        ctx.hear_once(format_args!("a callback of what was {what}"), &told)??;
    }
    let dependent = device.create_stream()?;
    ensure(
        !dependent.wait(&unseen)?.inserted(),
        "a wait for a complete event of a failed stream was inserted",
    )?;
    ctx.settle(&dependent.record()?)
}

fn dependents_fail_and_do_not_hang(ctx: &Context) -> Verdict {
    const CHAIN: usize = 5;
    let device = ctx.device()?;
    let (second, foreign) = (ctx.second_device(&device).ok(), ctx.foreign_device(&device)?);
    let source = device.create_stream()?;
    let hold = ctx.hold(&source)?;
    let mut last = source.record()?;
    let mut chain = Vec::new();
    // Through streams of this device, of another one, and of another backend, and back.
    for link in 0..CHAIN {
        let owner = match link {
            1 => second.as_ref().unwrap_or(&device),
            3 => &foreign,
            _ => &device,
        };
        let stream = owner.create_stream()?;
        ensure(stream.wait(&last)?.inserted(), "waiting for a pending event inserted nothing")?;
        let event = stream.record()?;
        chain.push(std::mem::replace(&mut last, event));
    }
    chain.push(last);
    chain.iter().try_for_each(|event| ctx.pending(event))?;
    hold.fail("at the source");
    for (link, event) in chain.iter().enumerate().rev() {
        let error = ctx.failure(event)?;
        equal(format_args!("the failure at link {link}"), error.kind(), ErrorKind::WorkFailed)?;
        equal(format_args!("its text at link {link}"), error.detail(), Some("at the source"))?;
    }
    Ok(())
}

fn independent_streams_go_on(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    if !device.capabilities().failure_is_per_stream {
        return Err(Stop::skip("a failure takes the whole device with it"));
    }
    let (failing, other) = (device.create_stream()?, device.create_stream()?);
    let cells = ctx.cells(&device, 1)?;
    let hold = ctx.hold(&other)?;
    let pending = other.record()?;
    ctx.fail(&failing)?;
    let failed = failing.record()?;
    ctx.failure(&failed)?;
    ctx.pending(&pending)?;
    hold.release();
    ctx.settle(&pending)?;
    ensure(other.error().is_none(), "the failure of one stream reached another")?;
    for stream in [other, device.create_stream()?] {
        cells.write(&stream, 0, 70)?;
        ctx.settle(&stream.record()?)?;
        equal("the work of another stream", cells.read(0), 70)?;
    }
    Ok(())
}

fn waiters_of_killed_work_return(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let (stream, other) = (device.create_stream()?, device.create_stream()?);
    let hold = ctx.hold(&stream)?;
    ctx.fail(&stream)?;
    let event = Arc::new(stream.record()?);
    let never = ctx.hold(&other)?;
    let unrelated = Arc::new(other.record()?);
    let strategies =
        [WaitStrategy::Park, WaitStrategy::SpinThenPark(Duration::from_micros(20)), WaitStrategy::Spin];
    let mut waiters: Vec<Task<gpu_events::Result<()>>> = Vec::new();
    for strategy in strategies {
        let theirs = event.clone();
        let options = WaitOptions::new().strategy(strategy);
        waiters.push(ctx.spawn(move || theirs.wait_with(&options).map(drop))?);
    }
    let pair = (event.clone(), unrelated.clone());
    waiters.push(ctx.spawn(move || wait_all([&*pair.1, &*pair.0], &WaitOptions::new()).map(drop))?);
    let pair = (event.clone(), unrelated.clone());
    let any = ctx.spawn(move || wait_any([&*pair.1, &*pair.0], &WaitOptions::new()))?;
    let theirs = stream.clone();
    waiters.push(ctx.spawn(move || theirs.synchronize())?);
    ctx.linger();
    hold.release();
    for waiter in waiters {
        ensure(waiter.finish()?.is_err(), "a wait for killed work was a success")?;
    }
    equal("any", any.finish()??, WaitAny::Settled(1))?;
    never.release();
    if device.capabilities().failure_is_per_stream {
        ctx.settle(&unrelated)?;
    }
    Ok(())
}

fn wait_then_fail_and_fail_then_wait(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let (source, early, late) = (device.create_stream()?, device.create_stream()?, device.create_stream()?);
    let hold = ctx.hold(&source)?;
    let event = source.record()?;
    let before = early.record()?;
    ensure(early.wait(&event)?.inserted(), "waiting for a pending event inserted nothing")?;
    let after = early.record()?;
    hold.fail("on demand");
    ctx.failure(&after)?;
    ctx.settle(&before)?;

    let before = late.record()?;
    ensure(late.wait(&event)?.inserted(), "waiting for a failed event says that it inserted nothing")?;
    let after = late.record()?;
    equal("the failure, waited for late", ctx.failure(&after)?.detail(), Some("on demand"))?;
    ctx.settle(&before)?;
    equal("the late stream's error", late.error().map(|error| error.kind()), Some(ErrorKind::WorkFailed))
}

fn a_panic_s_text_arrives(ctx: &Context) -> Verdict {
    const TEXT: &str = "a panic in stream work";
    let device = ctx.device()?;
    let (stream, other) = (device.create_stream()?, device.create_stream()?);
    let before = stream.record()?;
    let hold = ctx.hold(&stream)?;
    ctx.subject().panic(&stream, TEXT)?;
    let event = stream.record()?;
    ensure(other.wait(&event)?.inserted(), "waiting for a pending event inserted nothing")?;
    let behind = other.record()?;
    let (_callback, told) = ctx.listen(&event)?;
    hold.release();
    for (what, error) in
        [("the event", ctx.failure(&event)?), ("the stream that waited", ctx.failure(&behind)?)]
    {
        equal(what, error.kind(), ErrorKind::Panicked)?;
        equal(what, error.detail(), Some(TEXT))?;
        ensure(error.to_string().contains(TEXT), format_args!("{what} says only {error}"))?;
    }
    match ctx.hear_once("the callback", &told)? {
        Ok(()) => Err(Stop::fail("the callback was told of success")),
        Err(error) => equal("the callback", error.detail(), Some(TEXT)),
    }?;
    ctx.settle(&before)?;
    // The worker that ran it is none the worse.
    ctx.settle(&device.create_stream()?.record()?)
}

fn failure_during_a_pool_s_drop(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    for round in 0..50 {
        let stream = device.create_stream()?;
        let pool = EventPool::new(&device);
        let hold = ctx.hold(&stream)?;
        let events: Vec<Event> = (0..20).map(|_| pool.acquire()).collect();
        events.iter().try_for_each(|event| event.record(&stream))?;
        let kept = stream.record()?;
        let barrier = Arc::new(Barrier::new(2));
        let theirs = barrier.clone();
        let task = ctx.spawn(move || {
            theirs.wait();
            // Half of the rounds drop the pool first.
            if round % 2 == 0 {
                drop(pool);
                drop(events);
            } else {
                drop(events);
                drop(pool);
            }
        })?;
        barrier.wait();
        hold.fail("while the pool goes");
        task.finish()?;
        ctx.failure(&kept)?;
    }
    ctx.settle(&device.create_stream()?.record()?)
}

fn later_positions_fail_though_signaled(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    for round in 0..20 {
        let (source, dependent) = (device.create_stream()?, device.create_stream()?);
        let before = dependent.record()?;
        ctx.settle(&before)?;
        // In turn: work that fails, where the device is the first to know, and a signal, where the host is.
        let hold = ctx.hold(&source)?;
        if round % 2 == 0 {
            ctx.fail(&source)?;
        }
        let event = source.record()?;
        ensure(dependent.wait(&event)?.inserted(), "waiting for what will fail inserted nothing")?;
        let after = Arc::new(dependent.record()?);
        // Someone who looks all the time: at no time may it have been complete.
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, stopped) = (after.clone(), stop.clone());
        let watcher = ctx.spawn(move || {
            // Relaxed: only a flag to stop by.
            while !stopped.load(Ordering::Relaxed) {
                if theirs.status() == Status::Complete {
                    return true;
                }
                std::thread::yield_now();
            }
            false
        })?;
        if round % 2 == 0 {
            hold.release()
        } else {
            hold.fail("at the source")
        }
        ctx.failure(&after)?;
        ctx.settle(&before)?;
        // The device may well go on with what was held, and signal it. It has failed all the same.
        if round % 5 == 0 {
            ctx.linger();
        }
        equal("status of what has failed", after.status(), Status::Failed)?;
        ctx.failure(&dependent.record()?)?;
        stop.store(true, Ordering::Relaxed);
        ensure(!watcher.finish()?, format_args!("complete first and failed later, in round {round}"))?;
    }
    Ok(())
}

fn a_refused_record_leaves_the_event_alone(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let elsewhere = ctx.foreign_device(&device)?.create_stream()?;
    let event = stream.record_timed()?;
    ctx.settle(&event)?;
    let time = event.completion_time().ok();
    let as_it_was = |event: &Event, status: Status| -> Verdict {
        equal("status after a refusal", event.status(), status)?;
        if status == Status::Complete {
            equal("its time after a refusal", event.completion_time().ok(), time)?;
        }
        Ok(())
    };
    let refused = event.record(&elsewhere).map_err(|error| error.kind());
    equal("recording on another backend's stream", refused, Err(ErrorKind::WrongDevice))?;
    as_it_was(&event, Status::Complete)?;
    if let Ok(second) = ctx.second_device(&device) {
        let refused = event.record(&second.create_stream()?).map_err(|error| error.kind());
        equal("recording on another device's stream", refused, Err(ErrorKind::WrongDevice))?;
    }
    as_it_was(&event, Status::Complete)?;

    // For want of room, and then with room: the position is given out again.
    let narrow =
        device.create_stream_with(&StreamOptions::new().queue_depth(1).when_full(WhenFull::WouldBlock))?;
    let hold = ctx.hold(&narrow)?;
    let first = narrow.record()?;
    let refused = event.record(&narrow).map_err(|error| error.kind());
    equal("recording on a full stream", refused, Err(ErrorKind::WouldBlock))?;
    as_it_was(&event, Status::Complete)?;
    let unrecorded = device.pool().acquire();
    let refused = unrecorded.record(&narrow).map_err(|error| error.kind());
    equal("recording a fresh event on a full stream", refused, Err(ErrorKind::WouldBlock))?;
    as_it_was(&unrecorded, Status::Unrecorded)?;
    hold.release();
    ctx.settle(&first)?;
    unrecorded.record(&narrow)?;
    ctx.settle(&unrecorded)?;
    equal("recordings that the full stream took", ctx.recorded(&narrow)?, 3)?;

    // And the end.
    device.close();
    let refused = event.record(&stream).map_err(|error| error.kind());
    equal("recording on a closed device", refused, Err(ErrorKind::Closed))?;
    as_it_was(&event, Status::Complete)
}

fn a_refused_submission_fails_the_stream(ctx: &Context) -> Verdict {
    let device = ctx.subject().open_refusing()?;
    let (stream, other) = (device.create_stream()?, device.create_stream()?);
    let before = stream.record()?;
    ctx.settle(&before)?;
    ctx.subject().refuse_submission(&stream)?;
    // The driver says no either to the call, and then nothing has happened, or to the batch that it went into.
    let event = device.pool().acquire();
    if event.record(&stream).is_err() {
        equal("status after a refused record", event.status(), Status::Unrecorded)?;
        event.record(&stream)?;
        return ctx.settle(&event);
    }
    let (_callback, told) = ctx.listen(&event)?;
    other.wait(&event)?;
    let behind = other.record()?;
    ctx.failure(&event)?;
    ensure(ctx.hear_once("the callback", &told)?.is_err(), "a callback was told of success")?;
    ctx.failure(&behind)?;
    ensure(stream.error().is_some(), "the stream has no error")?;
    ctx.settle(&before)
}

fn racing_failures_agree(ctx: &Context) -> Verdict {
    const TEXTS: [&str; 2] = ["the one", "the other"];
    let device = ctx.device()?;
    for _ in 0..50 {
        let stream = device.create_stream()?;
        let holds = [ctx.hold(&stream)?, ctx.hold(&stream)?];
        let event = Arc::new(stream.record()?);
        let (_callback, told) = ctx.listen(&event)?;
        let watchers = (0..3).map(|_| {
            let event = event.clone();
            ctx.spawn(move || event.synchronize())
        });
        let watchers = watchers.collect::<Verdict<Vec<_>>>()?;
        let barrier = Arc::new(Barrier::new(2));
        let racers = holds.into_iter().zip(TEXTS).map(|(hold, text)| {
            let barrier = barrier.clone();
            ctx.spawn(move || {
                barrier.wait();
                hold.fail(text);
            })
        });
        let racers = racers.collect::<Verdict<Vec<_>>>()?;
        finish_all(racers)?;
        let winner = ctx.failure(&event)?;
        let text = winner.detail();
        ensure(text.is_some_and(|text| TEXTS.contains(&text)), format_args!("failed with {winner}"))?;
        let mut told = vec![ctx.hear_once("the callback", &told)?];
        told.extend(finish_all(watchers)?);
        for result in told {
            let theirs = result.err();
            equal("what others were told", theirs.as_ref().and_then(|error| error.detail()), text)?;
        }
        equal("the stream's error", stream.error().as_ref().and_then(|error| error.detail()), text)?;
    }
    Ok(())
}

fn failure_goes_before_every_gate(ctx: &Context) -> Verdict {
    // One stream gated, one that waits for it natively, and one more: the failure has to be at the end of the chain
    // before the first gate opens. On a device so fast that whatever a gate lets go is done when `open` returns,
    // any other order shows.
    let eager = Toy::with_eager_gates().open();
    let device = ctx.device()?;
    for owner in [&eager, &device] {
        let other =
            if ctx.second_device(&device).is_ok() { ctx.second_device(&device)? } else { device.clone() };
        let source = other.create_stream()?;
        let [gated, native, last] = [owner.create_stream()?, owner.create_stream()?, owner.create_stream()?];
        let hold = ctx.hold(&source)?;
        let mut events = vec![source.record()?];
        for stream in [&gated, &native, &last] {
            let source = &events[events.len() - 1];
            ensure(stream.wait(source)?.inserted(), "waiting for a pending event inserted nothing")?;
            events.push(stream.record()?);
            stream.flush()?;
        }
        events.iter().try_for_each(|event| ctx.pending(event))?;
        hold.fail("at the source");
        for (link, event) in events.iter().enumerate() {
            let status = event.status();
            ensure(status != Status::Complete, format_args!("link {link} completed behind a failure"))?;
            ctx.failure(event)?;
        }
    }
    Ok(())
}
