//! What the Metal backend promises beyond the conformance suite: counts, order, faults, and users' own Metal work.
//!
//! Each test has the simulation for itself ([`exclusive`]), which checks in the end that nothing was misused, leaked,
//! or autoreleased without a pool.

use gpu_events::{
    Device, Error, ErrorKind, Event, HostSignal, Result, Status, Stream, StreamOptions, StreamWait,
    WaitOutcome, WhenFull, metal,
};
use metal_sim::{Chance, Nil, control, counters, exclusive, host_work};
use objc2::{
    rc::{Retained, autoreleasepool},
    runtime::ProtocolObject,
};
use objc2_metal::{MTLCommandBuffer, MTLCommandQueue, MTLDevice, MTLEvent, MTLSharedEvent};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

const BOUND: Duration = Duration::from_secs(30);

/// The stated bound on a batch.
fn bound(device: &Device) -> u64 {
    device.capabilities().batch_bound.expect("Metal gathers")
}

fn gpu() -> Device {
    Device::open("metal").expect("the simulated GPU is there")
}

fn work(stream: &Stream, work: impl FnOnce() + Send + 'static) {
    try_work(stream, work).expect("encoded");
}

fn try_work(stream: &Stream, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let work = || {
        work();
        Ok(())
    };
    stream.metal()?.encode(|commands| host_work(commands, work))
}

fn failing_work(stream: &Stream) {
    let work = || Err("on demand".to_owned());
    stream.metal().unwrap().encode(|commands| host_work(commands, work)).expect("encoded");
}

/// Holds back what is submitted to `stream` from now on.
fn hold(stream: &Stream) -> HostSignal {
    let (gate, signal) = stream.device().host_event().unwrap();
    assert_eq!(stream.wait(&gate).unwrap(), StreamWait::Gated);
    signal
}

#[track_caller]
fn complete(event: &Event) {
    assert_eq!(event.wait_timeout(BOUND).expect("no failure"), WaitOutcome::Complete, "{event:?}");
}

#[track_caller]
fn failure(event: &Event) -> Error {
    match event.wait_timeout(BOUND) {
        Err(error) => error,
        Ok(outcome) => panic!("{outcome:?}, and not a failure"),
    }
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < BOUND, "never came: {what}");
        std::thread::yield_now();
    }
}

/// A log that work writes to.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u32>>>);

impl Log {
    fn writes(&self, number: u32) -> impl FnOnce() + Send + 'static {
        let log = self.0.clone();
        move || log.lock().unwrap().push(number)
    }

    fn read(&self) -> Vec<u32> {
        self.0.lock().unwrap().clone()
    }
}

fn command_buffer(
    queue: &ProtocolObject<dyn MTLCommandQueue>,
) -> Retained<ProtocolObject<dyn MTLCommandBuffer>> {
    autoreleasepool(|_| queue.commandBuffer()).expect("a command buffer")
}

fn foreign_queue(device: &Device) -> Retained<ProtocolObject<dyn MTLCommandQueue>> {
    let gpu = metal::raw_device(device).unwrap();
    autoreleasepool(|_| gpu.newCommandQueue()).expect("a queue")
}

fn commit(buffer: &ProtocolObject<dyn MTLCommandBuffer>) {
    autoreleasepool(|_| buffer.commit());
}

/// A thread keeps a few idle events of a pool that ended on another thread, and with them the device, until it next
/// uses a pool.
fn let_go_of_idle_events() {
    drop(Device::open("cpu").unwrap().pool().acquire());
}

// ---------------------------------------------------------------------------------------------------------- counted

#[test]
fn a_stream_has_one_shared_event_whatever_the_number_of_events() {
    let simulation = exclusive();
    let device = gpu();
    let streams: Vec<_> = (0..3).map(|_| device.create_stream().unwrap()).collect();
    let made = || counters().shared_events - simulation.before().shared_events;
    assert_eq!(made(), 3);
    for stream in &streams {
        let events: Vec<_> = (0..500)
            .map(|n| {
                work(stream, || ());
                if n % 50 == 0 { stream.record_timed() } else { stream.record() }.unwrap()
            })
            .collect();
        events.iter().for_each(complete);
    }
    assert_eq!(made(), 3);
}

#[test]
fn a_thousand_recordings_take_few_commits_and_the_first_piece_starts_by_itself() {
    let simulation = exclusive();
    let device = gpu();
    let stream = device.create_stream().unwrap();
    let commits = || (counters().commits - simulation.before().commits) as u64;
    // The first piece holds the GPU until all the others are submitted, so that the counts do not depend on its speed.
    let (start, started) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let done = Arc::new(AtomicU64::new(0));
    let mut events = Vec::new();
    let (released, its) = (Mutex::new(released), done.clone());
    work(&stream, move || {
        start.send(()).unwrap();
        let _ = released.lock().unwrap().recv_timeout(BOUND);
        its.fetch_add(1, Ordering::Relaxed);
    });
    events.push(stream.record().unwrap());
    // Nobody has looked at any event.
    started.recv_timeout(BOUND).expect("the first piece starts without any observer");
    for _ in 1..1_000 {
        let done = done.clone();
        work(&stream, move || {
            done.fetch_add(1, Ordering::Relaxed);
        });
        events.push(stream.record().unwrap());
    }
    let submitted = commits();
    drop(release);
    until("the rest starts without any observer as well", || done.load(Ordering::Relaxed) == 1_000);
    events.iter().for_each(complete);
    let all = commits();
    println!(
        "1,000 pieces of work, 1,000 recordings, bound {}: {submitted} commits before the GPU went on, {all} in all",
        bound(&device)
    );
    assert!(all <= 1_000 / bound(&device), "{all} commits");
}

