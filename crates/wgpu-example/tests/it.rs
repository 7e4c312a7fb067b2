//! Events around wgpu's compute passes, on whatever Vulkan device wgpu finds: in CI that is Mesa's lavapipe, on the CPU.
//!
//! Without one there is nothing to test, and it is said; `GPU_EVENTS_REQUIRE=vulkan` (a list, with commas) makes that a failure.

#![cfg(target_os = "linux")]

use gpu_events::{Device, Event, Status, StreamWait};
use gpu_events_wgpu_example::{Passes, Result, Shared};
use std::{
    env,
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

/// wgpu's device and some passes; `None` where there is no Vulkan.
fn open() -> Option<(Arc<Shared>, Arc<Passes>)> {
    match Shared::open() {
        Ok(shared) => {
            let passes = Passes::new(&shared);
            Some((Arc::new(shared), Arc::new(passes)))
        }
        Err(why) => {
            let required = env::var("GPU_EVENTS_REQUIRE").unwrap_or_default();
            let required = required.split(',').any(|name| name.trim() == "vulkan");
            assert!(!required, "GPU_EVENTS_REQUIRE asks for Vulkan: {why}");
            eprintln!("nothing tested: {why}");
            None
        }
    }
}

/// Whether each number is what so many passes come to.
fn right(numbers: &[u32], passes: u32) -> bool {
    let expected = Passes::expected(passes);
    !numbers.is_empty() && numbers.iter().all(|&number| number == expected)
}

#[test]
fn a_pass_is_timed_by_events_around_it() -> Result<()> {
    let Some((shared, passes)) = open() else { return Ok(()) };
    let begun = Instant::now();
    let start = shared.stream.record_timed()?;
    let submission = shared.submit(passes.encode(&shared));
    let end = shared.stream.record_timed()?;
    shared.poll_until(submission)?;
    end.synchronize()?;
    let window = begun.elapsed();

    assert_eq!((start.status(), end.status()), (Status::Complete, Status::Complete));
    let took = end.elapsed_since(&start)?;
    assert!(took.nanos() > 0, "a pass takes time");
    assert!(took.duration() <= window + took.resolution(), "{took} on the GPU, of {window:?} on the host");
    assert!(right(&passes.read(&shared)?, 1));
    Ok(())
}

#[test]
fn events_complete_in_the_order_of_the_queue() -> Result<()> {
    let Some((shared, passes)) = open() else { return Ok(()) };
    let (gate, signal) = shared.device.host_event()?;
    shared.stream.wait(&gate)?;
    let before = Arc::new(shared.stream.record_timed()?);
    shared.submit(passes.encode(&shared));
    let after = shared.stream.record_timed()?;
    assert_eq!((before.status(), after.status()), (Status::Pending, Status::Pending));

    let (send, order) = mpsc::channel();
    let note = |event: &Event, name| {
        let (send, before) = (send.clone(), before.clone());
        event.on_complete(move |result| {
            // Nobody listens any more once the test has failed.
            let _ = send.send((name, result.is_ok(), before.status()));
        })
    };
    // The later one first: it is the queue that says who comes first.
    let _callbacks = [note(&after, "after")?, note(&before, "before")?];
    signal.complete();
    assert_eq!(order.recv()?, ("before", true, Status::Complete));
    assert_eq!(order.recv()?, ("after", true, Status::Complete));
    assert!(after.elapsed_since(&before)?.nanos() > 0);
    Ok(())
}

#[test]
fn a_stream_of_the_cpu_reads_what_a_pass_wrote() -> Result<()> {
    let Some((shared, passes)) = open() else { return Ok(()) };
    let cpu = Device::open("cpu")?.create_stream()?;
    for pass in 1..=8 {
        // The pass is not done before the reader stands in its stream.
        let (gate, signal) = shared.device.host_event()?;
        shared.stream.wait(&gate)?;
        shared.submit(passes.encode(&shared));
        let written = shared.stream.record()?;
        cpu.wait(&written)?;
        let (shared, passes) = (shared.clone(), passes.clone());
        let (send, numbers) = mpsc::channel();
        // Fails if wgpu still takes the buffer to be in use: nothing but the event says when to look.
        cpu.cpu()?.enqueue(move || drop(send.send(passes.read(&shared))))?;
        signal.complete();
        assert!(right(&numbers.recv()??, pass), "after pass {pass}");
    }
    cpu.synchronize()?;
    Ok(())
}

#[test]
fn a_wait_holds_a_pass_back() -> Result<()> {
    let Some((shared, passes)) = open() else { return Ok(()) };
    shared.submit(passes.encode(&shared));
    shared.stream.synchronize()?;
    assert!(right(&passes.read(&shared)?, 1));

    let cpu = Device::open("cpu")?.create_stream()?;
    let (gate, signal) = shared.device.host_event()?;
    assert_eq!(shared.stream.wait(&gate)?, StreamWait::Gated);
    shared.submit(passes.encode(&shared));
    let written = shared.stream.record()?;
    // Everything on that queue stands still: wgpu can't read, nor does the event complete.
    assert!(passes.read(&shared).is_err(), "the pass was not held back");
    assert_eq!(written.status(), Status::Pending);

    // Somebody else's work opens the gate.
    cpu.cpu()?.enqueue(move || signal.complete())?;
    written.synchronize()?;
    assert!(right(&passes.read(&shared)?, 2));
    Ok(())
}

#[test]
fn passes_come_one_after_the_other() -> Result<()> {
    let Some((shared, passes)) = open() else { return Ok(()) };
    let mut spans = Vec::new();
    for _ in 0..6 {
        let start = shared.stream.record_timed()?;
        shared.submit(passes.encode(&shared));
        spans.push((start, shared.stream.record_timed()?));
    }
    shared.stream.synchronize()?;
    for (start, end) in &spans {
        assert!(end.elapsed_since(start)?.nanos() > 0);
    }
    for pair in spans.windows(2) {
        // An error, if the next began before this one had ended.
        pair[1].0.elapsed_since(&pair[0].1)?;
    }
    assert!(right(&passes.read(&shared)?, 6));
    Ok(())
}

#[test]
fn a_submission_of_wgpus_signals_an_event_itself() -> Result<()> {
    let Some((shared, passes)) = open() else { return Ok(()) };
    let (gate, signal) = shared.device.host_event()?;
    shared.stream.wait(&gate)?;
    let (written, submission) = shared.submit_recorded(passes.encode(&shared))?;
    assert_eq!(written.status(), Status::Pending);
    signal.complete();
    written.synchronize()?;
    shared.poll_until(submission)?;
    assert!(right(&passes.read(&shared)?, 1));
    Ok(())
}

#[test]
fn threads_take_turns_at_the_queue() -> Result<()> {
    let Some((shared, passes)) = open() else { return Ok(()) };
    const PASSES: u32 = 32;
    thread::scope(|scope| {
        let recorder = scope.spawn(|| (0..256).try_for_each(|_| shared.stream.record()?.synchronize()));
        for _ in 0..PASSES {
            shared.submit(passes.encode(&shared));
        }
        recorder.join().expect("no panic")
    })?;
    shared.stream.synchronize()?;
    assert!(right(&passes.read(&shared)?, PASSES));
    Ok(())
}
