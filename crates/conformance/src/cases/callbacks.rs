//! Callbacks and futures: once, in order, on the right thread, and gone when cancelled.

use super::{Case, Group, case};
use crate::{
    Context, Stop, Verdict,
    context::{OnWake, Wakes, finish_all, send},
    verdict::{ensure, equal},
};
use async_executor::Executor;
use futures_lite::future::{block_on, or};
use gpu_events::{Completion, ErrorKind, Event};
use std::{
    future::Future,
    panic::resume_unwind,
    pin::Pin,
    sync::{
        Arc, Barrier, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Poll, Waker},
    thread,
};

const fn row(id: u16, name: &'static str, rules: &'static [u8], run: fn(&Context) -> Verdict) -> Case {
    case(Group::Callbacks, id, name, rules, run)
}

pub(super) const CASES: &[Case] = &[
    row(43, "callbacks-run-once-and-only-once", &[16], callbacks_run_once_and_only_once),
    row(44, "late-callbacks-still-run", &[16], late_callbacks_still_run),
    row(45, "a-hundred-callbacks-in-order", &[17], a_hundred_callbacks_in_order),
    row(46, "callbacks-are-told-of-failure", &[16, 26], callbacks_are_told_of_failure),
    row(47, "cancel-tells-the-truth", &[18], cancel_tells_the_truth),
    row(48, "record-and-wait-inside-a-callback", &[17], record_and_wait_inside_a_callback),
    row(49, "synchronize-inside-a-callback", &[14, 17], synchronize_inside_a_callback),
    row(50, "a-panic-in-a-callback-stops-nothing", &[17], a_panic_in_a_callback_stops_nothing),
    row(51, "callbacks-outlive-their-device", &[16, 32], callbacks_outlive_their_device),
    row(52, "a-future-dropped-in-flight", &[18], a_future_dropped_in_flight),
    row(53, "the-latest-waker-wakes", &[19], the_latest_waker_wakes),
    row(54, "ten-thousand-futures-on-a-foreign-executor", &[19], ten_thousand_futures_on_a_foreign_executor),
    row(55, "a-future-loses-against-a-timer", &[18, 19], a_future_loses_against_a_timer),
    row(105, "callbacks-run-on-a-thread-of-their-own", &[14, 17], callbacks_run_on_a_thread_of_their_own),
    row(106, "a-waker-may-drop-other-futures", &[17], a_waker_may_drop_other_futures),
    row(107, "a-panicking-waker-stops-nothing", &[17], a_panicking_waker_stops_nothing),
    row(108, "futures-wake-only-for-news", &[19], futures_wake_only_for_news),
    row(109, "cancel-races-with-completion", &[16, 18], cancel_races_with_completion),
];

/// Polls a future once.
fn poll(completion: &mut Completion, waker: &Waker) -> Poll<gpu_events::Result<()>> {
    Pin::new(completion).poll(&mut std::task::Context::from_waker(waker))
}

/// Polls a future once, which must not be ready.
#[track_caller]
fn poll_pending(completion: &mut Completion, waker: &Waker) -> Verdict {
    match poll(completion, waker) {
        Poll::Pending => Ok(()),
        Poll::Ready(result) => Err(Stop::fail(format_args!("a future of held work was ready: {result:?}"))),
    }
}

fn callbacks_run_once_and_only_once(ctx: &Context) -> Verdict {
    const ROUNDS: usize = 100;
    const THREADS: usize = 4;
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    for round in 0..ROUNDS {
        let hold = ctx.hold(&stream)?;
        let event = Arc::new(stream.record()?);
        let barrier = Arc::new(Barrier::new(THREADS + 1));
        let (tell, told) = mpsc::channel();
        // Registered at the very moment of completion, by several threads.
        let tasks = (0..THREADS).map(|i| {
            let (event, barrier, tell) = (event.clone(), barrier.clone(), tell.clone());
            ctx.spawn(move || {
                barrier.wait();
                event.on_complete(move |result| send(&tell, (i, result))).map(drop)
            })
        });
        let tasks = tasks.collect::<Verdict<Vec<_>>>()?;
        drop(tell);
        barrier.wait();
        hold.release();
        for registered in finish_all(tasks)? {
            registered?;
        }
        let mut runs = [0; THREADS];
        for _ in 0..THREADS {
            let (i, result) = ctx.hear(format_args!("a callback in round {round}"), &told)?;
            result?;
            runs[i] += 1;
        }
        equal(format_args!("runs of each callback in round {round}"), runs, [1; THREADS])?;
        ensure(told.recv_timeout(ctx.patience()).is_err(), "a callback ran twice")?;
    }
    Ok(())
}

