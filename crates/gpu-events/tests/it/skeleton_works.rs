//! The skeleton put to use: each part of the seam at least once.

use crate::{
    driver::Driver,
    skeleton::{BATCH_BOUND, FakeBackend, FakeStream, QUEUE_DEPTH},
    support::{BOUND, complete, cpu, crowd, hold, until, within},
};
use gpu_events::{
    Device, ErrorKind, HostSignal, Status, Stream, StreamOptions, StreamWait, WaitOutcome, WhenFull,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

fn open() -> (Driver, Device) {
    let driver = Driver::new();
    let device = Device::from_backend(FakeBackend::new(&driver).expect("a backend"));
    (driver, device)
}

fn work(stream: &Stream, work: impl FnOnce() + Send + 'static) {
    FakeStream::enqueue(stream, move || {
        work();
        Ok(())
    })
    .expect("submitted");
}

/// A log that work writes to.
fn log() -> (mpsc::Sender<&'static str>, mpsc::Receiver<&'static str>) {
    mpsc::channel()
}

#[test]
fn records_in_order() {
    let (_, device) = open();
    let stream = device.create_stream().unwrap();
    let (sender, receiver) = log();
    for name in ["one", "two", "three"] {
        let sender = sender.clone();
        work(&stream, move || sender.send(name).unwrap());
    }
    complete(&stream.record().unwrap());
    drop(sender);
    assert_eq!(receiver.into_iter().collect::<Vec<_>>(), ["one", "two", "three"]);
}

#[test]
fn streams_of_one_device_wait_natively() {
    let (_, device) = open();
    let (produce, consume) = (device.create_stream().unwrap(), device.create_stream().unwrap());
    let signal = hold(&produce);
    let (sender, receiver) = log();
    let first = sender.clone();
    work(&produce, move || first.send("produced").unwrap());
    let produced = produce.record().unwrap();
    assert_eq!(consume.wait(&produced).unwrap(), StreamWait::Native);
    work(&consume, move || sender.send("consumed").unwrap());
    let consumed = consume.record().unwrap();
    assert_eq!((produced.status(), consumed.status()), (Status::Pending, Status::Pending));
    signal.complete();
    complete(&consumed);
    assert_eq!(receiver.into_iter().collect::<Vec<_>>(), ["produced", "consumed"]);
}

#[test]
fn everybody_else_is_waited_for_at_a_gate() {
    let (_, device) = open();
    let other = cpu();
    let (cpu_stream, signal) = crate::support::held_stream(&other);
    let theirs = cpu_stream.record().unwrap();

    let stream = device.create_stream().unwrap();
    let before = stream.record().unwrap();
    assert_eq!(stream.wait(&theirs).unwrap(), StreamWait::Gated);
    let (sender, receiver) = log();
    let gated = sender.clone();
    work(&stream, move || gated.send("gated").unwrap());
    let after = stream.record().unwrap();
    // What was submitted before the gate is not held back by it (R5).
    complete(&before);
    assert_eq!(after.status(), Status::Pending);
    assert!(receiver.try_recv().is_err());

    // The other way round as well: a CPU stream waits for the fake device.
    let third = other.create_stream().unwrap();
    assert_eq!(third.wait(&after).unwrap(), StreamWait::Native);
    third.cpu().unwrap().enqueue(move || sender.send("cpu").unwrap()).unwrap();
    let last = third.record().unwrap();
    signal.complete();
    complete(&last);
    assert_eq!(receiver.into_iter().collect::<Vec<_>>(), ["gated", "cpu"]);
}

#[test]
fn two_devices_of_the_backend_are_strangers() {
    let ((_, first), (_, second)) = (open(), open());
    let (a, b) = (first.create_stream().unwrap(), second.create_stream().unwrap());
    let signal = hold(&a);
    let event = a.record().unwrap();
    assert_eq!(b.wait(&event).unwrap(), StreamWait::Gated);
    let after = b.record().unwrap();
    assert_eq!(after.wait_timeout(Duration::ZERO).unwrap(), WaitOutcome::TimedOut);
    signal.complete();
    complete(&after);
}

#[test]
fn failure_takes_what_comes_after_and_those_who_wait() {
    let (_, device) = open();
    let (stream, dependent) = (device.create_stream().unwrap(), device.create_stream().unwrap());
    let before = stream.record().unwrap();
    complete(&before);
    let signal = hold(&stream);
    FakeStream::enqueue(&stream, || Err("a page fault".into())).unwrap();
    let failed = stream.record().unwrap();
    dependent.wait(&failed).unwrap();
    let after = dependent.record().unwrap();
    signal.complete();

    let error = failed.wait_timeout(BOUND).unwrap_err();
    assert_eq!((error.kind(), error.detail()), (ErrorKind::WorkFailed, Some("a page fault")));
    let error = after.wait_timeout(BOUND).unwrap_err();
    assert_eq!((error.kind(), error.detail()), (ErrorKind::WorkFailed, Some("a page fault")));
    assert_eq!(before.status(), Status::Complete);
    // Neither stream is stuck in the driver: both are let go when they are dropped.
    assert_eq!(stream.record().unwrap().wait_timeout(BOUND).unwrap_err().kind(), ErrorKind::WorkFailed);
    let other = device.create_stream().unwrap();
    complete(&other.record().unwrap());
}

#[test]
fn times_are_the_devices_own() {
    let (driver, device) = open();
    let stream = device.create_stream().unwrap();
    let start = stream.record_timed().unwrap();
    let inner = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    let (clock, seen) = (driver.clone(), inner.clone());
    work(&stream, move || {
        seen.0.store(clock.ticks(), Ordering::Relaxed);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(1) {}
        seen.1.store(clock.ticks(), Ordering::Relaxed);
    });
    let end = stream.record_timed().unwrap();
    complete(&end);
    let elapsed = end.elapsed_since(&start).unwrap();
    let least = device.clock().nanos(inner.1.load(Ordering::Relaxed) - inner.0.load(Ordering::Relaxed));
    assert!(elapsed.nanos() >= least, "{elapsed} and at least {least} ns");
    assert_eq!(elapsed.resolution(), Duration::from_nanos(40));
    assert_eq!(end.completion_time().unwrap().clock().source(), "the fake device's counter");
    assert!(start.completion_time().unwrap().ticks() <= inner.0.load(Ordering::Relaxed));

    // On the host's clock the end is between now and when all of this began.
    let (at, uncertainty) = end.completion_time().unwrap().on_host(&device.correlate().unwrap()).unwrap();
    assert!(at <= Instant::now() + uncertainty);
    // Other clocks do not compare.
    let other = cpu().create_stream().unwrap().record_timed().unwrap();
    assert_eq!(other.elapsed_since(&start).unwrap_err().kind(), ErrorKind::ClockMismatch);
}

/// Keeps the driver busy with one batch of `stream`, so that what follows is gathered.
fn keep_busy(stream: &Stream) -> HostSignal {
    // A native wait for a stream that is itself at a gate: the batch is in the driver and stays there.
    let blocker = stream.device().create_stream().unwrap();
    let signal = hold(&blocker);
    assert_eq!(stream.wait(&blocker.record().unwrap()).unwrap(), StreamWait::Native);
    // Not left to the end of a batch before it, which may come after the batch's last signal was seen.
    stream.flush().unwrap();
    signal
}

#[test]
fn batches_go_when_they_are_full_when_asked_for_and_when_the_device_runs_dry() {
    let (_, device) = open();
    let debug = |stream: &Stream| format!("{:?}", stream.backend::<FakeStream>().unwrap());
    let gathered = |stream: &Stream| -> u64 {
        let text = debug(stream);
        let from = text.find("gathered: ").unwrap() + "gathered: ".len();
        text[from..].split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };

    let stream = device.create_stream().unwrap();
    assert_eq!(gathered(&stream), 0);
    let signal = keep_busy(&stream);
    // Gathered as long as a batch is in flight and nobody asks.
    let events: Vec<_> = (1..BATCH_BOUND)
        .map(|n| {
            let event = stream.record().unwrap();
            assert_eq!(gathered(&stream), n);
            event
        })
        .collect();
    // The bound.
    let last = stream.record().unwrap();
    assert_eq!(gathered(&stream), 0);
    // Asked for: by a flush, and by a look.
    let _event = stream.record().unwrap();
    stream.flush().unwrap();
    assert_eq!(gathered(&stream), 0);
    let event = stream.record().unwrap();
    assert_eq!(gathered(&stream), 1);
    assert!(!event.is_complete().unwrap());
    assert_eq!(gathered(&stream), 0);
    // And by itself.
    let (sender, receiver) = log();
    work(&stream, move || sender.send("unobserved").unwrap());
    assert_eq!(gathered(&stream), 1);
    signal.complete();
    assert_eq!(receiver.recv_timeout(BOUND), Ok("unobserved"));
    complete(&last);
    events.iter().for_each(complete);
}

#[test]
fn a_refused_submission_is_the_streams_failure() {
    let (driver, device) = open();
    let stream = device.create_stream().unwrap();
    let earlier = stream.record().unwrap();
    complete(&earlier);
    let signal = keep_busy(&stream);
    // Gathered, and lost with the submission.
    let lost = stream.record().unwrap();
    let other = cpu().create_stream().unwrap();
    driver.refuse_next();
    // Waiting submits it, finds the refusal, and waits all the same, for a failure.
    other.wait(&lost).unwrap();
    let after = other.record().unwrap();
    let error = lost.wait_timeout(BOUND).unwrap_err();
    assert_eq!((error.kind(), error.detail()), (ErrorKind::Driver, Some("error -1: out of device memory")));
    assert_eq!(after.wait_timeout(BOUND).unwrap_err().kind(), ErrorKind::Driver);
    assert_eq!(earlier.status(), Status::Complete);
    signal.complete();
}

#[test]
fn a_full_queue_waits_for_room_or_says_so() {
    let _crowd = crowd();
    let (_, device) = open();
    let options = StreamOptions::new().queue_depth(2).when_full(WhenFull::WouldBlock);
    let stream = device.create_stream_with(&options).unwrap();
    let signal = hold(&stream);
    let _events = [stream.record().unwrap(), stream.record().unwrap()];
    let event = device.pool().acquire();
    assert_eq!(event.record(&stream).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(event.status(), Status::Unrecorded);
    signal.complete();
    until("room", || event.record(&stream).is_ok());
    complete(&event);

    // The default is to wait, with no lock held: others get in while one waits for room.
    let stream = device.create_stream().unwrap();
    let signal = hold(&stream);
    let _events: Vec<_> = (0..QUEUE_DEPTH).map(|_| stream.record().unwrap()).collect();
    let blocked = stream.clone();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(blocked.record().unwrap()).unwrap());
    until("the recording waits", || !device.stall_report().to_string().is_empty() && waits(&device));
    work(&stream, || ());
    assert!(receiver.try_recv().is_err());
    signal.complete();
    complete(&receiver.recv_timeout(BOUND).unwrap());
}

/// Whether some thread blocks in a host wait on the device.
fn waits(device: &Device) -> bool {
    device
        .stall_report()
        .stalled()
        .iter()
        .any(|stalled| stalled.observers.iter().any(|(_, who, _)| who.starts_with("thread ")))
}

#[test]
fn news_come_without_polling() {
    let (_, device) = open();
    let stream = device.create_stream().unwrap();
    let signal = hold(&stream);
    let event = stream.record().unwrap();
    let (sender, receiver) = mpsc::channel();
    event.on_complete(move |outcome| sender.send(outcome).unwrap()).unwrap();
    // Nobody but the pump can bring it: all handles are gone.
    drop((stream, event));
    signal.complete();
    receiver.recv_timeout(BOUND).unwrap().unwrap();
}

#[test]
fn polling_comes_without_news() {
    let (driver, device) = open();
    let stream = device.create_stream().unwrap();
    // The pump is told nothing.
    let held = driver.hold_news();
    let event = stream.record().unwrap();
    until("the device is done", || event.is_complete().unwrap());
    drop(held);
}

#[test]
fn dropping_the_last_handle_submits() {
    let (_, device) = open();
    let stream = device.create_stream().unwrap();
    let signal = keep_busy(&stream);
    let (sender, receiver) = log();
    work(&stream, move || sender.send("done").unwrap());
    drop(stream);
    signal.complete();
    assert_eq!(receiver.recv_timeout(BOUND), Ok("done"));
}

#[test]
fn closing_drops_what_was_not_submitted_and_leaves_nobody_waiting() {
    let (_, device) = open();
    let (stream, dependent) = (device.create_stream().unwrap(), device.create_stream().unwrap());
    let _signal = hold(&stream);
    let (sender, receiver) = log();
    work(&stream, move || sender.send("ran").unwrap());
    let event = stream.record().unwrap();
    dependent.wait(&event).unwrap();
    let after = dependent.record().unwrap();
    device.close();
    assert_eq!(event.wait_timeout(BOUND).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(after.wait_timeout(BOUND).unwrap_err().kind(), ErrorKind::Closed);
    // The sender went with the closure that never ran.
    assert_eq!(receiver.recv_timeout(BOUND), Err(mpsc::RecvTimeoutError::Disconnected));
    assert_eq!(stream.record().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn what_has_no_counter_is_no_stream() {
    let (driver, device) = open();
    let stream = device.create_stream().unwrap();
    driver.exhaust();
    assert_eq!(device.create_stream().unwrap_err().kind(), ErrorKind::Resources);
    // Events need none.
    let events: Vec<_> = (0..1_000).map(|_| stream.record().unwrap()).collect();
    complete(events.last().unwrap());
}

#[test]
fn the_pump_ends_with_its_device() {
    let (driver, device) = open();
    let stream = device.create_stream().unwrap();
    complete(&stream.record().unwrap());
    drop((stream, device));
    // A fresh device on the same driver works, and nothing of the old one is in its way.
    let device = Device::from_backend(FakeBackend::new(&driver).unwrap());
    let done = within(BOUND, move || complete(&device.create_stream().unwrap().record().unwrap()));
    assert!(done.is_some());
}
