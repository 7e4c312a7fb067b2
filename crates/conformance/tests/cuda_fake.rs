//! The CUDA backend's logic over the fake driver: what it calls, how often, and what it makes of the answers.
//!
//! The fake driver counts and refuses calls for the whole process, so the tests run one at a time, each on a GPU of its own.
//! Work is held back with flags, never with sleeps; waits are bounded.

#[path = "shared/stress.rs"]
mod stress;

use gpu_events::{
    Device, Error, ErrorKind, Event, ForeignWaits, Result, Signal, StallReport, Status, Stream,
    StreamOptions, StreamWait, WaitAny, WaitOptions, WaitOutcome, WaitStrategy, WhenFull,
    cuda::{self, RawStream, SharedEvent},
    vulkan, wait_any,
};
use gpu_events_conformance::{
    CudaSubject,
    cuda::fake::{self, Kernel},
};
use std::{
    any::Any,
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// How long a test waits for what must come. Never reached unless something is broken.
const BOUND: Duration = Duration::from_secs(30);

const OUT_OF_MEMORY: u32 = 2;
/// The event is captured; its capture was broken.
const CAPTURED: [u32; 2] = [907, 901];

const BOTH: [Signal; 2] = [Signal::Cheap, Signal::Prompt];

/// A GPU of the fake driver's that nobody has used.
struct Gpu {
    ordinal: u32,
    device: Device,
    _alone: MutexGuard<'static, ()>,
}

impl Gpu {
    fn new(signal: Signal) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (ordinal, device) = open_next(signal);
        Self { ordinal, device, _alone: alone }
    }

    fn stream(&self) -> Stream {
        self.device.create_stream().expect("a stream")
    }
}

fn open_next(signal: Signal) -> (u32, Device) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Relaxed: only uniqueness matters.
    let ordinal = NEXT.fetch_add(1, Ordering::Relaxed);
    (ordinal, open(ordinal, signal).expect("a fake GPU"))
}

fn open(ordinal: u32, signal: Signal) -> Result<Device> {
    // SAFETY: the fake driver's functions do what CUDA's do, as far as they are called.
    unsafe { cuda::open_with(fake::api(), ordinal, signal) }
}

/// Work that goes on once it is told to.
#[derive(Clone, Copy)]
struct Flag(&'static AtomicU32);

impl Flag {
    fn hold(stream: RawStream) -> Self {
        let flag: &'static AtomicU32 = Box::leak(Box::default());
        fake::launch(stream, Kernel::Until(flag)).expect("a launch");
        Self(flag)
    }

    fn open(self) {
        // Release: what came before it is there for the work behind it.
        self.0.store(1, Ordering::Release);
    }
}

fn held(stream: &Stream) -> Flag {
    Flag::hold(stream.cuda().expect("CUDA's").raw())
}

/// Has the stream say when it has got here, without asking the driver anything.
fn mark(stream: &Stream) -> &'static AtomicU32 {
    let cell: *mut u32 = fake::shared_memory(4).cast();
    let kernel = Kernel::Set { cell: cell.expose_provenance(), value: 1 };
    fake::launch(stream.cuda().expect("CUDA's").raw(), kernel).expect("a launch");
    // SAFETY: zeroed memory, aligned, never given back, and reached through atomics alone.
    unsafe { AtomicU32::from_ptr(cell) }
}

#[track_caller]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < BOUND, "never came: {what}");
        thread::yield_now();
    }
}

#[track_caller]
fn complete(event: &Event) {
    assert_eq!(event.wait_timeout(BOUND).expect("no failure"), WaitOutcome::Complete, "{event:?}");
}

#[track_caller]
fn kind<T: std::fmt::Debug>(outcome: Result<T>) -> ErrorKind {
    outcome.expect_err("an error").kind()
}

