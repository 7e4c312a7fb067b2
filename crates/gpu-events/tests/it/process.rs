//! The life of a process: its forks, and its end (R32, R41).

#![cfg(unix)]

use crate::support::{BOUND, complete, cpu, crowd, enqueue, held_stream, hold, within};
use gpu_events::{
    Device, Error, ErrorKind, Event, EventId, EventPool, EventTable, HostSignal, Result, Status, Stream,
    WaitOptions, WaitOutcome, check_fork, wait_all, wait_any,
};
use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

/// Forks, runs `child` there, and says with which code it ended; `None` if a signal ended it. A child that hangs is
/// ended by an alarm.
fn fork(child: impl FnOnce() -> i32) -> Option<i32> {
    // SAFETY: the child runs `child`, which is what is under test, and leaves by `_exit`: nothing of the parent's,
    // destructors and buffers included, is run twice.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "{}", std::io::Error::last_os_error());
    if pid == 0 {
        // SAFETY: has no preconditions.
        unsafe { libc::alarm(BOUND.as_secs() as u32) };
        let code = catch_unwind(AssertUnwindSafe(child)).unwrap_or(99);
        // SAFETY: has no preconditions.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `pid` is our child, and `status` a place for what became of it.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(waited, pid);
    libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))
}

/// What a parent has when it forks.
struct Parents {
    device: Device,
    stream: Stream,
    pool: EventPool,
    table: EventTable,
    id: EventId,
    pending: Event,
    complete: Event,
    signal: HostSignal,
}

impl Parents {
    fn new() -> Self {
        let device = cpu();
        let complete = device.create_stream().unwrap().record_timed().unwrap();
        let (stream, signal) = held_stream(&device);
        let pending = stream.record_timed().unwrap();
        let pool = EventPool::new(&device);
        let table = EventTable::new(&pool);
        let id = table.acquire(true).unwrap();
        table.record(id, Some(&stream), false).unwrap();
        Self { device, stream, pool, table, id, pending, complete, signal }
    }

    /// Makes every call there is, and says which one did not fail as it should: in a child, all do.
    fn use_in_a_child(self) -> i32 {
        fn forked<T>(result: Result<T>) -> bool {
            result.is_err_and(|error| error.kind() == ErrorKind::Forked)
        }
        let Self { device, stream, pool, table, id, pending, complete, signal } = self;
        let fresh = pool.acquire_timed();
        let options = WaitOptions::new();
        let mut calls = 0;
        let mut first_wrong = 0;
        let mut check = |right: bool| {
            calls += 1;
            if !right && first_wrong == 0 {
                first_wrong = calls;
            }
        };
        check(forked(Device::open("cpu"))); // 1
        check(forked(Device::default()));
        check(forked(device.create_stream()));
        check(forked(device.default_stream()));
        check(forked(device.host_event())); // 5
        check(forked(device.host_event_labeled("late")));
        check(forked(device.external_event()));
        check(forked(device.correlate()));
        check(forked(EventPool::shared()));
        check(forked(EventTable::shared())); // 10
        check(forked(pool.default_stream()));
        for event in [&pending, &complete, &fresh] {
            check(forked(event.record(&stream))); // 12, 27, 42
            check(event.status() == Status::Failed);
            check(event.error().is_some_and(|error: Error| error.kind() == ErrorKind::Forked));
            check(forked(event.is_complete())); // 15
            check(forked(event.synchronize()));
            check(forked(event.wait_timeout(BOUND)));
            check(forked(event.wait_deadline(std::time::Instant::now())));
            check(forked(event.wait_with(&options)));
            check(forked(event.on_complete(|_| ()))); // 20
            check(forked(event.completion_time()));
            check(forked(event.elapsed_since(&pending)));
            check(forked(stream.wait(event)));
            check(forked(stream.keep_until(event, ())));
            check(forked(wait_any([event], &options))); // 25
            check(forked(wait_all([event], &options)));
            let mut completion = pin!(event.completion());
            let polled = completion.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            check(matches!(polled, Poll::Ready(result) if forked(result.clone())));
            event.reset();
            event.set_label("not heard");
            let _ = (event.label(), event.id(), event.is_timed(), event.device_id(), format!("{event:?}"));
        }
        check(forked(stream.record()));
        check(forked(stream.record_timed()));
        check(forked(stream.flush()));
        check(forked(stream.synchronize()));
        check(forked(stream.lock().map(drop)));
        check(forked(stream.cpu().and_then(|cpu| cpu.enqueue(|| ()))));
        check(stream.error().is_some_and(|error| error.kind() == ErrorKind::Forked));
        check(forked(table.acquire(true)));
        check(forked(table.get(id)));
        check(forked(table.record(id, None, true)));
        check(forked(table.wait(id, None)));
        check(forked(table.query(id)));
        check(forked(table.synchronize(id)));
        check(forked(table.acquire_from(&pool, true)));
        check(forked(table.pool_of(id)));
        check(forked(pending.elapsed_millis(&pending)));
        check(forked(check_fork()));
        check(forked(table.elapsed_time(id, id)));
        check(forked(table.reset(id, false)));
        check(forked(table.release(id)));
        check(forked(table.len()));
        // What can't fail does nothing, and returns.
        pool.empty_cache();
        let _ = (pool.statistics(), device.stall_report(), device.is_closed());
        let _ = (format!("{stream:?}"), format!("{device:?}"), format!("{pool:?}"));
        device.close();
        signal.complete();
        drop((table, pool, stream, device, pending, complete, fresh));
        first_wrong
    }
}