#[test]
fn the_bound_on_a_batch_is_the_streams_to_choose() {
    let _simulation = exclusive();
    let device = gpu();
    // The first piece may go before its recording comes.
    for (bound, most) in [(0, 101), (4, 25), (1_000, 4)] {
        let stream = device.create_stream_with(&StreamOptions::new().batch_bound(bound)).unwrap();
        let begin = control().hold_begin();
        let before = counters().commits;
        let events: Vec<_> = (0..100)
            .map(|_| {
                work(&stream, || ());
                stream.record().unwrap()
            })
            .collect();
        let commits = counters().commits - before;
        assert!(commits <= most, "{commits} commits with a bound of {bound}");
        assert!(bound > 0 || commits > 50, "{commits} commits with a bound of {bound}");
        drop(begin);
        events.iter().for_each(complete);
    }
}

#[test]
fn a_poll_reads_the_value_once_at_most() {
    let _simulation = exclusive();
    let stream = gpu().create_stream().unwrap();
    let begin = control().hold_begin();
    let events: Vec<_> = (0..1_000)
        .map(|_| {
            work(&stream, || ());
            stream.record().unwrap()
        })
        .collect();
    stream.flush().unwrap();
    for _ in 0..3 {
        let before = counters().signaled_value_reads;
        assert!(events.iter().all(|event| !event.is_complete().unwrap()));
        let reads = counters().signaled_value_reads - before;
        println!("polling 1,000 pending events once reads `signaledValue` {reads} times");
        assert!(reads <= 1_000, "{reads} reads");
    }
    drop(begin);
    events.iter().for_each(complete);
    // Handlers read it as well, and may be late.
    assert!(metal_sim::settle(BOUND));
    let before = counters().signaled_value_reads;
    assert!(events.iter().all(|event| event.is_complete().unwrap()));
    assert_eq!(counters().signaled_value_reads, before, "what is known needs no asking");
}

#[test]
fn recording_on_an_idle_stream_reaches_no_driver() {
    let simulation = exclusive();
    let stream = gpu().create_stream().unwrap();
    for _ in 0..100 {
        assert_eq!(stream.record().unwrap().status(), Status::Complete);
    }
    assert_eq!(counters().command_buffers, simulation.before().command_buffers);
    work(&stream, || ());
    stream.synchronize().unwrap();
    // Handlers may be late.
    assert!(metal_sim::settle(BOUND));
    assert_eq!(stream.record().unwrap().status(), Status::Complete);
}

/// Leaks are what the simulation looks for in the end; autoreleases without a pool as well.
#[test]
fn nothing_is_left_of_a_million_recordings() {
    let _simulation = exclusive();
    control().set(|knobs| knobs.lateness = Duration::from_micros(100));
    let scale = std::env::var("GPU_EVENTS_STRESS").map_or(1.0, |scale| scale.parse().expect("a factor"));
    let total = (1e6 * scale) as u64;
    // On threads of their own, which have no pool unless somebody makes one.
    std::thread::spawn(move || {
        let device = gpu();
        let (one, two) = (device.create_stream().unwrap(), device.create_stream().unwrap());
        for n in 0..total {
            if n % 64 == 0 {
                work(&one, || ());
            }
            let event = if n % 1_000 == 0 { one.record_timed() } else { one.record() }.unwrap();
            if n % 500 == 0 {
                two.wait(&event).unwrap();
                work(&two, || ());
                event.on_complete(drop).unwrap();
                complete(&event);
            }
        }
        complete(&two.record().unwrap());
        complete(&one.record().unwrap());
    })
    .join()
    .unwrap();
}

// ------------------------------------------------------------------------------------------------------------ order

#[test]
fn buffers_of_a_stream_run_in_order_although_the_queue_overlaps_them() {
    let _simulation = exclusive();
    control().set(|knobs| knobs.overlap = Chance::Always);
    for _ in 0..20 {
        let stream = gpu().create_stream().unwrap();
        let log = Log::default();
        let events: Vec<_> = (0..30)
            .map(|n| {
                work(&stream, log.writes(n));
                // A buffer each.
                let event = stream.record().unwrap();
                stream.flush().unwrap();
                event
            })
            .collect();
        complete(&events[29]);
        assert_eq!(log.read(), (0..30).collect::<Vec<_>>());
        assert!(events.iter().all(|event| event.status() == Status::Complete));
    }
}

