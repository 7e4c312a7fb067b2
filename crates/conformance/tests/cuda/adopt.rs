//! Streams and events that somebody else made.

use crate::support::{
    Cell, NOT_READY, complete, gpu, keep_alive, native_event, query_native, record_native, until,
};
use cudarc::driver::CudaContext;
use gpu_events::{
    Device, ErrorKind, Signal, Status, Stream, StreamOptions,
    cuda::{self, RawStream, cudarc_0_19 as adapter},
};
use gpu_events_conformance::cuda::Kernels;
use std::{ptr, sync::Arc};

/// Records behind work that is held back, waits both ways, and is told of completion.
fn exercise(device: &Device, kernels: &Kernels, stream: &Stream, raw: RawStream) {
    let (flag, cell, copied) = (Cell::hold(kernels, raw), Cell::new(kernels), Cell::new(kernels));
    kernels.set(raw, cell.raw(), 7).expect("a launch");
    let event = stream.record().expect("a recording");
    let timed = stream.record_timed().expect("a recording");
    let ours = device.create_stream().expect("a stream");
    assert!(ours.wait(&event).expect("a wait").inserted());
    kernels.copy(ours.cuda().expect("CUDA's").raw(), cell.raw(), copied.raw()).expect("a launch");
    let behind = ours.record().expect("a recording");
    stream.wait(&behind).expect("a wait");
    let last = stream.record().expect("a recording");
    assert!([&event, &timed, &behind, &last].iter().all(|event| event.status() == Status::Pending));
    flag.put(1);
    complete(&last);
    assert_eq!((cell.get(), copied.get()), (7, 7));
    timed.completion_time().expect("a time");
    let (gate, open) = device.host_event().expect("a host event");
    assert!(stream.wait(&gate).expect("a wait").inserted());
    let gated = stream.record().expect("a recording");
    assert_eq!(gated.status(), Status::Pending);
    open.complete();
    complete(&gated);
}

fn both() -> [StreamOptions; 2] {
    [Signal::Cheap, Signal::Prompt].map(|signal| StreamOptions::new().signal(signal))
}

pub(crate) fn streams() {
    let (device, kernels) = gpu();
    for options in both() {
        let raw = kernels.make_stream().expect("a stream");
        let (kept, weak) = keep_alive();
        // SAFETY: the stream is never destroyed.
        let stream = unsafe { cuda::adopt_stream(&device, raw, kept, &options) }.expect("a stream");
        exercise(&device, kernels, &stream, raw);
        drop(stream);
        until("what keeps it alive is let go of", || weak.strong_count() == 0);
    }
}

/// By threads that have no context, as this one.
pub(crate) fn streams_without_handles() {
    let (device, kernels) = gpu();
    for options in both() {
        for raw in [ptr::null_mut(), cuda::LEGACY_STREAM, cuda::PER_THREAD_STREAM] {
            // SAFETY: every context has them, for good.
            let stream =
                unsafe { cuda::adopt_stream(&device, raw, keep_alive().0, &options) }.expect("a stream");
            exercise(&device, kernels, &stream, raw);
        }
    }
}

pub(crate) fn events() {
    let (device, kernels) = gpu();
    let theirs = kernels.make_stream().expect("a stream");
    let native = native_event(&device).expect("an event");
    let (kept, weak) = keep_alive();
    let flag = Cell::hold(kernels, theirs);
    record_native(native, theirs);
    // SAFETY: it is never destroyed.
    let event = unsafe { cuda::import_event(&device, native, kept) }.expect("an event");
    assert_eq!(event.status(), Status::Pending);
    let stream = device.create_stream().expect("a stream");
    assert!(stream.wait(&event).expect("a wait").inserted());
    let behind = stream.record().expect("a recording");
    let cpu = Device::open("cpu").expect("the CPU is there").create_stream().expect("a stream");
    cpu.wait(&event).expect("a wait");
    let far = cpu.record().expect("a recording");
    assert_eq!((behind.status(), far.status()), (Status::Pending, Status::Pending));
    flag.put(1);
    [&event, &behind, &far].into_iter().for_each(complete);
    // SAFETY: as above.
    let known = unsafe { cuda::import_event(&device, native, keep_alive().0) }.expect("an event");
    assert_eq!(known.status(), Status::Complete);
    drop(event);
    until("what keeps it alive is let go of", || weak.strong_count() == 0);
}

