//! Those who observe: callbacks, wakers and blocked threads, when things get rough.

use crate::{
    inert,
    support::{BOUND, bounded, complete, cpu, crowd, held_stream, hold, until},
};
use gpu_events::{
    ErrorKind, Event, HostSignal, Status, WaitAny, WaitOptions, WaitOutcome, WaitStrategy, wait_all, wait_any,
};
use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

/// Panics when it is dropped: the worst thing that a closure can capture, or a panic can carry.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("dropped");
        }
    }
}

#[test]
fn callbacks_behind_a_panic_run() {
    let device = cpu();
    let (stream, signal) = held_stream(&device);
    let event = stream.record().unwrap();
    let (sender, receiver) = mpsc::channel();
    for n in 0..9 {
        let sender = sender.clone();
        event
            .on_complete(move |_| {
                sender.send(n).unwrap();
                match n % 3 {
                    0 => panic!("in a callback"),
                    1 => std::panic::panic_any(Bomb),
                    _ => {}
                }
            })
            .unwrap();
    }
    signal.complete();
    let ran: Vec<i32> = (0..9).map(|_| receiver.recv_timeout(BOUND).unwrap()).collect();
    assert_eq!(ran, (0..9).collect::<Vec<_>>());
    // And so does the thread.
    let again = sender.clone();
    event.on_complete(move |_| again.send(9).unwrap()).unwrap();
    assert_eq!(receiver.recv_timeout(BOUND), Ok(9));
}

struct Loud {
    woken: AtomicUsize,
    bomb: bool,
}

impl Wake for Loud {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::Relaxed);
        if self.bomb {
            std::panic::panic_any(Bomb);
        }
        panic!("in a waker");
    }
}

#[test]
fn whoever_is_told_behind_a_panicking_waker_is_told() {
    let _crowd = crowd();
    let device = cpu();
    let (stream, signal) = held_stream(&device);
    let event = stream.record().unwrap();
    let wakers: Vec<_> =
        (0..10).map(|n| Arc::new(Loud { woken: AtomicUsize::new(0), bomb: n % 2 == 0 })).collect();
    let mut futures: Vec<_> = wakers.iter().map(|_| Box::pin(event.completion())).collect();
    for (future, loud) in futures.iter_mut().zip(&wakers) {
        let waker = Waker::from(loud.clone());
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    let (sender, receiver) = mpsc::channel();
    event.on_complete(move |_| sender.send(()).unwrap()).unwrap();
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| complete(&event));
        until("the thread waits", || device.stall_report().to_string().contains("thread "));
        signal.complete();
        blocked.join().unwrap();
    });
    receiver.recv_timeout(BOUND).unwrap();
    until("all wakers", || wakers.iter().all(|loud| loud.woken.load(Ordering::Relaxed) == 1));
    for future in &mut futures {
        let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Ok(()))));
    }
    // The worker that told them all is still a worker.
    complete(&stream.record().unwrap());
}

/// Work that is dropped unrun takes its captures with it, whatever these do.
#[test]
fn captures_that_panic_when_dropped_harm_nobody() {
    let device = cpu();
    let (stream, signal) = held_stream(&device);
    for _ in 0..4 {
        let bomb = Bomb;
        stream.cpu().unwrap().enqueue(move || drop(bomb)).unwrap();
    }
    let event = stream.record().unwrap();
    signal.fail("not today");
    assert_eq!(event.wait_timeout(BOUND).unwrap_err().kind(), ErrorKind::WorkFailed);
    for _ in 0..16 {
        let other = device.create_stream().unwrap();
        let work = || -> () { std::panic::panic_any(Bomb) };
        other.cpu().unwrap().enqueue(work).unwrap();
        assert_eq!(other.synchronize_with(&bounded()).unwrap_err().kind(), ErrorKind::Panicked);
    }
    complete(&device.create_stream().unwrap().record().unwrap());
}