/// Also through what has no recording behind it, timed recordings, waits, and gates.
#[test]
fn every_kind_of_end_is_chained() {
    let _simulation = exclusive();
    control().set(|knobs| knobs.overlap = Chance::Always);
    for round in 0..20 {
        let device = gpu();
        let (stream, other) = (device.create_stream().unwrap(), device.create_stream().unwrap());
        let log = Log::default();
        let mut gates = Vec::new();
        for n in 0..24 {
            work(&stream, log.writes(n));
            match (n + round) % 6 {
                0 => stream.flush().unwrap(),
                1 => drop(stream.record_timed().unwrap()),
                2 => gates.push(hold(&stream)),
                3 => {
                    work(&other, || ());
                    stream.wait(&other.record().unwrap()).unwrap();
                    stream.flush().unwrap();
                }
                4 => drop(stream.record().unwrap()),
                _ => {}
            }
        }
        let end = stream.record().unwrap();
        gates.into_iter().for_each(HostSignal::complete);
        complete(&end);
        assert_eq!(log.read(), (0..24).collect::<Vec<_>>(), "round {round}");
    }
}

/// R9: what is signaled in the middle of a buffer is known before the buffer is through.
#[test]
fn a_position_does_not_wait_for_the_rest_of_its_buffer() {
    let _simulation = exclusive();
    let stream = gpu().create_stream().unwrap();
    let signal = hold(&stream);
    let (release, released) = mpsc::channel::<()>();
    work(&stream, || ());
    let first = stream.record().unwrap();
    let released = Mutex::new(released);
    work(&stream, move || {
        let _ = released.lock().unwrap().recv_timeout(BOUND);
    });
    let second = stream.record().unwrap();
    let (told, hears) = mpsc::channel();
    let callback = first.on_complete(move |outcome| told.send(outcome.is_ok()).unwrap()).unwrap();
    signal.complete();
    complete(&first);
    assert_eq!(hears.recv_timeout(BOUND), Ok(true));
    assert_eq!(second.status(), Status::Pending);
    drop(release);
    complete(&second);
    drop(callback);
}

/// Handlers of different buffers come in any order, and late; a timed recording is complete with its time.
#[test]
fn a_timed_recording_is_never_complete_without_its_time() {
    let _simulation = exclusive();
    let stream = gpu().create_stream().unwrap();
    let handlers = control().hold_handlers();
    work(&stream, || ());
    let timed = stream.record_timed().unwrap();
    work(&stream, || ());
    let untimed = stream.record().unwrap();
    stream.flush().unwrap();
    let value = || stream.metal().unwrap().shared_event().signaledValue();
    until("the GPU is through", || autoreleasepool(|_| value()) >= 2);
    assert_eq!((timed.status(), untimed.status()), (Status::Pending, Status::Pending));
    drop(handlers);
    complete(&untimed);
    assert_eq!(timed.status(), Status::Complete);
    assert!(timed.completion_time().is_ok());
}

#[test]
fn times_are_the_devices_and_nonsense_is_not_measured() {
    let _simulation = exclusive();
    let device = gpu();
    let stream = device.create_stream().unwrap();
    let timed = || {
        work(&stream, || ());
        let event = stream.record_timed().unwrap();
        complete(&event);
        event
    };
    let (before, start, end, after) =
        (device.correlate().unwrap(), timed(), timed(), device.correlate().unwrap());
    let nanos = |event: &Event| event.completion_time().unwrap().nanos();
    assert!(before.device().nanos() <= nanos(&start) && nanos(&start) <= nanos(&end));
    assert!(nanos(&end) <= after.device().nanos());
    assert!(end.elapsed_since(&start).unwrap().nanos() > 0);
    assert_eq!(device.clock().source(), "GPUEndTime");

    // On some systems starts come out later than ends. The end is none the worse.
    control().set(|knobs| knobs.start_shift = 3600.0);
    assert!(timed().elapsed_since(&end).is_ok());
    control().set(|knobs| knobs.start_shift = 0.0);

    for (zero, shift) in [(true, 0.0), (false, 1.0), (false, -1.0)] {
        control().set(|knobs| (knobs.zero_times, knobs.end_shift) = (zero, shift));
        let event = timed();
        assert_eq!(event.status(), Status::Complete);
        assert_eq!(event.completion_time().unwrap_err().kind(), ErrorKind::NotMeasured, "{zero} {shift}");
        assert_eq!(event.elapsed_since(&start).unwrap_err().kind(), ErrorKind::NotMeasured);
    }
}

// ------------------------------------------------------------------------------------------------------------- room

#[test]
fn the_driver_is_never_asked_for_more_buffers_than_the_queue_takes() {
    let simulation = exclusive();
    let device = gpu();
    let options = StreamOptions::new().when_full(WhenFull::WouldBlock);
    let other = device.create_stream().unwrap();
    let adopted = || metal::adopt_queue(&device, foreign_queue(&device), &options).unwrap();
    let own = |depth| device.create_stream_with(&options.clone().queue_depth(depth)).unwrap();
    // As many as were asked for; on a queue that others use too, a quarter of its 64 places.
    for (full, takes) in [(adopted(), 16), (own(1), 1), (own(40), 40), (own(9_999), 1_024)] {
        let begin = control().hold_begin_on(full.metal().unwrap().queue());
        // Each timed recording takes a buffer. On a thread of its own, which Metal would block.
        let (sender, receiver) = mpsc::channel();
        let filled = full.clone();
        let recorder = std::thread::spawn(move || {
            let mut events = Vec::new();
            let refused = loop {
                match filled.record_timed() {
                    Ok(event) => events.push(event),
                    Err(error) => break error,
                }
                assert!(events.len() < 2_000, "the queue is never full");
            };
            sender.send((events, refused)).unwrap();
        });
        let (events, refused) = receiver.recv_timeout(BOUND).expect("nothing blocks in the driver");
        recorder.join().unwrap();
        assert_eq!((refused.kind(), events.len()), (ErrorKind::WouldBlock, takes));
        // The others go on meanwhile, and so does this one when there is room.
        work(&other, || ());
        complete(&other.record().unwrap());
        drop(begin);
        events.iter().for_each(complete);
        until("there is room", || full.record_timed().is_ok());
    }
    assert_eq!(counters().blocked_creations, simulation.before().blocked_creations);
}

