//! Streams that wait for events: data arrives in order, whatever the streams, devices and backends.

use super::{Case, Group, case};
use crate::{
    Context, Hold, Stop, Verdict,
    context::send,
    verdict::{ensure, equal},
};
use gpu_events::{Device, Event, Gates, Status, Stream, StreamWait};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
    mpsc,
};

const fn row(id: u16, name: &'static str, rules: &'static [u8], run: fn(&Context) -> Verdict) -> Case {
    case(Group::StreamWaits, id, name, rules, run)
}

pub(super) const CASES: &[Case] = &[
    row(22, "fork-and-join-carry-data", &[5, 8], fork_and_join_carry_data),
    row(23, "chain-of-three-streams", &[5, 10], chain_of_three_streams),
    row(24, "wait-across-devices", &[6], wait_across_devices),
    row(25, "wait-for-nothing-inserts-nothing", &[4, 5], wait_for_nothing_inserts_nothing),
    row(26, "a-hundred-streams-wait-for-one-event", &[6], a_hundred_streams_wait_for_one_event),
    row(27, "ping-pong-of-two-streams", &[2, 8], ping_pong_of_two_streams),
    row(28, "wait-for-an-unflushed-stream", &[7], wait_for_an_unflushed_stream),
    row(29, "waits-bind-to-the-recording", &[2], waits_bind_to_the_recording),
    row(30, "diamond-under-load", &[8, 10], diamond_under_load),
    row(31, "wait-across-backends", &[6], wait_across_backends),
    row(32, "waits-for-different-positions", &[9], waits_for_different_positions),
    row(33, "overshoot-satisfies", &[10], overshoot_satisfies),
    row(99, "a-wait-never-blocks-the-host", &[5], a_wait_never_blocks_the_host),
    row(100, "gated-streams-leave-others-running", &[6], gated_streams_leave_others_running),
    row(101, "a-wait-spares-earlier-work", &[5], a_wait_spares_earlier_work),
    row(102, "a-held-lock-keeps-work-together", &[7, 34], a_held_lock_keeps_work_together),
];

/// Makes `waiter` wait for `event`, which is pending.
#[track_caller]
fn insert(waiter: &Stream, event: &Event) -> Verdict {
    ensure(waiter.wait(event)?.inserted(), "waiting for a pending event inserted nothing")
}

fn streams<const N: usize>(device: &Device) -> Verdict<[Stream; N]> {
    let streams: Result<Vec<_>, _> = (0..N).map(|_| device.create_stream()).collect();
    streams?.try_into().map_err(|_| Stop::fail("the wrong number of streams"))
}

fn fork_and_join_carry_data(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let [main, left, right] = streams(&device)?;
    let cells = ctx.cells(&device, 5)?;
    for round in 1..=40 {
        // Held from the start, every wait is inserted; running freely, the waits race with the work.
        let hold = (round % 2 == 0).then(|| ctx.hold(&main)).transpose()?;
        cells.write(&main, 0, round)?;
        let fork = main.record()?;
        let mut joins = Vec::new();
        for (stream, cell) in [(&left, 1), (&right, 2)] {
            let wait = stream.wait(&fork)?;
            ensure(hold.is_none() || wait.inserted(), "a wait for held work inserted nothing")?;
            cells.copy(stream, 0, cell)?;
            joins.push(stream.record()?);
        }
        for join in &joins {
            main.wait(join)?;
        }
        cells.copy(&main, 1, 3)?;
        cells.copy(&main, 2, 4)?;
        let end = main.record()?;
        if let Some(hold) = hold {
            ctx.pending(&end)?;
            hold.release();
        }
        ctx.settle(&end)?;
        let found = [3, 4].map(|cell| cells.read(cell));
        equal(format_args!("what arrived in round {round}"), found, [round; 2])?;
    }
    Ok(())
}

fn chain_of_three_streams(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let chain: [Stream; 3] = streams(&device)?;
    let cells = ctx.cells(&device, 3)?;
    let hold = ctx.hold(&chain[0])?;
    cells.write(&chain[0], 0, 23)?;
    let first = chain[0].record()?;
    insert(&chain[1], &first)?;
    cells.copy(&chain[1], 0, 1)?;
    let second = chain[1].record()?;
    insert(&chain[2], &second)?;
    cells.copy(&chain[2], 1, 2)?;
    let third = chain[2].record()?;
    ctx.stays_pending(&third)?;
    ctx.pending(&second)?;
    hold.release();
    // Only the end of the chain is looked at: what it stands on is complete by then.
    ctx.settle(&third)?;
    equal("the end of the chain", cells.read(2), 23)?;
    equal("status of the first link", first.status(), Status::Complete)?;
    equal("status of the second link", second.status(), Status::Complete)
}