fn late_callbacks_still_run(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let event = stream.record()?;
    ctx.settle(&event)?;
    for round in 0..3 {
        let (callback, told) = ctx.listen(&event)?;
        ctx.hear_once(format_args!("late callback {round}"), &told)??;
        equal("cancelling what has run", callback.cancel(), false)?;
    }
    // Dropping the handle detaches the callback; it does not cancel it.
    let hold = ctx.hold(&stream)?;
    let event = stream.record()?;
    let (callback, told) = ctx.listen(&event)?;
    drop(callback);
    hold.release();
    ctx.hear_once("a detached callback", &told)??;
    Ok(())
}

fn a_hundred_callbacks_in_order(ctx: &Context) -> Verdict {
    const EVENTS: usize = 100;
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    for round in 0..10 {
        let first = ctx.hold(&stream)?;
        let mut second = None;
        let mut events = Vec::new();
        for i in 0..EVENTS {
            if i == EVENTS / 2 {
                second = Some(ctx.hold(&stream)?);
            }
            events.push(stream.record()?);
        }
        let (tell, told) = mpsc::channel();
        let mut callbacks = Vec::new();
        // In an order that is neither the stream's nor its reverse (37 and 100 have no common factor), twice for
        // each event; two of one position run in the order in which they came.
        for i in 0..2 * EVENTS {
            let (at, tell) = (i * 37 % EVENTS, tell.clone());
            let turn = i / EVENTS;
            callbacks.push(events[at].on_complete(move |_| send(&tell, (at, turn)))?);
        }
        drop(tell);
        first.release();
        if round % 2 == 0 {
            ctx.settle(&events[EVENTS / 2 - 1])?;
        }
        if let Some(second) = second {
            second.release();
        }
        for i in 0..2 * EVENTS {
            let found = ctx.hear(format_args!("callback {i}"), &told)?;
            equal(format_args!("callback {i} of round {round}"), found, (i / 2, i % 2))?;
        }
    }
    Ok(())
}

fn callbacks_are_told_of_failure(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let hold = ctx.hold(&stream)?;
    let before = stream.record()?;
    let (_before, told_before) = ctx.listen(&before)?;
    let failing = ctx.hold(&stream)?;
    ctx.fail(&stream)?;
    let event = stream.record()?;
    let (_callback, told) = ctx.listen(&event)?;
    hold.release();
    ctx.hear_once("the callback before the failure", &told_before)??;
    failing.release();
    let result = ctx.hear_once("the callback of failed work", &told)?;
    let error = ctx.failure(&event)?;
    equal("what it was told", result.map_err(|error| error.kind()), Err(error.kind()))?;
    let (_late, told) = ctx.listen(&event)?;
    let result = ctx.hear_once("the callback registered after the failure", &told)?;
    equal("what the late one was told", result.map_err(|error| error.kind()), Err(error.kind()))
}