#[test]
fn a_full_queue_is_waited_for_with_no_lock_held() {
    let simulation = exclusive();
    let device = gpu();
    let stream = device.create_stream_with(&StreamOptions::new().queue_depth(60)).unwrap();
    let begin = control().hold_begin();
    let (sender, receiver) = mpsc::channel();
    let recorder = {
        let stream = stream.clone();
        std::thread::spawn(move || {
            for n in 0..300 {
                let event = if n % 3 == 0 {
                    work(&stream, || ());
                    stream.record()
                } else {
                    stream.record_timed()
                };
                sender.send(event.unwrap()).unwrap();
            }
        })
    };
    let mut events: Vec<_> =
        std::iter::from_fn(|| receiver.recv_timeout(Duration::from_millis(300)).ok()).collect();
    assert!(events.len() < 300, "nothing was ever full");
    assert!(events.iter().all(|event| event.status() == Status::Pending));
    // Its lock is free.
    drop(stream.lock().unwrap());
    drop(begin);
    recorder.join().unwrap();
    events.extend(receiver);
    assert_eq!(events.len(), 300);
    events.iter().for_each(complete);
    assert_eq!(counters().blocked_creations, simulation.before().blocked_creations);
}

#[test]
fn what_waits_for_the_host_stays_out_of_the_driver() {
    let simulation = exclusive();
    let device = gpu();
    let (stream, dependent) = (device.create_stream().unwrap(), device.create_stream().unwrap());
    let signal = hold(&stream);
    let log = Log::default();
    work(&stream, log.writes(1));
    let event = stream.record().unwrap();
    // The stream it waits for is behind a gate: so is this, then.
    assert_eq!(dependent.wait(&event).unwrap(), StreamWait::Gated);
    work(&dependent, log.writes(2));
    let end = dependent.record().unwrap();
    assert_eq!(end.wait_timeout(Duration::from_millis(20)).unwrap(), WaitOutcome::TimedOut);
    assert_eq!(counters().commits, simulation.before().commits, "work behind a gate was committed");
    signal.complete();
    complete(&end);
    assert_eq!(log.read(), [1, 2]);
    // With nothing of the host's in between it is the GPU that waits.
    work(&stream, || ());
    let begin = control().hold_begin();
    let event = {
        work(&stream, || ());
        stream.record().unwrap()
    };
    assert_eq!(dependent.wait(&event).unwrap(), StreamWait::Native);
    drop(begin);
    complete(&dependent.record().unwrap());
}

// ------------------------------------------------------------------------------------------------------------- nils

