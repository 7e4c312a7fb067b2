//! What every case is given: the subject, bounded ways to wait, and ways to hold work back.

use crate::{
    Cells, Stop, Subject, Verdict,
    runner::panic_text,
    toy,
    verdict::{ensure, equal},
};
use gpu_events::{Callback, Device, Error, Event, HostSignal, Result, Status, Stream, WaitOutcome};
use std::{
    fmt::Display,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    task::{Wake, Waker},
    thread,
    time::{Duration, Instant},
};

/// A case's surroundings.
///
/// No method waits without bound, and none sleeps for something to happen: what should happen is waited for,
/// with [`Context::patience`] as the bound, and what should not is [held back](Context::hold).
#[derive(Debug)]
pub struct Context {
    subject: Arc<dyn Subject>,
    patience: Duration,
}

impl Context {
    pub(crate) fn new(subject: Arc<dyn Subject>, limit: Duration) -> Self {
        Self { subject, patience: limit / 4 }
    }

    /// The backend under test.
    pub fn subject(&self) -> &dyn Subject {
        &*self.subject
    }

    /// The backend under test, to take along to another thread.
    pub fn subject_handle(&self) -> Arc<dyn Subject> {
        self.subject.clone()
    }

    /// How long anything that should happen may take.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// A fresh device.
    pub fn device(&self) -> Verdict<Device> {
        self.subject.open()
    }

    /// Another device of the same backend.
    pub fn second_device(&self, first: &Device) -> Verdict<Device> {
        let second = self.subject.open_second(first)?;
        ensure(second.id() != first.id(), "the second device has the first one's id")?;
        Ok(second)
    }

    /// A device of another backend, whichever is tested: the simulated one, or, beside it, the CPU.
    pub fn foreign_device(&self, device: &Device) -> Verdict<Device> {
        if device.info().backend == toy::BACKEND {
            Ok(Device::open("cpu")?)
        } else {
            Ok(toy::Toy::new().open())
        }
    }

    /// Memory of the device, for work whose effect can be seen.
    pub fn cells(&self, device: &Device, count: usize) -> Verdict<Arc<dyn Cells>> {
        self.subject.cells(device, count)
    }

    /// Holds back everything that is submitted to `stream` from here on, until the [`Hold`] is released.
    #[track_caller]
    pub fn hold(&self, stream: &Stream) -> Verdict<Hold> {
        let (event, signal) = stream.device().host_event()?;
        let wait = stream.wait(&event)?;
        ensure(wait.inserted(), "waiting for a pending host-signaled event inserted nothing")?;
        Ok(Hold { event, signal })
    }

    /// Has `stream` fail from here on: by work that fails when the device reaches it, or, where the backend has
    /// none on demand, by waiting for a host signal that fails when the device has come that far.
    #[track_caller]
    pub fn fail(&self, stream: &Stream) -> Verdict {
        match self.subject.fail(stream) {
            Err(Stop::Skip(_)) => {
                let before = stream.record()?;
                let hold = self.hold(stream)?;
                before.on_complete(move |_| hold.fail("failed on demand"))?;
                Ok(())
            }
            verdict => verdict,
        }
    }

