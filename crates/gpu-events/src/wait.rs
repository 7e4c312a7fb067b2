//! Blocking host waits: on one event, on any or all of many, and how a thread passes the time.

use crate::{
    error::{Error, ErrorKind, Result},
    event::{Event, Point},
    fork,
    lane::{Lane, Observed, Round},
    primitive::{Condvar, Mutex, lock},
    time::coarse_nanos,
    timeline::{Registered, Ticket},
    work,
};
use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

/// How a host wait ended, when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a wait that timed out is no error, and has to be told from a complete one"]
pub enum WaitOutcome {
    /// The recording is complete, and so is all work before it.
    Complete,
    /// Time ran out first. Nothing has changed: wait again, or do something else (R12).
    TimedOut,
}

impl WaitOutcome {
    /// Whether the recording is complete.
    pub fn is_complete(self) -> bool {
        self == Self::Complete
    }
}

/// What [`wait_any`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a wait that timed out is no error"]
pub enum WaitAny {
    /// The event with this index is settled: complete, failed, or not recorded at all. Ask it which.
    Settled(usize),
    /// Time ran out first.
    TimedOut,
}

/// How a waiting thread passes the time (R13). What each costs is in `docs/backends/cpu.md`, and
/// `gpu-events bench` measures it on your machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitStrategy {
    /// Sleep until woken: no CPU time, one wake-up's latency (tens of microseconds on most systems).
    #[default]
    Park,
    /// Spin for so long, then sleep: right where most waits are short.
    SpinThenPark(Duration),
    /// Spin to the end: the least latency, and a core for as long as it takes.
    Spin,
}

/// How long and in what way to wait. The default waits for ever, parked.
#[derive(Clone, Copy, Debug, Default)]
pub struct WaitOptions {
    strategy: WaitStrategy,
    limit: Limit,
}

#[derive(Clone, Copy, Debug, Default)]
enum Limit {
    #[default]
    Never,
    For(Duration),
    Until(Instant),
}

impl WaitOptions {
    /// For ever, parked.
    pub fn new() -> Self {
        Self::default()
    }

    /// Passes the time in this way.
    pub fn strategy(mut self, strategy: WaitStrategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Gives up this long after each wait's beginning. Zero only asks. A time beyond the clock's range is for ever.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.limit = Limit::For(timeout);
        self
    }

