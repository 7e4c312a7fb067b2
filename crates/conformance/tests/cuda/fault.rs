//! What breaks a GPU's context, and what closing does that nothing else can.

use crate::{
    observers::{PROMISED, expect_all, observe},
    support::{Cell, complete, gpu},
};
use gpu_events::{
    Device, ErrorKind, Signal, Status, Stream, StreamOptions, WaitOptions, WaitOutcome, WaitStrategy, cuda,
};
use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

pub(crate) fn illegal_address() {
    fault(true);
}

pub(crate) fn trap() {
    fault(false);
}

fn fault(illegal: bool) {
    let (_, kernels) = gpu();
    let cpu = Device::open("cpu").expect("the CPU is there");
    let devices = [Signal::Cheap, Signal::Prompt].map(|signal| cuda::open(0, signal).expect("a GPU"));
    let (tell, told) = mpsc::channel();
    let mut count = 0;
    let mut held = Vec::new();
    let mut kept = Vec::new();
    for (device, mode) in devices.iter().zip(["cheap", "prompt"]) {
        let known = device.create_stream().and_then(|stream| stream.record()).expect("a recording");
        complete(&known);
        // One that runs, and one that has nothing to run: it waits for the host.
        let busy = device.create_stream().expect("a stream");
        Cell::hold(kernels, busy.cuda().expect("CUDA's").raw());
        let idle = device.create_stream().expect("a stream");
        let (gate, open) = device.host_event().expect("a host event");
        idle.wait(&gate).expect("a wait");
        held.push(open);
        for (stream, what) in [(&busy, "busy"), (&idle, "idle")] {
            let event = Arc::new(stream.record().expect("a recording"));
            count += observe(&format!("{mode}, {what}"), &event, &tell);
            // Who waits for it on the CPU.
            let consumer = cpu.create_stream().expect("a stream");
            consumer.wait(&event).expect("a wait");
            let behind = Arc::new(consumer.record().expect("a recording"));
            count += observe(&format!("{mode}, CPU behind {what}"), &behind, &tell);
        }
        kept.push((known, busy, idle));
    }
    let victim = devices[0].create_stream().expect("a stream");
    let raw = victim.cuda().expect("CUDA's").raw();
    let begun = Instant::now();
    if illegal { kernels.illegal(raw) } else { kernels.trap(raw) }.expect("a launch");
    expect_all(&told, count, begun, ErrorKind::DeviceLost);

    for (known, ..) in &kept {
        assert_eq!(known.status(), Status::Complete, "what was seen to complete stays");
    }
    let again = cuda::open(0, Signal::Cheap).expect_err("the context is broken for good");
    println!("opened again: {again}");
    assert_eq!(again.kind(), ErrorKind::DeviceLost);
    assert!(again.to_string().contains("this process can't use the GPU any more"), "{again}");
    for device in &devices {
        assert_eq!(device.create_stream().expect_err("a stream").kind(), ErrorKind::DeviceLost);
    }
    let event = cpu.create_stream().and_then(|stream| stream.record()).expect("the CPU goes on");
    complete(&event);
}

/// Nothing ends the kernel, so all there is are timeouts, and closing.
pub(crate) fn closed_while_a_kernel_spins() {
    let (other, kernels) = gpu();
    let mut flags = Vec::new();
    for signal in [Signal::Cheap, Signal::Prompt] {
        let device = cuda::open(0, signal).expect("a GPU");
        let stream = device.create_stream().expect("a stream");
        flags.push(Cell::hold(kernels, stream.cuda().expect("CUDA's").raw()));
        let event = Arc::new(stream.record().expect("a recording"));
        for strategy in [WaitStrategy::Park, WaitStrategy::Spin] {
            let options = WaitOptions::new().strategy(strategy).timeout(Duration::from_millis(20));
            let begun = Instant::now();
            assert_eq!(event.wait_with(&options).expect("no failure"), WaitOutcome::TimedOut);
            assert!(begun.elapsed() >= Duration::from_millis(20));
        }
        let (tell, told) = mpsc::channel();
        let count = observe(&format!("{signal:?}"), &event, &tell);
        let begun = Instant::now();
        device.close();
        println!("{signal:?}: closing took {:?}", begun.elapsed());
        expect_all(&told, count, begun, ErrorKind::Closed);
        assert_eq!(stream.record().expect_err("closed").kind(), ErrorKind::Closed);
        let begun = Instant::now();
        drop((stream, event, device));
        assert!(begun.elapsed() < PROMISED, "letting go waits for nobody");
    }
    // Others of the same GPU go on, in the driver as well.
    let stream: Stream = other.create_stream_with(&StreamOptions::new()).expect("a stream");
    complete(&stream.record().expect("a recording"));
    for flag in flags {
        flag.put(1);
    }
}