    /// Waits until `event` is complete.
    #[track_caller]
    pub fn settle(&self, event: &Event) -> Verdict {
        let started = Instant::now();
        match event.wait_timeout(self.patience) {
            // A wait looks once more before it gives up: that it was complete by then does not mean that it was woken.
            Ok(WaitOutcome::Complete) if started.elapsed() >= self.patience => {
                Err(self.late("the wake-up for an event that is complete"))
            }
            Ok(WaitOutcome::Complete) => {
                equal("status of an event that a wait saw complete", event.status(), Status::Complete)
            }
            Ok(WaitOutcome::TimedOut) => Err(self.late("an event that nothing holds back")),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until each of `events` is complete.
    #[track_caller]
    pub fn settle_all<'a>(&self, events: impl IntoIterator<Item = &'a Event>) -> Verdict {
        for event in events {
            self.settle(event)?;
        }
        Ok(())
    }

    /// Waits until `event` has failed, and checks that all ways of asking agree.
    #[track_caller]
    pub fn failure(&self, event: &Event) -> Verdict<Error> {
        let error = match event.wait_timeout(self.patience) {
            Ok(WaitOutcome::Complete) => return Err(Stop::fail("completed, where failure was expected")),
            Ok(WaitOutcome::TimedOut) => return Err(self.late("the failure of an event")),
            Err(error) => error,
        };
        equal("status of an event that a wait saw fail", event.status(), Status::Failed)?;
        equal("is_complete's error", event.is_complete().map_err(|error| error.kind()), Err(error.kind()))?;
        equal("error's kind", event.error().map(|error| error.kind()), Some(error.kind()))?;
        Ok(error)
    }

    /// Checks that `event` is pending, by every way of asking that does not block.
    #[track_caller]
    pub fn pending(&self, event: &Event) -> Verdict {
        equal("status of a held event", event.status(), Status::Pending)?;
        equal("is_complete of a held event", event.is_complete()?, false)?;
        equal("a zero wait for a held event", event.wait_timeout(Duration::ZERO)?, WaitOutcome::TimedOut)
    }

    /// Checks that `event` is pending, and still is after a moment in which it could have gone wrong.
    #[track_caller]
    pub fn stays_pending(&self, event: &Event) -> Verdict {
        self.pending(event)?;
        self.linger();
        self.pending(event)
    }

    /// How many recordings `stream` has taken, the one that this makes included. Nothing must hold it back.
    pub fn recorded(&self, stream: &Stream) -> Verdict<u64> {
        let hold = self.hold(stream)?;
        let event = stream.record()?;
        // A backend that submits what is gathered holds the stream for a moment, and the report does not wait for it.
        let recorded = self.eventually("a report that counts a held stream's recordings", || {
            let report = stream.device().stall_report();
            report.stalled().iter().find(|stalled| stalled.id == stream.id())?.recorded
        })?;
        hold.release();
        self.settle(&event)?;
        Ok(recorded)
    }

    /// Lets a moment pass in which something that must not happen could. Never used to let something happen.
    pub fn linger(&self) {
        self.linger_for(Duration::from_millis(10));
    }

    /// As [`linger`](Self::linger), for a stated time.
    pub fn linger_for(&self, time: Duration) {
        let (_open, nothing) = mpsc::channel::<()>();
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            // Nothing is ever sent, so this only times out.
            let _ = nothing.recv_timeout(left);
        }
    }

    /// Waits for a message that must come.
    #[track_caller]
    pub fn hear<T>(&self, what: impl Display, messages: &Receiver<T>) -> Verdict<T> {
        match messages.recv_timeout(self.patience) {
            Ok(message) => Ok(message),
            Err(RecvTimeoutError::Timeout) => Err(self.late(what)),
            Err(RecvTimeoutError::Disconnected) => {
                Err(Stop::fail(format_args!("{what} was dropped instead")))
            }
        }
    }

    /// Waits for a message that must come, and for its sender to go away without another.
    #[track_caller]
    pub fn hear_once<T>(&self, what: impl Display, messages: &Receiver<T>) -> Verdict<T> {
        let message = self.hear(&what, messages)?;
        match messages.recv_timeout(self.patience) {
            Err(RecvTimeoutError::Disconnected) => Ok(message),
            Err(RecvTimeoutError::Timeout) => Err(Stop::fail(format_args!("{what} was never let go of"))),
            Ok(_) => Err(Stop::fail(format_args!("{what} came twice"))),
        }
    }

    /// Registers a callback that passes on what it is told.
    #[track_caller]
    pub fn listen(&self, event: &Event) -> Verdict<(Callback, Receiver<Result<()>>)> {
        let (tell, told) = mpsc::channel();
        let callback = event.on_complete(move |result| send(&tell, result))?;
        Ok((callback, told))
    }

