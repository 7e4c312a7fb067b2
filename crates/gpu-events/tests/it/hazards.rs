//! What is known to go wrong in `MPSEvent.h`, each as a check that our events pass and the seed's way does not.
//!
//! A check is generic over [`EventSystem`] and knows neither. It ends in bounded time, also where the system hangs.
//! [`judge`] runs it on the CPU device, on the skeleton's device, in `metal-sim` on the simulated Metal, and on the seed's
//! way, and asks that it pass on ours and catch the seed's for the reason named: a check that could not fail would be
//! caught itself.

use crate::{
    ours::Ours,
    seed_way::{EventSystem, Release, SeedWay},
    support::{BOUND, within},
};
use std::{
    collections::HashSet,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

/// What is wrong, if anything.
type Verdict<T = ()> = Result<T, &'static str>;

#[track_caller]
fn judge(ours: fn(&Arc<Ours>) -> Verdict, seed: fn(&Arc<SeedWay>) -> Verdict, caught: &'static str) {
    assert_eq!(ours(&Arc::new(Ours::on_the_cpu())), Ok(()), "ours, on the CPU");
    assert_eq!(ours(&Arc::new(Ours::on_the_skeleton())), Ok(()), "ours, on the skeleton's device");
    #[cfg(gpu_events_metal_sim)]
    assert_eq!(ours(&Arc::new(Ours::on_metal())), Ok(()), "ours, on the simulated Metal");
    assert_eq!(seed(&Arc::new(SeedWay::new())), Err(caught), "the seed's way");
}

/// Calls something that must return: `hung` says what it means if it doesn't within the system's patience.
fn returns<S: EventSystem, T: Send + 'static>(
    system: &Arc<S>,
    hung: &'static str,
    call: impl FnOnce(&Arc<S>) -> T + Send + 'static,
) -> Verdict<T> {
    let its = system.clone();
    within(system.patience(), move || call(&its)).ok_or(hung)
}

/// Waits until everything that was submitted to `stream` so far has run.
fn drain<S: EventSystem>(system: &S, stream: &S::Stream) {
    assert!(drained(system, stream, BOUND), "the stream stands still");
}

fn drained<S: EventSystem>(system: &S, stream: &S::Stream, patience: Duration) -> bool {
    let (sender, receiver) = mpsc::channel();
    system.work(stream, tell(sender));
    system.commit(stream);
    receiver.recv_timeout(patience).is_ok()
}

/// Looks until there is something to see.
fn eventually<T>(patience: Duration, look: impl Fn() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if start.elapsed() > patience {
            return None;
        }
        std::thread::yield_now();
    }
}

/// Work, or a callback, that says that it runs.
fn tell(sender: mpsc::Sender<()>) -> Release {
    Box::new(move || {
        let _ = sender.send(());
    })
}

fn stream_and_pool<S: EventSystem>(system: &S) -> (S::Stream, S::Pool) {
    let stream = system.new_stream();
    let pool = system.new_pool(&stream);
    (stream, pool)
}

// The re-creation is a fair one.

#[test]
fn the_seeds_way_works_when_nothing_goes_wrong() {
    plain(&Arc::new(SeedWay::new())).unwrap();
    plain(&Arc::new(Ours::on_the_cpu())).unwrap();
    plain(&Arc::new(Ours::on_the_skeleton())).unwrap();
    #[cfg(gpu_events_metal_sim)]
    plain(&Arc::new(Ours::on_metal())).unwrap();
}

