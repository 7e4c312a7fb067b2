//! Threads that wait for events: they return when they should, not before, and whoever else is stuck.

use super::{Case, Group, case};
use crate::{
    Context, Stop, Verdict,
    context::{finish_all, send},
    verdict::{ensure, equal},
};
use gpu_events::{Event, Status, WaitAny, WaitOptions, WaitOutcome, WaitStrategy, wait_all, wait_any};
use std::{
    sync::{Arc, Barrier, mpsc},
    time::{Duration, Instant},
};

const fn row(id: u16, name: &'static str, rules: &'static [u8], run: fn(&Context) -> Verdict) -> Case {
    case(Group::HostWaits, id, name, rules, run)
}

pub(super) const CASES: &[Case] = &[
    row(34, "unrecorded-returns-at-once", &[4], unrecorded_returns_at_once),
    row(35, "zero-finite-and-infinite-waits", &[12], zero_finite_and_infinite_waits),
    row(36, "timeouts-are-on-time", &[12], timeouts_are_on_time),
    row(37, "waits-of-two-threads-overlap", &[14], waits_of_two_threads_overlap),
    row(38, "sixteen-threads-wait-for-one-event", &[11, 12], sixteen_threads_wait_for_one_event),
    row(39, "waiting-for-one-does-not-wait-for-the-next", &[9], waiting_for_one_does_not_wait_for_the_next),
    row(40, "wait-any-and-wait-all", &[12, 26], wait_any_and_wait_all),
    row(41, "waits-progress-with-the-notifier-blocked", &[14, 17], waits_progress_with_the_notifier_blocked),
    row(42, "every-wait-strategy", &[13], every_wait_strategy),
    row(103, "timeouts-race-with-completion", &[12, 15], timeouts_race_with_completion),
    row(104, "stream-synchronize", &[12], stream_synchronize),
];

const STRATEGIES: [WaitStrategy; 3] =
    [WaitStrategy::Park, WaitStrategy::SpinThenPark(Duration::from_micros(50)), WaitStrategy::Spin];

fn unrecorded_returns_at_once(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let event = Arc::new(device.pool().acquire());
    let theirs = event.clone();
    let task = ctx.spawn(move || -> gpu_events::Result<Vec<WaitOutcome>> {
        theirs.synchronize()?;
        let mut outcomes = vec![
            theirs.wait_timeout(Duration::ZERO)?,
            theirs.wait_timeout(Duration::MAX)?,
            theirs.wait_deadline(Instant::now())?,
        ];
        for strategy in STRATEGIES {
            outcomes.push(theirs.wait_with(&WaitOptions::new().strategy(strategy))?);
        }
        outcomes.push(wait_all([&*theirs], &WaitOptions::new())?);
        Ok(outcomes)
    })?;
    for outcome in task.finish()?? {
        equal("a wait for an unrecorded event", outcome, WaitOutcome::Complete)?;
    }
    equal("wait_any", wait_any([&*event], &WaitOptions::new())?, WaitAny::Settled(0))?;
    let completion = event.completion();
    ctx.spawn(move || futures_lite::future::block_on(completion))?.finish()??;
    let (_callback, told) = ctx.listen(&event)?;
    ctx.hear_once("the callback of an unrecorded event", &told)??;
    equal("status after all that", event.status(), Status::Unrecorded)
}