#[test]
fn every_call_in_a_child_is_a_clear_error() {
    let parents = Parents::new();
    let pending = parents.device.create_stream().unwrap();
    let signal = hold(&pending);
    let event = pending.record().unwrap();
    // The child gets its own copy of everything, and drops it.
    let moved = std::mem::ManuallyDrop::new(parents);
    // SAFETY: read once in the child, whose memory is its own, and once below in the parent.
    let parents = || unsafe { std::ptr::read(&*moved) };
    assert_eq!(fork(|| parents().use_in_a_child()), Some(0), "the number of the first wrong call");
    // Nothing of that has reached the parent.
    let parents = parents();
    assert_eq!(parents.pending.status(), Status::Pending);
    assert_eq!(event.status(), Status::Pending);
    parents.signal.complete();
    complete(&parents.pending);
    complete(&parents.complete);
    parents.table.synchronize(parents.id).unwrap();
    signal.complete();
    complete(&event);
    assert!(!parents.device.is_closed());
}

/// Whatever other threads were in the middle of, and whichever locks they held.
#[test]
fn a_fork_in_the_middle_of_everything_hangs_nobody() {
    let _crowd = crowd();
    let device = cpu();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for n in 0..3 {
            let (stop, device) = (&stop, &device);
            scope.spawn(move || {
                let pool = EventPool::bounded(device, 8);
                let table = EventTable::new(&pool);
                while !stop.load(Ordering::Relaxed) {
                    let (stream, other) = (device.create_stream().unwrap(), device.create_stream().unwrap());
                    let (gate, signal) = device.host_event().unwrap();
                    stream.wait(&gate).unwrap();
                    stream.cpu().unwrap().enqueue(|| ()).unwrap();
                    let event = stream.record_timed().unwrap();
                    other.wait(&event).unwrap();
                    let after = other.record().unwrap();
                    after.on_complete(|_| ()).unwrap();
                    let id = table.acquire(n == 0).unwrap();
                    table.record(id, Some(&other), false).unwrap();
                    let _ = device.stall_report();
                    signal.complete();
                    table.synchronize(id).unwrap();
                    table.release(id).unwrap();
                    pool.empty_cache();
                }
            });
        }
        for _ in 0..20 {
            let moved = std::mem::ManuallyDrop::new(Parents::new());
            // SAFETY: as above.
            let parents = || unsafe { std::ptr::read(&*moved) };
            assert_eq!(fork(|| parents().use_in_a_child()), Some(0));
            let parents = parents();
            parents.signal.complete();
            complete(&parents.pending);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// A process that ends while threads use events, with more of them used by `atexit` and by thread locals.
#[test]
fn events_work_to_the_end_of_the_process() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::in_a_child_process", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = within(BOUND, move || child.wait_with_output()).expect("the process ends").unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{:?}\n{stdout}\n{stderr}", output.status);
    assert!(stderr.contains("events worked at exit"), "{stdout}\n{stderr}");
}