    /// Asks again and again until there is an answer, for what has no event to wait for.
    #[track_caller]
    pub fn eventually<T>(&self, what: impl Display, mut ask: impl FnMut() -> Option<T>) -> Verdict<T> {
        let until = Instant::now() + self.patience;
        loop {
            if let Some(answer) = ask() {
                return Ok(answer);
            }
            if Instant::now() >= until {
                return Err(self.late(what));
            }
            thread::yield_now();
        }
    }

    /// As [`eventually`](Self::eventually), until it holds.
    #[track_caller]
    pub fn until(&self, what: impl Display, mut holds: impl FnMut() -> bool) -> Verdict {
        self.eventually(what, || holds().then_some(()))
    }

    /// Runs `body` on a thread of its own, so that a call that might never return can be given a bound.
    pub fn spawn<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> Verdict<Task<T>> {
        let (tell, result) = mpsc::channel();
        let body = move || send(&tell, catch_unwind(AssertUnwindSafe(body)));
        match thread::Builder::new().spawn(body) {
            Ok(_) => Ok(Task { result, patience: self.patience }),
            Err(error) => Err(Stop::fail(format_args!("no thread: {error}"))),
        }
    }

    #[track_caller]
    fn late(&self, what: impl Display) -> Stop {
        Stop::fail(format_args!("{what} did not come within {:?}", self.patience))
    }
}

/// Work held back by a host-signaled event. Dropped, it fails what it holds, as any signal does.
#[derive(Debug)]
pub struct Hold {
    event: Event,
    signal: HostSignal,
}

impl Hold {
    /// The host-signaled event itself.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Lets the work go on.
    pub fn release(self) {
        self.signal.complete();
    }

    /// Fails the work.
    pub fn fail(self, reason: &str) {
        self.signal.fail(reason);
    }
}

/// A call that runs on a thread of its own.
#[derive(Debug)]
pub struct Task<T> {
    result: Receiver<thread::Result<T>>,
    patience: Duration,
}

impl<T> Task<T> {
    /// What the call returned; a failure if it does not, or panics.
    #[track_caller]
    pub fn finish(self) -> Verdict<T> {
        match self.result.recv_timeout(self.patience) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(payload)) => Err(Stop::fail(format_args!("a thread panicked: {}", panic_text(&*payload)))),
            Err(_) => Err(Stop::fail(format_args!("a call did not return within {:?}", self.patience))),
        }
    }

    /// Fails if the call has returned already.
    #[track_caller]
    pub fn still_runs(&self) -> Verdict {
        match self.result.try_recv() {
            Err(mpsc::TryRecvError::Empty) => Ok(()),
            _ => Err(Stop::fail("a call returned that should have waited")),
        }
    }
}

/// Threads that a case starts together and that all must finish.
pub(crate) fn finish_all<T>(tasks: impl IntoIterator<Item = Task<T>>) -> Verdict<Vec<T>> {
    tasks.into_iter().map(Task::finish).collect()
}

/// A waker that counts how often it was called.
#[derive(Debug, Default)]
pub(crate) struct Wakes(AtomicUsize);

impl Wakes {
    pub(crate) fn new() -> (Arc<Self>, Waker) {
        let wakes = Arc::new(Self::default());
        (wakes.clone(), Waker::from(wakes))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A waker that runs something each time it is called.
pub(crate) struct OnWake<F>(Mutex<F>);

impl<F: FnMut() + Send + 'static> OnWake<F> {
    pub(crate) fn waker(run: F) -> Waker {
        Waker::from(Arc::new(Self(Mutex::new(run))))
    }
}

impl<F: FnMut() + Send + 'static> Wake for OnWake<F> {
    fn wake(self: Arc<Self>) {
        (self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))();
    }
}

/// Sends a message that nobody may be there to hear: a case that has failed is gone before its threads are.
pub(crate) fn send<T>(to: &mpsc::Sender<T>, message: T) {
    let _ = to.send(message);
}
