//! Captures, and events in what comes of them.

use crate::support::{
    BOUND, Cell, complete, gpu, keep_alive, native_event, query_native, record_native, with_context,
};
use cudarc::driver::sys;
use gpu_events::{
    Device, ErrorKind, Result as Outcome, Signal, Status, WaitOptions, WaitOutcome, WaitStrategy,
    cuda::{self, RawStream},
};
use std::{
    ptr,
    sync::{Arc, mpsc},
    thread,
};

const SUCCESS: sys::CUresult = sys::CUresult::CUDA_SUCCESS;

/// Begins to capture, so that no thread may do what could disturb it.
fn begin(stream: RawStream) {
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
    // SAFETY: the stream is there.
    assert_eq!(unsafe { sys::cuStreamBeginCapture_v2(stream.cast(), mode) }, SUCCESS);
}

fn end(stream: RawStream) -> Result<sys::CUgraph, sys::CUresult> {
    let mut graph = ptr::null_mut();
    // SAFETY: the call writes to `graph` alone.
    match unsafe { sys::cuStreamEndCapture(stream.cast(), &mut graph) } {
        SUCCESS => Ok(graph),
        other => Err(other),
    }
}

/// How many nodes a graph has.
fn nodes(graph: sys::CUgraph) -> usize {
    let mut count = 0;
    // SAFETY: with no array to fill, the call writes to `count` alone.
    assert_eq!(unsafe { sys::cuGraphGetNodes(graph, ptr::null_mut(), &mut count) }, SUCCESS);
    count
}

fn instantiate(device: &Device, graph: sys::CUgraph) -> sys::CUgraphExec {
    let mut executable = ptr::null_mut();
    // SAFETY: the call writes to `executable` alone.
    let make = || unsafe { sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0) };
    assert_eq!(with_context(device, make), SUCCESS);
    executable
}

fn launch(device: &Device, executable: sys::CUgraphExec, stream: RawStream) {
    // SAFETY: both are there.
    let launch = || unsafe { sys::cuGraphLaunch(executable, stream.cast()) };
    assert_eq!(with_context(device, launch), SUCCESS);
}

fn devices() -> [Device; 2] {
    [Signal::Cheap, Signal::Prompt].map(|signal| cuda::open(0, signal).expect("a GPU"))
}

pub(crate) fn capture_takes_no_recording() {
    let (_, kernels) = gpu();
    for device in devices() {
        let (stream, other) =
            (device.create_stream().expect("a stream"), device.create_stream().expect("a stream"));
        let raw = stream.cuda().expect("CUDA's").raw();
        let event = stream.record().expect("a recording");
        complete(&event);
        let flag = Cell::hold(kernels, other.cuda().expect("CUDA's").raw());
        let pending = other.record().expect("a recording");
        let (host, signal) = device.host_event().expect("a host event");
        let cell = Cell::new(kernels);
        begin(raw);
        kernels.set(raw, cell.raw(), 7).expect("a launch");
        let kind = |outcome: gpu_events::Result<()>| outcome.expect_err("captured").kind();
        assert_eq!(kind(event.record(&stream)), ErrorKind::Capturing);
        assert_eq!(kind(stream.record_timed().map(drop)), ErrorKind::Capturing);
        assert_eq!(kind(stream.wait(&pending).map(drop)), ErrorKind::Capturing);
        assert_eq!(kind(stream.wait(&host).map(drop)), ErrorKind::Capturing);
        assert_eq!(kind(stream.synchronize()), ErrorKind::Capturing);
        assert_eq!(event.status(), Status::Complete, "as before");
        let graph = end(raw).expect("a whole capture");
        assert_eq!(nodes(graph), 1, "the kernel, and nothing of ours");
        assert_eq!(cell.get(), 0);
        // Before anything is made: the driver may wait for what is held back.
        flag.put(1);
        complete(&pending);
        launch(&device, instantiate(&device, graph), raw);
        event.record(&stream).expect("again a stream like any other");
        complete(&event);
        assert_eq!(cell.get(), 7);
        signal.complete();
    }
}