fn zero_finite_and_infinite_waits(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let hold = ctx.hold(&stream)?;
    let event = Arc::new(stream.record()?);
    let past = Instant::now();
    for round in 0..3 {
        equal("zero", event.wait_timeout(Duration::ZERO)?, WaitOutcome::TimedOut)?;
        equal("a deadline in the past", event.wait_deadline(past)?, WaitOutcome::TimedOut)?;
        equal("finite", event.wait_timeout(Duration::from_millis(5))?, WaitOutcome::TimedOut)?;
        let deadline = Instant::now() + Duration::from_millis(5);
        equal("a deadline", event.wait_deadline(deadline)?, WaitOutcome::TimedOut)?;
        ensure(Instant::now() >= deadline, "a wait gave up before its deadline")?;
        equal(format_args!("status after time-out {round}"), event.status(), Status::Pending)?;
    }
    let forever = (0..3).map(|how| {
        let event = event.clone();
        ctx.spawn(move || match how {
            0 => event.synchronize().map(|()| WaitOutcome::Complete),
            1 => event.wait_timeout(Duration::MAX),
            _ => event.wait_with(&WaitOptions::new()),
        })
    });
    let forever = forever.collect::<Verdict<Vec<_>>>()?;
    ctx.linger();
    forever.iter().try_for_each(|task| task.still_runs())?;
    hold.release();
    for outcome in finish_all(forever)? {
        equal("a wait for ever", outcome?, WaitOutcome::Complete)?;
    }
    for timeout in [Duration::ZERO, Duration::from_millis(5), Duration::MAX] {
        equal("a wait for a complete event", event.wait_timeout(timeout)?, WaitOutcome::Complete)?;
    }
    equal("its deadline long past", event.wait_deadline(past)?, WaitOutcome::Complete)?;
    event.record(&stream)?;
    ctx.settle(&event)
}

fn timeouts_are_on_time(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let _hold = ctx.hold(&stream)?;
    let event = stream.record()?;
    for timeout in [1, 10, 50].map(Duration::from_millis) {
        let allowed = Duration::from_millis(2).max(timeout / 50);
        let mut best = Duration::MAX;
        // A loaded machine makes some waits late, but none early, and not all of many late.
        for _ in 0..50 {
            let started = Instant::now();
            equal("outcome", event.wait_timeout(timeout)?, WaitOutcome::TimedOut)?;
            let taken = started.elapsed();
            ensure(taken >= timeout, format_args!("a wait of {timeout:?} gave up after {taken:?}"))?;
            best = best.min(taken - timeout);
            if best <= allowed {
                break;
            }
        }
        ensure(best <= allowed, format_args!("of 50 waits of {timeout:?} the best was late by {best:?}"))?;
    }
    Ok(())
}

fn waits_of_two_threads_overlap(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let streams = [device.create_stream()?, device.create_stream()?];
    // Whichever thread began first, it is the other that returns first.
    for first in [0, 1] {
        let mut holds = Vec::new();
        let mut waits = Vec::new();
        for stream in &streams {
            holds.push(ctx.hold(stream)?);
            let event = stream.record()?;
            let (entering, entered) = mpsc::channel();
            waits.push(ctx.spawn(move || {
                send(&entering, ());
                event.synchronize()
            })?);
            // The closest to seeing the thread inside of its wait that there is from outside.
            ctx.hear("the thread's start", &entered)?;
            ctx.linger();
        }
        let (second, hold) = (waits.remove(1 - first), holds.remove(1 - first));
        hold.release();
        second.finish()??;
        let wait = waits.remove(0);
        wait.still_runs()?;
        holds.remove(0).release();
        wait.finish()??;
    }
    Ok(())
}

fn sixteen_threads_wait_for_one_event(ctx: &Context) -> Verdict {
    const THREADS: usize = 16;
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    for round in 0..20 {
        let hold = ctx.hold(&stream)?;
        let event = Arc::new(stream.record()?);
        let barrier = Arc::new(Barrier::new(THREADS + 1));
        let tasks = (0..THREADS).map(|i| {
            let (event, barrier) = (event.clone(), barrier.clone());
            ctx.spawn(move || {
                barrier.wait();
                let options = WaitOptions::new().strategy(STRATEGIES[i % 2]);
                event.wait_with(&options).map(|outcome| (outcome, event.status()))
            })
        });
        let tasks = tasks.collect::<Verdict<Vec<_>>>()?;
        barrier.wait();
        // Half of the rounds release while threads are still on their way in.
        if round % 2 == 0 {
            ctx.linger();
            tasks.iter().try_for_each(|task| task.still_runs())?;
        }
        hold.release();
        for result in finish_all(tasks)? {
            equal("outcome and status", result?, (WaitOutcome::Complete, Status::Complete))?;
        }
    }
    Ok(())
}