    /// Gives up at this time.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.limit = Limit::Until(deadline);
        self
    }

    /// The same, for a wait that begins now: a timeout has become a deadline.
    pub(crate) fn begun(mut self) -> Self {
        if let Limit::For(timeout) = self.limit {
            self.limit = Instant::now().checked_add(timeout).map_or(Limit::Never, Limit::Until);
        }
        self
    }

    /// Of options that have [`begun`](Self::begun).
    pub(crate) fn ends(&self) -> Option<Instant> {
        match self.limit {
            Limit::Until(deadline) => Some(deadline),
            Limit::Never | Limit::For(_) => None,
        }
    }

    fn expired(&self) -> bool {
        self.ends().is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// A thread that blocks until somebody wakes it.
///
/// Not `std::thread::park`: its one token belongs to the thread's owner, and a library that parks with it can eat
/// a wake-up that was meant for others.
#[derive(Debug)]
pub(crate) struct ThreadWaiter {
    woken: Mutex<bool>,
    bell: Condvar,
    /// For stall reports.
    thread: Box<str>,
    /// The lane whose work this thread runs, if it is a worker.
    on_behalf_of: Option<u64>,
}

impl ThreadWaiter {
    fn new() -> Arc<Self> {
        let thread = std::thread::current();
        Arc::new(Self {
            woken: Mutex::new(false),
            bell: Condvar::new(),
            thread: thread.name().map_or_else(|| format!("{:?}", thread.id()).into(), Into::into),
            on_behalf_of: work::current(),
        })
    }

    pub(crate) fn wake(&self) {
        *lock(&self.woken) = true;
        self.bell.notify_one();
    }

    pub(crate) fn thread(&self) -> &str {
        &self.thread
    }

    pub(crate) fn on_behalf_of(&self) -> Option<u64> {
        self.on_behalf_of
    }

    /// Blocks until woken since the last call, or until the deadline. False: the deadline.
    fn park(&self, deadline: Option<Instant>) -> bool {
        let mut woken = lock(&self.woken);
        while !*woken {
            match deadline {
                None => woken = self.bell.wait(woken).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let Some(left) =
                        deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
                    else {
                        return false;
                    };
                    woken = self.bell.wait_timeout(woken, left).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
        *woken = false;
        true
    }
}

/// A recording to wait for.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) lane: Arc<Lane>,
    pub(crate) position: u64,
}

/// Waits for one target.
pub(crate) fn wait_one(target: &Target, options: &WaitOptions) -> Result<WaitOutcome> {
    match wait_until(std::slice::from_ref(target), options, |targets| {
        match targets[0].lane.observe(targets[0].position) {
            Observed::Complete => Some(Ok(())),
            Observed::Failed(error) => Some(Err(error)),
            Observed::Pending => None,
        }
    })? {
        Some(outcome) => outcome.map(|()| WaitOutcome::Complete),
        None => Ok(WaitOutcome::TimedOut),
    }
}

/// Blocks until `settled` answers or time runs out (`None`). `settled` is asked again whenever a target has news.
fn wait_until<T>(
    targets: &[Target],
    options: &WaitOptions,
    mut settled: impl FnMut(&[Target]) -> Option<T>,
) -> Result<Option<T>> {
    if let Some(found) = settled(targets) {
        return Ok(Some(found));
    }
    let options = options.begun();
    if options.expired() {
        return Ok(None);
    }
    for target in targets {
        // The thread that holds a stream's lock is the one that would have to submit what it waits for (R7), and work
        // of a stream is what its later recordings wait for.
        let lane = &target.lane;
        let waits_for_itself = lane.core.is_held_by_this_thread() || work::current() == Some(lane.id());
        if waits_for_itself && lane.completed() < target.position {
            return Err(Error::new(ErrorKind::WouldDeadlock));
        }
    }
    let spin_until = match options.strategy {
        WaitStrategy::Park => None,
        WaitStrategy::SpinThenPark(window) => Some(Instant::now().checked_add(window)),
        WaitStrategy::Spin => Some(None),
    };
    if let Some(spin_until) = spin_until {
        // A worker that spins is as lost to its pool as one that sleeps.
        let _blocking = work::block();
        loop {
            // The clock costs more than a look at the timeline: ask it now and then.
            for _ in 0..32 {
                if let Some(found) = settled(targets) {
                    return Ok(Some(found));
                }
                std::hint::spin_loop();
            }
            if options.expired() {
                return Ok(None);
            }
            if spin_until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
        }
    }
    park_until(targets, options.ends(), settled)
}

fn park_until<T>(
    targets: &[Target],
    deadline: Option<Instant>,
    mut settled: impl FnMut(&[Target]) -> Option<T>,
) -> Result<Option<T>> {
    let thread = ThreadWaiter::new();
    let registrations = Registrations::new(targets, &thread);
    let _blocking = work::block();
    if let [target] = targets {
        while let Some(until) = in_driver_until(deadline) {
            if let Some(found) = settled(targets) {
                return Ok(Some(found));
            }
            if !target.lane.backend().block(target.position, until) {
                break;
            }
        }
    }
    // From here on the pump has to wake it.
    registrations.watch();
    loop {
        if let Some(found) = settled(targets) {
            return Ok(Some(found));
        }
        if !thread.park(deadline) {
            drop(registrations);
            // News that came with the deadline counts.
            return Ok(settled(targets));
        }
    }
}

/// Until when a thread may block in a driver, which learns of nothing but its own work: what else there may be, the stream's
/// failure or its device's end, is looked for this often. None: the deadline is over.
fn in_driver_until(deadline: Option<Instant>) -> Option<Instant> {
    const LOOK: Duration = Duration::from_millis(10);
    let now = Instant::now();
    let next = now + LOOK;
    deadline.map_or(Some(next), |deadline| (deadline > now).then(|| next.min(deadline)))
}

/// The registrations of one thread, taken back at the end.
struct Registrations<'a>(Vec<(&'a Target, Ticket)>);