/// Several threads say how far a stream is, others register, and each callback comes once and in order (R16, R17).
#[test]
fn callbacks_come_in_order_whoever_advances() {
    const POSITIONS: u64 = 400;
    let (device, _) = inert::open();
    let stream = device.create_stream().unwrap();
    let events: Vec<Event> = (0..POSITIONS).map(|_| stream.record().unwrap()).collect();
    let lane = inert::lane(&stream);
    let (sender, receiver) = mpsc::channel();
    let barrier = Barrier::new(6);
    std::thread::scope(|scope| {
        for step in [1, 3, 7] {
            let (lane, barrier) = (&lane, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for position in (1..=POSITIONS).step_by(step) {
                    lane.advance(position);
                }
                lane.advance(POSITIONS);
            });
        }
        // Each registers for every position; in order, so that what is expected is plain.
        for registrar in 0..3 {
            let (events, barrier, sender) = (&events, &barrier, sender.clone());
            scope.spawn(move || {
                barrier.wait();
                for (position, event) in events.iter().enumerate() {
                    let sender = sender.clone();
                    event
                        .on_complete(move |outcome| {
                            sender.send((registrar, position, outcome.is_ok())).unwrap()
                        })
                        .unwrap();
                }
            });
        }
    });
    drop(sender);
    let mut next = [0; 3];
    for _ in 0..3 * POSITIONS {
        let (registrar, position, ok) = receiver.recv_timeout(BOUND).unwrap();
        assert!(ok);
        assert_eq!(position, next[registrar], "of registrar {registrar}");
        next[registrar] += 1;
    }
    until("the cells are gone", || receiver.try_recv() == Err(mpsc::TryRecvError::Disconnected));
}

/// A failure comes behind the completions that came before it.
#[test]
fn callbacks_of_a_failure_come_behind_those_of_what_is_complete() {
    for _ in 0..50 {
        const GOOD: u64 = 20;
        let (device, _) = inert::open();
        let stream = device.create_stream().unwrap();
        let events: Vec<Event> = (0..2 * GOOD).map(|_| stream.record().unwrap()).collect();
        let lane = inert::lane(&stream);
        let (sender, receiver) = mpsc::channel();
        for (position, event) in (1..).zip(&events) {
            let sender = sender.clone();
            event.on_complete(move |outcome| sender.send((position, outcome.is_ok())).unwrap()).unwrap();
        }
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                (1..=GOOD).for_each(|position| lane.advance(position));
            });
            scope.spawn(|| {
                barrier.wait();
                // As soon as the last one is complete, and maybe not told of yet.
                while lane.completed() < GOOD {
                    std::hint::spin_loop();
                }
                lane.fail(GOOD + 1, ErrorKind::DeviceLost.into());
            });
        });
        for position in 1..=2 * GOOD {
            assert_eq!(receiver.recv_timeout(BOUND), Ok((position, position <= GOOD)));
        }
    }
}

/// More strands that block than there are workers, in every way in which they can.
#[test]
fn waiting_inside_of_work_starves_nobody() {
    let device = cpu();
    let count = 8 * std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let (gate, signal) = device.host_event().unwrap();
    let gate = Arc::new(gate);
    let waits: [fn(&Event) -> bool; 5] = [
        |gate| gate.synchronize().is_ok(),
        |gate| gate.wait_timeout(BOUND).is_ok_and(WaitOutcome::is_complete),
        |gate| wait_any([gate], &bounded()).is_ok_and(|found| found == WaitAny::Settled(0)),
        |gate| wait_all([gate], &bounded()).is_ok(),
        |gate| {
            let strategy = WaitStrategy::SpinThenPark(Duration::from_micros(50));
            gate.wait_with(&bounded().strategy(strategy)).is_ok()
        },
    ];
    let begun = Arc::new(AtomicUsize::new(0));
    let blocked: Vec<Event> = (0..count)
        .map(|n| {
            let stream = device.create_stream().unwrap();
            let (gate, begun, wait) = (gate.clone(), begun.clone(), waits[n % waits.len()]);
            let work = move || {
                begun.fetch_add(1, Ordering::Relaxed);
                if wait(&gate) { Ok(()) } else { Err("the wait failed") }
            };
            stream.cpu().unwrap().enqueue(work).unwrap();
            stream.record().unwrap()
        })
        .collect();
    until("all of them block", || begun.load(Ordering::Relaxed) == count);
    // And others still run.
    let stream = device.create_stream().unwrap();
    stream.cpu().unwrap().enqueue(|| ()).unwrap();
    complete(&stream.record().unwrap());
    signal.complete();
    blocked.iter().for_each(complete);
}