fn plain<S: EventSystem>(system: &Arc<S>) -> Verdict {
    let (stream, pool) = stream_and_pool(&**system);
    let event = Arc::new(system.acquire(&pool, false, &stream));
    assert_eq!(system.query(&event), Ok(false));
    assert_eq!(system.synchronize(&event), Ok(()));
    let release = system.hold(&stream);
    let (sender, receiver) = mpsc::channel();
    system.work(&stream, tell(sender));
    system.record(&event, &stream, true);
    assert_eq!(system.query(&event), Ok(false));
    let (called, callback) = mpsc::channel();
    system.notify(&event, tell(called));
    assert!(receiver.try_recv().is_err());
    release();
    let (its, synced) = (event.clone(), system.clone());
    assert_eq!(within(BOUND, move || synced.synchronize(&its)), Some(Ok(())));
    assert_eq!(receiver.try_recv(), Ok(()));
    assert_eq!(callback.recv_timeout(BOUND), Ok(()));
    assert_eq!(system.query(&event), Ok(true));

    let ids: Vec<u64> = (0..2).map(|_| system.acquire_id(&pool, true)).collect();
    for id in &ids {
        assert_eq!(system.query_id(&pool, *id), Ok(false));
        system.record_id(&pool, *id, || ()).unwrap();
        let ticks = system.now() + 1_000;
        system.work(&stream, Box::new(|| ()));
        while system.now() < ticks {}
    }
    let (its, its_pool, pair) = (system.clone(), pool.clone(), (ids[0], ids[1]));
    let elapsed = within(BOUND, move || its.elapsed_ids(&its_pool, pair.0, pair.1));
    assert!(matches!(elapsed, Some(Ok(ms)) if ms > 0.0), "{elapsed:?}");
    for id in ids {
        assert_eq!(system.query_id(&pool, id), Ok(true));
        system.release_id(&pool, id).unwrap();
    }
    assert_eq!(system.undefined(), 0);
    Ok(())
}

// `MPSEvent`: its making, `record` and `wait`.

/// One native object for each event, and nobody checks that there is one.
#[test]
fn events_need_nothing_that_the_driver_could_refuse() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (stream, pool) = stream_and_pool(&**system);
        system.exhaust_driver();
        for _ in 0..100 {
            let event = system.acquire(&pool, false, &stream);
            system.record(&event, &stream, true);
            returns(system, "an event without a native object was waited for for ever", move |system| {
                system.synchronize(&event)
            })?
            .map_err(|_| "failed")?;
        }
        Ok(())
    }
    judge(check, check, "an event without a native object was waited for for ever");
}

/// `syncEvent` is false by default: the recording sits in an open command buffer.
#[test]
fn whoever_waits_has_the_recording_submitted() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (stream, pool) = stream_and_pool(&**system);
        let event = system.acquire(&pool, false, &stream);
        system.work(&stream, Box::new(|| ()));
        system.record(&event, &stream, false);
        returns(system, "work that nobody committed was waited for for ever", move |system| {
            system.synchronize(&event)
        })?
        .map_err(|_| "failed")
    }
    judge(check, check, "work that nobody committed was waited for for ever");
}

/// The time is taken by a notification that only a commit brings about.
#[test]
fn timed_recordings_need_no_commit() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (_default, pool) = stream_and_pool(&**system);
        let stream = system.new_stream();
        let (start, end) = (system.acquire(&pool, true, &stream), system.acquire(&pool, true, &stream));
        system.record(&start, &stream, false);
        system.work(&stream, Box::new(|| ()));
        system.record(&end, &stream, false);
        let times = returns(system, "the time of an uncommitted recording never came", move |system| {
            system.wait_for_cpu_sync(&start)?;
            system.wait_for_cpu_sync(&end)?;
            Ok::<_, String>((system.completion_time(&start)?, system.completion_time(&end)?))
        })?;
        match times {
            Ok((start, end)) if start <= end => Ok(()),
            Ok(_) => Err("time went backwards"),
            Err(_) => Err("no time"),
        }
    }
    judge(check, check, "the time of an uncommitted recording never came");
}

/// `wait` takes no stream, so it is the event's own that waits.
#[test]
fn another_stream_can_wait() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (first, pool) = stream_and_pool(&**system);
        let (second, third) = (system.new_stream(), system.new_stream());
        let order = Arc::new(AtomicU64::new(0));
        let note = |stream: &S::Stream, digit: u64| {
            let order = order.clone();
            let append = move |n| Some(n * 10 + digit);
            let work = move || {
                let _ = order.fetch_update(Ordering::SeqCst, Ordering::SeqCst, append);
            };
            system.work(stream, Box::new(work));
        };
        let release = system.hold(&first);
        note(&first, 1);
        let event = system.acquire(&pool, false, &first);
        system.record(&event, &first, true);
        system.wait(&event, &second);
        note(&second, 2);
        system.commit(&second);
        // The device had every opportunity.
        drain(&**system, &third);
        release();
        drain(&**system, &first);
        drain(&**system, &second);
        if order.load(Ordering::SeqCst) == 12 { Ok(()) } else { Err("the other stream did not wait") }
    }
    judge(check, check, "the other stream did not wait");
}

