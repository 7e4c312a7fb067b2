//! Very many streams and events.

use crate::{
    inert,
    support::{BOUND, complete, cpu, crowd, held_stream, within},
};
use gpu_events::{Device, ErrorKind, Event, Status, Stream};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

const STREAMS: usize = 100_000;

/// A chain of streams, each of which waits for the one before; the last one's event.
fn chain(device: &Device, length: usize, first: &Event) -> (Vec<Stream>, Event) {
    let mut streams = Vec::with_capacity(length);
    let mut last: Option<Event> = None;
    for _ in 0..length {
        let stream = device.create_stream().unwrap();
        assert!(stream.wait(last.as_ref().unwrap_or(first)).unwrap().inserted());
        last = Some(stream.record().unwrap());
        streams.push(stream);
    }
    (streams, last.expect("not empty"))
}

/// Runs on a small stack: recursion over a chain would need a frame for each link.
fn on_a_small_stack(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(128 << 10);
    thread.spawn(body).expect("a thread").join().expect("no panic");
}

#[test]
fn failure_goes_down_a_chain_of_a_hundred_thousand_cpu_streams() {
    let _crowd = crowd();
    let device = cpu();
    let (first, signal) = device.host_event().unwrap();
    let (streams, last) = chain(&device, STREAMS, &first);
    assert_eq!(last.status(), Status::Pending);
    on_a_small_stack(move || signal.fail("at the top"));
    let error = last.wait_timeout(BOUND).unwrap_err();
    assert_eq!((error.kind(), error.detail()), (ErrorKind::WorkFailed, Some("at the top")));
    // Printing it does not print the chain.
    assert!(error.to_string().len() < 200);
    on_a_small_stack(move || drop((streams, last, first, device)));
}

/// Where the driver waits, it is the core that passes failure on.
#[test]
fn failure_goes_down_a_chain_of_a_hundred_thousand_native_waits() {
    let _crowd = crowd();
    let (device, alive) = inert::open();
    let head = device.create_stream().unwrap();
    let first = head.record().unwrap();
    let (streams, last) = chain(&device, STREAMS, &first);
    let lane = inert::lane(&head);
    on_a_small_stack(move || lane.fail(1, ErrorKind::DeviceLost.into()));
    // All of it is marked by the time that the call returns.
    assert_eq!((last.status(), last.error().unwrap().kind()), (Status::Failed, ErrorKind::DeviceLost));
    on_a_small_stack(move || drop((streams, last, first, head, device)));
    drop(gpu_events::EventPool::new(&cpu()).acquire());
    assert!(alive.upgrade().is_none());
}

/// Nobody fails and nobody completes: the chain is let go of.
#[test]
fn a_chain_of_a_hundred_thousand_streams_is_dropped_unfinished() {
    let _crowd = crowd();
    for device in [cpu(), inert::open().0] {
        let head = device.create_stream().unwrap();
        let signal = (device.info().backend == "cpu").then(|| crate::support::hold(&head));
        let first = head.record().unwrap();
        let (streams, last) = chain(&device, STREAMS, &first);
        on_a_small_stack(move || drop((signal, head, first, streams, last, device)));
    }
}

#[test]
fn a_hundred_thousand_streams_that_wait_for_one_event() {
    let _crowd = crowd();
    let device = cpu();
    let (gate, signal) = device.host_event().unwrap();
    let ran = Arc::new(AtomicUsize::new(0));
    let waiting: Vec<(Stream, Event)> = (0..STREAMS)
        .map(|_| {
            let stream = device.create_stream().unwrap();
            stream.wait(&gate).unwrap();
            let ran = ran.clone();
            let work = move || {
                ran.fetch_add(1, Ordering::Relaxed);
            };
            stream.cpu().unwrap().enqueue(work).unwrap();
            let event = stream.record().unwrap();
            (stream, event)
        })
        .collect();
    assert_eq!(ran.load(Ordering::Relaxed), 0);
    signal.complete();
    let all = within(BOUND, move || waiting.iter().for_each(|(_, event)| complete(event)));
    assert!(all.is_some());
    assert_eq!(ran.load(Ordering::Relaxed), STREAMS);
}

#[test]
fn a_million_pending_events() {
    let _crowd = crowd();
    const EVENTS: usize = 1_000_000;
    let device = cpu();
    let (stream, signal) = held_stream(&device);
    let events: Vec<Event> = (0..EVENTS).map(|_| stream.record().unwrap()).collect();
    assert!(events.iter().all(|event| event.status() == Status::Pending));
    assert_eq!(device.pool().statistics().live, EVENTS as u64);
    signal.complete();
    complete(&events[EVENTS - 1]);
    // The last one answers for all.
    assert!(events.iter().all(|event| event.status() == Status::Complete));
    drop(events);
    let s = device.pool().statistics();
    assert!(s.idle <= s.bound && s.live == 0, "{s:?}");
}

/// Each is watched by somebody.
#[test]
fn a_hundred_thousand_callbacks_and_futures_on_one_stream() {
    let _crowd = crowd();
    use std::{future::Future, pin::Pin, task::Context, task::Waker};
    let device = cpu();
    let (stream, signal) = held_stream(&device);
    let called = Arc::new(AtomicUsize::new(0));
    let mut futures: Vec<Pin<Box<gpu_events::Completion>>> = Vec::new();
    for _ in 0..100_000 {
        let event = stream.record().unwrap();
        let called = called.clone();
        let call = move |_| {
            called.fetch_add(1, Ordering::Relaxed);
        };
        event.on_complete(call).unwrap();
        let mut future = Box::pin(event.completion());
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        futures.push(future);
    }
    signal.complete();
    complete(&stream.record().unwrap());
    for mut future in futures {
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }
    crate::support::until("all callbacks", || called.load(Ordering::Relaxed) == 100_000);
}