fn waiting_for_one_does_not_wait_for_the_next(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let cells = ctx.cells(&device, 2)?;
    let first = ctx.hold(&stream)?;
    cells.write(&stream, 0, 1)?;
    let event = stream.record()?;
    let second = ctx.hold(&stream)?;
    cells.write(&stream, 1, 1)?;
    let next = stream.record()?;
    let task = ctx.spawn(move || event.synchronize().map(|()| event.status()))?;
    first.release();
    equal("status of the first", task.finish()??, Status::Complete)?;
    equal("the work before it", cells.read(0), 1)?;
    ctx.stays_pending(&next)?;
    equal("the work after it", cells.read(1), 0)?;
    second.release();
    ctx.settle(&next)
}

fn wait_any_and_wait_all(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    // Events of one device, and of another where there is one.
    let second = ctx.second_device(&device).ok();
    let streams = [
        device.create_stream()?,
        second.as_ref().unwrap_or(&device).create_stream()?,
        device.create_stream()?,
    ];
    let mut holds = Vec::new();
    let mut events: Vec<Event> = Vec::new();
    for stream in &streams {
        holds.push(Some(ctx.hold(stream)?));
        events.push(stream.record()?);
    }
    let zero = WaitOptions::new().timeout(Duration::ZERO);
    let patience = ctx.patience();
    let bounded = move || WaitOptions::new().timeout(patience);
    let briefly = || WaitOptions::new().timeout(Duration::from_millis(5));
    equal("any, polled", wait_any(&events, &zero)?, WaitAny::TimedOut)?;
    equal("any, for a while", wait_any(&events, &briefly())?, WaitAny::TimedOut)?;
    equal("all, polled", wait_all(&events, &zero)?, WaitOutcome::TimedOut)?;
    equal("all, for a while", wait_all(&events, &briefly())?, WaitOutcome::TimedOut)?;
    equal("all of none", wait_all([], &zero)?, WaitOutcome::Complete)?;

    let events = Arc::new(events);
    for (index, strategy) in [(1, WaitStrategy::Park), (0, WaitStrategy::Spin)] {
        // The thread waits for what is pending by now, and for the first of it twice.
        let mut list: Vec<usize> = (0..3).filter(|&i| holds[i].is_some()).collect();
        list.push(list[0]);
        let (theirs, asked) = (events.clone(), list.clone());
        let options = WaitOptions::new().strategy(strategy).timeout(ctx.patience());
        let task = ctx.spawn(move || wait_any(asked.iter().map(|&i| &theirs[i]), &options))?;
        if let Some(hold) = holds[index].take() {
            hold.release();
        }
        match task.finish()?? {
            WaitAny::Settled(at) if list.get(at) == Some(&index) => {}
            found => {
                return Err(Stop::fail(format_args!("any of {list:?}: {found:?}, with {index} released")));
            }
        }
        equal("all, with one still held", wait_all(&*events, &zero)?, WaitOutcome::TimedOut)?;
    }
    let theirs = events.clone();
    let task = ctx.spawn(move || wait_all(&*theirs, &bounded()))?;
    ctx.linger();
    task.still_runs()?;
    let last = holds[2].take().ok_or_else(|| Stop::fail("the last hold is gone"))?;
    last.release();
    equal("all", task.finish()??, WaitOutcome::Complete)?;

    // A failure settles `any` and ends `all`, while others are pending.
    let (hold, failing) = (ctx.hold(&streams[0])?, ctx.hold(&streams[1])?);
    let events = Arc::new([streams[0].record()?, streams[1].record()?]);
    let (any, all) = (events.clone(), events.clone());
    let any = ctx.spawn(move || wait_any(&*any, &bounded()))?;
    let all = ctx.spawn(move || wait_all(&*all, &bounded()))?;
    failing.fail("the second of two");
    equal("any of a failed and a pending event", any.finish()??, WaitAny::Settled(1))?;
    ensure(all.finish()?.is_err(), "all of a failed and a pending event is no error")?;
    ctx.pending(&events[0])?;
    hold.release();
    ctx.settle(&events[0])
}