/// `m_stream` is a raw pointer.
#[test]
fn an_event_outlives_its_stream() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (_default, pool) = stream_and_pool(&**system);
        let stream = system.new_stream();
        let event = system.acquire(&pool, false, &stream);
        system.record(&event, &stream, true);
        drain(&**system, &stream);
        drop(stream);
        // What the driver still had of it is done as well.
        let gone = || (system.synchronize(&event), system.undefined());
        let seen = eventually(system.patience(), || match gone() {
            (Ok(()), 0) if system.query(&event) == Ok(true) => Some(Ok(())),
            (_, 0) => None,
            _ => Some(Err("an event used a stream that was gone")),
        });
        seen.unwrap_or(Err("not complete"))
    }
    judge(check, check, "an event used a stream that was gone");
}

// `notify`, `query`, `synchronize`, and the flag between them.

/// `notify` answers false and forgets the block.
#[test]
fn a_callback_that_comes_late_still_runs() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (stream, pool) = stream_and_pool(&**system);
        let event = system.acquire(&pool, false, &stream);
        system.record(&event, &stream, true);
        drain(&**system, &stream);
        let (sender, receiver) = mpsc::channel();
        system.notify(&event, tell(sender));
        receiver.recv_timeout(system.patience()).map_err(|_| "a callback on a complete event was dropped")
    }
    judge(check, check, "a callback on a complete event was dropped");
}

/// `query` is a `bool`, so it says "not yet".
#[test]
fn a_query_tells_of_failure() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (stream, pool) = stream_and_pool(&**system);
        let event = system.acquire(&pool, false, &stream);
        system.fail(&stream);
        system.record(&event, &stream, true);
        let told = eventually(system.patience(), || match system.query(&event) {
            Ok(false) => None,
            told => Some(told),
        });
        match told {
            Some(Err(text)) if text.contains("a page fault") => Ok(()),
            Some(_) => Err("a failure was no failure"),
            None => Err("a query said \"not yet\" of work that had failed"),
        }
    }
    judge(check, check, "a query said \"not yet\" of work that had failed");
}

/// The signal of a command buffer that failed never comes.
#[test]
fn synchronize_returns_when_the_work_fails() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (stream, pool) = stream_and_pool(&**system);
        let event = system.acquire(&pool, false, &stream);
        system.fail(&stream);
        system.record(&event, &stream, true);
        match returns(system, "failed work was waited for for ever", move |system| {
            system.synchronize(&event)
        })? {
            Err(text) if text.contains("a page fault") => Ok(()),
            _ => Err("a failure was no failure"),
        }
    }
    judge(check, check, "failed work was waited for for ever");
}

/// `waitForCpuSync` clears the flag that it waited for.
#[test]
fn no_waiter_consumes_the_completion() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (stream, pool) = stream_and_pool(&**system);
        let event = Arc::new(system.acquire(&pool, true, &stream));
        system.record(&event, &stream, true);
        let (its, first) = (event.clone(), system.clone());
        within(BOUND, move || first.wait_for_cpu_sync(&its)).expect("the first waiter returns").unwrap();
        returns(system, "the second waiter hung", move |system| system.wait_for_cpu_sync(&event))?
            .map_err(|_| "failed")
    }
    judge(check, check, "the second waiter hung");
}

// `reset`.

/// The native value goes back to zero, and then an earlier owner's signal comes.
#[test]
fn a_strangers_signal_completes_nobody() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (first, pool) = stream_and_pool(&**system);
        let second = system.new_stream();
        let release_first = system.hold(&first);
        let event = system.acquire(&pool, false, &first);
        system.record(&event, &first, true);
        drop(event);
        // Reused while its signal is still to come.
        let event = system.acquire(&pool, false, &second);
        let release_second = system.hold(&second);
        system.record(&event, &second, true);
        release_first();
        drain(&**system, &first);
        let early = system.query(&event) == Ok(true);
        release_second();
        drain(&**system, &second);
        if early { Err("a stranger's signal completed an event") } else { Ok(()) }
    }
    judge(check, check, "a stranger's signal completed an event");
}

