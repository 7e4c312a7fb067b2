//! Events that two processes share.

use crate::{
    support::{BOUND, complete, gpu},
    trial,
};
use gpu_events::{
    ErrorKind, Status, WaitOptions, WaitOutcome,
    cuda::{self, IpcHandle, SharedEvent},
};
use std::{
    io::{self, BufRead, BufReader, Write},
    process::Stdio,
    sync::Arc,
    thread,
    time::Duration,
};

fn to_text(handle: &IpcHandle) -> String {
    handle.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_text(text: &str) -> IpcHandle {
    let byte = |index: usize| u8::from_str_radix(&text[2 * index..2 * index + 2], 16).expect("a number");
    std::array::from_fn(byte)
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).expect("the other process");
    line.trim().to_owned()
}

pub(crate) fn pending_then_complete() {
    let (device, _) = gpu();
    let stream = device.create_stream().expect("a stream");
    let shared = SharedEvent::new(&device).expect("an event");
    let (gate, open) = device.host_event().expect("a host event");
    stream.wait(&gate).expect("a wait");
    let event = shared.record(&stream).expect("a recording");
    let handle = shared.export().expect("a handle");
    let mut command = trial::command("ipc::import").expect("this program");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
    let mut to = child.stdin.take().expect("a pipe");
    let mut from = BufReader::new(child.stdout.take().expect("a pipe"));
    writeln!(to, "{}", to_text(&handle)).expect("the other process");
    assert_eq!(line(&mut from), "Pending");
    assert_eq!(event.status(), Status::Pending);
    open.complete();
    assert_eq!(line(&mut from), "Complete");
    complete(&event);
    // Good for others only while it is here.
    drop(to);
    assert!(child.wait().expect("the other process").success());
    drop(shared);
}

/// The other process of [`pending_then_complete`].
pub(crate) fn import() {
    let mut lines = io::stdin().lock();
    let handle = from_text(&line(&mut lines));
    let (device, _) = gpu();
    let event = cuda::open_shared(&device, &handle).expect("an event");
    let stream = device.create_stream().expect("a stream");
    let inserted = stream.wait(&event).expect("a wait").inserted();
    let behind = stream.record().expect("a recording");
    assert!(inserted && behind.status() == Status::Pending);
    println!("{:?}", event.status());
    io::stdout().flush().expect("the other process");
    complete(&event);
    complete(&behind);
    assert_eq!(event.elapsed_since(&event).expect_err("no time").kind(), ErrorKind::Untimed);
    println!("{:?}", event.status());
    io::stdout().flush().expect("the other process");
}

pub(crate) fn limits() {
    let (device, _) = gpu();
    let stream = device.create_stream().expect("a stream");
    let shared = SharedEvent::new(&device).expect("an event");
    assert_eq!(shared.export().expect_err("unrecorded").kind(), ErrorKind::Unrecorded);
    let event = shared.record(&stream).expect("a recording");
    assert_eq!(shared.record(&stream).expect_err("recorded").kind(), ErrorKind::InvalidArgument);
    complete(&event);
    assert_eq!(event.elapsed_since(&event).expect_err("no time").kind(), ErrorKind::Untimed);
    let handle = shared.export().expect("a handle");
    let own = cuda::open_shared(&device, &handle).expect_err("its own");
    println!("its own handle: {own}");
    assert_eq!(own.kind(), ErrorKind::InvalidArgument);
    complete(&stream.record().expect("the stream goes on"));
}

pub(crate) fn exporter_has_gone() {
    let (device, _) = gpu();
    let output = trial::command("ipc::export_and_go").expect("this program").output().expect("a process");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("a text");
    // The driver may tell, or open what is left: then the event has settled, and nobody waits for it.
    match cuda::open_shared(&device, &from_text(text.trim())) {
        Ok(event) => {
            println!("a handle of a process that has ended: {event:?}");
            assert_ne!(event.status(), Status::Pending);
            event.wait_timeout(BOUND).map(drop).unwrap_or_else(|error| println!("{error}"));
        }
        Err(refused) => {
            println!("a handle of a process that has ended: {refused}");
            assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
        }
    }
    complete(&device.create_stream().and_then(|stream| stream.record()).expect("the device goes on"));
}

/// The other process of [`exporter_has_gone`].
pub(crate) fn export_and_go() {
    let (device, _) = gpu();
    let shared = SharedEvent::new(&device).expect("an event");
    let event = shared.record(&device.create_stream().expect("a stream")).expect("a recording");
    complete(&event);
    println!("{}", to_text(&shared.export().expect("a handle")));
}

/// What the driver says then is not promised: that nobody is held up by it beyond a timeout, or the device's closing, is.
pub(crate) fn exporter_dies() {
    let (device, _) = gpu();
    let mut command = trial::command("ipc::export_and_hold").expect("this program");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
    let mut from = BufReader::new(child.stdout.take().expect("a pipe"));
    let event = Arc::new(cuda::open_shared(&device, &from_text(&line(&mut from))).expect("an event"));
    assert_eq!(event.status(), Status::Pending);
    let theirs = event.clone();
    let waiter = thread::spawn(move || theirs.wait_with(&WaitOptions::new().timeout(BOUND)));
    child.kill().expect("a process to end");
    child.wait().expect("the other process");
    let outcome = event.wait_timeout(Duration::from_secs(1));
    println!("the exporter was killed: {outcome:?}");
    device.close();
    let end = waiter.join().expect("no panic");
    println!("who waited: {end:?}");
    assert!(!matches!(end, Ok(WaitOutcome::TimedOut)), "closing ends it");
    let (device, _) = gpu();
    complete(&device.create_stream().and_then(|stream| stream.record()).expect("another device goes on"));
}

/// The other process of [`exporter_dies`]: its event stays pending.
pub(crate) fn export_and_hold() {
    let (device, _) = gpu();
    let stream = device.create_stream().expect("a stream");
    let (gate, _open) = device.host_event().expect("a host event");
    stream.wait(&gate).expect("a wait");
    let shared = SharedEvent::new(&device).expect("an event");
    let _event = shared.record(&stream).expect("a recording");
    println!("{}", to_text(&shared.export().expect("a handle")));
    io::stdout().flush().expect("the other process");
    // Until it is killed, or whoever started it has gone.
    line(&mut io::stdin().lock());
}

pub(crate) fn made_up_handle() {
    let (device, _) = gpu();
    for byte in [0, 0xA5] {
        let refused = cuda::open_shared(&device, &[byte; 64]).expect_err("there is none");
        println!("a handle of {byte:#x} alone: {refused}");
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    }
    complete(&device.create_stream().and_then(|stream| stream.record()).expect("the device goes on"));
}