/// Has each of two devices wait for the other, in turn.
fn both_ways(ctx: &Context, one: &Device, other: &Device) -> Verdict {
    for (from, to) in [(one, other), (other, one)] {
        let (source, dependent) = (from.create_stream()?, to.create_stream()?);
        let hold = ctx.hold(&source)?;
        let event = source.record()?;
        insert(&dependent, &event)?;
        let behind = dependent.record()?;
        ctx.stays_pending(&behind)?;
        hold.release();
        ctx.settle(&behind)?;
        equal("status of what it waited for", event.status(), Status::Complete)?;

        // And on: a chain that goes there and back, with nothing of the host's in between.
        let hold = ctx.hold(&source)?;
        let mut last = source.record()?;
        for hop in 0..20 {
            let stream = if hop % 2 == 0 { &dependent } else { &source };
            insert(stream, &last)?;
            last = stream.record()?;
        }
        ctx.pending(&last)?;
        hold.release();
        ctx.settle(&last)?;
    }
    Ok(())
}

fn wait_across_devices(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let second = ctx.second_device(&device)?;
    both_ways(ctx, &device, &second)
}

fn wait_across_backends(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let foreign = ctx.foreign_device(&device)?;
    ensure(device.info().backend != foreign.info().backend, "both devices are of one backend")?;
    both_ways(ctx, &device, &foreign)?;

    // Whether the device can wait for the other or the host has to let it go: what is behind stays behind.
    let (source, dependent) = (foreign.create_stream()?, device.create_stream()?);
    let cells = ctx.cells(&device, 1)?;
    let hold = ctx.hold(&source)?;
    let event = source.record()?;
    insert(&dependent, &event)?;
    cells.write(&dependent, 0, 31)?;
    let end = dependent.record()?;
    ctx.stays_pending(&end)?;
    equal("work behind the gate", cells.read(0), 0)?;
    hold.release();
    ctx.settle(&end)?;
    equal("work behind the open gate", cells.read(0), 31)
}

fn wait_for_nothing_inserts_nothing(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let [stream, other] = streams(&device)?;
    let unrecorded = device.pool().acquire();
    let complete = other.record()?;
    ctx.settle(&complete)?;
    for event in [&unrecorded, &complete] {
        let wait = stream.wait(event)?;
        equal("a wait for nothing", wait, StreamWait::Nothing)?;
        ensure(!wait.inserted(), "a wait for nothing says that it was inserted")?;
    }
    ctx.settle(&stream.record()?)?;

    let hold = ctx.hold(&other)?;
    let pending = other.record()?;
    insert(&stream, &pending)?;
    let behind = stream.record()?;
    ctx.pending(&behind)?;
    hold.release();
    ctx.settle(&behind)
}

fn a_hundred_streams_wait_for_one_event(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let source = device.create_stream()?;
    let cells = ctx.cells(&device, 101)?;
    let waiters: [Stream; 100] = streams(&device)?;
    let hold = ctx.hold(&source)?;
    cells.write(&source, 100, 26)?;
    let event = source.record()?;
    let mut ends = Vec::new();
    for (cell, stream) in waiters.iter().enumerate() {
        insert(stream, &event)?;
        cells.copy(stream, 100, cell)?;
        ends.push(stream.record()?);
    }
    ctx.linger();
    ends.iter().try_for_each(|end| ctx.pending(end))?;
    hold.release();
    ctx.settle_all(&ends)?;
    let late = (0..100).filter(|&cell| cells.read(cell) != 26).count();
    equal("streams that went on too early", late, 0)
}

fn ping_pong_of_two_streams(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    // Half of them on either stream, all held.
    let rounds = device.capabilities().queue_depth.map_or(1_000, |depth| (2 * depth).min(1_000) as usize);
    let players: [Stream; 2] = streams(&device)?;
    let cells = ctx.cells(&device, rounds + 1)?;
    // One event each, recorded hundreds of times over while the other side's waits for it are outstanding.
    let events = [device.pool().acquire(), device.pool().acquire()];
    let hold = ctx.hold(&players[0])?;
    cells.write(&players[0], 0, 27)?;
    for round in 0..rounds {
        let me = round % 2;
        if round > 0 {
            players[me].wait(&events[1 - me])?;
        }
        cells.copy(&players[me], round, round + 1)?;
        events[me].record(&players[me])?;
        if round == rounds / 2 {
            ctx.pending(&events[me])?;
        }
    }
    let last = &events[(rounds - 1) % 2];
    ctx.pending(last)?;
    hold.release();
    ctx.settle(last)?;
    // The value is passed on by one copy a round: it arrives only if no round overtook another.
    let lost = (0..=rounds).find(|&cell| cells.read(cell) != 27);
    equal("the first round that lost the ball", lost, None)
}