/// The native value goes back to zero under a wait that is on its way through the queue.
#[test]
fn reuse_strands_nobody_who_waits() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (first, pool) = stream_and_pool(&**system);
        let second = system.new_stream();
        let event = system.acquire(&pool, false, &first);
        let release = system.hold(&first);
        system.record(&event, &first, true);
        // Waits behind a second hold each, in the seed's way on the event's own stream.
        let later = [system.hold(&first), system.hold(&second)];
        system.wait(&event, &second);
        system.commit(&first);
        system.commit(&second);
        release();
        let complete = || (system.query(&event) == Ok(true)).then_some(());
        eventually(BOUND, complete).expect("the event completes");
        drop(event);
        let _reused = system.acquire(&pool, false, &second);
        later.into_iter().for_each(|release: Release| release());
        for stream in [&first, &second] {
            if !drained(&**system, stream, system.patience()) {
                return Err("reuse of an event stranded a stream that waited for it");
            }
        }
        Ok(())
    }
    judge(check, check, "reuse of an event stranded a stream that waited for it");
}

/// On the same stream `reset` leaves counter and value as they are.
#[test]
fn a_reused_event_is_unrecorded() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (stream, pool) = stream_and_pool(&**system);
        let event = system.acquire(&pool, false, &stream);
        system.record(&event, &stream, true);
        drain(&**system, &stream);
        drop(event);
        let event = system.acquire(&pool, false, &stream);
        match system.query(&event) {
            Ok(false) => Ok(()),
            _ => Err("a reused event was complete before it was recorded"),
        }
    }
    judge(check, check, "a reused event was complete before it was recorded");
}

// Ids.

/// An id names an object of the pool, and the object has further lives.
#[test]
fn a_stale_id_reaches_nobody() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (stream, pool) = stream_and_pool(&**system);
        let stale = system.acquire_id(&pool, false);
        system.release_id(&pool, stale).expect("it was live");
        let strangers = system.acquire_id(&pool, false);
        let answer = system.record_id(&pool, stale, || ());
        drain(&**system, &stream);
        match (answer, system.query_id(&pool, strangers)) {
            (Err(_), Ok(false)) => Ok(()),
            _ => Err("a stale id reached a stranger's event"),
        }
    }
    judge(check, check, "a stale id reached a stranger's event");
}

/// The counter has 64 bits and `id_t` 32.
#[test]
fn an_id_is_as_wide_as_its_counter() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (_stream, pool) = stream_and_pool(&**system);
        let id = system.acquire_id(&pool, false);
        match system.query_id(&pool, id + (1 << 32)) {
            Err(_) => Ok(()),
            Ok(_) => Err("another id's upper half was cut off"),
        }
    }
    judge(check, check, "another id's upper half was cut off");
}

/// `++m_event_counter` happens after the lock is let go.
#[test]
fn no_two_events_have_one_id() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (stream, pool) = stream_and_pool(&**system);
        system.preempt_acquire(Arc::new(Barrier::new(2)));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (system, stream, pool) = (system.clone(), stream.clone(), pool.clone());
                std::thread::spawn(move || -> Vec<_> {
                    (0..1_000).map(|_| system.acquire(&pool, false, &stream)).collect()
                })
            })
            .collect();
        let events: Vec<_> =
            threads.into_iter().flat_map(|thread| thread.join().expect("acquires")).collect();
        let ids: HashSet<u64> = events.iter().map(|event| system.id(event)).collect();
        if ids.len() == events.len() { Ok(()) } else { Err("two events had one id") }
    }
    judge(check, check, "two events had one id");
}

/// The check throws between `lock` and `unlock`.
#[test]
fn a_bad_id_leaves_the_pool_usable() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (_stream, pool) = stream_and_pool(&**system);
        let good = system.acquire_id(&pool, false);
        system.query_id(&pool, good + 1_000_000).expect_err("nobody has that id");
        returns(system, "a bad id left the pool locked", move |system| {
            system.query_id(&pool, good).map(|_| system.acquire_id(&pool, false))
        })?
        .map(drop)
        .map_err(|_| "a good id was bad")
    }
    judge(check, check, "a bad id left the pool locked");
}

