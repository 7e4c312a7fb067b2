//! Streams whose positions are about to run out: up to the last one all is as ever, and behind it nothing wraps.

use super::*;
use crate::{
    StreamWait, WaitAny,
    callback::CallbackCell,
    device::{Capabilities, Device, DeviceInfo},
    event::Event,
    statuses,
    stream::Stream,
    time::{Correlation, host_clock},
    timeline::LAST,
    wait_all, wait_any,
};
use std::sync::{Barrier, mpsc};

const PATIENCE: Duration = Duration::from_secs(60);

/// A stream with room for so many recordings.
fn with_left(device: &Device, left: u64) -> Stream {
    let stream = device.create_stream().unwrap();
    stream.lane().skip_to(LAST - left);
    stream
}

fn cpu() -> Device {
    Device::open("cpu").unwrap()
}

fn settle(event: &Event) {
    assert_eq!(event.wait_timeout(PATIENCE).unwrap(), WaitOutcome::Complete);
    assert_eq!(event.status(), Status::Complete);
}

/// Every way to record is refused, and leaves the event as it was.
fn assert_used_up(stream: &Stream) {
    let event = stream.device().pool().acquire();
    // Its guard must be gone before the next way is tried.
    let through_a_guard = stream.lock().unwrap().record(&event);
    let refused = [
        through_a_guard,
        event.record(stream),
        event.record_with(stream, &WaitOptions::new().timeout(PATIENCE)).map(drop),
        stream.record().map(drop),
        stream.record_timed().map(drop),
        stream.synchronize(),
    ];
    for refused in refused {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Resources);
        assert!(error.to_string().contains("no positions left"), "{error}");
    }
    assert_eq!(event.status(), Status::Unrecorded);
    assert_eq!(stream.lane().recorded(), Some(LAST));
}

#[test]
fn a_timeline_comes_to_its_last_position() {
    let device = cpu();
    let timeline = Timeline::starting_at(LAST - 2);
    assert_eq!((timeline.completed(), timeline.progress(LAST - 1)), (LAST - 2, Progress::Pending));
    let (told, called) = mpsc::channel();
    for position in [LAST, LAST - 1] {
        let told = told.clone();
        let call = Box::new(move |outcome| told.send((position, outcome)).unwrap());
        let cell = CallbackCell::new(device.core(), call).unwrap();
        timeline.register_callback(position, &cell, 0).unwrap();
    }
    timeline.advance(LAST - 1);
    let first = called.recv_timeout(PATIENCE).unwrap();
    assert_eq!((first.0, first.1.is_ok()), (LAST - 1, true));
    assert_eq!(timeline.progress(LAST), Progress::Pending);
    // Back is no way at the end either.
    timeline.advance(1);
    assert_eq!(timeline.completed(), LAST - 1);
    timeline.advance(LAST);
    let second = called.recv_timeout(PATIENCE).unwrap();
    assert_eq!((second.0, second.1.is_ok()), (LAST, true));
    assert_eq!((timeline.completed(), timeline.progress(LAST)), (LAST, Progress::Complete));
    assert!(!timeline.is_special(LAST) && timeline.is_special(LAST + 1));
}

#[test]
fn a_timeline_fails_at_its_last_position_and_behind_it() {
    let timeline = Timeline::starting_at(LAST - 2);
    assert_eq!(timeline.fail(LAST, Error::new(ErrorKind::WorkFailed)), Some(LAST));
    assert!(timeline.is_special(LAST));
    timeline.advance(LAST);
    assert_eq!((timeline.completed(), timeline.progress(LAST)), (LAST - 1, Progress::Failed));
    assert_eq!(timeline.failure_of(LAST).unwrap().kind(), ErrorKind::WorkFailed);

    // What is closed after its last position fails from there on: that is nobody's.
    let timeline = Timeline::starting_at(LAST);
    assert_eq!(timeline.fail(LAST + 1, Error::new(ErrorKind::Closed)), Some(LAST + 1));
    timeline.advance(LAST);
    assert_eq!((timeline.completed(), timeline.progress(LAST)), (LAST, Progress::Complete));
}