fn cancel_tells_the_truth(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let hold = ctx.hold(&stream)?;
    let event = stream.record()?;
    let (cancelled, never) = ctx.listen(&event)?;
    let (kept, told) = ctx.listen(&event)?;
    equal("cancelling what is pending", cancelled.cancel(), true)?;
    ensure(
        matches!(never.try_recv(), Err(mpsc::TryRecvError::Disconnected)),
        "what the cancelled callback held is still there",
    )?;
    equal("cancelling again", cancelled.cancel(), false)?;
    hold.release();
    ctx.hear_once("the callback that was kept", &told)??;
    equal("cancelling what has run", kept.cancel(), false)?;
    equal("cancelling what has run, again", kept.cancel(), false)?;
    ensure(never.try_recv().is_err(), "a cancelled callback ran")?;

    // From inside of itself: it is running, so it cannot be said that it never will.
    let (hand, handed) = mpsc::channel::<gpu_events::Callback>();
    let (tell, told) = mpsc::channel();
    let callback = event.on_complete(move |_| {
        send(&tell, handed.recv().map(|callback| callback.cancel()));
    })?;
    send(&hand, callback);
    match ctx.hear("a callback that cancels itself", &told)? {
        Ok(cancelled) => equal("cancelling what is running", cancelled, false),
        Err(_) => Err(Stop::fail("the callback was not given its handle")),
    }
}

fn record_and_wait_inside_a_callback(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let (stream, other) = (device.create_stream()?, device.create_stream()?);
    let hold = ctx.hold(&stream)?;
    let event = stream.record()?;
    let (tell, told) = mpsc::channel();
    let (inner_stream, inner_other, patience) = (stream.clone(), other.clone(), ctx.patience());
    let _callback = event.on_complete(move |result| {
        let work = || -> Verdict<Event> {
            result?;
            let event = inner_stream.record()?;
            inner_other.wait(&event)?;
            let behind = inner_other.record()?;
            inner_other.flush()?;
            ensure(behind.wait_timeout(patience)?.is_complete(), "a wait inside a callback timed out")?;
            // Registering from inside is allowed as well; it runs once this one has returned.
            let (tell, told) = mpsc::channel();
            let callback = behind.on_complete(move |_| send(&tell, ()))?;
            drop(callback);
            ensure(told.try_recv().is_err(), "a callback ran inside of another")?;
            inner_stream.device().create_stream()?.record().map_err(Stop::from)
        };
        send(&tell, work());
    })?;
    hold.release();
    let last = ctx.hear_once("the callback", &told)??;
    ctx.settle(&last)
}

fn synchronize_inside_a_callback(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let (stream, other) = (device.create_stream()?, device.create_stream()?);
    let first = ctx.hold(&stream)?;
    let event = stream.record()?;
    let second = ctx.hold(&stream)?;
    let later = Arc::new(stream.record()?);
    other.wait(&later)?;
    let elsewhere = other.record()?;
    let (entering, entered) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let theirs = later.clone();
    let _callback = event.on_complete(move |_| {
        send(&entering, ());
        send(&tell, theirs.synchronize().and_then(|()| elsewhere.synchronize()));
    })?;
    first.release();
    ctx.hear("the callback's start", &entered)?;
    ctx.pending(&later)?;
    // Nobody but the pump, or the device itself, is left to bring the news to the callback's thread.
    second.release();
    ctx.hear_once("the end of a wait inside a callback", &told)??;
    ctx.settle(&later)
}

fn a_panic_in_a_callback_stops_nothing(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let hold = ctx.hold(&stream)?;
    let event = stream.record()?;
    let (_before, told_before) = ctx.listen(&event)?;
    // Unlike `panic!`, this does not call the panic hook: a passing suite prints no backtraces.
    let _panics = event.on_complete(|_| resume_unwind(Box::new("a callback that panics")))?;
    let (_after, told_after) = ctx.listen(&event)?;
    hold.release();
    ctx.hear_once("the callback before the one that panics", &told_before)??;
    ctx.hear_once("the callback after the one that panics", &told_after)??;
    ctx.settle(&event)?;
    let next = stream.record()?;
    let (_next, told) = ctx.listen(&next)?;
    ctx.hear_once("a later callback", &told)??;
    ensure(stream.error().is_none(), "a panicking callback failed its stream")
}