fn wait_for_an_unflushed_stream(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let cells = ctx.cells(&device, 2)?;
    for (round, timed) in (1..).zip([false, true, false, true]) {
        let [source, dependent] = streams(&device)?;
        cells.write(&source, 0, round)?;
        let event = if timed { source.record_timed()? } else { source.record()? };
        // Nobody looks at the source, nor flushes it: the wait is what has it submitted.
        dependent.wait(&event)?;
        cells.copy(&dependent, 0, 1)?;
        let end = dependent.record()?;
        ctx.settle(&end)?;
        equal("what came from the unflushed stream", cells.read(1), round)?;
        if timed {
            // Its time may come a little later than what it lets go of (R28).
            ctx.settle(&event)?;
        }
        equal("its event", event.status(), Status::Complete)?;
    }
    Ok(())
}

fn waits_bind_to_the_recording(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let [source, early, late] = streams(&device)?;
    let first = ctx.hold(&source)?;
    let event = source.record()?;
    insert(&early, &event)?;
    let early = early.record()?;
    let second = ctx.hold(&source)?;
    event.record(&source)?;
    insert(&late, &event)?;
    let late = late.record()?;
    ctx.pending(&early)?;
    first.release();
    ctx.settle(&early)?;
    ctx.stays_pending(&late)?;
    ctx.pending(&event)?;
    second.release();
    ctx.settle(&late)
}

fn diamond_under_load(ctx: &Context) -> Verdict {
    const ROUNDS: u32 = 100;
    let device = ctx.device()?;
    let [top, left, right, bottom] = streams(&device)?;
    let cells = ctx.cells(&device, 5)?;

    let stop = Arc::new(AtomicBool::new(false));
    let (tell, told) = mpsc::channel();
    let load = (0..2).map(|_| {
        let (stream, stop, tell) = (device.create_stream()?, stop.clone(), tell.clone());
        let patience = ctx.patience();
        ctx.spawn(move || -> Verdict {
            // Relaxed: only a flag to stop by.
            while !stop.load(Ordering::Relaxed) {
                let event = stream.record()?;
                ensure(event.wait_timeout(patience)?.is_complete(), "the load made no progress")?;
                send(&tell, ());
            }
            Ok(())
        })
    });
    let load = load.collect::<Verdict<Vec<_>>>()?;
    ctx.hear("the load", &told)?;

    let rounds = || -> Verdict {
        for round in 1..=ROUNDS {
            cells.write(&top, 0, round)?;
            let event = top.record()?;
            for (stream, cell) in [(&left, 1), (&right, 2)] {
                stream.wait(&event)?;
                cells.copy(stream, 0, cell)?;
                let arm = stream.record()?;
                bottom.wait(&arm)?;
                cells.copy(&bottom, cell, cell + 2)?;
            }
            let end = bottom.record()?;
            // The next round writes what this one reads.
            top.wait(&end)?;
            if round % 10 == 0 {
                ctx.settle(&end)?;
                let found = [3, 4].map(|cell| cells.read(cell));
                equal(format_args!("what came through the diamond in round {round}"), found, [round; 2])?;
            }
        }
        Ok(())
    };
    let verdict = rounds();
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.finish()??;
    }
    verdict
}

fn waits_for_different_positions(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let [source, one, two] = streams(&device)?;
    let (first, event_one) = (ctx.hold(&source)?, source.record()?);
    let (second, event_two) = (ctx.hold(&source)?, source.record()?);
    // The later position is waited for first.
    insert(&two, &event_two)?;
    insert(&one, &event_one)?;
    let (end_one, end_two) = (one.record()?, two.record()?);
    ctx.pending(&end_one)?;
    first.release();
    ctx.settle(&end_one)?;
    ctx.stays_pending(&end_two)?;
    second.release();
    ctx.settle(&end_two)
}

fn overshoot_satisfies(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let [source, before, after] = streams(&device)?;
    let hold = ctx.hold(&source)?;
    let event = source.record()?;
    insert(&before, &event)?;
    let before = before.record()?;
    let (_callback, told) = ctx.listen(&event)?;
    let mut last = source.record()?;
    for _ in 0..100 {
        last = source.record()?;
    }
    hold.release();
    // By the time that anybody looks, the stream may be far beyond the position that is waited for.
    ctx.settle(&last)?;
    ctx.settle(&before)?;
    ctx.hear_once("the callback of an overtaken position", &told)??;
    ctx.settle(&event)?;
    ensure(!after.wait(&event)?.inserted(), "a wait for an overtaken position was inserted")?;
    ctx.settle(&after.record()?)
}