pub(crate) fn observing_breaks_no_capture() {
    let (_, kernels) = gpu();
    for device in devices() {
        let (captured, other) =
            (device.create_stream().expect("a stream"), device.create_stream().expect("a stream"));
        let raw = captured.cuda().expect("CUDA's").raw();
        let flag = Cell::hold(kernels, other.cuda().expect("CUDA's").raw());
        let event = Arc::new(other.record().expect("a recording"));
        let timed = other.record_timed().expect("a recording");
        let cell = Cell::new(kernels);
        begin(raw);
        let (tell, told) = mpsc::channel();
        let callback = event.on_complete(move |outcome| drop(tell.send(outcome))).expect("a callback");
        thread::scope(|scope| {
            for strategy in [WaitStrategy::Park, WaitStrategy::Spin] {
                let options = WaitOptions::new().strategy(strategy).timeout(BOUND);
                let event = event.clone();
                scope.spawn(move || {
                    assert_eq!(event.wait_with(&options).expect("no failure"), WaitOutcome::Complete);
                });
            }
            scope.spawn(|| crate::support::until("completion", || event.status() == Status::Complete));
            assert_eq!(event.status(), Status::Pending);
            // Makes a stream, records and waits beside the capture.
            let third = device.create_stream().expect("a stream");
            third.wait(&event).expect("a wait");
            let behind = third.record_timed().expect("a recording");
            kernels.set(raw, cell.raw(), 7).expect("a launch into the graph");
            flag.put(1);
            complete(&behind);
        });
        told.recv_timeout(BOUND).expect("the callback runs").expect("no failure");
        drop(callback);
        complete(&timed);
        timed.completion_time().expect("a time");
        device.correlate().expect("a reading of the clock");
        let graph = end(raw).expect("a whole capture");
        assert_eq!(nodes(graph), 1);
    }
}

pub(crate) fn launched_twice() {
    let (_, kernels) = gpu();
    for device in devices() {
        let stream = device.create_stream().expect("a stream");
        let raw = stream.cuda().expect("CUDA's").raw();
        let refused = cuda::record_external(&stream).expect_err("nothing is captured");
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
        let (flag, cell) = (Cell::new(kernels), Cell::new(kernels));
        begin(raw);
        kernels.until(raw, flag.raw()).expect("a launch");
        kernels.set(raw, cell.raw(), 7).expect("a launch");
        let (event, token) = cuda::record_external(&stream).expect("a node");
        let (lost, forgotten) = cuda::record_external(&stream).expect("a node");
        let graph = end(raw).expect("a whole capture");
        assert_eq!(nodes(graph), 4);
        let executable = instantiate(&device, graph);
        assert_eq!(event.synchronize().expect_err("not launched").kind(), ErrorKind::NotSubmitted);
        drop(forgotten);
        assert_eq!(lost.synchronize().expect_err("abandoned").kind(), ErrorKind::Abandoned);

        launch(&device, executable, raw);
        let node = token.launched();
        assert_eq!(event.status(), Status::Pending, "the graph is held back");
        let consumer = device.create_stream().expect("a stream");
        assert!(consumer.wait(&event).expect("a wait").inserted());
        let behind = consumer.record().expect("a recording");
        let cpu = Device::open("cpu").expect("the CPU is there").create_stream().expect("a stream");
        cpu.wait(&event).expect("a wait");
        let far = cpu.record().expect("a recording");
        assert_eq!((behind.status(), far.status()), (Status::Pending, Status::Pending));
        flag.put(1);
        complete(&event);
        assert_eq!(cell.get(), 7);
        complete(&behind);
        complete(&far);
        stream.synchronize().expect("the stream goes on");

        flag.put(0);
        cell.put(0);
        launch(&device, executable, raw);
        let second = node.launched_again().expect("an event");
        assert_eq!((event.status(), second.status()), (Status::Complete, Status::Pending));
        flag.put(1);
        complete(&second);
        assert_eq!(cell.get(), 7);
    }
}

/// An event that was recorded under a capture says nothing any more: who waits for it has to be told.
///
/// In what words is the driver's: the first who asks hears of the capture, and may break it by asking; what the driver says of
/// the event from then on it promises nowhere. Never is it complete, and nobody waits for ever.
pub(crate) fn captured_event_is_refused() {
    let (device, kernels) = gpu();
    // Who is the first to ask: one who has the event already, or one who brings it.
    for importer_first in [false, true] {
        let stream = kernels.make_stream().expect("a stream");
        let native = native_event(&device).expect("an event");
        let flag = Cell::hold(kernels, stream);
        record_native(native, stream);
        // SAFETY: it is never destroyed.
        let import = || unsafe { cuda::import_event(&device, native, keep_alive().0) };
        let event = import().expect("an event");
        assert_eq!(event.status(), Status::Pending);
        begin(stream);
        record_native(native, stream);
        let known = || refusal("known before", event.wait_timeout(BOUND));
        let imported = || refusal("imported", import());
        if importer_first {
            imported();
            known();
        } else {
            known();
            imported();
        }
        assert_eq!(event.status(), Status::Failed);
        println!("the driver itself: {}", query_native(native));
        println!("the capture: {:?}", end(stream).map(drop));
        println!("the driver itself, once that has ended: {}", query_native(native));
        flag.put(1);
        // Recorded anew, it is an event again; the one that has failed stays so.
        record_native(native, stream);
        complete(&import().expect("an event"));
        assert_eq!(event.status(), Status::Failed);
    }
}

/// Prints what a captured event was refused with, and sees that it was.
fn refusal<T: std::fmt::Debug>(who: &str, outcome: Outcome<T>) {
    let error = outcome.expect_err("the event is captured");
    println!("{who}: {:?}: {error}", error.kind());
    assert!(matches!(error.kind(), ErrorKind::Capturing | ErrorKind::Driver), "{error}");
}