/// The event is used after the lock is let go, when it may be another's.
#[test]
fn a_release_under_a_call_harms_nobody() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (stream, pool) = stream_and_pool(&**system);
        let id = system.acquire_id(&pool, false);
        let mut next = None;
        let recorded = system.record_id(&pool, id, || {
            system.release_id(&pool, id).expect("it is live");
            next = Some(system.acquire_id(&pool, false));
        });
        recorded.expect("a call that has begun is finished");
        drain(&**system, &stream);
        match system.query_id(&pool, next.expect("interrupted")) {
            Ok(false) => Ok(()),
            _ => Err("an event was recorded that was somebody else's by then"),
        }
    }
    judge(check, check, "an event was recorded that was somebody else's by then");
}

// Time.

/// The completion time is read by a callback on the CPU, whenever that comes to run.
#[test]
fn a_time_is_the_devices_and_not_the_callbacks() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (stream, pool) = stream_and_pool(&**system);
        let event = system.acquire(&pool, true, &stream);
        let release = system.hold_news();
        system.record(&event, &stream, true);
        drain(&**system, &stream);
        // The device is done, and nobody was told.
        let done = system.now();
        while system.now() <= done {}
        release();
        let time = eventually(BOUND, || system.completion_time(&event).ok().filter(|time| *time > 0));
        match time {
            Some(time) if time <= done => Ok(()),
            Some(_) => Err("the time was that of the callback"),
            None => Err("no time"),
        }
    }
    judge(check, check, "the time was that of the callback");
}

/// `m_completion_time` is zero when there is none.
#[test]
fn no_time_is_not_zero() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (stream, pool) = stream_and_pool(&**system);
        let (timed, untimed) = (system.acquire(&pool, true, &stream), system.acquire(&pool, false, &stream));
        system.record(&untimed, &stream, true);
        drain(&**system, &stream);
        match (system.completion_time(&timed), system.completion_time(&untimed)) {
            (Err(_), Err(_)) => Ok(()),
            _ => Err("a time that nobody measured was read"),
        }
    }
    judge(check, check, "a time that nobody measured was read");
}

/// Recording again does not take the old time away.
#[test]
fn a_pending_recording_has_no_time() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (stream, pool) = stream_and_pool(&**system);
        let event = system.acquire(&pool, true, &stream);
        system.record(&event, &stream, true);
        let time = || system.completion_time(&event).ok().filter(|time| *time > 0);
        eventually(BOUND, time).expect("the first recording has a time");
        let release = system.hold(&stream);
        system.record(&event, &stream, true);
        let stale = time();
        release();
        drain(&**system, &stream);
        if stale.is_none() { Ok(()) } else { Err("a pending recording had the time of the one before") }
    }
    judge(check, check, "a pending recording had the time of the one before");
}

/// `elapsedTime` takes the pool's lock, and then waits.
#[test]
fn elapsed_holds_no_lock_while_it_waits() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (stream, pool) = stream_and_pool(&**system);
        let ids = [system.acquire_id(&pool, true), system.acquire_id(&pool, true)];
        // The device is done with both; what the seed's way waits for is to be told.
        let release = system.hold_news();
        for id in ids {
            system.record_id(&pool, id, || ()).expect("a live id");
        }
        drain(&**system, &stream);
        let returned = Arc::new(AtomicBool::new(false));
        let (its, its_pool, done) = (system.clone(), pool.clone(), returned.clone());
        std::thread::spawn(move || {
            let _ = its.elapsed_ids(&its_pool, ids[0], ids[1]);
            done.store(true, Ordering::SeqCst);
        });
        let mut verdict = Ok(());
        // Where the time itself is news, it does wait.
        for _ in 0..1_000 {
            if verdict.is_err() || returned.load(Ordering::SeqCst) {
                break;
            }
            let its_pool = pool.clone();
            verdict = returns(system, "elapsed held the pool's lock while it waited", move |system| {
                let id = system.acquire_id(&its_pool, false);
                system.release_id(&its_pool, id).expect("it is live");
            });
        }
        release();
        verdict
    }
    judge(check, check, "elapsed held the pool's lock while it waited");
}

/// Nothing ever sets the flag of an untimed event.
#[test]
fn elapsed_of_untimed_events_is_an_error() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        elapsed_is_an_error(system, false, true, "elapsed of untimed events hung")
    }
    judge(check, check, "elapsed of untimed events hung");
}

