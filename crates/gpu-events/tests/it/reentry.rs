//! User code that turns up in awkward places: destructors of what dropped work captured, waits for oneself, waits that
//! a full queue would lengthen.

use crate::support::{BOUND, cpu, hold, within};
use gpu_events::{Device, ErrorKind, Event, Stream, StreamOptions, WaitOptions, WaitOutcome, WhenFull};
use std::{
    sync::{Arc, OnceLock, mpsc},
    time::Duration,
};

/// What a staging buffer does that waits for its consumer before it goes.
struct WaitsInDrop {
    event: Arc<OnceLock<Event>>,
    done: mpsc::Sender<Option<ErrorKind>>,
}

impl Drop for WaitsInDrop {
    fn drop(&mut self) {
        let waited = self.event.get().expect("set before the gate opens").synchronize();
        let _ = self.done.send(waited.err().map(|error| error.kind()));
    }
}

/// A held stream with a piece of work behind the gate that captures such a buffer, and a dependent stream whose event
/// the buffer waits for.
fn destructor_that_waits(
    device: &Device,
    other: &Device,
) -> (Stream, gpu_events::HostSignal, mpsc::Receiver<Option<ErrorKind>>) {
    let (a, b) = (device.create_stream().unwrap(), other.create_stream().unwrap());
    let gate = hold(&a);
    let (done, told) = mpsc::channel();
    let event = Arc::new(OnceLock::new());
    let captured = WaitsInDrop { event: event.clone(), done };
    a.cpu().unwrap().enqueue(|| Err("fails")).unwrap();
    a.cpu().unwrap().enqueue(move || drop(captured)).unwrap();
    b.wait(&a.record().unwrap()).unwrap();
    assert!(event.set(b.record().unwrap()).is_ok());
    (a, gate, told)
}

#[test]
fn a_destructor_of_dropped_work_may_wait_for_a_dependent_stream() {
    let device = cpu();
    let (_stream, gate, told) = destructor_that_waits(&device, &device);
    gate.complete();
    assert_eq!(told.recv_timeout(BOUND).expect("the destructor hangs"), Some(ErrorKind::WorkFailed));
}

#[test]
fn a_destructor_may_wait_while_its_device_is_closed() {
    let (device, other) = (cpu(), cpu());
    let (_stream, _gate, told) = destructor_that_waits(&device, &other);
    within(BOUND, move || device.close()).expect("closing hangs");
    assert_eq!(told.recv_timeout(BOUND).expect("the destructor hangs"), Some(ErrorKind::Closed));
}

#[test]
fn work_that_waits_for_its_own_stream_is_told() {
    let stream = cpu().create_stream().unwrap();
    let (tell, told) = mpsc::channel();
    let own = stream.clone();
    let gate = hold(&stream);
    stream
        .cpu()
        .unwrap()
        .enqueue(move || tell.send(own.synchronize().map_err(|error| error.kind())).unwrap())
        .unwrap();
    gate.complete();
    assert_eq!(told.recv_timeout(BOUND).expect("it hangs"), Err(ErrorKind::WouldDeadlock));
}

#[test]
fn synchronizing_a_full_stream_keeps_to_its_timeout() {
    for when_full in [WhenFull::Block, WhenFull::WouldBlock] {
        let options = StreamOptions::new().queue_depth(1).when_full(when_full);
        let stream = cpu().create_stream_with(&options).unwrap();
        let gate = hold(&stream);
        let full = stream.record().unwrap();
        for timeout in [Duration::ZERO, Duration::from_millis(1)] {
            let (stream, options) = (stream.clone(), WaitOptions::new().timeout(timeout));
            let waited = within(BOUND, move || stream.synchronize_with(&options).unwrap());
            assert_eq!(waited.expect("it ignores its timeout"), WaitOutcome::TimedOut);
        }
        gate.complete();
        stream.synchronize().unwrap();
        full.synchronize().unwrap();
    }
}

/// A timeout is of each wait, and not of the options' making.
#[test]
fn options_can_be_used_again() {
    let device = cpu();
    let options = WaitOptions::new().timeout(Duration::from_millis(20));
    let (never, _signal) = device.host_event().unwrap();
    for _ in 0..3 {
        let start = std::time::Instant::now();
        assert_eq!(never.wait_with(&options).unwrap(), WaitOutcome::TimedOut);
        assert!(start.elapsed() >= Duration::from_millis(20), "the wait ended early");
    }
}