fn callbacks_outlive_their_device(ctx: &Context) -> Verdict {
    // Handles only: the work goes on, and so do the callbacks.
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let hold = ctx.hold(&stream)?;
    let event = stream.record()?;
    let (_callback, told) = ctx.listen(&event)?;
    drop((event, stream, device));
    ctx.linger();
    ensure(told.try_recv().is_err(), "a callback of held work ran, or was dropped, with its handles")?;
    hold.release();
    ctx.hear_once("the callback of a device without handles", &told)??;

    // Closed for good: cancelled, but told so.
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let _hold = ctx.hold(&stream)?;
    let event = stream.record()?;
    let (callback, told) = ctx.listen(&event)?;
    device.close();
    let result = ctx.hear_once("the callback of a closed device", &told)?;
    equal("what it was told", result.map_err(|error| error.kind()), Err(ErrorKind::Closed))?;
    equal("cancelling it now", callback.cancel(), false)?;
    let (_late, told) = ctx.listen(&event)?;
    let result = ctx.hear_once("a callback registered after the close", &told)?;
    equal("what the late one was told", result.map_err(|error| error.kind()), Err(ErrorKind::Closed))
}

fn a_future_dropped_in_flight(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let hold = ctx.hold(&stream)?;
    let event = stream.record()?;
    let (wakes, waker) = Wakes::new();
    let mut dropped = event.completion();
    poll_pending(&mut dropped, &waker)?;
    let (kept_wakes, kept_waker) = Wakes::new();
    let mut kept = event.completion();
    poll_pending(&mut kept, &kept_waker)?;
    drop((dropped, waker));
    equal("who still holds the waker of a dropped future", Arc::strong_count(&wakes), 1)?;
    hold.release();
    ctx.until("the wake-up of the future that was kept", || kept_wakes.count() > 0)?;
    ensure(poll(&mut kept, &kept_waker).is_ready(), "a woken future is not ready")?;
    equal("wake-ups of a dropped future", wakes.count(), 0)?;

    // Dropped at the very moment of completion: woken or not, nothing hangs and nothing is touched twice.
    for _ in 0..200 {
        let hold = ctx.hold(&stream)?;
        let event = stream.record()?;
        let (wakes, waker) = Wakes::new();
        let mut future = event.completion();
        poll_pending(&mut future, &waker)?;
        let barrier = Arc::new(Barrier::new(2));
        let theirs = barrier.clone();
        let task = ctx.spawn(move || {
            theirs.wait();
            drop(future);
        })?;
        barrier.wait();
        hold.release();
        task.finish()?;
        ctx.settle(&event)?;
        ensure(wakes.count() <= 1, "one future was woken twice")?;
        drop(waker);
        ctx.until("the end of a dropped future's waker", || Arc::strong_count(&wakes) == 1)?;
    }
    Ok(())
}

fn the_latest_waker_wakes(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let hold = ctx.hold(&stream)?;
    let event = stream.record()?;
    let mut future = event.completion();
    let (early, early_waker) = Wakes::new();
    let (late, late_waker) = Wakes::new();
    poll_pending(&mut future, &early_waker)?;
    poll_pending(&mut future, &late_waker)?;
    poll_pending(&mut future, &early_waker)?;
    poll_pending(&mut future, &late_waker)?;
    hold.release();
    ctx.until("the latest waker's wake-up", || late.count() > 0)?;
    ctx.linger();
    equal("wake-ups of the latest waker", late.count(), 1)?;
    equal("wake-ups of the waker it replaced", early.count(), 0)?;
    match poll(&mut future, &late_waker) {
        Poll::Ready(result) => Ok(result?),
        Poll::Pending => Err(Stop::fail("a woken future is not ready")),
    }
}