#[test]
fn an_idle_stream_records_up_to_its_last_position() {
    let device = cpu();
    let stream = with_left(&device, 4);
    let kept = device.pool().acquire();
    kept.record(&stream).unwrap();
    assert_eq!(kept.status(), Status::Complete);
    let (start, end) = (stream.record_timed().unwrap(), stream.record_timed().unwrap());
    end.elapsed_since(&start).unwrap();
    kept.record(&stream).unwrap();
    assert_eq!(stream.lane().completed(), LAST);
    // Refused, it is as it was: complete (R29).
    kept.record(&stream).unwrap_err();
    assert_eq!(kept.status(), Status::Complete);
    assert_used_up(&stream);
    assert_eq!((stream.lane().completed(), stream.error().is_none()), (LAST, true));
}

#[test]
fn a_busy_stream_is_observed_in_every_way_up_to_its_last_position() {
    let device = cpu();
    let stream = with_left(&device, 5);
    let (gate, open) = device.host_event().unwrap();
    assert_eq!(stream.wait(&gate).unwrap(), StreamWait::Native);
    let (told, called) = mpsc::channel();
    let mut events = Vec::new();
    for n in 0..5 {
        let told = told.clone();
        stream.cpu().unwrap().enqueue(|| ()).unwrap();
        let event = if n % 2 == 0 { stream.record_timed().unwrap() } else { stream.record().unwrap() };
        event.on_complete(move |outcome| told.send((n, outcome)).unwrap()).unwrap();
        events.push(event);
    }
    let cancelled = events[4].on_complete(|_| panic!("cancelled, and called")).unwrap();
    assert!(cancelled.cancel());
    assert_used_up_while_held(&stream);
    assert_eq!(statuses(&events), [Status::Pending; 5]);
    assert_eq!(events[4].wait_timeout(Duration::from_millis(1)).unwrap(), WaitOutcome::TimedOut);
    let once = futures_lite::future::poll_once(events[4].completion());
    assert!(futures_lite::future::block_on(once).is_none());

    open.complete();
    assert!(matches!(wait_any(&events, &WaitOptions::new()).unwrap(), WaitAny::Settled(_)));
    futures_lite::future::block_on(events[3].completion()).unwrap();
    assert_eq!(wait_all(&events, &WaitOptions::new()).unwrap(), WaitOutcome::Complete);
    assert_eq!(statuses(&events), [Status::Complete; 5]);
    events[4].elapsed_since(&events[0]).unwrap();
    for n in 0..5 {
        let (called, outcome) = called.recv_timeout(PATIENCE).unwrap();
        assert_eq!((called, outcome.is_ok()), (n, true));
    }
    assert_used_up(&stream);
}

/// As [`assert_used_up`], where work is pending: it stays so, and what is enqueued on top runs.
fn assert_used_up_while_held(stream: &Stream) {
    assert_used_up(stream);
    stream.cpu().unwrap().enqueue(|| ()).unwrap();
    assert!(stream.error().is_none());
}

#[test]
fn streams_hand_over_up_to_their_last_positions() {
    let device = cpu();
    let (one, other) = (with_left(&device, 100), with_left(&device, 100));
    let turns = Arc::new(StdAtomicU64::new(0));
    let take = |stream: &Stream, turn: u64| {
        let turns = turns.clone();
        let work = move || match turns.fetch_add(1, Ordering::Relaxed) {
            taken if taken == turn => Ok(()),
            taken => Err(format!("turn {taken} was taken for turn {turn}")),
        };
        stream.cpu().unwrap().enqueue(work).unwrap();
        stream.record().unwrap()
    };
    let (gate, open) = device.host_event().unwrap();
    one.wait(&gate).unwrap();
    let mut last = None;
    for round in 0..100 {
        let event = take(&one, 2 * round);
        other.wait(&event).unwrap();
        let event = take(&other, 2 * round + 1);
        one.wait(&event).unwrap();
        last = Some(event);
    }
    // A wait and what waits are nobody's recording: there is always room for them.
    let fresh = device.create_stream().unwrap();
    fresh.wait(last.as_ref().unwrap()).unwrap();
    let behind = fresh.record().unwrap();
    open.complete();
    settle(&behind);
    settle(&last.unwrap());
    assert_eq!(turns.load(Ordering::Relaxed), 200);
    assert_used_up(&one);
    assert_used_up(&other);
}

