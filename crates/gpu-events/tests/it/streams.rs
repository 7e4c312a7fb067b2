//! Streams: holding one, keeping resources until work is done, labels, and what they print.

use crate::{
    driver::Driver,
    inert,
    skeleton::{FakeBackend, FakeStream},
    support::{BOUND, complete, cpu, crowd, device, enqueue_held, held_stream, until},
};
use gpu_events::{
    Capabilities, Device, ErrorKind, Gates, Status, StreamOptions, StreamWait, WaitOptions, WaitOutcome,
    WhenFull,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

#[test]
fn what_goes_through_a_guard_stays_together() {
    let device = device();
    let (stream, signal) = held_stream(&device);
    let (sender, receiver) = mpsc::channel();
    let marks: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let (stream, sender, device) = (&stream, sender.clone(), &device);
                scope.spawn(move || {
                    let mut marks = Vec::new();
                    for _ in 0..50 {
                        let event = device.pool().acquire();
                        let mut guard = stream.lock().unwrap();
                        for step in 0..3 {
                            let sender = sender.clone();
                            let work = move || sender.send((thread, step)).map_err(|error| error.to_string());
                            enqueue_held(&mut guard, work).unwrap();
                        }
                        guard.record(&event).unwrap();
                        drop(guard);
                        marks.push(event);
                    }
                    marks
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    drop(sender);
    signal.complete();
    marks.iter().for_each(complete);
    let log: Vec<(u32, u32)> = receiver.into_iter().collect();
    assert_eq!(log.len(), 4 * 50 * 3);
    for together in log.chunks(3) {
        let thread = together[0].0;
        assert_eq!(together, [(thread, 0), (thread, 1), (thread, 2)]);
    }
}

#[test]
fn a_guard_does_what_its_stream_does() {
    let device = cpu();
    let (source, signal) = held_stream(&device);
    let pending = source.record().unwrap();
    let stream = device.create_stream().unwrap();
    let (event, unrecorded) = (device.pool().acquire_timed(), device.pool().acquire());
    let mut guard = stream.lock().unwrap();
    guard.record(&event).unwrap();
    assert_eq!(event.status(), Status::Complete);
    assert_eq!(guard.wait(&unrecorded).unwrap(), StreamWait::Nothing);
    assert_eq!(guard.wait(&event).unwrap(), StreamWait::Nothing);
    assert_eq!(guard.wait(&pending).unwrap(), StreamWait::Native);
    guard.record(&event).unwrap();
    guard.flush().unwrap();
    // Looking is no waiting.
    assert_eq!((event.status(), event.is_complete().unwrap()), (Status::Pending, false));
    assert_eq!(event.wait_timeout(std::time::Duration::ZERO).unwrap(), WaitOutcome::TimedOut);
    let elsewhere = cpu().pool().acquire();
    assert_eq!(guard.record(&elsewhere).unwrap_err().kind(), ErrorKind::WrongDevice);
    assert!(format!("{guard:?}").starts_with("StreamGuard"));
    drop(guard);
    signal.complete();
    complete(&event);
}

/// The thread that holds a stream is told, instead of waiting for itself (R7).
#[test]
fn the_holder_is_told_what_would_deadlock() {
    let device = cpu();
    let (stream, signal) = held_stream(&device);
    let (event, pending) = (device.pool().acquire(), stream.record().unwrap());
    let (other, other_signal) = held_stream(&device);
    let other_event = other.record().unwrap();
    let guard = stream.lock().unwrap();
    let deadlock = Some(ErrorKind::WouldDeadlock);
    assert_eq!(event.record(&stream).err().map(|e| e.kind()), deadlock);
    assert_eq!(stream.record().err().map(|e| e.kind()), deadlock);
    assert_eq!(stream.wait(&other_event).err().map(|e| e.kind()), deadlock);
    assert_eq!(stream.cpu().unwrap().enqueue(|| ()).err().map(|e| e.kind()), deadlock);
    assert_eq!(stream.lock().err().map(|e| e.kind()), deadlock);
    assert_eq!(stream.synchronize().err().map(|e| e.kind()), deadlock);
    assert_eq!(pending.synchronize().err().map(|e| e.kind()), deadlock);
    let all = gpu_events::wait_all([&other_event, &pending], &WaitOptions::new());
    assert_eq!(all.err().map(|e| e.kind()), deadlock);
    let any = gpu_events::wait_any([&other_event, &pending], &WaitOptions::new());
    assert_eq!(any.err().map(|e| e.kind()), deadlock);
    // The event is as it was (R29); and what needs no lock works.
    assert_eq!(event.status(), Status::Unrecorded);
    assert_eq!(pending.status(), Status::Pending);
    assert!(other.wait(&pending).unwrap().inserted());
    // Another stream is another matter.
    other_signal.complete();
    complete(&other_event);
    // Others are not told that: they wait for the lock.
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| event.record(&stream));
        drop(guard);
        blocked.join().unwrap().unwrap();
    });
    signal.complete();
    complete(&event);
}

