//! The end of a process that has left something undone.

use crate::support::{complete, gpu};
use gpu_events::{Device, Event, Signal, Status, Stream, WaitOptions, WaitStrategy, cuda};
use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
};

/// What is still there when `main` has returned.
static LEFT: Mutex<Vec<(Device, Stream, Arc<Event>)>> = Mutex::new(Vec::new());

/// Streams wait for what will never be signaled, and others wait for them: the process ends all the same, and with 0.
pub(crate) fn with_pending_work() {
    let _ = gpu();
    for signal in [Signal::Cheap, Signal::Prompt] {
        let device = cuda::open(0, signal).expect("a GPU");
        complete(&device.create_stream().and_then(|stream| stream.record_timed()).expect("a recording"));
        let stream = device.create_stream().expect("a stream");
        let (gate, open) = device.host_event().expect("a host event");
        stream.wait(&gate).expect("a wait");
        // Forgotten, and not dropped, which would fail the stream.
        std::mem::forget(open);
        let event = Arc::new(stream.record().expect("a recording"));
        let _timed = stream.record_timed().expect("a recording");
        std::mem::forget(event.on_complete(|_| ()).expect("a callback"));
        let (ready, is_ready) = mpsc::channel();
        for strategy in [WaitStrategy::Park, WaitStrategy::Spin] {
            let (event, ready) = (event.clone(), ready.clone());
            thread::spawn(move || {
                let _ = ready.send(());
                let _ = event.wait_with(&WaitOptions::new().strategy(strategy));
            });
        }
        for _ in 0..2 {
            is_ready.recv().expect("the threads have begun");
        }
        assert_eq!(event.status(), Status::Pending);
        LEFT.lock().expect("no panic").push((device, stream, event));
    }
    println!("main returns");
}