fn ten_thousand_futures_on_a_foreign_executor(ctx: &Context) -> Verdict {
    const STREAMS: usize = 10;
    let device = ctx.device()?;
    // Or as many as ten queues take.
    let room = device.capabilities().queue_depth.unwrap_or(u64::MAX);
    let futures = room.saturating_mul(STREAMS as u64).min(10_000) as usize;
    let streams = (0..STREAMS).map(|_| device.create_stream()).collect::<Result<Vec<_>, _>>()?;
    let holds = streams.iter().map(|stream| ctx.hold(stream)).collect::<Verdict<Vec<_>>>()?;
    let executor = Arc::new(Executor::new());
    let done = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for i in 0..futures {
        let event = streams[i % STREAMS].record()?;
        let done = done.clone();
        // The event goes at once; the future stands on its own.
        let completion = event.completion();
        tasks.push(executor.spawn(async move {
            let result = completion.await;
            // Relaxed: a count.
            done.fetch_add(1, Ordering::Relaxed);
            result
        }));
    }
    // Each future is polled, and registers, before anything completes.
    while executor.try_tick() {}
    equal("futures of held work that were ready", done.load(Ordering::Relaxed), 0)?;
    let join = ctx.spawn(move || {
        block_on(executor.run(async {
            for task in tasks {
                task.await?;
            }
            Ok::<_, gpu_events::Error>(())
        }))
    })?;
    holds.into_iter().for_each(crate::Hold::release);
    join.finish()??;
    equal("futures that completed", done.load(Ordering::Relaxed), futures)
}

fn a_future_loses_against_a_timer(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let hold = ctx.hold(&stream)?;
    let event = Arc::new(stream.record()?);
    let completion = event.completion();
    // The timer is an event too: one that the host signals when a wait for held work has timed out.
    let (timer, alarm) = device.host_event()?;
    let theirs = event.clone();
    let clock = ctx.spawn(move || {
        let outcome = theirs.wait_timeout(std::time::Duration::from_millis(10));
        alarm.complete();
        outcome
    })?;
    let race = ctx.spawn(move || {
        let mut completion = completion;
        let timer = timer.completion();
        let winner = block_on(or(
            async {
                (&mut completion).await?;
                Ok::<_, gpu_events::Error>("the event")
            },
            async {
                timer.await?;
                Ok("the timer")
            },
        ));
        (winner, completion)
    })?;
    let (winner, completion) = race.finish()?;
    equal("the winner", winner?, "the timer")?;
    ensure(!clock.finish()??.is_complete(), "a wait for held work was complete")?;
    // Having lost, the future is still good.
    hold.release();
    ctx.spawn(move || block_on(completion))?.finish()??;
    // And `await` on the event itself is the same.
    ctx.spawn(move || block_on(async { (&*event).await }))?.finish()??;
    Ok(())
}

fn callbacks_run_on_a_thread_of_their_own(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let streams = [device.create_stream()?, device.create_stream()?];
    let mut threads = Vec::new();
    for round in 0..6 {
        let stream = &streams[round % 2];
        let (tell, told) = mpsc::channel();
        let callback = move |_: gpu_events::Result<()>| send(&tell, thread::current().id());
        let caller = if round < 4 {
            let hold = ctx.hold(stream)?;
            let event = stream.record()?;
            let _callback = event.on_complete(callback)?;
            // The thread that completes is as little the callback's as the one that registers.
            ctx.spawn(move || {
                hold.release();
                thread::current().id()
            })?
            .finish()?
        } else {
            let event = stream.record()?;
            ctx.settle(&event)?;
            let _callback = event.on_complete(callback)?;
            thread::current().id()
        };
        let ran_on = ctx.hear_once("a callback", &told)?;
        ensure(
            ran_on != caller && ran_on != thread::current().id(),
            "a callback ran on its caller's thread",
        )?;
        threads.push(ran_on);
    }
    ensure(
        threads.windows(2).all(|pair| pair[0] == pair[1]),
        "callbacks of one device ran on several threads",
    )
}

fn a_waker_may_drop_other_futures(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    for order in 0..2 {
        let hold = ctx.hold(&stream)?;
        let event = stream.record()?;
        let (wakes, idle) = Wakes::new();
        let others: Arc<Mutex<Vec<Completion>>> = Arc::default();
        let (woken, told) = mpsc::channel();
        let theirs = others.clone();
        let waker = OnWake::waker(move || {
            // Takes the timeline's lock for each, if the caller holds it still this never returns.
            theirs.lock().unwrap_or_else(PoisonError::into_inner).clear();
            send(&woken, ());
        });
        let mut killer = event.completion();
        // In the second round it is woken first, with the others still waiting behind it.
        if order == 1 {
            poll_pending(&mut killer, &waker)?;
        }
        for _ in 0..10 {
            let mut future = event.completion();
            poll_pending(&mut future, &idle)?;
            others.lock().unwrap_or_else(PoisonError::into_inner).push(future);
        }
        if order == 0 {
            poll_pending(&mut killer, &waker)?;
        }
        let (_callback, heard) = ctx.listen(&event)?;
        ctx.spawn(move || hold.release())?.finish()?;
        ctx.hear("the waker that drops other futures", &told)?;
        ctx.hear_once("a callback beside it", &heard)??;
        ctx.settle(&event)?;
        ensure(wakes.count() <= 10, "a future was woken twice")?;
    }
    Ok(())
}