/// On a device that batches: observers leave a request, and the holder carries it out.
#[test]
fn an_observer_of_a_held_stream_is_served_when_it_is_let_go() {
    let _crowd = crowd();
    let device = Device::from_backend(FakeBackend::new(&Driver::new()).unwrap());
    let stream = device.create_stream().unwrap();
    let event = Arc::new(device.pool().acquire());
    let mut guard = stream.lock().unwrap();
    guard.record(&event).unwrap();
    let (sender, receiver) = mpsc::channel();
    let (its, callback) = (event.clone(), sender.clone());
    event.on_complete(move |_| callback.send("callback").unwrap()).unwrap();
    let thread = std::thread::spawn(move || {
        complete(&its);
        sender.send("thread").unwrap();
    });
    until("the thread waits", || device.stall_report().to_string().contains("thread "));
    assert_eq!(event.status(), Status::Pending);
    assert!(receiver.try_recv().is_err());
    drop(guard);
    receiver.recv_timeout(BOUND).unwrap();
    receiver.recv_timeout(BOUND).unwrap();
    thread.join().unwrap();
}

#[test]
fn a_guard_says_would_block_rather_than_wait_for_room() {
    let device = cpu();
    for when_full in [WhenFull::Block, WhenFull::WouldBlock] {
        let options = StreamOptions::new().queue_depth(1).when_full(when_full);
        let stream = device.create_stream_with(&options).unwrap();
        let signal = crate::support::hold(&stream);
        let (first, second) = (device.pool().acquire(), device.pool().acquire());
        let mut guard = stream.lock().unwrap();
        guard.record(&first).unwrap();
        assert_eq!(guard.record(&second).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(second.status(), Status::Unrecorded);
        drop(guard);
        signal.complete();
        complete(&first);
        until("room", || second.record(&stream).is_ok());
        complete(&second);
    }
}

#[test]
fn a_panic_in_the_holder_leaves_the_stream_usable() {
    let device = cpu();
    let stream = device.create_stream().unwrap();
    let event = device.pool().acquire();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut guard = stream.lock().unwrap();
        guard.record(&event).unwrap();
        panic!("while it is held");
    }));
    assert!(panicked.is_err());
    complete(&event);
    complete(&stream.record().unwrap());
    drop(stream.lock().unwrap());
}

/// Says when, and on which thread, it was dropped.
struct Resource(mpsc::Sender<String>);

impl Drop for Resource {
    fn drop(&mut self) {
        let _ = self.0.send(std::thread::current().name().unwrap_or_default().to_owned());
    }
}

#[test]
fn a_resource_is_kept_until_the_work_is_done_and_dropped_on_the_callback_thread() {
    let device = cpu();
    let (sender, receiver) = mpsc::channel();
    let dropped = || receiver.recv_timeout(BOUND).unwrap();
    let (stream, signal) = held_stream(&device);
    let event = stream.record().unwrap();
    stream.keep_until(&event, Resource(sender.clone())).unwrap();
    // It binds to the recording, and not to what the event does later (R2).
    drop(event);
    assert!(receiver.try_recv().is_err());
    signal.complete();
    assert_eq!(dropped(), "cpu:0 callbacks");

    // Failure frees as well.
    stream.cpu().unwrap().enqueue(|| Err::<(), _>("no")).unwrap();
    let failed = stream.record().unwrap();
    stream.keep_until(&failed, Resource(sender.clone())).unwrap();
    assert_eq!(dropped(), "cpu:0 callbacks");

    // Nothing to wait for.
    stream.keep_until(&device.pool().acquire(), Resource(sender.clone())).unwrap();
    assert_eq!(dropped(), "cpu:0 callbacks");

    // On the callback thread of the stream's device, also where the event is another's, and all handles have gone.
    let (event, signal) = cpu().host_event().unwrap();
    stream.keep_until(&event, Resource(sender.clone())).unwrap();
    drop((stream, device, event));
    signal.complete();
    assert_eq!(dropped(), "cpu:0 callbacks");
}