/// How often the functions were called while `body` ran.
fn calls<const N: usize>(names: [&'static str; N], body: impl FnOnce()) -> [u64; N] {
    let before = names.map(fake::calls);
    body();
    let mut counts = names.map(fake::calls);
    for (count, before) in counts.iter_mut().zip(before) {
        *count -= before;
    }
    counts
}

fn keep_alive() -> Arc<dyn Any + Send + Sync> {
    Arc::new(())
}

#[test]
fn ten_thousand_recordings_make_no_event() {
    let gpu = Gpu::new(Signal::Cheap);
    let stream = gpu.stream();
    let [made, recorded] = calls(["cuEventCreate", "cuEventRecord"], || {
        for _ in 0..10_000 {
            complete(&stream.record().expect("a recording"));
        }
    });
    assert_eq!((made, recorded), (0, 10_000));
}

/// Nor is the driver asked for times that nobody can ask for any more.
#[test]
fn timed_recordings_that_nobody_asks_for_use_their_events_again() {
    for signal in BOTH {
        let gpu = Gpu::new(signal);
        let stream = gpu.stream();
        let kept = stream.record_timed().expect("a recording");
        let [made, read] = calls(["cuEventCreate", "cuEventElapsedTime"], || {
            for _ in 0..10_000 {
                drop(stream.record_timed().expect("a recording"));
            }
            stream.synchronize().expect("no failure");
        });
        // As many as are under way at once; the rest is the clock's own.
        assert!(made <= 2_000, "{made} were made");
        assert!(read <= 2_000, "{read} were read");
        assert!(kept.completion_time().is_ok());
    }
}

#[test]
fn a_query_answers_for_all_positions_before_it() {
    let gpu = Gpu::new(Signal::Cheap);
    let stream = gpu.stream();
    let flag = held(&stream);
    let events: Vec<Event> = (0..100).map(|_| stream.record().expect("a recording")).collect();
    let passed = mark(&stream);
    let pending = || events.iter().all(|event| event.status() == Status::Pending);
    let [asked] = calls(["cuEventQuery"], || assert!(pending()));
    assert_eq!(asked, 100, "one for each that was asked while the answer was no");
    flag.open();
    // Acquire: the stream is through with all before.
    until("the work", || passed.load(Ordering::Acquire) == 1);
    let [asked] = calls(["cuEventQuery"], || {
        assert!(events.iter().all(|event| event.status() == Status::Complete));
    });
    assert!(asked <= 2, "the oldest and the newest say it all, and {asked} were asked");
}

/// A stream that waits for another of its GPU has nobody watch that one, since what breaks there breaks here as well. The
/// streams in between, whose handles have gone, are kept in sight all the same: what happens at the start of such a chain, good
/// or bad, gets to its end.
#[test]
fn a_chain_of_native_waits_holds_without_its_handles() {
    for signal in BOTH {
        for fails in [false, true] {
            for gone_before in [false, true] {
                let gpu = Gpu::new(signal);
                let (gate, host) = gpu.device.host_event().expect("a host event");
                let last = gpu.stream();
                {
                    let [first, middle] = [gpu.stream(), gpu.stream()];
                    assert_eq!(first.wait(&gate).expect("a wait"), StreamWait::Gated);
                    let start = first.record().expect("a recording");
                    assert_eq!(middle.wait(&start).expect("a wait"), StreamWait::Native);
                    let then = middle.record().expect("a recording");
                    if gone_before {
                        drop((first, middle));
                    }
                    assert_eq!(last.wait(&then).expect("a wait"), StreamWait::Native);
                }
                let end = last.record().expect("a recording");
                assert_eq!(end.status(), Status::Pending);
                if fails {
                    host.fail("no luck");
                    let error = end.synchronize().expect_err("the host's failure");
                    assert_eq!((error.kind(), error.detail()), (ErrorKind::WorkFailed, Some("no luck")));
                } else {
                    host.complete();
                    complete(&end);
                }
            }
        }
    }
}

/// Who waits for a stream that nobody looks at is in its list for long after, and no report may say that it still waits.
#[test]
fn a_report_knows_of_waits_that_nobody_watches() {
    let gpu = Gpu::new(Signal::Cheap);
    let [source, dependent] = [gpu.stream(), gpu.stream()];
    let flag = held(&source);
    let event = source.record().expect("a recording");
    assert_eq!(dependent.wait(&event).expect("a wait"), StreamWait::Native);
    let end = dependent.record().expect("a recording");
    let report = gpu.device.stall_report();
    let waits = |report: &StallReport| -> usize {
        report.stalled().iter().map(|stalled| stalled.waits_for.len()).sum()
    };
    assert_eq!(waits(&report), 1, "{report}");
    flag.open();
    complete(&end);
    let report = gpu.device.stall_report();
    assert!(report.is_empty(), "{report}");
    drop(event);
}

/// To have a stream wait is a question to the driver and a call, and wakes nobody.
#[test]
fn a_native_wait_asks_once_and_waits_once() {
    let gpu = Gpu::new(Signal::Cheap);
    let [source, dependent] = [gpu.stream(), gpu.stream()];
    let flag = held(&source);
    let event = source.record().expect("a recording");
    let names = ["cuEventQuery", "cuStreamWaitEvent", "cuStreamQuery"];
    let counts = calls(names, || {
        for _ in 0..200 {
            event.record(&source).expect("a recording");
            assert_eq!(dependent.wait(&event).expect("a wait"), StreamWait::Native);
        }
    });
    flag.open();
    complete(&event);
    assert_eq!(counts, [200, 200, 0]);
}

#[test]
fn a_prompt_status_asks_the_driver_nothing() {
    let gpu = Gpu::new(Signal::Prompt);
    let stream = gpu.stream();
    let flag = held(&stream);
    let event = stream.record().expect("a recording");
    let [asked] = calls(["cuEventQuery"], || {
        for _ in 0..1_000 {
            assert_eq!(event.status(), Status::Pending);
        }
        flag.open();
        until("completion", || event.status() == Status::Complete);
    });
    assert_eq!(asked, 0);
}

#[test]
fn each_mode_makes_one_call_of_its_own_kind() {
    for (signal, expected) in [(Signal::Cheap, [100, 0]), (Signal::Prompt, [0, 100])] {
        let gpu = Gpu::new(signal);
        let stream = gpu.stream();
        let other = if signal == Signal::Cheap { Signal::Prompt } else { Signal::Cheap };
        let options = StreamOptions::new().signal(other);
        let unlike = gpu.device.create_stream_with(&options).expect("a stream");
        let names = ["cuEventRecord", "cuStreamWriteValue64"];
        let record = |stream: &Stream| (0..100).for_each(|_| drop(stream.record().expect("a recording")));
        assert_eq!(calls(names, || record(&stream)), expected, "{signal:?}");
        let [records, writes] = calls(names, || record(&unlike));
        assert_eq!([writes, records], expected, "a stream of the other kind on a {signal:?} device");
        stream.synchronize().expect("no failure");
        unlike.synchronize().expect("no failure");
    }
}

#[test]
fn a_stream_that_is_captured_takes_no_recording_and_no_wait() {
    for signal in BOTH {
        let gpu = Gpu::new(signal);
        let (stream, other) = (gpu.stream(), gpu.stream());
        let flag = held(&other);
        let pending = other.record().expect("a recording");
        let event = stream.record().expect("a recording");
        complete(&event);
        let raw = stream.cuda().expect("CUDA's").raw();
        let (host, signal) = gpu.device.host_event().expect("a host event");
        fake::begin_capture(raw);
        let names = ["cuEventRecord", "cuStreamWriteValue64", "cuStreamWaitEvent", "cuStreamWaitValue64"];
        let made = calls(names, || {
            assert_eq!(kind(event.record(&stream)), ErrorKind::Capturing);
            assert_eq!(kind(stream.record_timed()), ErrorKind::Capturing);
            assert_eq!(kind(stream.wait(&pending)), ErrorKind::Capturing);
            assert_eq!(kind(stream.wait(&host)), ErrorKind::Capturing);
            assert_eq!(kind(stream.synchronize()), ErrorKind::Capturing);
            let native = fake::make_event(gpu.ordinal);
            assert_eq!(native, Err(900), "this thread is not relaxed, and its making breaks the capture");
        });
        assert_eq!(made, [0; 4], "the capture got nothing to swallow");
        assert_eq!(event.status(), Status::Complete, "as before");
        assert_eq!(fake::end_capture(raw), Err(901));
        event.record(&stream).expect("again a stream like any other");
        complete(&event);
        signal.complete();
        flag.open();
        complete(&pending);
    }
}

#[test]
fn observing_leaves_captures_whole() {
    for signal in BOTH {
        let gpu = Gpu::new(signal);
        let (captured, other) = (gpu.stream(), gpu.stream());
        let raw = captured.cuda().expect("CUDA's").raw();
        let flag = held(&other);
        let event = Arc::new(other.record().expect("a recording"));
        let timed = other.record_timed().expect("a recording");
        fake::begin_capture(raw);
        let (tell, told) = mpsc::channel();
        let callback = event.on_complete(move |outcome| drop(tell.send(outcome)));
        thread::scope(|scope| {
            for strategy in [WaitStrategy::Park, WaitStrategy::Spin] {
                let options = WaitOptions::new().strategy(strategy).timeout(BOUND);
                let event = event.clone();
                scope.spawn(move || assert!(event.wait_with(&options).is_ok_and(WaitOutcome::is_complete)));
            }
            scope.spawn(|| until("completion", || event.status() == Status::Complete));
            assert_eq!(event.status(), Status::Pending);
            // Makes and records while another stream is captured.
            let third = gpu.stream();
            complete(&third.record_timed().expect("a recording"));
            flag.open();
        });
        assert!(told.recv_timeout(BOUND).is_ok_and(|outcome| outcome.is_ok()));
        drop(callback);
        complete(&timed);
        timed.completion_time().expect("a time");
        assert_eq!(fake::end_capture(raw), Ok(vec![]), "{signal:?}");
    }
}

#[test]
fn an_event_in_a_graph_stands_for_its_launch() {
    let gpu = Gpu::new(Signal::Cheap);
    let stream = gpu.stream();
    let raw = stream.cuda().expect("CUDA's").raw();
    assert_eq!(kind(cuda::record_external(&stream)), ErrorKind::InvalidArgument);
    fake::begin_capture(raw);
    let (event, token) = cuda::record_external(&stream).expect("a node");
    let (lost, forgotten) = cuda::record_external(&stream).expect("a node");
    let graph = fake::end_capture(raw).expect("a graph");
    assert_eq!(graph.len(), 2);
    assert_eq!(kind(event.synchronize()), ErrorKind::NotSubmitted);
    forgotten.abandon();
    assert_eq!(kind(lost.synchronize()), ErrorKind::Abandoned);

    let flag = held(&stream);
    fake::launch_graph(raw, &graph).expect("a launch");
    let node = token.launched();
    assert_eq!(event.status(), Status::Pending);
    let consumer = gpu.stream();
    assert!(consumer.wait(&event).expect("a wait").inserted());
    let behind = consumer.record().expect("a recording");
    assert_eq!(behind.status(), Status::Pending);
    flag.open();
    complete(&event);
    complete(&behind);

    let flag = held(&stream);
    fake::launch_graph(raw, &graph).expect("a launch");
    let second = node.launched_again().expect("an event");
    assert_eq!((event.status(), second.status()), (Status::Complete, Status::Pending));
    flag.open();
    complete(&second);
}

#[test]
fn a_node_that_is_refused_is_an_error_and_makes_nothing() {
    let gpu = Gpu::new(Signal::Cheap);
    let stream = gpu.stream();
    let raw = stream.cuda().expect("CUDA's").raw();
    fake::begin_capture(raw);
    let census = fake::census(gpu.ordinal);
    fake::refuse("cuEventRecordWithFlags", OUT_OF_MEMORY);
    assert_eq!(kind(cuda::record_external(&stream)), ErrorKind::Resources);
    assert_eq!(fake::census(gpu.ordinal), census);
    assert_eq!(fake::end_capture(raw), Ok(vec![]));
}

#[test]
fn every_fault_loses_the_whole_gpu_and_no_other() {
    let codes = [4, 214, 220, 700, 702, 709, 710].into_iter().chain(714..=719).chain([721, 999]);
    for code in codes {
        let gpu = Gpu::new(Signal::Cheap);
        let (_, other) = open_next(Signal::Cheap);
        let streams = BOTH.map(|signal| {
            let options = StreamOptions::new().signal(signal);
            gpu.device.create_stream_with(&options).expect("a stream")
        });
        let known = streams[1].record().expect("a recording");
        complete(&known);
        for stream in &streams {
            held(stream);
        }
        let events: Vec<Arc<Event>> =
            streams.iter().map(|stream| Arc::new(stream.record().expect("a recording"))).collect();
        let cpu = Device::open("cpu").expect("the CPU is there").create_stream().expect("a stream");
        cpu.wait(&events[1]).expect("a wait");
        let behind = cpu.record().expect("a recording");
        let (tell, told) = mpsc::channel();
        let mut waiting = 0;
        for event in &events {
            for strategy in [WaitStrategy::Park, WaitStrategy::Spin] {
                let (event, tell) = (event.clone(), tell.clone());
                let options = WaitOptions::new().strategy(strategy).timeout(BOUND);
                thread::spawn(move || drop(tell.send(event.wait_with(&options).map(drop))));
                waiting += 1;
            }
            let tell = tell.clone();
            let _ = event.on_complete(move |outcome| drop(tell.send(outcome))).expect("a callback");
            waiting += 1;
        }
        let all = events.clone();
        thread::spawn(move || {
            let outcome = wait_any(all.iter().map(|event| &**event), &WaitOptions::new().timeout(BOUND));
            let settled = match outcome {
                Ok(WaitAny::Settled(index)) => all[index].synchronize(),
                other => panic!("{other:?}"),
            };
            drop(tell.send(settled));
        });
        waiting += 1;
        fake::break_context(gpu.ordinal, code);
        for _ in 0..waiting {
            let error: Error = told.recv_timeout(BOUND).expect("everybody is told").expect_err("a fault");
            assert_eq!(error.kind(), ErrorKind::DeviceLost, "{code}: {error}");
            assert!(error.to_string().contains(&format!("({code})")), "{error}");
            assert!(error.to_string().contains("a new one may"), "{error}");
        }
        assert_eq!(kind(behind.wait_timeout(BOUND)), ErrorKind::DeviceLost);
        assert_eq!(known.status(), Status::Complete, "what was seen to complete stays");
        assert_eq!(kind(gpu.device.create_stream()), ErrorKind::DeviceLost);
        assert_eq!(kind(open(gpu.ordinal, Signal::Prompt)), ErrorKind::DeviceLost);
        complete(&other.create_stream().expect("a stream").record().expect("a recording"));
    }
}

#[test]
fn a_fault_reaches_imported_events() {
    for signal in BOTH {
        let gpu = Gpu::new(signal);
        let foreign = fake::make_stream(gpu.ordinal).expect("a stream");
        let native = fake::make_event(gpu.ordinal).expect("an event");
        Flag::hold(foreign);
        // SAFETY: both are there.
        let code = unsafe { (fake::api().event_record)(native, foreign) };
        assert_eq!(code, 0);
        // SAFETY: the fake driver destroys it never.
        let event = unsafe { cuda::import_event(&gpu.device, native, keep_alive()) }.expect("an event");
        fake::break_context(gpu.ordinal, fake::LAUNCH_FAILED);
        assert_eq!(kind(event.wait_timeout(BOUND)), ErrorKind::DeviceLost);
        assert_eq!(kind(gpu.device.create_stream()), ErrorKind::DeviceLost);
        // SAFETY: as above.
        let late = unsafe { cuda::import_event(&gpu.device, native, keep_alive()) };
        assert_eq!(kind(late), ErrorKind::DeviceLost);
    }
}

#[test]
fn answers_have_their_kinds() {
    let gpu = Gpu::new(Signal::Cheap);
    let stream = gpu.stream();
    let refused = |code| {
        fake::refuse("cuEventRecord", code);
        stream.record().expect_err("refused")
    };
    assert_eq!(refused(OUT_OF_MEMORY).kind(), ErrorKind::Resources);
    for code in 900..=909 {
        assert_eq!(refused(code).kind(), ErrorKind::Capturing, "{code}");
    }
    for code in [1, 201, 400, 801, 12_345] {
        let error = refused(code);
        assert_eq!(error.kind(), ErrorKind::Driver, "{code}");
        assert!(error.to_string().contains(&format!("cuEventRecord: an unknown error ({code})")), "{error}");
    }
    complete(&stream.record().expect("none of that was a fault"));
}

#[test]
fn a_question_refused_for_a_capture_is_no_news() {
    let gpu = Gpu::new(Signal::Cheap);
    let stream = gpu.stream();
    let flag = held(&stream);
    let event = stream.record().expect("a recording");
    for code in (900..=909).filter(|code| !CAPTURED.contains(code)) {
        fake::refuse("cuEventQuery", code);
        assert_eq!(event.status(), Status::Pending, "{code}");
    }
    flag.open();
    complete(&event);
}

/// Nothing will be heard any more of an event that a capture swallowed between our look and our recording.
#[test]
fn a_recording_that_was_captured_fails() {
    for code in CAPTURED {
        let gpu = Gpu::new(Signal::Cheap);
        let stream = gpu.stream();
        let flag = held(&stream);
        let event = stream.record().expect("a recording");
        fake::refuse("cuEventQuery", code);
        until("the answer", || event.status() != Status::Pending);
        assert_eq!(event.error().expect("an error").kind(), ErrorKind::Capturing, "{code}");
        flag.open();
    }
}

/// Has `dependent` wait for a recording of `source`, and go on; nobody has looked at `source` since.
fn waited_for(source: &Stream, dependent: &Stream) -> Event {
    let flag = held(source);
    let event = source.record().expect("a recording");
    assert_eq!(dependent.wait(&event).expect("a wait"), StreamWait::Native);
    let end = dependent.record().expect("a recording");
    flag.open();
    complete(&end);
    event
}

/// A stream that nobody looked at is asked before its device goes: who waited for it, on a device that stays, has long gone on.
#[test]
fn closing_a_device_spares_those_who_were_through_with_it() {
    for signal in BOTH {
        let gpu = Gpu::new(signal);
        let other = open(gpu.ordinal, signal).expect("the same GPU once more");
        let (source, dependent) = (gpu.stream(), other.create_stream().expect("a stream"));
        let event = waited_for(&source, &dependent);
        gpu.device.close();
        complete(&dependent.record().expect("it waits for nobody any more"));
        assert_eq!(event.status(), Status::Complete, "{signal:?}");
    }
}

/// What is said of one recording takes nothing back of those before it, nor of who waited for them.
#[test]
fn a_recording_that_was_captured_fails_no_earlier_one() {
    let gpu = Gpu::new(Signal::Cheap);
    let [source, dependent] = [gpu.stream(), gpu.stream()];
    let event = waited_for(&source, &dependent);
    fake::capture_next_recording();
    let captured = source.record().expect("the driver says nothing yet");
    until("the answer", || captured.status() != Status::Pending);
    assert_eq!(captured.error().expect("an error").kind(), ErrorKind::Capturing);
    assert_eq!(event.status(), Status::Complete);
    complete(&dependent.record().expect("a recording"));
}

/// Nor of those that a recording saw to be reached when it looked for room, and told nobody of.
#[test]
fn a_recording_that_was_captured_fails_none_that_made_room() {
    let gpu = Gpu::new(Signal::Cheap);
    let options = StreamOptions::new().queue_depth(1);
    let stream = gpu.device.create_stream_with(&options).expect("a stream");
    let event = stream.record().expect("a recording");
    let passed = mark(&stream);
    // Acquire: the stream is through with all before.
    until("the work", || passed.load(Ordering::Acquire) == 1);
    drop(stream.record().expect("it looks for room, and finds some"));
    let passed = mark(&stream);
    until("the work", || passed.load(Ordering::Acquire) == 1);
    fake::capture_next_recording();
    let captured = stream.record().expect("the driver says nothing yet");
    until("the answer", || captured.status() != Status::Pending);
    assert_eq!(captured.error().expect("an error").kind(), ErrorKind::Capturing);
    assert_eq!(event.status(), Status::Complete);
}

/// What is kept for work is let go of once the context has broken, also where the stream had waited for another before.
#[test]
fn a_wait_that_was_over_keeps_nothing_after_a_fault() {
    let gpu = Gpu::new(Signal::Cheap);
    let [source, dependent] = [gpu.stream(), gpu.stream()];
    waited_for(&source, &dependent);
    let _held = held(&dependent);
    let last = dependent.record().expect("a recording");
    let kept = Arc::new(());
    dependent.keep_until(&last, kept.clone()).expect("a callback");
    fake::refuse("cuEventQuery", 719);
    until("the fault", || last.status() == Status::Failed);
    until("what was kept to go", || Arc::strong_count(&kept) == 1);
}

#[test]
fn a_refused_recording_leaves_the_event_as_it_was() {
    for signal in BOTH {
        for timed in [false, true] {
            let gpu = Gpu::new(signal);
            let stream = gpu.stream();
            // A timed one makes two calls where it is prompt, and either may be refused.
            let calls: &[&str] = match (signal, timed) {
                (Signal::Prompt, false) => &["cuStreamWriteValue64"],
                (Signal::Prompt, true) => &["cuEventRecord", "cuStreamWriteValue64"],
                _ => &["cuEventRecord"],
            };
            for call in calls {
                // The clock records as well, and may be the one that is refused, which does it no harm.
                let refused = (0..100).any(|_| {
                    let event = if timed { stream.record_timed() } else { stream.record() };
                    let event = event.expect("a recording");
                    complete(&event);
                    let time = || timed.then(|| event.completion_time().expect("a time"));
                    let before = time();
                    fake::refuse(call, OUT_OF_MEMORY);
                    let outcome = event.record(&stream);
                    if outcome.is_ok() {
                        complete(&event);
                        return false;
                    }
                    assert_eq!(kind(outcome), ErrorKind::Resources);
                    assert_eq!((event.status(), time()), (Status::Complete, before), "{signal:?} {call}");
                    true
                });
                assert!(refused, "{call}");
                complete(&stream.record().expect("the stream takes more"));
                assert!(stream.error().is_none());
            }
        }
    }
}

#[test]
fn an_imported_event_is_an_event() {
    for signal in BOTH {
        let gpu = Gpu::new(signal);
        let foreign = fake::make_stream(gpu.ordinal).expect("a stream");
        let native = fake::make_event(gpu.ordinal).expect("an event");
        let kept = keep_alive();
        let weak = Arc::downgrade(&kept);
        // SAFETY: the fake driver destroys none of them.
        let import = |kept| unsafe { cuda::import_event(&gpu.device, native, kept) };
        // SAFETY: both are there.
        let record = || unsafe { (fake::api().event_record)(native, foreign) };

        assert_eq!(import(keep_alive()).expect("an event").status(), Status::Complete, "never recorded");

        let flag = Flag::hold(foreign);
        assert_eq!(record(), 0);
        let event = import(kept).expect("an event");
        assert_eq!(event.status(), Status::Pending);
        assert!(matches!(event.wait_timeout(Duration::ZERO), Ok(WaitOutcome::TimedOut)));
        let stream = gpu.stream();
        assert!(stream.wait(&event).expect("a wait").inserted());
        let behind = stream.record().expect("a recording");
        let cpu = Device::open("cpu").expect("the CPU is there").create_stream().expect("a stream");
        cpu.wait(&event).expect("a wait");
        let far = cpu.record().expect("a recording");
        let (tell, told) = mpsc::channel();
        let callback = event.on_complete(move |outcome| drop(tell.send(outcome))).expect("a callback");
        assert_eq!((behind.status(), far.status()), (Status::Pending, Status::Pending));
        assert_eq!(kind(event.record(&cpu)), ErrorKind::WrongDevice);
        flag.open();
        [&event, &behind, &far].into_iter().for_each(complete);
        assert!(told.recv_timeout(BOUND).is_ok_and(|outcome| outcome.is_ok()));

        let known = import(keep_alive()).expect("an event");
        let [asked] = calls(["cuEventQuery"], || assert_eq!(known.status(), Status::Complete));
        assert_eq!(asked, 0, "it was complete when it was imported");
        assert!(!stream.wait(&known).expect("no wait").inserted());
        assert_eq!(kind(known.elapsed_since(&event)), ErrorKind::Untimed);

        drop((event, callback));
        until("the foreign event is let go of", || weak.strong_count() == 0);
    }
}

#[test]
fn an_event_out_of_a_capture_is_refused_and_fails() {
    for code in CAPTURED {
        captured_is_refused_and_fails(code);
    }
}

fn captured_is_refused_and_fails(captured: u32) {
    let gpu = Gpu::new(Signal::Cheap);
    let foreign = fake::make_stream(gpu.ordinal).expect("a stream");
    let native = fake::make_event(gpu.ordinal).expect("an event");
    // SAFETY: the fake driver destroys none of them.
    let import = || unsafe { cuda::import_event(&gpu.device, native, keep_alive()) };
    fake::refuse("cuEventQuery", captured);
    assert_eq!(kind(import()), ErrorKind::Capturing);
    let flag = Flag::hold(foreign);
    // SAFETY: both are there.
    let code = unsafe { (fake::api().event_record)(native, foreign) };
    assert_eq!(code, 0);
    let event = import().expect("an event");
    assert_eq!(event.status(), Status::Pending);
    fake::refuse("cuEventQuery", captured);
    assert_eq!(event.status(), Status::Failed, "whoever waits must not wait for ever");
    assert_eq!(kind(event.synchronize()), ErrorKind::Capturing);
    flag.open();
}

#[test]
fn raw_events_keep_a_streams_order() {
    for signal in BOTH {
        let gpu = Gpu::new(signal);
        let stream = gpu.stream();
        let foreign = fake::make_stream(gpu.ordinal).expect("a stream");
        let (theirs, ours) = (fake::make_event(gpu.ordinal), fake::make_event(gpu.ordinal));
        let (theirs, ours) = (theirs.expect("an event"), ours.expect("an event"));
        let flag = Flag::hold(foreign);
        // SAFETY: both are there.
        let code = unsafe { (fake::api().event_record)(theirs, foreign) };
        assert_eq!(code, 0);
        // SAFETY: it is there.
        unsafe { cuda::wait_raw(&stream, theirs) }.expect("a wait");
        // SAFETY: it is there.
        unsafe { cuda::record_raw(&stream, ours) }.expect("a recording");
        let event = stream.record().expect("a recording");
        // SAFETY: it is there.
        let query = || unsafe { (fake::api().event_query)(ours) };
        assert_eq!((event.status(), query()), (Status::Pending, 600));
        let guard = stream.lock().expect("the lock");
        // SAFETY: it is there.
        assert_eq!(kind(unsafe { cuda::wait_raw(&stream, theirs) }), ErrorKind::WouldDeadlock);
        drop(guard);
        flag.open();
        complete(&event);
        assert_eq!(query(), 0);

        let raw = stream.cuda().expect("CUDA's").raw();
        fake::begin_capture(raw);
        // SAFETY: it is there.
        assert_eq!(kind(unsafe { cuda::wait_raw(&stream, theirs) }), ErrorKind::Capturing);
        // SAFETY: it is there.
        assert_eq!(kind(unsafe { cuda::record_raw(&stream, ours) }), ErrorKind::Capturing);
        assert_eq!(fake::end_capture(raw), Ok(vec![]));
    }
}

#[test]
fn streams_without_handles_are_adopted() {
    for signal in BOTH {
        let gpu = Gpu::new(signal);
        for raw in [ptr::null_mut(), cuda::LEGACY_STREAM, cuda::PER_THREAD_STREAM] {
            // SAFETY: every context has them, for good.
            let adopted =
                unsafe { cuda::adopt_stream(&gpu.device, raw, keep_alive(), &StreamOptions::new()) };
            let adopted = adopted.expect("a stream");
            let (gate, signal) = gpu.device.host_event().expect("a host event");
            adopted.wait(&gate).expect("a wait");
            let event = adopted.record().expect("a recording");
            let timed = adopted.record_timed().expect("a recording");
            let other = gpu.stream();
            other.wait(&event).expect("a wait");
            adopted.wait(&other.record().expect("a recording")).expect("a wait");
            let behind = adopted.record().expect("a recording");
            assert_eq!(behind.status(), Status::Pending);
            signal.complete();
            [&event, &timed, &behind].into_iter().for_each(complete);
        }
    }
}

#[test]
fn streams_of_another_gpu_are_refused() {
    let gpu = Gpu::new(Signal::Cheap);
    let (other, _) = open_next(Signal::Cheap);
    let theirs = fake::make_stream(other).expect("a stream");
    // SAFETY: the fake driver destroys it never.
    let adopted = unsafe { cuda::adopt_stream(&gpu.device, theirs, keep_alive(), &StreamOptions::new()) };
    assert_eq!(kind(adopted), ErrorKind::WrongDevice);
    let cpu = Device::open("cpu").expect("the CPU is there");
    // SAFETY: as above.
    let adopted = unsafe { cuda::adopt_stream(&cpu, theirs, keep_alive(), &StreamOptions::new()) };
    assert_eq!(kind(adopted), ErrorKind::Unsupported);
}

#[test]
fn a_shared_event_says_what_it_can_not_do() {
    let gpu = Gpu::new(Signal::Cheap);
    let (stream, other) = (gpu.stream(), gpu.stream());
    let shared = SharedEvent::new(&gpu.device).expect("an event");
    assert_eq!(kind(shared.export()), ErrorKind::Unrecorded);
    let second = open(gpu.ordinal, Signal::Cheap).expect("a device").create_stream().expect("a stream");
    assert_eq!(kind(shared.record(&second)), ErrorKind::WrongDevice);
    fake::refuse("cuEventRecord", OUT_OF_MEMORY);
    assert_eq!(kind(shared.record(&stream)), ErrorKind::Resources);
    assert_eq!(kind(shared.export()), ErrorKind::Unrecorded, "as before");
    let flag = held(&stream);
    let event = shared.record(&stream).expect("a recording");
    assert_eq!(event.status(), Status::Pending);
    assert_eq!(kind(shared.record(&stream)), ErrorKind::InvalidArgument);
    assert_eq!(kind(shared.record(&other)), ErrorKind::InvalidArgument);
    let handle = shared.export().expect("a handle");
    let own = cuda::open_shared(&gpu.device, &handle).expect_err("a process opens none of its own");
    assert_eq!(own.kind(), ErrorKind::InvalidArgument);
    assert!(own.to_string().contains("another process"), "{own}");
    assert_eq!(kind(event.elapsed_since(&event)), ErrorKind::Untimed);
    let cpu = Device::open("cpu").expect("the CPU is there");
    assert_eq!(kind(SharedEvent::new(&cpu)), ErrorKind::Unsupported);
    assert_eq!(kind(cuda::open_shared(&cpu, &handle)), ErrorKind::Unsupported);
    flag.open();
    complete(&event);
    gpu.device.close();
    assert_eq!(kind(SharedEvent::new(&gpu.device)), ErrorKind::Closed);
}

#[test]
fn a_shared_event_waits_for_room_with_its_stream() {
    let gpu = Gpu::new(Signal::Cheap);
    let options = StreamOptions::new().queue_depth(1);
    let stream = gpu.device.create_stream_with(&options).expect("a stream");
    let flag = held(&stream);
    let first = stream.record().expect("a recording");
    let shared = SharedEvent::new(&gpu.device).expect("an event");
    let event = thread::scope(|scope| {
        let recorder = scope.spawn(|| shared.record(&stream).expect("a recording"));
        assert_eq!(first.status(), Status::Pending);
        flag.open();
        recorder.join().expect("no panic")
    });
    complete(&event);
    shared.export().expect("a handle");
}

#[test]
fn where_there_is_no_driver_it_is_said_what_was_looked_for() {
    if cuda::system_api().is_ok() {
        // The machine has one: nothing to show.
        return;
    }
    let error = Device::open("cuda").expect_err("there is no driver");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let listed = Device::backends().into_iter().find(|backend| backend.name == "cuda").expect("it is listed");
    let listed = listed.devices.expect_err("there is no driver");
    let name = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
    for error in [error, listed] {
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// As much as a fake GPU takes in a few seconds; the trial `stress::both_modes` does more on a real one.
#[test]
fn stress_in_both_modes() {
    let gpu = Gpu::new(Signal::Cheap);
    let subjects = BOTH.map(|signal| CudaSubject::fake(gpu.ordinal, signal));
    stress::run(&[&subjects[0], &subjects[1]], 4_000);
}

/// As many recordings as a stream takes at once and more, all of them reached, with nobody who asked; then one that is held.
/// Where it has the place in the ring that the first one had, who asks for the first must not be told of it.
#[test]
fn what_nobody_looked_at_is_known_all_the_same() {
    for (signal, done) in
        BOTH.into_iter().flat_map(|signal| [255, 256, 512, 700, 1_024].map(|done| (signal, done)))
    {
        let gpu = Gpu::new(signal);
        let options = StreamOptions::new().when_full(WhenFull::WouldBlock);
        let stream = gpu.device.create_stream_with(&options).expect("a stream");
        let first = stream.record().expect("a recording");
        for _ in 1..done {
            drop(stream.record().expect("room: nothing is incomplete"));
            let passed = mark(&stream);
            // Acquire: the stream is through with all before.
            until("the work", || passed.load(Ordering::Acquire) == 1);
        }
        let flag = held(&stream);
        let last = stream.record().expect("room for one");
        let wait = gpu.stream().wait(&first).expect("a wait");
        assert!(!wait.inserted(), "a wait for what is complete, {signal:?}, {done}");
        assert_eq!(
            (first.status(), last.status()),
            (Status::Complete, Status::Pending),
            "{signal:?}, {done}"
        );
        flag.open();
        complete(&last);
    }
}

/// Where a stream stands in the middle of its recordings, each of them says what is so, whichever is asked first.
#[test]
fn what_is_complete_is_never_called_pending() {
    for (signal, timed) in BOTH.into_iter().flat_map(|signal| [(signal, false), (signal, true)]) {
        for asked_first in [0, 17, 35, 36, 37, 99] {
            let gpu = Gpu::new(signal);
            let stream = gpu.stream();
            let record = || if timed { stream.record_timed() } else { stream.record() };
            let mut events: Vec<Event> = (0..37).map(|_| record().expect("a recording")).collect();
            let passed = mark(&stream);
            let flag = held(&stream);
            events.extend((37..100).map(|_| record().expect("a recording")));
            // Acquire: the stream is through with all before.
            until("the work", || passed.load(Ordering::Acquire) == 1);
            let expected = |index: usize| if index < 37 { Status::Complete } else { Status::Pending };
            let what = format!("{signal:?}, timed {timed}, recording {asked_first} first");
            assert_eq!(events[asked_first].status(), expected(asked_first), "{what}");
            for (index, event) in events.iter().enumerate() {
                assert_eq!(event.status(), expected(index), "{what}, then {index}");
            }
            if timed {
                let elapsed = events[36].elapsed_since(&events[0]).expect("both are complete");
                assert!(elapsed.duration() < BOUND);
            }
            flag.open();
            complete(&events[99]);
        }
    }
}

/// A user's destructor that waits holds up nobody's news.
#[test]
fn what_keeps_a_stream_alive_is_not_dropped_by_the_pump() {
    struct Waits(Arc<Event>, mpsc::Sender<()>);
    impl Drop for Waits {
        fn drop(&mut self) {
            complete(&self.0);
            let _ = self.1.send(());
        }
    }
    let gpu = Gpu::new(Signal::Cheap);
    let (other, last) = (gpu.stream(), gpu.stream());
    let flag = held(&other);
    let awaited = Arc::new(other.record().expect("a recording"));
    let (tell, told) = mpsc::channel();
    let raw = fake::make_stream(gpu.ordinal).expect("a stream");
    // SAFETY: the stream is one, and never destroyed.
    let adopted = unsafe {
        let kept = Arc::new(Waits(awaited.clone(), tell));
        cuda::adopt_stream(&gpu.device, raw, kept, &StreamOptions::new())
    };
    let adopted = adopted.expect("an adopted stream");
    let adopted_flag = held(&adopted);
    let event = adopted.record().expect("a recording");
    drop(event.on_complete(|_| {}).expect("a callback"));
    drop((adopted, event));
    adopted_flag.open();
    // The pump, which had the last reference, has others to tell: by callback, since a thread that waits looks for itself.
    let (news, came) = mpsc::channel();
    let event = last.record().expect("a recording");
    let tell = move |outcome: Result<()>| {
        let _ = news.send(outcome.is_ok());
    };
    drop(event.on_complete(tell).expect("a callback"));
    assert!(came.recv_timeout(BOUND / 3).expect("news while the destructor waits"));
    flag.open();
    told.recv_timeout(BOUND).expect("dropped, in the end");
}

/// To ask about a stream that is being captured would break the capture.
#[test]
fn nobody_asks_about_a_stream_that_is_captured() {
    let gpu = Gpu::new(Signal::Prompt);
    let stream = gpu.stream();
    let flag = held(&stream);
    let event = stream.record().expect("a recording");
    let (tell, told) = mpsc::channel();
    let tell = move |outcome: Result<()>| {
        let _ = tell.send(outcome.is_ok());
    };
    drop(event.on_complete(tell).expect("a callback"));
    let raw = stream.cuda().expect("CUDA's").raw();
    fake::begin_capture(raw);
    let asked = fake::calls("cuStreamQuery");
    until("a look at the context's health", || fake::calls("cuStreamQuery") > asked + 1);
    assert!(fake::end_capture(raw).is_ok(), "the capture was broken");
    flag.open();
    assert!(told.recv_timeout(BOUND).expect("a callback"));
}

/// A driver that shares no semaphores with Vulkan's says so, and streams wait for each other at gates.
#[test]
fn native_waits_that_there_are_none_of_are_gates() {
    let gpu = Gpu::new(Signal::Cheap);
    assert!(gpu.device.capabilities().native_on_request.is_empty());
    // Where there is a Vulkan device to try it with; of a CPU's, as a rule.
    let Ok(shared) = Device::open("vulkan") else { return };
    let options = StreamOptions::new().foreign_waits(ForeignWaits::Native);
    let stream = |device: &Device| device.create_stream_with(&options).expect("a stream");
    let (first, between, last) = (stream(&gpu.device), stream(&shared), stream(&gpu.device));
    let flag = held(&first);
    for (waiter, source) in [(&between, &first), (&last, &between)] {
        let event = source.record().expect("a recording");
        assert_eq!(waiter.wait(&event).expect("a wait"), StreamWait::Gated);
    }
    let event = last.record().expect("a recording");
    assert_eq!(event.status(), Status::Pending);
    flag.open();
    complete(&event);
    assert_eq!(vulkan::bridges(&shared).expect("a Vulkan device"), 0);
}
