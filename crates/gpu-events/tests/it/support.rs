//! What the tests share.

use gpu_events::{Device, Event, HostSignal, Result, Stream, StreamGuard, WaitOptions, WaitOutcome};
use std::{
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

/// How long a test waits for what must come. Never reached unless something is broken.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

pub(crate) fn cpu() -> Device {
    Device::open("cpu").expect("the CPU is there")
}

/// The device for tests of what every device has: the CPU, or, in `metal-sim`, the simulated GPU.
pub(crate) fn device() -> Device {
    let name = if cfg!(gpu_events_metal_sim) { "metal" } else { "cpu" };
    Device::open(name).expect("the device is there")
}

/// Submits host code as work, whatever the stream's device: a simulated GPU runs that as well. On a real one it is work
/// that does nothing, for tests that only want some to be there.
pub(crate) fn enqueue(
    stream: &Stream,
    work: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<()> {
    enqueue_held(&mut stream.lock()?, work)
}

/// As [`enqueue`], through a guard.
pub(crate) fn enqueue_held(
    guard: &mut StreamGuard<'_>,
    work: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<()> {
    #[cfg(gpu_events_metal_sim)]
    if let Ok(metal) = guard.metal() {
        return metal.encode(|commands| metal_sim::host_work(commands, work));
    }
    #[cfg(all(feature = "metal", target_vendor = "apple"))]
    if let Ok(metal) = guard.metal() {
        return metal.encode(|_| drop(work));
    }
    guard.cpu()?.enqueue(work)
}

/// A stream whose work is held back until the signal is given.
pub(crate) fn held_stream(device: &Device) -> (Stream, HostSignal) {
    let stream = device.create_stream().expect("a stream");
    let signal = hold(&stream);
    (stream, signal)
}

/// Holds back what is submitted to `stream` from now on.
pub(crate) fn hold(stream: &Stream) -> HostSignal {
    let (gate, signal) = stream.device().host_event().expect("a host event");
    assert!(stream.wait(&gate).expect("a wait").inserted());
    signal
}

/// Synchronizes, within bounds.
#[track_caller]
pub(crate) fn complete(event: &Event) {
    assert_eq!(event.wait_timeout(BOUND).expect("no failure"), WaitOutcome::Complete, "{event:?}");
}

pub(crate) fn bounded() -> WaitOptions {
    WaitOptions::new().timeout(BOUND)
}

/// Runs `body` on a thread of its own, and gives up on it after `patience`; what hangs is left behind.
pub(crate) fn within<T: Send + 'static>(
    patience: Duration,
    body: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(body()));
    receiver.recv_timeout(patience).ok()
}

/// Turns until `condition` holds, within bounds.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < BOUND, "never came: {what}");
        std::thread::yield_now();
    }
}

/// Keeps tests that make very many streams apart from those that read stall reports: a report looks at every stream of
/// the process, and for as long as it looks it keeps them.
pub(crate) fn crowd() -> MutexGuard<'static, ()> {
    static CROWD: Mutex<()> = Mutex::new(());
    CROWD.lock().unwrap_or_else(PoisonError::into_inner)
}