#[test]
fn a_stream_fails_near_its_last_position() {
    let device = cpu();
    let stream = with_left(&device, 3);
    let (gate, open) = device.host_event().unwrap();
    stream.wait(&gate).unwrap();
    let before = stream.record().unwrap();
    stream.cpu().unwrap().enqueue(|| Err("on purpose")).unwrap();
    let failed = stream.record().unwrap();
    let dependent = with_left(&device, 1);
    dependent.wait(&failed).unwrap();
    let passed_on = dependent.record().unwrap();
    open.complete();
    settle(&before);
    for event in [&failed, &passed_on] {
        assert_eq!(event.wait_timeout(PATIENCE).unwrap_err().kind(), ErrorKind::WorkFailed);
        assert_eq!(event.status(), Status::Failed);
    }
    // A failed stream goes on giving out what it has (R26).
    let last = stream.record().unwrap();
    assert_eq!(last.error().unwrap().kind(), ErrorKind::WorkFailed);
    assert_used_up(&stream);
    assert_used_up(&dependent);
}

#[test]
fn a_device_is_closed_around_the_last_position() {
    let device = cpu();
    let (pending, used_up) = (with_left(&device, 1), with_left(&device, 0));
    let (gate, _open) = device.host_event().unwrap();
    pending.wait(&gate).unwrap();
    let last = pending.record().unwrap();
    device.close();
    assert_eq!(last.wait_timeout(PATIENCE).unwrap_err().kind(), ErrorKind::Closed);
    for stream in [&pending, &used_up] {
        assert_eq!(stream.record().unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[test]
fn threads_share_the_last_positions() {
    const THREADS: u64 = 4;
    const EACH: u64 = 50;
    let device = cpu();
    let stream = with_left(&device, THREADS * EACH / 2);
    let (gate, open) = device.host_event().unwrap();
    stream.wait(&gate).unwrap();
    let start = Barrier::new(THREADS as usize);
    let of_thread = || {
        start.wait();
        (0..EACH).filter_map(|_| stream.record().ok()).collect::<Vec<_>>()
    };
    let events: Vec<Event> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(of_thread)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(events.len() as u64, THREADS * EACH / 2);
    assert!(events.iter().all(|event| event.status() == Status::Pending));
    open.complete();
    events.iter().for_each(settle);
    assert_used_up(&stream);
}

/// A driver half that gathers, and for which each submission ends in a position.
#[derive(Debug, Default)]
struct Gathering(Mutex<Vec<u64>>);

impl BackendStream for Gathering {
    fn traits(&self) -> StreamTraits {
        StreamTraits { pushed: true, batches: true }
    }

    fn signal(&self, position: u64, _timed: bool) -> Result<Signaled> {
        lock(&self.0).push(position);
        Ok(Signaled::Pending(None))
    }

    fn wait(&self, _source: &Source<'_>) -> Result<Waited> {
        Err(Error::new(ErrorKind::Unsupported))
    }

    fn gate(&self) -> Result<Arc<dyn Gate>> {
        Err(Error::new(ErrorKind::Unsupported))
    }

    fn mark(&self, position: u64) -> bool {
        lock(&self.0).push(position);
        true
    }

    fn flush(&self) -> Result<Flushed> {
        Ok(Flushed::All)
    }

    fn poll(&self) {}

    fn watch(&self, _position: u64) {}

    fn abandon(&self) {}
}

#[derive(Debug)]
struct GatheringDevice;

impl crate::backend::Backend for GatheringDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo::new("gathering:0", "gathering", "", host_clock(), Capabilities::default())
    }

    fn create_stream(&self, seed: crate::backend::StreamSeed<'_>) -> Result<Arc<Lane>> {
        seed.build(|_| Gathering::default())
    }

    fn correlate(&self) -> Result<Correlation> {
        Err(Error::new(ErrorKind::NotMeasured))
    }
}

#[test]
fn a_batch_takes_the_last_position_and_none_behind_it() {
    let device = Device::from_backend(GatheringDevice);
    let stream = with_left(&device, 2);
    let event = stream.record().unwrap();
    // The submission's own mark is the last one; the next goes without.
    stream.flush().unwrap();
    stream.flush().unwrap();
    let given = lock(&stream.backend::<Gathering>().unwrap().0).clone();
    assert_eq!(given, [LAST - 1, LAST]);
    assert!(stream.lane().is_submitted(LAST));
    stream.lane().advance(LAST - 1);
    assert_eq!(event.status(), Status::Complete);
    assert_eq!(stream.record().unwrap_err().kind(), ErrorKind::Resources);
    stream.lane().advance(LAST);
    assert_eq!(stream.lane().completed(), LAST);
}