fn a_wait_never_blocks_the_host(ctx: &Context) -> Verdict {
    const WAITS: usize = 50;
    let device = ctx.device()?;
    let [source, stream] = streams(&device)?;
    let holds: Vec<Hold> = (0..WAITS).map(|_| ctx.hold(&source)).collect::<Verdict<_>>()?;
    let event = source.record()?;
    // Fifty waits on the one and fifty on the other, none of which can end, on a thread that must come back.
    let task = ctx.spawn(move || -> Verdict<Event> {
        for _ in 0..WAITS {
            insert(&stream, &event)?;
        }
        Ok(stream.record()?)
    })?;
    let end = task.finish()??;
    ctx.pending(&end)?;
    for hold in holds {
        ctx.pending(&end)?;
        hold.release();
    }
    ctx.settle(&end)
}

fn gated_streams_leave_others_running(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    // As many as the device says that it can do.
    let most = match device.capabilities().gates {
        Gates::Driver { limit } => limit.min(64) as usize,
        _ => 64,
    };
    ensure(most > 0, "the device says that not one stream can be gated without holding up others")?;
    let cells = ctx.cells(&device, most + 1)?;
    let mut gated = Vec::new();
    for cell in 0..most {
        let stream = device.create_stream()?;
        let hold = ctx.hold(&stream)?;
        cells.write(&stream, cell, 1)?;
        let event = stream.record()?;
        // Submitted, as far as a driver that is not asked to wait for the host can have it.
        stream.flush()?;
        gated.push((hold, event));
    }
    let free = device.create_stream()?;
    for round in 1..=10 {
        cells.write(&free, most, round)?;
        let event = free.record()?;
        ctx.settle(&event)?;
        equal("the work of the stream that nothing holds", cells.read(most), round)?;
    }
    equal("gated streams that ran", (0..most).filter(|&cell| cells.read(cell) != 0).count(), 0)?;
    for (hold, event) in gated {
        ctx.pending(&event)?;
        hold.release();
        ctx.settle(&event)?;
    }
    Ok(())
}

fn a_wait_spares_earlier_work(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let [source, stream] = streams(&device)?;
    let cells = ctx.cells(&device, 2)?;
    let hold = ctx.hold(&source)?;
    let event = source.record()?;
    cells.write(&stream, 0, 1)?;
    let before = stream.record()?;
    insert(&stream, &event)?;
    cells.write(&stream, 1, 1)?;
    let after = stream.record()?;
    ctx.settle(&before)?;
    equal("the work before the wait", cells.read(0), 1)?;
    ctx.stays_pending(&after)?;
    equal("the work after the wait", cells.read(1), 0)?;
    hold.release();
    ctx.settle(&after)?;
    equal("the work after the wait, at the end", cells.read(1), 1)
}

fn a_held_lock_keeps_work_together(ctx: &Context) -> Verdict {
    const RIVALS: usize = 2;
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let (before, behind) = (device.pool().acquire(), device.pool().acquire());
    for round in 0..50 {
        let (gate, signal) = device.host_event()?;
        let locked = Arc::new(AtomicBool::new(false));
        let rivals = (0..RIVALS).map(|_| {
            let (stream, locked) = (stream.clone(), locked.clone());
            ctx.spawn(move || {
                // Relaxed: only a flag to start by.
                while !locked.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
                stream.record()
            })
        });
        let rivals = rivals.collect::<Verdict<Vec<_>>>()?;
        let mut guard = stream.lock()?;
        // From here on the rivals try to get in between.
        locked.store(true, Ordering::Relaxed);
        guard.record(&before)?;
        if round % 10 == 0 {
            ctx.linger();
        }
        ensure(guard.wait(&gate)?.inserted(), "waiting for a pending event inserted nothing")?;
        guard.record(&behind)?;
        drop(guard);
        let theirs = rivals.into_iter().map(|rival| Ok(rival.finish()??)).collect::<Verdict<Vec<Event>>>()?;
        ctx.settle(&before)?;
        for event in theirs.iter().chain([&behind]) {
            equal("status of what came after the lock", event.status(), Status::Pending)?;
        }
        signal.complete();
        ctx.settle_all(theirs.iter().chain([&behind]))?;
    }
    Ok(())
}