fn waits_progress_with_the_notifier_blocked(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let [stream, other] = [device.create_stream()?, device.create_stream()?];
    let (entering, entered) = mpsc::channel();
    let (leave, left) = mpsc::channel::<()>();
    let first = stream.record()?;
    let _callback = first.on_complete(move |_| {
        send(&entering, ());
        // Until the case ends: one callback that never returns.
        let _ = left.recv();
    })?;
    ctx.hear("the callback that blocks", &entered)?;

    for _ in 0..10 {
        let hold = ctx.hold(&stream)?;
        let event = Arc::new(stream.record()?);
        other.wait(&event)?;
        let behind = other.record()?;
        let theirs = event.clone();
        let wait = ctx.spawn(move || theirs.synchronize())?;
        let completion = behind.completion();
        let future = ctx.spawn(move || futures_lite::future::block_on(completion))?;
        let (_callback, told) = ctx.listen(&event)?;
        hold.release();
        wait.finish()??;
        future.finish()??;
        ctx.settle(&behind)?;
        // R15: no wait waits for callbacks, and this one has to queue behind the one that blocks.
        ensure(told.try_recv().is_err(), "a callback ran beside one of the same device that blocks")?;
    }
    drop(leave);
    let last = stream.record()?;
    let (_callback, told) = ctx.listen(&last)?;
    ctx.hear_once("the callback behind the one that blocked", &told)??;
    Ok(())
}

fn every_wait_strategy(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    for strategy in STRATEGIES {
        let options = || WaitOptions::new().strategy(strategy);
        let hold = ctx.hold(&stream)?;
        let event = Arc::new(stream.record()?);
        let zero = event.wait_with(&options().timeout(Duration::ZERO))?;
        equal(format_args!("{strategy:?}, polled"), zero, WaitOutcome::TimedOut)?;
        let started = Instant::now();
        let finite = event.wait_with(&options().timeout(Duration::from_millis(3)))?;
        equal(format_args!("{strategy:?}, held"), finite, WaitOutcome::TimedOut)?;
        ensure(started.elapsed() >= Duration::from_millis(3), format_args!("{strategy:?} gave up early"))?;
        let past = event.wait_with(&options().deadline(started))?;
        equal(format_args!("{strategy:?}, too late"), past, WaitOutcome::TimedOut)?;

        let theirs = event.clone();
        let bounded = options().timeout(ctx.patience());
        let task = ctx.spawn(move || theirs.wait_with(&bounded))?;
        ctx.linger();
        task.still_runs()?;
        hold.release();
        equal(format_args!("{strategy:?}, released"), task.finish()??, WaitOutcome::Complete)?;
        let again = event.wait_with(&options())?;
        equal(format_args!("{strategy:?}, complete"), again, WaitOutcome::Complete)?;
    }
    Ok(())
}

fn timeouts_race_with_completion(ctx: &Context) -> Verdict {
    const ROUNDS: u64 = 200;
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let mut completed = 0;
    for round in 0..ROUNDS {
        let hold = ctx.hold(&stream)?;
        let event = Arc::new(stream.record()?);
        let theirs = event.clone();
        let task = ctx.spawn(move || {
            // From far too short to about as long as the release takes.
            let outcome = theirs.wait_timeout(Duration::from_micros(round % 50 * 4));
            (outcome, theirs.status())
        })?;
        hold.release();
        let (outcome, status) = task.finish()?;
        match outcome? {
            WaitOutcome::Complete => {
                equal("status after a wait that saw completion", status, Status::Complete)?;
                completed += 1;
            }
            WaitOutcome::TimedOut => ctx.settle(&event)?,
        }
        equal("status in the end", event.status(), Status::Complete)?;
    }
    ensure(completed <= ROUNDS, "more waits than rounds")
}

fn stream_synchronize(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let (stream, idle) = (device.create_stream()?, device.create_stream()?);
    let cells = ctx.cells(&device, 1)?;
    ctx.spawn(move || idle.synchronize())?.finish()??;
    let hold = ctx.hold(&stream)?;
    cells.write(&stream, 0, 1)?;
    let event = stream.record()?;
    let theirs = stream.clone();
    let task = ctx.spawn(move || theirs.synchronize())?;
    ctx.linger();
    task.still_runs()?;
    hold.release();
    task.finish()??;
    equal("status after synchronize", event.status(), Status::Complete)?;

    // Work behind which nothing was recorded counts as well.
    let hold = ctx.hold(&stream)?;
    cells.write(&stream, 0, 2)?;
    let theirs = stream.clone();
    let task = ctx.spawn(move || theirs.synchronize())?;
    ctx.linger();
    task.still_runs()?;
    hold.release();
    task.finish()??;
    equal("the work", cells.read(0), 2)
}
