//! Stall reports, as people read them (R40).

use crate::{
    inert,
    support::{BOUND, complete, cpu, crowd, hold, until},
};
use gpu_events::{Device, ErrorKind, Event, StallEnd, Stream, StreamOptions};
use std::sync::mpsc;

fn labeled(device: &Device, label: &str) -> Stream {
    device.create_stream_with(&StreamOptions::new().label(label)).unwrap()
}

/// The report, with the times taken out.
fn report(device: &Device) -> String {
    let text = device.stall_report().to_string();
    text.lines()
        .map(|line| match line.split_once(", since ") {
            Some((before, since)) => {
                let rest = since.split_once(", ").map_or(String::new(), |(_, rest)| format!(", {rest}"));
                format!("{before}{rest}")
            }
            None => line.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn nothing_pending_is_said_so() {
    let _crowd = crowd();
    let device = cpu();
    assert_eq!(report(&device), "nothing is pending");
    let stream = labeled(&device, "idle");
    complete(&stream.record().unwrap());
    assert!(device.stall_report().is_empty());
}

#[test]
fn a_chain_ends_at_the_signal_that_nobody_gave() {
    let _crowd = crowd();
    let device = cpu();
    let (go, signal) = device.host_event_labeled("go").unwrap();
    let (first, second) = (labeled(&device, "first"), labeled(&device, "second"));
    first.wait(&go).unwrap();
    let one = first.record().unwrap();
    second.wait(&one).unwrap();
    let two = second.record().unwrap();
    two.on_complete(|_| ()).unwrap();
    until("both are parked", || report(&device).matches("waits for position 1 of").count() == 2);
    assert_eq!(
        report(&device),
        "host signal \"go\": 0 complete of 1 recorded\n\
         stream \"first\": 0 complete of 1 recorded\n  \
           waits for position 1 of host signal \"go\"\n\
         stream \"second\": 0 complete of 1 recorded\n  \
           waits for position 1 of stream \"first\"\n  \
           a callback waits for its position 1\n\
         host signal \"go\" has not been signaled: stream \"second\" → stream \"first\" → host signal \"go\""
    );
    // And for programs.
    let stalls = device.stall_report();
    assert_eq!(stalls.stalled().len(), 3);
    assert_eq!(stalls.chains().len(), 1);
    assert_eq!(stalls.chains()[0].end, StallEnd::HostSignal("host signal \"go\"".into()));
    assert_eq!(stalls.chains()[0].links.len(), 3);
    assert_eq!(stalls.stalled()[1].waits_for[0].position, 1);
    signal.complete();
    complete(&two);
    until("nothing is left", || device.stall_report().is_empty());
}

#[test]
fn an_external_submission_is_told_from_one_that_was_never_made() {
    let _crowd = crowd();
    let device = cpu();
    let (event, token) = device.external_event().unwrap();
    let name = device.stall_report().stalled()[0].name.clone();
    assert!(name.starts_with("external submission #"), "{name}");
    assert_eq!(
        report(&device),
        format!("{name}: 0 complete of 1 recorded\n{name} was never submitted: {name}")
    );
    let running = token.submitted();
    let stream = labeled(&device, "reader");
    stream.wait(&event).unwrap();
    until("it is parked", || report(&device).contains("waits for position"));
    assert_eq!(
        report(&device).lines().last().unwrap(),
        format!("{name} is not done: stream \"reader\" → {name}")
    );
    running.complete();
    complete(&stream.record().unwrap());
}

#[test]
fn a_stream_that_works_is_named_with_who_waits_for_it() {
    let _crowd = crowd();
    let device = cpu();
    let stream = labeled(&device, "long");
    let (sender, receiver) = mpsc::channel::<()>();
    stream.cpu().unwrap().enqueue(move || receiver.recv_timeout(BOUND)).unwrap();
    let event = stream.record().unwrap();
    let mut completion = std::pin::pin!(event.completion());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(std::future::Future::poll(completion.as_mut(), &mut context).is_pending());
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("a user's".into());
        thread.spawn_scoped(scope, || complete(&event)).unwrap();
        let expected = "stream \"long\": 0 complete of 1 recorded\n  \
               a future waits for its position 1\n  \
               thread a user's waits for its position 1\n\
             stream \"long\" is busy with its own work: stream \"long\"";
        until("the thread waits", || report(&device) == expected);
        // A stream that is held is not waited for, not even by this.
        let guard = stream.lock().unwrap();
        assert!(report(&device).starts_with("stream \"long\": 0 complete, held by somebody\n"));
        drop(guard);
        sender.send(()).unwrap();
    });
}

/// Streams alone can't wait for each other in a circle: a wait is for what was recorded before. Work that blocks can.
#[test]
fn a_cycle_through_blocking_work_is_named() {
    let _crowd = crowd();
    let device = cpu();
    let (a, b) = (labeled(&device, "a"), labeled(&device, "b"));
    let (sender, receiver) = mpsc::channel::<Event>();
    a.cpu()
        .unwrap()
        .enqueue(move || {
            let of_b = receiver.recv_timeout(BOUND).map_err(|_| "no event".to_owned())?;
            of_b.synchronize().map_err(|error| error.to_string())
        })
        .unwrap();
    let of_a = a.record().unwrap();
    b.wait(&of_a).unwrap();
    let of_b = b.record().unwrap();
    sender.send(of_b).unwrap();
    let cycle = || device.stall_report().chains().iter().any(|chain| chain.end == StallEnd::Cycle);
    until("the cycle", cycle);
    let text = report(&device);
    let worker = text
        .split_once("in its own work on thread ")
        .map(|(_, rest)| rest.lines().next().unwrap_or_default().to_owned())
        .unwrap_or_default();
    assert!(worker.starts_with("gpu-events cpu "), "{text}");
    let (ab, ba) =
        ("stream \"a\" → stream \"b\" → stream \"a\"", "stream \"b\" → stream \"a\" → stream \"b\"");
    let rest = |end: &str| {
        format!(
            "stream \"a\": 0 complete of 1 recorded\n  \
               waits for position 1 of stream \"b\", in its own work on thread {worker}\n\
             stream \"b\": 0 complete of 1 recorded\n  \
               waits for position 1 of stream \"a\"\n  \
               thread {worker} waits for its position 1\n\
             a cycle, which will never move: {end}"
        )
    };
    assert!(text == rest(ab) || text == rest(ba), "{text}");
    // Closing is the way out of it. (If it comes to `b` first, the work on `a` fails before `a` is closed.)
    device.close();
    let kind = of_a.wait_timeout(BOUND).unwrap_err().kind();
    assert!(matches!(kind, ErrorKind::Closed | ErrorKind::WorkFailed), "{kind:?}");
    assert!(device.stall_report().is_empty(), "{}", device.stall_report());
}

#[test]
fn waits_across_devices_are_followed() {
    let _crowd = crowd();
    let (one, two) = (cpu(), cpu());
    let (go, _signal) = one.host_event_labeled("go").unwrap();
    let (source, waiting) = (labeled(&one, "source"), labeled(&two, "waiting"));
    source.wait(&go).unwrap();
    waiting.wait(&source.record().unwrap()).unwrap();
    let _event = waiting.record().unwrap();
    let chain = "host signal \"go\" has not been signaled: \
                 stream \"waiting\" → stream \"source\" → host signal \"go\"";
    until("both are parked", || report(&two).lines().last() == Some(chain));
    // Of another device only the way there is told.
    assert_eq!(two.stall_report().stalled().len(), 1);

    // A native wait is one as well.
    let (device, _) = inert::open();
    let (first, second) = (labeled(&device, "first"), labeled(&device, "second"));
    second.wait(&first.record().unwrap()).unwrap();
    let _event = second.record().unwrap();
    assert_eq!(
        report(&device).lines().last().unwrap(),
        "stream \"first\" is busy with its own work: stream \"second\" → stream \"first\""
    );
}

#[test]
fn many_gates_of_one_stream_are_one_chain_each() {
    let _crowd = crowd();
    let device = cpu();
    let stream = labeled(&device, "s");
    let signals: Vec<_> = (0..3).map(|_| hold(&stream)).collect();
    let event = stream.record().unwrap();
    until("it is parked", || report(&device).contains("waits for position"));
    // It is parked on the first, and has not reached the others.
    let stalls = device.stall_report();
    let named = stalls.chains().iter().filter(|chain| chain.links.len() == 2).count();
    assert_eq!((stalls.chains().len(), named), (3, 1), "{stalls}");
    for signal in signals {
        signal.complete();
    }
    complete(&event);
}
