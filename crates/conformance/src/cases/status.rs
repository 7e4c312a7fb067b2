//! What an event says when asked: never too early, never twice, never about another recording.

use super::{Case, Group, case};
use crate::{
    Context, Stop, Verdict,
    context::{finish_all, send},
    verdict::{ensure, equal},
};
use gpu_events::{Event, Status, WaitOutcome};
use std::{
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

const fn row(id: u16, name: &'static str, rules: &'static [u8], run: fn(&Context) -> Verdict) -> Case {
    case(Group::Status, id, name, rules, run)
}

pub(super) const CASES: &[Case] = &[
    row(13, "held-work-is-pending-then-complete", &[4, 27], held_work_is_pending_then_complete),
    row(14, "long-work-is-pending-until-it-is-done", &[8, 15], long_work_is_pending_until_it_is_done),
    row(15, "same-answer-from-any-thread", &[11, 34], same_answer_from_any_thread),
    row(16, "five-records-in-a-row", &[1, 3], five_records_in_a_row),
    row(17, "of-held-records-only-the-newest-counts", &[1, 3], of_held_records_only_the_newest_counts),
    row(18, "record-again-while-someone-waits", &[2, 3], record_again_while_someone_waits),
    row(19, "record-again-on-another-stream", &[1, 2], record_again_on_another_stream),
    row(20, "signaling-one-leaves-others-pending", &[9], signaling_one_leaves_others_pending),
    row(21, "a-thousand-pending-events-turn-once", &[9, 10], a_thousand_pending_events_turn_once),
    row(95, "completion-once-seen-stays", &[10, 11], completion_once_seen_stays),
    row(96, "completion-is-level-triggered", &[11], completion_is_level_triggered),
    row(97, "observers-see-what-the-work-wrote", &[8], observers_see_what_the_work_wrote),
    row(98, "concurrent-records-serialise", &[1, 34], concurrent_records_serialise),
];

fn held_work_is_pending_then_complete(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    for timed in [false, true] {
        let hold = ctx.hold(&stream)?;
        let event = if timed { stream.record_timed()? } else { stream.record()? };
        ctx.stays_pending(&event)?;
        ensure(event.error().is_none(), "a pending event has an error")?;
        hold.release();
        ctx.settle(&event)?;
        equal("is_complete", event.is_complete()?, true)?;
        ensure(event.error().is_none(), "a complete event has an error")?;
    }
    Ok(())
}

fn long_work_is_pending_until_it_is_done(ctx: &Context) -> Verdict {
    const WORK: Duration = Duration::from_millis(100);
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let started = Instant::now();
    ctx.subject().busy(&stream, WORK)?;
    let event = stream.record()?;
    // Whether it is still running when first asked is up to the machine's load; that it is not done before its
    // time is not.
    let mut asked = 0;
    while !event.is_complete()? {
        asked += 1;
        if started.elapsed() > ctx.patience() {
            return Err(Stop::fail("work of 100 ms does not end"));
        }
        let _ = event.wait_timeout(Duration::from_millis(1))?;
    }
    let taken = started.elapsed();
    ensure(
        taken >= WORK,
        format_args!("work of {WORK:?} was complete after {taken:?}, asked {asked} times"),
    )?;
    let waiter = {
        ctx.subject().busy(&stream, WORK)?;
        let event = stream.record()?;
        ctx.spawn(move || event.synchronize().map(|()| event.is_complete()))?
    };
    equal("is_complete after synchronize", waiter.finish()???, true)
}

fn same_answer_from_any_thread(ctx: &Context) -> Verdict {
    const THREADS: usize = 8;
    let device = ctx.device()?;
    let other = ctx.second_device(&device).ok();
    let stream = device.create_stream()?;
    let hold = ctx.hold(&stream)?;
    let event = Arc::new(stream.record()?);
    let (asked, released) = (Arc::new(Barrier::new(THREADS + 1)), Arc::new(Barrier::new(THREADS + 1)));
    let tasks = (0..THREADS).map(|i| {
        let (event, asked, released, patience) =
            (event.clone(), asked.clone(), released.clone(), ctx.patience());
        let current = if i % 2 == 0 { Some(device.clone()) } else { other.clone() };
        let subject = ctx.subject_handle();
        ctx.spawn(move || {
            if let Some(current) = &current {
                subject.make_current(current);
            }
            let before = event.status();
            asked.wait();
            released.wait();
            let outcome = event.wait_timeout(patience);
            (before, outcome, event.status(), event.is_complete())
        })
    });
    let tasks = tasks.collect::<Verdict<Vec<_>>>()?;
    asked.wait();
    hold.release();
    released.wait();
    for (before, outcome, after, complete) in finish_all(tasks)? {
        equal("status while held", before, Status::Pending)?;
        equal("outcome of the wait", outcome?, WaitOutcome::Complete)?;
        equal("status once complete", after, Status::Complete)?;
        equal("is_complete once complete", complete?, true)?;
    }
    Ok(())
}

fn five_records_in_a_row(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let event = device.pool().acquire();
    for held in [false, true] {
        let before = ctx.recorded(&stream)?;
        let hold = held.then(|| ctx.hold(&stream)).transpose()?;
        for _ in 0..5 {
            event.record(&stream)?;
        }
        if let Some(hold) = hold {
            ctx.pending(&event)?;
            hold.release();
        }
        ctx.settle(&event)?;
        // One more is the one that asked.
        equal("recordings that were made", ctx.recorded(&stream)? - before, 5 + 1)?;
    }
    Ok(())
}

fn of_held_records_only_the_newest_counts(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let first = ctx.hold(&stream)?;
    let event = stream.record()?;
    let witness = stream.record()?;
    let second = ctx.hold(&stream)?;
    event.record(&stream)?;
    first.release();
    ctx.settle(&witness)?;
    ctx.stays_pending(&event)?;
    second.release();
    ctx.settle(&event)
}

fn record_again_while_someone_waits(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let (stream, other) = (device.create_stream()?, device.create_stream()?);
    let first = ctx.hold(&stream)?;
    let event = Arc::new(stream.record()?);
    let (theirs, patience) = (event.clone(), ctx.patience());
    let waiter = ctx.spawn(move || theirs.wait_timeout(patience))?;
    let (_callback, told) = ctx.listen(&event)?;
    other.wait(&event)?;
    let dependent = other.record()?;
    // The thread may not have begun to wait; the callback and the stream have, and bind to the first recording.
    let second = ctx.hold(&stream)?;
    ctx.spawn({
        let (event, stream) = (event.clone(), stream.clone());
        move || event.record(&stream)
    })?
    .finish()??;
    ctx.pending(&dependent)?;
    ensure(told.try_recv().is_err(), "recording again fired the callback of the recording before")?;
    first.release();
    ctx.settle(&dependent)?;
    ctx.hear_once("the callback of the first recording", &told)??;
    ctx.stays_pending(&event)?;
    second.release();
    equal("the waiting thread", waiter.finish()??, WaitOutcome::Complete)?;
    ctx.settle(&event)
}

fn record_again_on_another_stream(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let (held, idle) = (device.create_stream()?, device.create_stream()?);
    let hold = ctx.hold(&held)?;
    let event = held.record()?;
    ctx.pending(&event)?;
    event.record(&idle)?;
    ctx.settle(&event)?;
    event.record(&held)?;
    ctx.stays_pending(&event)?;
    hold.release();
    ctx.settle(&event)
}

fn signaling_one_leaves_others_pending(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let streams = [device.create_stream()?, device.create_stream()?, device.create_stream()?];
    let mut held = Vec::new();
    for stream in &streams {
        held.push((ctx.hold(stream)?, stream.record()?));
    }
    // The middle one first: neither the first nor the last in any list.
    let (hold, event) = held.remove(1);
    hold.release();
    ctx.settle(&event)?;
    ctx.linger();
    held.iter().try_for_each(|(_, event)| ctx.pending(event))?;
    for (hold, event) in held {
        hold.release();
        ctx.settle(&event)?;
    }
    Ok(())
}

fn a_thousand_pending_events_turn_once(ctx: &Context) -> Verdict {
    const GROUPS: usize = 10;
    let device = ctx.device()?;
    // A thousand, or as many as one queue takes.
    let room = device.capabilities().queue_depth.unwrap_or(u64::MAX).min(1_000) as usize;
    let each = (room / GROUPS).max(1);
    let stream = device.create_stream()?;
    let mut holds = Vec::new();
    let mut events: Vec<Event> = Vec::new();
    for _ in 0..GROUPS {
        holds.push(ctx.hold(&stream)?);
        for _ in 0..each {
            events.push(stream.record()?);
        }
    }
    let mut complete = vec![false; events.len()];
    let poll = |complete: &mut [bool]| -> Verdict<usize> {
        let mut turned = 0;
        for (event, complete) in events.iter().zip(complete) {
            match (*complete, event.status()) {
                (false, Status::Pending) | (true, Status::Complete) => {}
                (false, Status::Complete) => {
                    *complete = true;
                    turned += 1;
                }
                (before, now) => {
                    return Err(Stop::fail(format_args!("{now:?} after complete was {before}")));
                }
            }
        }
        Ok(turned)
    };
    equal("events that turned while all are held", poll(&mut complete)?, 0)?;
    for (group, hold) in holds.into_iter().enumerate() {
        hold.release();
        ctx.settle(&events[(group + 1) * each - 1])?;
        equal(format_args!("events that turned with hold {group}"), poll(&mut complete)?, each)?;
    }
    equal("events that turned at the end", poll(&mut complete)?, 0)
}

fn completion_once_seen_stays(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let (stream, other) = (device.create_stream()?, device.create_stream()?);
    let mut seen: Vec<Event> = Vec::new();
    for round in 0..20 {
        let hold = ctx.hold(&stream)?;
        let event = stream.record()?;
        let behind = device.pool().acquire();
        behind.record(&stream)?;
        hold.release();
        ctx.settle(&event)?;
        seen.push(event);
        // More work, more recordings, a reset and a drop: none of it may move what was seen.
        let next = ctx.hold(&stream)?;
        let pending = stream.record()?;
        ctx.pending(&pending)?;
        behind.reset();
        drop(behind);
        other.wait(&pending)?;
        for event in &seen {
            equal(format_args!("status in round {round}"), event.status(), Status::Complete)?;
            equal("is_complete", event.is_complete()?, true)?;
            equal("a zero wait", event.wait_timeout(Duration::ZERO)?, WaitOutcome::Complete)?;
        }
        next.release();
        ctx.settle(&pending)?;
    }
    seen.iter().try_for_each(|event| ctx.settle(event))
}

fn completion_is_level_triggered(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let (stream, other) = (device.create_stream()?, device.create_stream()?);
    let hold = ctx.hold(&stream)?;
    let event = Arc::new(stream.record()?);
    hold.release();
    // Every observer in turn, each twice: whoever comes first consumes nothing.
    for round in 0..2 {
        let theirs = event.clone();
        ctx.spawn(move || theirs.synchronize())?.finish()??;
        ctx.settle(&event)?;
        let (_callback, told) = ctx.listen(&event)?;
        ctx.hear_once(format_args!("the callback of round {round}"), &told)??;
        let completion = event.completion();
        ctx.spawn(move || futures_lite::future::block_on(completion))?.finish()??;
        ensure(!other.wait(&event)?.inserted(), "a wait for a complete event was inserted")?;
        ctx.settle(&other.record()?)?;
    }
    Ok(())
}

fn observers_see_what_the_work_wrote(ctx: &Context) -> Verdict {
    const ROUNDS: u32 = 50;
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let cells = ctx.cells(&device, 64)?;
    for round in 1..=ROUNDS {
        let written = |cells: &dyn crate::Cells| (0..64).all(|cell| cells.read(cell) == round);
        let hold = (round % 2 == 0).then(|| ctx.hold(&stream)).transpose()?;
        for cell in 0..64 {
            cells.write(&stream, cell, round)?;
        }
        let event = stream.record()?;
        let (theirs, at_callback) = (cells.clone(), std::sync::mpsc::channel());
        let look = move || (0..64).all(|cell| theirs.read(cell) == round);
        let tell = at_callback.0;
        let _callback = event.on_complete(move |result| send(&tell, (result, look())))?;
        if let Some(hold) = hold {
            hold.release();
        }
        let how = match round % 3 {
            0 => {
                ctx.until("completion", || event.status() != Status::Pending)?;
                "status"
            }
            1 => {
                ctx.settle(&event)?;
                "a wait"
            }
            _ => {
                let completion = event.completion();
                ctx.spawn(move || futures_lite::future::block_on(completion))?.finish()??;
                "a future"
            }
        };
        ensure(written(&*cells), format_args!("{how} came before the work's effects in round {round}"))?;
        let (result, seen) = ctx.hear("the callback", &at_callback.1)?;
        result?;
        ensure(seen, format_args!("a callback came before the work's effects in round {round}"))?;
    }
    Ok(())
}

fn concurrent_records_serialise(ctx: &Context) -> Verdict {
    const THREADS: usize = 8;
    const ROUNDS: u64 = 200;
    let device = ctx.device()?;
    let streams = [device.create_stream()?, device.create_stream()?];
    let event = Arc::new(device.pool().acquire());
    let barrier = Arc::new(Barrier::new(THREADS));
    let before = [ctx.recorded(&streams[0])?, ctx.recorded(&streams[1])?];
    let tasks = (0..THREADS).map(|i| {
        let (event, stream, barrier) = (event.clone(), streams[i % 2].clone(), barrier.clone());
        let patience = ctx.patience();
        ctx.spawn(move || -> Verdict {
            barrier.wait();
            for round in 0..ROUNDS {
                event.record(&stream)?;
                ensure(
                    event.status() != Status::Unrecorded,
                    "an event that is only recorded was unrecorded",
                )?;
                if round % 16 == 0 {
                    let _ = event.wait_timeout(patience)?;
                }
            }
            Ok(())
        })
    });
    let tasks = tasks.collect::<Verdict<Vec<_>>>()?;
    for done in finish_all(tasks)? {
        done?;
    }
    ctx.settle(&event)?;
    // Each record took one position of its stream, and none took two. One more is the one that asked.
    for (stream, before) in streams.iter().zip(before) {
        let taken = ctx.recorded(stream)? - before - 1;
        equal("positions that four threads took", taken, ROUNDS * THREADS as u64 / 2)?;
    }
    // The event is of the stream on which it was recorded last, whichever thread that was.
    let holds = [ctx.hold(&streams[0])?, ctx.hold(&streams[1])?];
    event.record(&streams[1])?;
    let [first, second] = holds;
    first.release();
    ctx.stays_pending(&event)?;
    second.release();
    ctx.settle(&event)
}