#[test]
fn nil_is_an_error_and_does_no_harm() {
    let _simulation = exclusive();
    let kind = |error: Error| (error.kind(), error.detail().is_some_and(|text| text.contains("nil")));
    let resources = (ErrorKind::Resources, true);
    let device = gpu();
    for nil in [Nil::SharedEvent, Nil::CommandQueue] {
        control().nil_at(nil, 1);
        assert_eq!(kind(device.create_stream().unwrap_err()), resources, "{nil:?}");
    }
    let stream = device.create_stream().unwrap();

    // A refused recording leaves the event as it was, and the stream as well (R29).
    let event = device.pool().acquire_timed();
    event.record(&stream).unwrap();
    complete(&event);
    let time = event.completion_time().unwrap();
    control().nil_at(Nil::CommandBuffer, 1);
    assert_eq!(kind(event.record(&stream).unwrap_err()), resources);
    assert_eq!((event.status(), event.completion_time().unwrap()), (Status::Complete, time));
    control().nil_at(Nil::CommandBuffer, 1);
    assert_eq!(kind(try_work(&stream, || ()).unwrap_err()), resources);
    assert!(stream.error().is_none());
    event.record(&stream).unwrap();
    complete(&event);

    let queue = foreign_queue(&device);
    control().nil_at(Nil::SharedEvent, 1);
    assert_eq!(kind(metal::record_in_buffer(&device, &command_buffer(&queue)).unwrap_err()), resources);
    control().nil_at(Nil::SharedEvent, 1);
    assert_eq!(kind(metal::adopt_queue(&device, queue, &StreamOptions::new()).unwrap_err()), resources);

    control().nil_at(Nil::Device, 1);
    assert_eq!(Device::open("metal").unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(Device::open("metal:7").unwrap_err().kind(), ErrorKind::Unavailable);
}

// ---------------------------------------------------------------------------------------------------------- failure

/// R26 and R28: whoever the raised value lets go has been marked by then.
#[test]
fn a_failure_reaches_those_who_wait_before_they_are_let_go() {
    let _simulation = exclusive();
    for round in 0..20 {
        let device = gpu();
        let source = device.create_stream().unwrap();
        let dependents: Vec<_> = (0..3).map(|_| device.create_stream().unwrap()).collect();
        let begin = control().hold_begin();
        work(&source, || ());
        let good = source.record().unwrap();
        failing_work(&source);
        let bad = source.record().unwrap();
        let mut ends = Vec::new();
        let (sender, receiver) = mpsc::channel();
        for dependent in &dependents {
            work(dependent, || ());
            let before = dependent.record().unwrap();
            assert_eq!(dependent.wait(&bad).unwrap(), StreamWait::Native);
            let (stream, sender) = (dependent.clone(), sender.clone());
            work(dependent, move || sender.send(stream.error().is_some()).unwrap());
            ends.push((before, dependent.record().unwrap()));
        }
        drop((begin, sender));
        complete(&good);
        assert_eq!(failure(&bad).kind(), ErrorKind::WorkFailed);
        for (before, end) in &ends {
            complete(before);
            assert_eq!(failure(end).kind(), ErrorKind::WorkFailed, "round {round}");
        }
        // Their work may run all the same, on whatever is there. If it does, it finds its stream marked.
        drop((dependents, source));
        assert!(receiver.iter().all(|marked| marked), "round {round}: let go before it was marked");
    }
    // The last handles went with the work.
    assert!(metal_sim::settle(BOUND));
    let_go_of_idle_events();
}

/// What waits in the driver for a buffer that has failed is let go: nothing is left in any queue.
#[test]
fn a_failed_buffer_leaves_nobody_in_the_driver() {
    let _simulation = exclusive();
    let device = gpu();
    let (source, dependent) = (device.create_stream().unwrap(), device.create_stream().unwrap());
    let begin = control().hold_begin();
    failing_work(&source);
    let bad = source.record().unwrap();
    work(&source, || ());
    let after = source.record_timed().unwrap();
    assert_eq!(dependent.wait(&bad).unwrap(), StreamWait::Native);
    work(&dependent, || ());
    let end = dependent.record().unwrap();
    dependent.flush().unwrap();
    drop(begin);
    for event in [&bad, &after, &end] {
        failure(event);
    }
    assert!(metal_sim::settle(BOUND), "somebody waits in the driver for ever");
}

/// R38: a buffer behind the one that failed is let go by the raised value, and runs.
#[test]
fn what_is_kept_for_work_that_runs_on_is_not_dropped() {
    struct Kept(Arc<AtomicU64>);
    impl Drop for Kept {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let _simulation = exclusive();
    let stream = gpu().create_stream().unwrap();
    let begin = control().hold_begin();
    let (dropped, early) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    failing_work(&stream);
    stream.flush().unwrap();
    let (its, seen) = (dropped.clone(), early.clone());
    work(&stream, move || {
        seen.fetch_add(its.load(Ordering::SeqCst), Ordering::SeqCst);
    });
    let behind = stream.record().unwrap();
    stream.flush().unwrap();
    stream.keep_until(&behind, Kept(dropped)).unwrap();
    drop(begin);
    assert_eq!(failure(&behind).kind(), ErrorKind::WorkFailed);
    drop(stream);
    assert!(metal_sim::settle(BOUND));
    assert_eq!(early.load(Ordering::SeqCst), 0, "dropped before the work behind the failure has run");
}

#[test]
fn the_first_failure_is_the_one_that_is_told() {
    let _simulation = exclusive();
    for _ in 0..20 {
        let stream = gpu().create_stream().unwrap();
        let handlers = control().hold_handlers();
        let fail_next = |code| control().fail_next_on(stream.metal().unwrap().queue(), code);
        fail_next(3);
        let events: Vec<_> = (0..4)
            .map(|_| {
                work(&stream, || ());
                let event = stream.record_timed().unwrap();
                fail_next(2);
                event
            })
            .collect();
        drop(handlers);
        for event in &events {
            let error = failure(event);
            assert!(error.to_string().contains("PageFault (3)"), "{error}");
        }
        control().reset();
    }
}

#[test]
fn errors_have_metals_names() {
    let _simulation = exclusive();
    let names = [
        (1, "Internal", ErrorKind::WorkFailed),
        (2, "Timeout", ErrorKind::WorkFailed),
        (4, "AccessRevoked", ErrorKind::DeviceLost),
        (8, "OutOfMemory", ErrorKind::WorkFailed),
        (9, "InvalidResource", ErrorKind::WorkFailed),
        (11, "DeviceRemoved", ErrorKind::DeviceLost),
        (12, "StackOverflow", ErrorKind::WorkFailed),
        (77, "", ErrorKind::WorkFailed),
    ];
    for (code, name, kind) in names {
        let stream = gpu().create_stream().unwrap();
        control().fail_next(code);
        work(&stream, || ());
        let error = failure(&stream.record().unwrap());
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.detail().unwrap();
        assert!(text.starts_with(&format!("MTLCommandBufferError{name} ({code}): ")), "{text}");
        // Sticky, for what comes as well.
        assert_eq!(failure(&stream.record().unwrap()).kind(), kind);
        assert_eq!(try_work(&stream, || ()).unwrap_err().kind(), kind);
    }
}

/// A GPU's own wait that lasts too long ends its buffer, which fails as any other.
#[test]
fn a_wait_that_the_gpu_gives_up_is_a_failure() {
    let _simulation = exclusive();
    control().set(|knobs| knobs.wait_timeout = Duration::from_millis(20));
    let stream = gpu().create_stream().unwrap();
    let event = autoreleasepool(|_| metal::raw_device(stream.device()).unwrap().newSharedEvent()).unwrap();
    let encode = |commands: &ProtocolObject<dyn MTLCommandBuffer>| {
        let event: &ProtocolObject<dyn MTLEvent> = ProtocolObject::from_ref(&*event);
        commands.encodeWaitForEvent_value(event, 1);
    };
    stream.metal().unwrap().encode(encode).unwrap();
    let error = failure(&stream.record().unwrap());
    assert!(error.to_string().contains("Timeout (2)"), "{error}");
}

#[test]
fn a_lost_device_reaches_everyone() {
    let _simulation = exclusive();
    let device = metal::open(metal_sim::new_device()).unwrap();
    let streams: Vec<_> = (0..4).map(|_| device.create_stream().unwrap()).collect();
    // One has nothing on the GPU that could meet the loss.
    let _signal = hold(&streams[3]);
    let begin = control().hold_begin();
    let events: Vec<_> = streams
        .iter()
        .map(|stream| {
            work(stream, || ());
            stream.record().unwrap()
        })
        .collect();
    control().lose_device(&metal::raw_device(&device).unwrap());
    drop(begin);
    for event in &events {
        assert_eq!(failure(event).kind(), ErrorKind::DeviceLost);
    }
}

#[test]
fn a_failed_gate_drops_what_is_behind_it_and_nothing_before() {
    let _simulation = exclusive();
    let stream = gpu().create_stream().unwrap();
    let log = Log::default();
    let first = hold(&stream);
    work(&stream, log.writes(1));
    let before = stream.record().unwrap();
    let second = hold(&stream);
    work(&stream, log.writes(2));
    let behind = stream.record().unwrap();
    second.fail("on demand");
    assert_eq!(failure(&behind).kind(), ErrorKind::WorkFailed);
    assert_eq!(before.status(), Status::Pending);
    first.complete();
    complete(&before);
    assert_eq!(log.read(), [1]);
}

#[test]
fn closing_tells_everyone_and_leaks_nothing() {
    let _simulation = exclusive();
    let device = gpu();
    let (stream, gated) = (device.create_stream().unwrap(), device.create_stream().unwrap());
    let begin = control().hold_begin();
    work(&stream, || ());
    let running = stream.record().unwrap();
    stream.flush().unwrap();
    let signal = hold(&gated);
    work(&gated, || ());
    let behind = gated.record().unwrap();
    device.close();
    assert_eq!(failure(&running).kind(), ErrorKind::Closed);
    assert_eq!(failure(&behind).kind(), ErrorKind::Closed);
    assert_eq!(try_work(&stream, || ()).unwrap_err().kind(), ErrorKind::Closed);
    drop(begin);
    drop(signal);
}

// --------------------------------------------------------------------------------------------- users' own Metal work

#[test]
fn work_and_its_event_go_together_through_a_guard() {
    let simulation = exclusive();
    let device = gpu();
    let stream = device.create_stream().unwrap();
    let event = device.pool().acquire();
    let mut guard = stream.lock().unwrap();
    let log = Log::default();
    for n in 0..3 {
        let write = log.writes(n);
        let write = || {
            write();
            Ok(())
        };
        guard.metal().unwrap().encode(|commands| host_work(commands, write)).unwrap();
    }
    guard.record(&event).unwrap();
    assert_eq!(counters().commits, simulation.before().commits);
    drop(guard);
    complete(&event);
    assert_eq!(log.read(), [0, 1, 2]);
    assert_eq!(counters().commits, simulation.before().commits + 1);
}

#[test]
fn encoding_gives_back_what_the_closure_does_and_knows_its_own_stream() {
    let _simulation = exclusive();
    let stream = gpu().create_stream().unwrap();
    let metal = stream.metal().unwrap();
    assert_eq!(metal.encode(|_| 7).unwrap(), 7);
    let inner = metal.encode(|_| stream.record().map(drop).unwrap_err().kind()).unwrap();
    assert_eq!(inner, ErrorKind::WouldDeadlock);
    let inner = metal.encode(|_| stream.synchronize().unwrap_err().kind()).unwrap();
    assert_eq!(inner, ErrorKind::WouldDeadlock);
    let cpu = Device::open("cpu").unwrap().create_stream().unwrap();
    assert_eq!(cpu.metal().map(drop).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(stream.cpu().map(drop).unwrap_err().kind(), ErrorKind::Unsupported);
    stream.synchronize().unwrap();
}

/// What is encoded is lost, and the buffer leaked. (With an encoder open, unwinding ends the process: Metal asserts.)
#[test]
fn a_panic_while_encoding_fails_the_stream() {
    let mut simulation = exclusive();
    simulation.allow_leaks();
    let device = gpu();
    let (stream, dependent) = (device.create_stream().unwrap(), device.create_stream().unwrap());
    let begin = control().hold_begin();
    work(&stream, || ());
    let before = stream.record_timed().unwrap();
    let in_the_same_buffer = {
        work(&stream, || ());
        stream.record().unwrap()
    };
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        stream.metal().unwrap().encode(|_| -> () { std::panic::resume_unwind(Box::new("on purpose")) })
    }));
    assert!(panicked.is_err());
    drop(begin);
    complete(&before);
    // It was committed or lost, and says which.
    let _ = in_the_same_buffer.wait_timeout(BOUND);
    assert_eq!(stream.error().unwrap().kind(), ErrorKind::Panicked);
    let after = stream.record().unwrap();
    assert_eq!(failure(&after).kind(), ErrorKind::Panicked);
    dependent.wait(&after).unwrap();
    assert_eq!(failure(&dependent.record().unwrap()).kind(), ErrorKind::Panicked);
}