/// Nor that of one that was not recorded.
#[test]
fn elapsed_of_unrecorded_events_is_an_error() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        elapsed_is_an_error(system, true, false, "elapsed of unrecorded events hung")
    }
    judge(check, check, "elapsed of unrecorded events hung");
}

fn elapsed_is_an_error<S: EventSystem>(
    system: &Arc<S>,
    timing: bool,
    recorded: bool,
    hung: &'static str,
) -> Verdict {
    let (stream, pool) = stream_and_pool(&**system);
    let ids = [system.acquire_id(&pool, timing), system.acquire_id(&pool, timing)];
    if recorded {
        for id in ids {
            system.record_id(&pool, id, || ()).expect("a live id");
        }
    }
    drain(&**system, &stream);
    match returns(system, hung, move |system| system.elapsed_ids(&pool, ids[0], ids[1]))? {
        Err(_) => Ok(()),
        Ok(_) => Err("there was nothing to measure"),
    }
}

/// The flag is consumed by the first call.
#[test]
fn elapsed_can_be_asked_twice() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (stream, pool) = stream_and_pool(&**system);
        let ids = [system.acquire_id(&pool, true), system.acquire_id(&pool, true)];
        for id in ids {
            system.record_id(&pool, id, || ()).expect("a live id");
            drain(&**system, &stream);
        }
        let (first, its_pool) = (system.clone(), pool.clone());
        let first = within(BOUND, move || first.elapsed_ids(&its_pool, ids[0], ids[1]));
        // The seed's has an error of its own where both callbacks ran within one tick; it has consumed the flags too.
        let first = first.expect("the first call returns");
        let second = returns(system, "the second elapsed hung", move |system| {
            system.elapsed_ids(&pool, ids[0], ids[1])
        })?;
        if first.is_ok() && first == second { Ok(()) } else { Err("two answers") }
    }
    judge(check, check, "the second elapsed hung");
}

// The pool's life.

/// A stack without a bound.
#[test]
fn idle_events_are_bounded() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (stream, pool) = stream_and_pool(&**system);
        let events: Vec<_> = (0..10_000).map(|_| system.acquire(&pool, false, &stream)).collect();
        drop(events);
        if system.idle(&pool) < 10_000 { Ok(()) } else { Err("idle events were kept without bound") }
    }
    judge(check, check, "idle events were kept without bound");
}

/// The deleter has a pointer to its pool, and nothing that keeps it.
#[test]
fn an_event_outlives_its_pool() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (stream, pool) = stream_and_pool(&**system);
        let event = system.acquire(&pool, false, &stream);
        drop(pool);
        system.record(&event, &stream, true);
        drain(&**system, &stream);
        assert_eq!(system.query(&event), Ok(true));
        drop(event);
        if system.undefined() == 0 { Ok(()) } else { Err("an event went back to a pool that was gone") }
    }
    judge(check, check, "an event went back to a pool that was gone");
}

/// The shared pool is a static, and statics end before threads do. (`process::events_work_to_the_end_of_the_process`
/// is about a real process's end.)
#[test]
fn the_shared_pool_outlives_its_users() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let pool = system.shared_pool();
        let stream = system.new_stream();
        let event = system.acquire(&pool, false, &stream);
        drop(pool);
        system.end_of_process();
        drop(event);
        if system.undefined() == 0 { Ok(()) } else { Err("the shared pool was gone before its users") }
    }
    judge(check, check, "the shared pool was gone before its users");
}

/// The block of a timed recording has a pointer to the event, and `emptyCache` frees it.
#[test]
fn an_emptied_cache_leaves_callbacks_sound() {
    fn check<S: EventSystem>(system: &Arc<S>) -> Verdict {
        let (stream, pool) = stream_and_pool(&**system);
        let release = system.hold(&stream);
        let event = system.acquire(&pool, true, &stream);
        system.record(&event, &stream, true);
        drop(event);
        system.empty_cache(&pool);
        // Behind it, to know when its callback has run.
        let event = system.acquire(&pool, false, &stream);
        system.record(&event, &stream, true);
        let (sender, receiver) = mpsc::channel();
        system.notify(&event, tell(sender));
        release();
        receiver.recv_timeout(BOUND).expect("the second event's callback");
        if system.undefined() == 0 { Ok(()) } else { Err("a callback ran on an event that was gone") }
    }
    judge(check, check, "a callback ran on an event that was gone");
}