fn a_panicking_waker_stops_nothing(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    let hold = ctx.hold(&stream)?;
    let event = Arc::new(stream.record()?);
    // Without the panic hook, as above.
    let bomb = OnWake::waker(|| resume_unwind(Box::new("a waker that panics")));
    let mut exploding = event.completion();
    poll_pending(&mut exploding, &bomb)?;
    let (wakes, waker) = Wakes::new();
    let mut behind = event.completion();
    poll_pending(&mut behind, &waker)?;
    let theirs = event.clone();
    let thread = ctx.spawn(move || theirs.synchronize())?;
    let (_callback, told) = ctx.listen(&event)?;
    let dependent = device.create_stream()?;
    dependent.wait(&event)?;
    let end = dependent.record()?;
    ctx.spawn(move || hold.release())?.finish()?;
    ctx.until("the wake-up behind a waker that panics", || wakes.count() == 1)?;
    thread.finish()??;
    ctx.hear_once("the callback", &told)??;
    ctx.settle(&end)?;
    ensure(stream.error().is_none(), "a panicking waker failed its stream")?;
    ctx.settle(&stream.record()?)
}

fn futures_wake_only_for_news(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let (stream, other) = (device.create_stream()?, device.create_stream()?);
    let holds = [ctx.hold(&stream)?, {
        drop(stream.record()?);
        ctx.hold(&stream)?
    }];
    let event = stream.record()?;
    let (wakes, waker) = Wakes::new();
    let mut future = event.completion();
    poll_pending(&mut future, &waker)?;
    // News of others: another stream's, an earlier position's, and none at all.
    ctx.settle(&other.record()?)?;
    let [first, second] = holds;
    first.release();
    ctx.linger();
    equal("wake-ups before there was news", wakes.count(), 0)?;
    poll_pending(&mut future, &waker)?;
    second.release();
    ctx.until("the wake-up", || wakes.count() > 0)?;
    ensure(poll(&mut future, &waker).is_ready(), "a woken future is not ready")?;
    ctx.linger();
    equal("wake-ups in all", wakes.count(), 1)?;
    // A future of what is complete is ready on its first poll, and never wakes anyone.
    let mut ready = event.completion();
    ensure(poll(&mut ready, &waker).is_ready(), "the future of a complete event is not ready")?;
    equal("wake-ups after that", wakes.count(), 1)
}

fn cancel_races_with_completion(ctx: &Context) -> Verdict {
    let device = ctx.device()?;
    let stream = device.create_stream()?;
    for round in 0..200 {
        let hold = ctx.hold(&stream)?;
        let event = stream.record()?;
        let (callback, told) = ctx.listen(&event)?;
        let barrier = Arc::new(Barrier::new(2));
        let theirs = barrier.clone();
        let task = ctx.spawn(move || {
            theirs.wait();
            callback.cancel()
        })?;
        barrier.wait();
        hold.release();
        let cancelled = task.finish()?;
        ctx.settle(&event)?;
        // Either it ran or it was cancelled, never both and never neither.
        let ran = match told.recv_timeout(ctx.patience()) {
            Ok(result) => {
                result?;
                true
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => false,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Err(Stop::fail("a callback neither ran nor was let go of"));
            }
        };
        ensure(
            ran != cancelled,
            format_args!("cancel said {cancelled}, and it ran: {ran}, in round {round}"),
        )?;
    }
    Ok(())
}