pub(crate) fn raw_events() {
    let (_, kernels) = gpu();
    for signal in [Signal::Cheap, Signal::Prompt] {
        let device = cuda::open(0, signal).expect("a GPU");
        let stream = device.create_stream().expect("a stream");
        let foreign = kernels.make_stream().expect("a stream");
        let (theirs, ours) =
            (native_event(&device).expect("an event"), native_event(&device).expect("an event"));
        let flag = Cell::hold(kernels, foreign);
        record_native(theirs, foreign);
        // SAFETY: it is never destroyed.
        unsafe { cuda::wait_raw(&stream, theirs) }.expect("a wait");
        // SAFETY: it is never destroyed, and of this context.
        unsafe { cuda::record_raw(&stream, ours) }.expect("a recording");
        let event = stream.record().expect("a recording");
        assert_eq!((event.status(), query_native(ours)), (Status::Pending, NOT_READY));
        flag.put(1);
        complete(&event);
        assert_eq!(query_native(ours), 0);
    }
}

pub(crate) fn cudarc_streams() {
    let (device, kernels) = gpu();
    let context = CudaContext::new(0).expect("a context");
    assert_eq!(context.cu_ctx().cast(), cuda::raw_context(&device).expect("a context"), "one for both");
    for options in both() {
        let theirs = context.new_stream().expect("a stream");
        let weak = Arc::downgrade(&theirs);
        let stream = adapter::adopt_stream(&device, theirs.clone(), &options).expect("a stream");
        exercise(&device, kernels, &stream, theirs.cu_stream().cast());
        let sent: Vec<u32> = (0..1 << 20).collect();
        let slice = theirs.clone_htod(&sent).expect("a copy");
        let event = stream.record().expect("a recording");
        complete(&event);
        assert_eq!(theirs.clone_dtoh(&slice).expect("a copy"), sent);
        drop((slice, theirs));
        assert_eq!(weak.strong_count(), 1, "ours");
        drop((stream, event));
        until("cudarc's stream is let go of", || weak.strong_count() == 0);
    }
    let cpu = Device::open("cpu").expect("the CPU is there");
    let refused = adapter::adopt_stream(&cpu, context.default_stream(), &StreamOptions::new());
    assert_eq!(refused.expect_err("no CUDA device").kind(), ErrorKind::Unsupported);
}

/// The one that candle uses: it has no handle.
pub(crate) fn cudarc_default_stream() {
    let (device, kernels) = gpu();
    let context = CudaContext::new(0).expect("a context");
    for options in both() {
        for theirs in [context.default_stream(), context.per_thread_stream()] {
            let raw = theirs.cu_stream().cast();
            let stream = adapter::adopt_stream(&device, theirs, &options).expect("a stream");
            exercise(&device, kernels, &stream, raw);
        }
    }
}

pub(crate) fn cudarc_on_ours() {
    let (device, kernels) = gpu();
    let context = CudaContext::new(0).expect("a context");
    for options in both() {
        let stream = device.create_stream_with(&options).expect("a stream");
        // SAFETY: the stream outlives the wrapper, and all that is made with it stays on it.
        let theirs = unsafe { adapter::wrap_stream(&stream, &context) }.expect("a stream");
        let sent: Vec<u32> = (0..1 << 10).collect();
        // Ahead of what holds the stream back: memory that is not pinned may be waited for.
        let slice = theirs.clone_htod(&sent).expect("a copy");
        let flag = Cell::hold(kernels, theirs.cu_stream().cast());
        let event = stream.record().expect("a recording");
        assert_eq!(event.status(), Status::Pending);
        flag.put(1);
        complete(&event);
        assert_eq!(theirs.clone_dtoh(&slice).expect("a copy"), sent);
        drop((slice, theirs));
        complete(&stream.record().expect("dropping the wrapper ends nothing"));
    }
}

pub(crate) fn cudarc_events() {
    let (device, kernels) = gpu();
    let context = CudaContext::new(0).expect("a context");
    let theirs = context.new_stream().expect("a stream");
    // Made before anything is held back: the driver may wait for that.
    let native = Arc::new(context.new_event(None).expect("an event"));
    let flag = Cell::hold(kernels, theirs.cu_stream().cast());
    native.record(&theirs).expect("a recording");
    let weak = Arc::downgrade(&native);
    let event = adapter::import_event(&device, native).expect("an event");
    let stream = device.create_stream().expect("a stream");
    assert!(stream.wait(&event).expect("a wait").inserted());
    let behind = stream.record().expect("a recording");
    assert_eq!((event.status(), behind.status()), (Status::Pending, Status::Pending));
    flag.put(1);
    complete(&event);
    complete(&behind);
    drop(event);
    until("cudarc's event is let go of", || weak.strong_count() == 0);
}