/// Each piece of work waits for the next stream's, and the last for the host.
#[test]
fn work_that_waits_for_work_that_waits() {
    const LENGTH: usize = 64;
    let device = cpu();
    let (gate, signal) = device.host_event().unwrap();
    let mut next = Arc::new(gate);
    for _ in 0..LENGTH {
        let stream = device.create_stream().unwrap();
        let waits_for = next.clone();
        stream.cpu().unwrap().enqueue(move || waits_for.synchronize()).unwrap();
        next = Arc::new(stream.record().unwrap());
    }
    assert_eq!(next.status(), Status::Pending);
    signal.complete();
    complete(&next);
}

/// Strands that spin to the end inside of their work are made up for as well.
#[test]
fn spinning_inside_of_work_starves_nobody() {
    let device = cpu();
    let count = 2 + std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let (gate, signal) = device.host_event().unwrap();
    let gate = Arc::new(gate);
    let begun = Arc::new(AtomicUsize::new(0));
    let spinning: Vec<Event> = (0..count)
        .map(|_| {
            let stream = device.create_stream().unwrap();
            let (gate, begun) = (gate.clone(), begun.clone());
            let work = move || {
                begun.fetch_add(1, Ordering::Relaxed);
                gate.wait_with(&bounded().strategy(WaitStrategy::Spin)).map(drop)
            };
            stream.cpu().unwrap().enqueue(work).unwrap();
            stream.record().unwrap()
        })
        .collect();
    until("all of them spin", || begun.load(Ordering::Relaxed) == count);
    signal.complete();
    spinning.iter().for_each(complete);
}

/// What a piece of work makes ready does not wait for it to end.
#[test]
fn what_work_makes_ready_runs_beside_it() {
    if std::thread::available_parallelism().map_or(1, |cores| cores.get()) < 2 {
        return; // One worker, and what blocks it here is no wait of ours.
    }
    let device = cpu();
    let (first, second) = (device.create_stream().unwrap(), device.create_stream().unwrap());
    let (gate, signal) = device.host_event().unwrap();
    let (sender, receiver) = mpsc::channel();
    second.wait(&gate).unwrap();
    second.cpu().unwrap().enqueue(move || sender.send(()).unwrap()).unwrap();
    first
        .cpu()
        .unwrap()
        .enqueue(move || {
            signal.complete();
            receiver.recv_timeout(BOUND).map_err(|_| "the other stream never ran")
        })
        .unwrap();
    complete(&first.record().unwrap());
}