#[test]
fn an_adopted_queue_is_kept_and_keeps_its_room() {
    let simulation = exclusive();
    let device = gpu();
    let queue = foreign_queue(&device);
    let stream = metal::adopt_queue(&device, queue.clone(), &StreamOptions::new().label("adopted")).unwrap();
    assert!(std::ptr::eq(stream.metal().unwrap().queue(), &*queue));
    let begin = control().hold_begin_on(&queue);
    drop(queue);
    let log = Log::default();
    work(&stream, log.writes(1));
    // Never complete on the spot: others may have committed to the queue.
    let event = stream.record().unwrap();
    assert_eq!(event.status(), Status::Pending);
    drop(stream);
    drop(begin);
    complete(&event);
    assert_eq!(log.read(), [1]);
    drop(event);

    let other = metal::open(metal_sim::new_device()).unwrap();
    let strangers = foreign_queue(&other);
    let refused = metal::adopt_queue(&device, strangers, &StreamOptions::new()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WrongDevice);
    let cpu = Device::open("cpu").unwrap();
    let refused = metal::adopt_queue(&cpu, foreign_queue(&device), &StreamOptions::new()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert_eq!(counters().blocked_creations, simulation.before().blocked_creations);
}

#[test]
fn a_recording_in_a_foreign_buffer_is_an_event_like_any_other() {
    let _simulation = exclusive();
    let device = gpu();
    let queue = foreign_queue(&device);
    let stream = device.create_stream().unwrap();
    let log = Log::default();

    let buffer = command_buffer(&queue);
    let write = log.writes(1);
    autoreleasepool(|_| {
        host_work(&buffer, || {
            write();
            Ok(())
        })
    });
    let (event, recording) = metal::record_in_buffer(&device, &buffer).unwrap();
    assert_eq!(event.status(), Status::NotSubmitted);
    assert_eq!(stream.wait(&event).unwrap_err().kind(), ErrorKind::NotSubmitted);
    assert_eq!(metal::shared_event(&event).map(drop).unwrap_err().kind(), ErrorKind::NotSubmitted);
    let begin = control().hold_begin_on(&queue);
    commit(&buffer);
    recording.submitted();
    assert_eq!(event.status(), Status::Pending);
    assert_eq!(stream.wait(&event).unwrap(), StreamWait::Native);
    work(&stream, log.writes(2));
    let behind = stream.record().unwrap();
    drop(begin);
    complete(&event);
    complete(&behind);
    assert_eq!(log.read(), [1, 2]);
    assert_eq!(metal::record_in_buffer(&device, &buffer).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(metal::wait_in_buffer(&buffer, &behind).unwrap(), StreamWait::Nothing);

    // With its time, which comes with the buffer's end.
    let buffer = command_buffer(&queue);
    let (event, recording) = metal::record_timed_in_buffer(&device, &buffer).unwrap();
    commit(&buffer);
    recording.submitted();
    complete(&event);
    let now = device.correlate().unwrap().device();
    assert!(now.since(&event.completion_time().unwrap()).is_ok());

    // A failed one fails, also whoever waits for it in another queue.
    let buffer = command_buffer(&queue);
    autoreleasepool(|_| host_work(&buffer, || Err("on demand".into())));
    let (event, recording) = metal::record_in_buffer(&device, &buffer).unwrap();
    let begin = control().hold_begin_on(&queue);
    commit(&buffer);
    recording.submitted();
    let dependent = device.create_stream().unwrap();
    assert_eq!(dependent.wait(&event).unwrap(), StreamWait::Native);
    work(&dependent, || ());
    let behind = dependent.record().unwrap();
    drop(begin);
    assert_eq!(failure(&event).kind(), ErrorKind::WorkFailed);
    assert_eq!(failure(&behind).kind(), ErrorKind::WorkFailed);
    assert!(metal_sim::settle(BOUND), "somebody waits in the driver for ever");

    // Abandoned, in both ways, and committed all the same.
    for how in 0..2 {
        let buffer = command_buffer(&queue);
        let (event, recording) = metal::record_in_buffer(&device, &buffer).unwrap();
        if how == 0 {
            recording.abandon()
        } else {
            drop(recording)
        }
        assert_eq!(failure(&event).kind(), ErrorKind::Abandoned);
        commit(&buffer);
    }

    // The handler may come before anybody has said that the buffer was committed.
    let buffer = command_buffer(&queue);
    let (event, recording) = metal::record_in_buffer(&device, &buffer).unwrap();
    commit(&buffer);
    until("the handler", || event.status() == Status::Complete);
    recording.submitted();
    complete(&event);

    let other = metal::open(metal_sim::new_device()).unwrap();
    let buffer = command_buffer(&queue);
    assert_eq!(metal::record_in_buffer(&other, &buffer).unwrap_err().kind(), ErrorKind::WrongDevice);
}

#[test]
fn a_foreign_buffer_can_wait_for_a_stream() {
    let _simulation = exclusive();
    let device = gpu();
    let queue = foreign_queue(&device);
    let stream = device.create_stream().unwrap();
    let log = Log::default();
    let buffer = || command_buffer(&queue);

    assert_eq!(metal::wait_in_buffer(&buffer(), &device.pool().acquire()).unwrap(), StreamWait::Nothing);
    let begin = control().hold_begin_on(stream.metal().unwrap().queue());
    work(&stream, log.writes(1));
    let event = stream.record().unwrap();
    let waiting = buffer();
    assert_eq!(metal::wait_in_buffer(&waiting, &event).unwrap(), StreamWait::Native);
    let write = log.writes(2);
    autoreleasepool(|_| {
        host_work(&waiting, || {
            write();
            Ok(())
        })
    });
    let (done, recording) = metal::record_in_buffer(&device, &waiting).unwrap();
    commit(&waiting);
    recording.submitted();
    drop(begin);
    complete(&done);
    assert_eq!(log.read(), [1, 2]);

    // Nothing that waits for the host gets into a foreign buffer.
    let signal = hold(&stream);
    let gated = stream.record().unwrap();
    assert_eq!(metal::shared_event(&gated).map(drop).unwrap_err().kind(), ErrorKind::NotSubmitted);
    assert_eq!(metal::wait_in_buffer(&buffer(), &gated).unwrap_err().kind(), ErrorKind::NotSubmitted);
    let (host, host_signal) = device.host_event().unwrap();
    assert_eq!(metal::wait_in_buffer(&buffer(), &host).unwrap_err().kind(), ErrorKind::Unsupported);
    host_signal.complete();
    signal.complete();
    complete(&gated);

    let other = metal::open(metal_sim::new_device()).unwrap().create_stream().unwrap();
    let begin = control().hold_begin();
    work(&other, || ());
    let elsewhere = other.record().unwrap();
    assert_eq!(metal::wait_in_buffer(&buffer(), &elsewhere).unwrap_err().kind(), ErrorKind::WrongDevice);
    // Streams of two GPUs wait for each other through the host.
    assert_eq!(stream.wait(&elsewhere).unwrap(), StreamWait::Gated);
    drop(begin);
    complete(&stream.record().unwrap());
}

#[test]
fn others_can_wait_for_the_raw_event() {
    let _simulation = exclusive();
    let device = gpu();
    let stream = device.create_stream().unwrap();
    let begin = control().hold_begin();
    work(&stream, || ());
    let event = stream.record().unwrap();
    let (raw, value) = metal::shared_event(&event).unwrap().expect("something to wait for");
    assert!(std::ptr::eq(&*raw, stream.metal().unwrap().shared_event()));
    let handle = stream.metal().unwrap().shared_event_handle().unwrap();
    let wait = |raw: &ProtocolObject<dyn MTLSharedEvent>, ms| {
        autoreleasepool(|_| raw.waitUntilSignaledValue_timeoutMS(value, ms))
    };
    assert!(!wait(&raw, 1));
    let elsewhere = metal_sim::new_device();
    let imported =
        autoreleasepool(|_| elsewhere.newSharedEventWithHandle(&handle)).expect("another GPU's view");
    drop(begin);
    assert!(wait(&raw, 30_000));
    assert!(wait(&imported, 30_000));
    complete(&event);
    assert!(metal::shared_event(&event).unwrap().is_none());
    let kind = |event: &Event| metal::shared_event(event).map(drop).unwrap_err().kind();
    assert_eq!(kind(&device.pool().acquire()), ErrorKind::Unrecorded);
    let (host, _signal) = device.host_event().unwrap();
    assert_eq!(kind(&host), ErrorKind::Unsupported);
}

#[test]
fn two_devices_on_one_gpu_wait_for_each_other_on_it() {
    let _simulation = exclusive();
    let raw = metal::raw_device(&gpu()).unwrap();
    let (one, two) = (metal::open(raw.clone()).unwrap(), metal::open(raw).unwrap());
    assert_eq!(one.clock().id(), two.clock().id());
    let (source, dependent) = (one.create_stream().unwrap(), two.create_stream().unwrap());
    let begin = control().hold_begin();
    work(&source, || ());
    assert_eq!(dependent.wait(&source.record().unwrap()).unwrap(), StreamWait::Native);
    drop(begin);
    complete(&dependent.record().unwrap());
}