impl<'a> Registrations<'a> {
    fn new(targets: &'a [Target], thread: &Arc<ThreadWaiter>) -> Self {
        let since = coarse_nanos();
        let mut registered = Vec::with_capacity(targets.len());
        for target in targets {
            match target.lane.core.timeline.register(target.position, thread.clone(), since) {
                Registered::Parked(ticket) => {
                    registered.push((target, ticket));
                }
                // The caller looks again before it sleeps.
                Registered::Reached(_) | Registered::Failed(..) => thread.wake(),
            }
        }
        Self(registered)
    }

    /// Has news of what is waited for come by themselves.
    fn watch(&self) {
        for (target, _) in &self.0 {
            target.lane.watch(target.position);
        }
    }
}

impl Drop for Registrations<'_> {
    fn drop(&mut self) {
        for (target, ticket) in &self.0 {
            target.lane.core.timeline.cancel(*ticket);
        }
    }
}

/// Blocks until one of `events` is settled: complete, failed, or not recorded at all.
///
/// Binds to the recordings current when it is called (R2). With no events at all there is nothing to wait for, and
/// the answer is `TimedOut`.
///
/// # Errors
/// [`ErrorKind::NotSubmitted`], [`ErrorKind::WouldDeadlock`], [`ErrorKind::Forked`]. The failure of an event is not
/// an error here: it is settled, and says so itself.
///
/// ```
/// use gpu_events::{Device, WaitAny, WaitOptions, wait_any};
///
/// let device = Device::open("cpu")?;
/// let (never, _signal) = device.host_event()?;
/// let done = device.create_stream()?.record()?;
/// assert_eq!(wait_any([&never, &done], &WaitOptions::new())?, WaitAny::Settled(1));
/// # Ok::<(), gpu_events::Error>(())
/// ```
pub fn wait_any<'a>(events: impl IntoIterator<Item = &'a Event>, options: &WaitOptions) -> Result<WaitAny> {
    fork::check()?;
    let mut targets = Vec::new();
    for (index, event) in events.into_iter().enumerate() {
        match event.point() {
            Point::At(target) => targets.push(target),
            Point::Unrecorded | Point::Done => return Ok(WaitAny::Settled(index)),
        }
    }
    if targets.is_empty() {
        return Ok(WaitAny::TimedOut);
    }
    let found = wait_until(&targets, options, |targets| {
        let round = Round::begin();
        targets.iter().enumerate().find_map(|(index, target)| {
            match target.lane.observe_in(round, target.position) {
                Observed::Pending => None,
                Observed::Failed(error) if error.kind() == ErrorKind::NotSubmitted => Some(Err(error)),
                Observed::Complete | Observed::Failed(_) => Some(Ok(index)),
            }
        })
    })?;
    found.transpose().map(|found| found.map_or(WaitAny::TimedOut, WaitAny::Settled))
}

/// Blocks until all of `events` are complete. Events that are not recorded count as complete (R4).
///
/// Binds to the recordings current when it is called (R2).
///
/// # Errors
/// The failure of an event, as soon as one is known; [`ErrorKind::NotSubmitted`], [`ErrorKind::WouldDeadlock`],
/// [`ErrorKind::Forked`].
pub fn wait_all<'a>(
    events: impl IntoIterator<Item = &'a Event>,
    options: &WaitOptions,
) -> Result<WaitOutcome> {
    fork::check()?;
    let targets: Vec<Target> = events
        .into_iter()
        .filter_map(|event| match event.point() {
            Point::At(target) => Some(target),
            Point::Unrecorded | Point::Done => None,
        })
        .collect();
    let found = wait_until(&targets, options, |targets| {
        let round = Round::begin();
        let mut pending = false;
        for target in targets {
            match target.lane.observe_in(round, target.position) {
                Observed::Complete => {}
                Observed::Failed(error) => return Some(Err(error)),
                Observed::Pending => pending = true,
            }
        }
        if pending { None } else { Some(Ok(())) }
    })?;
    found.transpose().map(|found| found.map_or(WaitOutcome::TimedOut, |()| WaitOutcome::Complete))
}