#[test]
#[ignore = "is the process that `events_work_to_the_end_of_the_process` starts"]
fn in_a_child_process() {
    extern "C" fn at_exit() {
        let event = EventPool::shared().unwrap().acquire_timed();
        let stream = Device::default().unwrap().default_stream().unwrap();
        enqueue(&stream, || Ok(())).unwrap();
        event.record(&stream).unwrap();
        assert_eq!(event.wait_timeout(BOUND).unwrap(), WaitOutcome::Complete);
        let (event, signal) = Device::default().unwrap().host_event().unwrap();
        std::thread::spawn(move || signal.complete());
        assert_eq!(event.wait_timeout(BOUND).unwrap(), WaitOutcome::Complete);
        eprintln!("events worked at exit");
    }
    struct AtTheEnd(Event);
    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            self.0.record(&Device::default().unwrap().default_stream().unwrap()).unwrap();
        }
    }
    thread_local! {
        static KEPT: AtTheEnd = AtTheEnd(EventPool::shared().unwrap().acquire());
    }
    // SAFETY: a function that lives as long as the process.
    unsafe { libc::atexit(at_exit) };
    KEPT.with(|_| ());
    // Threads that are in the middle of it when the process goes.
    let device = Device::default().unwrap();
    let (never, signal) = device.host_event().unwrap();
    let never = Arc::new(never);
    std::mem::forget(signal);
    for n in 0..4 {
        let never = never.clone();
        std::thread::spawn(move || {
            KEPT.with(|_| ());
            if n == 0 {
                let _ = never.synchronize();
            }
            let stream = Device::default().unwrap().create_stream().unwrap();
            loop {
                enqueue(&stream, || Ok(())).unwrap();
                let event = stream.record().unwrap();
                event.on_complete(|_| ()).unwrap();
                event.synchronize().unwrap();
            }
        });
    }
    complete(&device.default_stream().unwrap().record().unwrap());
    std::process::exit(0);
}

/// What the parent's other threads have locked stays so in the child: a tracer there must not try.
///
/// Not on the simulated Metal, which adds nothing to it, and whose sanitizers have not been tried with a child that goes on while
/// another thread of the parent's allocates.
#[cfg(all(feature = "trace", not(gpu_events_metal_sim)))]
#[test]
fn a_forks_child_is_not_traced_and_does_not_hang() {
    use gpu_events::trace::Tracer;

    let parents = Parents::new();
    let tracer = Tracer::new("parent");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stream = parents.device.create_stream().unwrap();
        let (tracer, stop, parents) = (&tracer, &stop, &parents);
        scope.spawn(move || {
            // Relaxed: only to end.
            while !stop.load(Ordering::Relaxed) {
                drop(tracer.span(&stream, "parent's"));
                drop(tracer.thread_span("parent's"));
                tracer.collect();
            }
        });
        for _ in 0..20 {
            let open = tracer.span(&parents.stream, "open");
            let thread = tracer.thread_span("open");
            let code = fork(|| {
                drop((open, thread));
                drop(tracer.span(&parents.stream, "child's"));
                drop(tracer.thread_span("child's"));
                tracer.watch(&parents.stream);
                tracer.collect();
                tracer.calibrate();
                let dropped = tracer.dropped();
                let clone = tracer.clone();
                let nothing = !tracer.is_on() && tracer.finish().is_empty() && tracer.dropped() == dropped;
                drop(clone);
                i32::from(!nothing)
            });
            assert_eq!(code, Some(0));
        }
        stop.store(true, Ordering::Relaxed);
    });
    parents.signal.complete();
    assert!(tracer.finish().spans.iter().any(|span| *span.name == *"parent's"));
}