#[test]
fn a_resource_is_leaked_where_nobody_knows_when_the_work_is_done() {
    let (sender, receiver) = mpsc::channel();
    let device = cpu();
    let (stream, _signal) = held_stream(&device);
    let event = stream.record().unwrap();
    stream.keep_until(&event, Resource(sender.clone())).unwrap();
    // Registered behind it, so it runs behind it.
    let (told, telling) = mpsc::channel();
    event.on_complete(move |outcome| told.send(outcome).unwrap()).unwrap();
    device.close();
    assert_eq!(telling.recv_timeout(BOUND).unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert!(receiver.try_recv().is_err());

    let (event, token) = cpu().external_event().unwrap();
    let keeper = cpu().create_stream().unwrap();
    let refused = keeper.keep_until(&event, Resource(sender.clone()));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotSubmitted);
    let running = token.submitted();
    keeper.keep_until(&event, Resource(sender)).unwrap();
    drop(running);
    // All senders have gone into resources, and none of these was dropped.
    assert_eq!(event.wait_timeout(BOUND).unwrap_err().kind(), ErrorKind::Abandoned);
    assert_eq!(receiver.try_recv().unwrap_err(), mpsc::TryRecvError::Empty);
}

#[test]
fn labels_are_where_people_look() {
    let device = cpu();
    let stream = device.create_stream_with(&StreamOptions::new().label("upload")).unwrap();
    assert_eq!(stream.label(), Some("upload"));
    assert_eq!(device.create_stream().unwrap().label(), None);
    assert_eq!(device.default_stream().unwrap().label(), Some("default"));
    let event = stream.record().unwrap();
    assert_eq!(event.label(), None);
    event.set_label("uploaded");
    assert_eq!(event.label().as_deref(), Some("uploaded"));
    event.set_label("again");
    assert_eq!(
        format!("{event:?}"),
        format!("Event {{ id: {}, status: Complete, timed: false, label: \"again\" }}", event.id())
    );
    // A label belongs to a life, and outlives recordings.
    event.reset();
    assert_eq!((event.label().as_deref(), event.status()), (Some("again"), Status::Unrecorded));
    let (gate, _signal) = device.host_event_labeled("go").unwrap();
    assert_eq!(gate.label().as_deref(), Some("go"));
}

#[test]
fn everything_prints_without_waiting_for_anything() {
    let _crowd = crowd();
    let device = cpu();
    let stream = device.create_stream_with(&StreamOptions::new().label("a")).unwrap();
    let (gate, signal) = device.host_event().unwrap();
    let (external_event, external) = device.external_event().unwrap();
    stream.wait(&gate).unwrap();
    let event = stream.record().unwrap();
    let callback = event.on_complete(|_| ()).unwrap();
    let completion = event.completion();
    // Held, and printed from this thread and from another.
    let guard = stream.lock().unwrap();
    let print = || {
        for text in [
            format!("{device:?}"),
            format!("{stream:?}"),
            format!("{event:?}"),
            format!("{signal:?}"),
            format!("{external:?}"),
            format!("{external_event:?}"),
            format!("{callback:?}"),
            format!("{completion:?}"),
            format!("{:?}", stream.cpu().unwrap()),
            format!("{:?}", device.pool()),
            format!("{:?}", device.stall_report()),
            format!("{:?}", device.info()),
        ] {
            assert!(text.len() > 5 && !text.contains('\n'), "{text}");
        }
    };
    print();
    std::thread::scope(|scope| scope.spawn(print).join().unwrap());
    assert!(format!("{device:?}").contains("name: \"cpu:0\""));
    assert!(format!("{stream:?}").contains("a"));
    assert!(format!("{event:?}").contains("status: Pending"));
    assert!(format!("{external_event:?}").contains("status: NotSubmitted"));
    drop(guard);
}

#[test]
fn a_stream_is_its_handles_work_and_no_more() {
    let device = cpu();
    let (stream, signal) = held_stream(&device);
    let same = stream.clone();
    assert_eq!((same.id(), same.device().id()), (stream.id(), device.id()));
    assert_ne!(device.create_stream().unwrap().id(), stream.id());
    let (sender, receiver) = mpsc::channel();
    stream.cpu().unwrap().enqueue(move || sender.send(()).unwrap()).unwrap();
    drop((stream, same, device));
    signal.complete();
    receiver.recv_timeout(BOUND).expect("work goes on without handles");
}