#[test]
fn a_completion_can_be_polled_for_ever() {
    let device = cpu();
    let (stream, signal) = held_stream(&device);
    let event = stream.record().unwrap();
    let mut completion = pin!(event.completion());
    let mut context = Context::from_waker(Waker::noop());
    assert!(completion.as_mut().poll(&mut context).is_pending());
    // Recorded anew, the event is another matter than its recording before (R2).
    let (later, later_signal) = held_stream(&device);
    event.record(&later).unwrap();
    signal.complete();
    until("the first recording", || completion.as_mut().poll(&mut context).is_ready());
    for _ in 0..3 {
        assert!(matches!(completion.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
    }
    assert_eq!(event.status(), Status::Pending);
    later_signal.fail("late");
    let outcome = futures_lite::future::block_on(async { (&event).await });
    assert_eq!(outcome.unwrap_err().detail(), Some("late"));
}

#[test]
fn nothing_to_wait_for_is_over_at_once() {
    let device = cpu();
    let unrecorded = device.pool().acquire();
    let (pending, _signal) = device.host_event().unwrap();
    assert!(unrecorded.synchronize().is_ok());
    assert!(futures_lite::future::block_on(async { (&unrecorded).await }).is_ok());
    assert_eq!(wait_any([&pending, &unrecorded], &WaitOptions::new()).unwrap(), WaitAny::Settled(1));
    assert_eq!(wait_any([], &WaitOptions::new()).unwrap(), WaitAny::TimedOut);
    assert_eq!(wait_all([], &WaitOptions::new()).unwrap(), WaitOutcome::Complete);
    assert_eq!(wait_all([&unrecorded], &WaitOptions::new()).unwrap(), WaitOutcome::Complete);
    // Zero asks, the past has passed, and a time that no clock reaches is for ever.
    let zero = WaitOptions::new().timeout(Duration::ZERO);
    assert_eq!(pending.wait_with(&zero).unwrap(), WaitOutcome::TimedOut);
    assert_eq!(pending.wait_deadline(Instant::now()).unwrap(), WaitOutcome::TimedOut);
    assert_eq!(wait_all([&pending], &zero).unwrap(), WaitOutcome::TimedOut);
    assert_eq!(unrecorded.wait_timeout(Duration::MAX).unwrap(), WaitOutcome::Complete);
    let (sender, receiver) = mpsc::channel();
    unrecorded.on_complete(move |outcome| sender.send(outcome).unwrap()).unwrap();
    assert!(receiver.recv_timeout(BOUND).unwrap().is_ok());
}

/// `true` means never, also when it is asked for while the callback is about to run.
#[test]
fn cancelling_tells_the_truth_under_load() {
    let device = cpu();
    for _ in 0..200 {
        let (event, signal) = device.host_event().unwrap();
        let ran = Arc::new(AtomicBool::new(false));
        let runs = ran.clone();
        let callback = event.on_complete(move |_| runs.store(true, Ordering::SeqCst)).unwrap();
        let barrier = Barrier::new(2);
        let cancelled = std::thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                signal.complete();
            });
            barrier.wait();
            callback.cancel()
        });
        assert!(!callback.cancel());
        // A callback registered later runs later.
        let (sender, receiver) = mpsc::channel();
        event.on_complete(move |_| sender.send(()).unwrap()).unwrap();
        receiver.recv_timeout(BOUND).unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), !cancelled);
    }
}

/// Dropping a callback's function may do anything, also when it is cancelled.
#[test]
fn a_cancelled_function_is_dropped_before_cancel_returns() {
    let _crowd = crowd();
    let device = cpu();
    let (event, _signal): (Event, HostSignal) = device.host_event().unwrap();
    let captured = Arc::new(Mutex::new(()));
    let weak = Arc::downgrade(&captured);
    let callback = event.on_complete(move |_| drop(captured)).unwrap();
    assert!(weak.upgrade().is_some());
    assert!(callback.cancel());
    assert!(weak.upgrade().is_none());
    // Many cancelled callbacks leave nothing behind to be told.
    for _ in 0..1_000 {
        assert!(event.on_complete(|_| ()).unwrap().cancel());
    }
    let stalled = device.stall_report();
    assert!(stalled.stalled().iter().all(|stalled| stalled.observers.is_empty()), "{stalled}");
}

/// One thread waits for many, and many for one, over and over, on streams that are never idle.
#[test]
fn waits_cross_without_getting_lost() {
    let _crowd = crowd();
    let device = cpu();
    let streams: Vec<_> = (0..3).map(|_| device.create_stream().unwrap()).collect();
    std::thread::scope(|scope| {
        for n in 0..4_usize {
            let (streams, device) = (&streams, &device);
            scope.spawn(move || {
                for round in 0..100 {
                    let (own, other) = (&streams[n % 3], &streams[(n + round) % 3]);
                    let signal = (round % 10 == 0).then(|| hold(own));
                    own.cpu().unwrap().enqueue(|| ()).unwrap();
                    let event = own.record().unwrap();
                    other.wait(&event).unwrap();
                    let after = other.record_timed().unwrap();
                    if let Some(signal) = signal {
                        signal.complete();
                    }
                    let found = wait_any([&after, &event], &bounded()).unwrap();
                    assert!(matches!(found, WaitAny::Settled(_)));
                    assert_eq!(wait_all([&event, &after], &bounded()).unwrap(), WaitOutcome::Complete);
                    assert!(event.is_complete().unwrap() && after.is_complete().unwrap());
                    assert!(device.stall_report().chains().len() < 100);
                }
            });
        }
    });
}
