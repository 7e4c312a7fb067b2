//! Blocking without the GIL.

use crate::{
    errors::{Failure, Result},
    event::Event,
    gate,
};
use gpu_events::{Completion, Error, ErrorKind, WaitAny, WaitOptions, WaitOutcome, WaitStrategy, check_fork};
use pyo3::{prelude::*, sync::PyOnceLock};
use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// How long a wait spins before it sleeps, unless its event is a blocking one: waking up takes tens of microseconds, and most
/// waits that are worth it are over by then.
const SPIN: Duration = Duration::from_micros(50);

/// When a wait of `timeout` seconds that begins now is over; `None` is never.
pub(crate) fn deadline(timeout: Option<f64>) -> Result<Option<Instant>> {
    let Some(seconds) = timeout else { return Ok(None) };
    if seconds.is_nan() || seconds < 0.0 {
        return Err(Failure::argument(format!(
            "timeout is {seconds}, and has to be seconds from 0 on, or None"
        )));
    }
    // Beyond the clock's range is for ever.
    Ok(Duration::try_from_secs_f64(seconds).ok().and_then(|timeout| Instant::now().checked_add(timeout)))
}

/// Waits with the GIL released until `attempt` has an answer; `None`: the deadline is over.
///
/// `attempt` waits as the options say. They end every so often, for a look whether the main thread has to handle a signal, or
/// the interpreter wants to exit and waits for this thread.
pub(crate) fn block<T: Send>(
    py: Python<'_>,
    deadline: Option<Instant>,
    spin: bool,
    mut attempt: impl FnMut(&WaitOptions) -> gpu_events::Result<Option<T>> + Send,
) -> Result<Option<T>> {
    let is_main = is_main_thread(py)?;
    let first = if spin { WaitStrategy::SpinThenPark(SPIN) } else { WaitStrategy::Park };
    let mut strategy = first;
    loop {
        let found = py.detach(|| {
            loop {
                let look = Instant::now() + gate::LOOK;
                let until = deadline.map_or(look, |deadline| deadline.min(look));
                let found = attempt(&WaitOptions::new().deadline(until).strategy(strategy))?;
                if found.is_some() || deadline.is_some_and(|deadline| deadline <= until) {
                    return Ok(Some(found));
                }
                strategy = WaitStrategy::Park;
                if gate::is_wanted_back() {
                    return Err(Error::with_text(ErrorKind::Closed, "the interpreter is exiting"));
                }
                // Nobody else has signals to handle, or need take the GIL for them.
                if is_main {
                    return Ok(None);
                }
            }
        })?;
        match found {
            Some(found) => return Ok(found),
            None => py.check_signals()?,
        }
    }
}

fn is_main_thread(py: Python<'_>) -> Result<bool> {
    static IDENT: PyOnceLock<(Py<PyAny>, u64)> = PyOnceLock::new();
    let (get_ident, main) = IDENT.get_or_try_init(py, || -> PyResult<_> {
        let threading = py.import("threading")?;
        let main = threading.call_method0("main_thread")?.getattr("ident")?.extract()?;
        Ok((threading.getattr("get_ident")?.unbind(), main))
    })?;
    Ok(get_ident.call0(py)?.extract::<u64>(py)? == *main)
}

/// Recordings as they were when a wait began. A wait for an event binds to its recording at that moment (R2), and each attempt
/// binds anew: these say whether the first ones are settled, should others have taken their place.
pub(crate) struct Recordings(Vec<Completion>);

impl Recordings {
    pub(crate) fn of<'a>(events: impl IntoIterator<Item = &'a gpu_events::Event>) -> Self {
        Self(events.into_iter().map(gpu_events::Event::completion).collect())
    }

    fn poll(completion: &mut Completion) -> Option<gpu_events::Result<()>> {
        match Future::poll(Pin::new(completion), &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }

    /// Whether all are complete.
    pub(crate) fn all(&mut self) -> gpu_events::Result<bool> {
        for completion in &mut self.0 {
            match Self::poll(completion) {
                Some(outcome) => outcome?,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The first that is settled.
    fn any(&mut self) -> Option<usize> {
        self.0.iter_mut().position(|completion| Self::poll(completion).is_some())
    }
}

/// Waits for all of `events`. False: the deadline is over.
pub(crate) fn for_all(
    py: Python<'_>,
    events: &[&gpu_events::Event],
    deadline: Option<Instant>,
    spin: bool,
) -> Result<bool> {
    let mut recordings = Recordings::of(events.iter().copied());
    let found = block(py, deadline, spin, |options| {
        let outcome = gpu_events::wait_all(events.iter().copied(), options)?;
        Ok((outcome == WaitOutcome::Complete || recordings.all()?).then_some(()))
    })?;
    Ok(found.is_some())
}

/// Waits for all events. False if the timeout (seconds) is over first.
///
/// Events that are not recorded count as complete. Raises the failure of an event as soon as one is known.
#[pyfunction]
#[pyo3(signature = (events, timeout=None))]
pub(crate) fn wait_all(py: Python<'_>, events: &Bound<'_, PyAny>, timeout: Option<f64>) -> Result<bool> {
    check_fork()?;
    let deadline = deadline(timeout)?;
    let events = collect(events)?;
    let recorded: Vec<_> = events.iter().filter_map(|event| event.get().core()).collect();
    for_all(py, &recorded, deadline, spins(&events))
}

/// Waits until an event is complete, has failed or is not recorded at all, and returns its index; None if the timeout
/// (seconds) is over first.
///
/// The failure of an event is not raised: ask it. With no events there is nothing to wait for, and the answer is None at once.
#[pyfunction]
#[pyo3(signature = (events, timeout=None))]
pub(crate) fn wait_any(
    py: Python<'_>,
    events: &Bound<'_, PyAny>,
    timeout: Option<f64>,
) -> Result<Option<usize>> {
    check_fork()?;
    let deadline = deadline(timeout)?;
    let events = collect(events)?;
    let mut recorded = Vec::with_capacity(events.len());
    for (index, event) in events.iter().enumerate() {
        match event.get().core() {
            Some(event) => recorded.push(event),
            None => return Ok(Some(index)),
        }
    }
    if recorded.is_empty() {
        return Ok(None);
    }
    let mut recordings = Recordings::of(recorded.iter().copied());
    block(py, deadline, spins(&events), |options| {
        match gpu_events::wait_any(recorded.iter().copied(), options)? {
            WaitAny::Settled(index) => Ok(Some(index)),
            WaitAny::TimedOut => Ok(recordings.any()),
        }
    })
}

fn collect<'py>(events: &Bound<'py, PyAny>) -> Result<Vec<Bound<'py, Event>>> {
    let mut collected = Vec::new();
    for event in events.try_iter()? {
        collected.push(event?.cast_into::<Event>().map_err(PyErr::from)?);
    }
    Ok(collected)
}

fn spins(events: &[Bound<'_, Event>]) -> bool {
    !events.iter().all(|event| event.get().is_blocking())
}