#[test]
fn a_stream_of_another_kind_has_no_cpu_side() {
    let (device, _) = inert::open();
    let stream = device.create_stream().unwrap();
    assert_eq!(stream.cpu().unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(stream.lock().unwrap().cpu().unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(stream.backend::<FakeStream>().is_none());
    assert!(stream.backend::<inert::InertStream>().is_some());
    // It can't be held back by what it does not know, and says so.
    let (gate, _signal) = cpu().host_event().unwrap();
    assert_eq!(stream.wait(&gate).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn the_cpu_says_what_it_is() {
    let device = Device::open("cpu:3").unwrap();
    assert_eq!((device.name(), device.info().backend), ("cpu:3", "cpu"));
    let Capabilities { timed, queue_depth, batch_bound, gates, failure_is_per_stream, .. } =
        device.capabilities().clone();
    assert_eq!((timed, queue_depth, batch_bound), (true, None, None));
    assert_eq!((gates, failure_is_per_stream), (Gates::Owned, true));
    assert_eq!(device.clock().source(), "monotonic clock of the host");
    assert!(Device::list().iter().any(|info| info.name == "cpu:0"));
    assert_eq!(Device::default().unwrap().id(), Device::default().unwrap().id());
    assert_ne!(Device::open("cpu").unwrap().id(), Device::open("cpu").unwrap().id());
    let backends: Vec<_> = Device::backends().iter().map(|backend| backend.name).collect();
    assert_eq!(backends, ["metal", "cuda", "vulkan", "cpu"]);
}

/// Records, re-records and resets from many threads leave one of them standing, and never a mixture (R34).
#[test]
fn concurrent_calls_on_one_event_are_one_after_the_other() {
    let device = cpu();
    let streams: Vec<_> = (0..4).map(|_| device.create_stream().unwrap()).collect();
    let timed = device.pool().acquire_timed();
    let stop = AtomicBool::new(false);
    let looks = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // A time that is there belongs to a recording that is complete.
                match timed.completion_time() {
                    Ok(time) => assert!(time.ticks() <= device.correlate().unwrap().device().ticks()),
                    Err(error) => assert!(
                        matches!(error.kind(), ErrorKind::Unrecorded | ErrorKind::NotComplete),
                        "{error}"
                    ),
                }
                assert_ne!(timed.status(), Status::Failed);
                timed.synchronize().unwrap();
                looks.fetch_add(1, Ordering::Relaxed);
            }
        });
        let writers: Vec<_> = streams
            .iter()
            .map(|stream| {
                let timed = &timed;
                scope.spawn(move || {
                    for n in 0..2_000 {
                        if n % 16 == 0 {
                            stream.cpu().unwrap().enqueue(|| ()).unwrap();
                        }
                        timed.record(stream).unwrap();
                        if n % 64 == 0 {
                            timed.reset();
                        }
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        until("a look", || looks.load(Ordering::Relaxed) > 0);
        stop.store(true, Ordering::Relaxed);
    });
    timed.record(&streams[0]).unwrap();
    complete(&timed);
    assert!(timed.completion_time().is_ok());
}

/// A wait with a time limit keeps to it also while somebody holds the stream (R12).
#[test]
fn a_held_stream_holds_no_timed_wait() {
    let device = device();
    let stream = device.create_stream().unwrap();
    let (held, is_held) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let stream = &stream;
        scope.spawn(move || {
            let guard = stream.lock().unwrap();
            held.send(()).unwrap();
            released.recv().unwrap();
            drop(guard);
        });
        is_held.recv().unwrap();
        let event = device.pool().acquire();
        for timeout in [Duration::ZERO, Duration::from_millis(3)] {
            let options = WaitOptions::new().timeout(timeout);
            assert_eq!(stream.synchronize_with(&options).unwrap(), WaitOutcome::TimedOut);
            assert_eq!(event.record_with(stream, &options).unwrap(), WaitOutcome::TimedOut);
        }
        assert_eq!(event.status(), Status::Unrecorded);
        release.send(()).unwrap();
        // With time enough it gets its turn.
        let options = WaitOptions::new().timeout(BOUND);
        assert_eq!(event.record_with(stream, &options).unwrap(), WaitOutcome::Complete);
        assert_eq!(stream.synchronize_with(&options).unwrap(), WaitOutcome::Complete);
    });
    let _guard = stream.lock().unwrap();
    let error = stream.synchronize_with(&WaitOptions::new().timeout(BOUND)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldDeadlock);
}
