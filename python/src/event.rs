//! Events.

use crate::{
    callback::{self, Callback},
    device::{Device, DeviceArgument, default_device},
    errors::{Failure, Result, exception, no_pickling},
    foreign::{self, Taken},
    stream::Handle,
    wait,
};
use gpu_events::{ErrorKind, Status, check_fork};
use pyo3::{prelude::*, sync::PyOnceLock, types::PyTuple};
use std::sync::OnceLock;

/// A point in a stream of work, used as torch.Event and torch.cuda.Event are.
///
/// device is a Device or its name; None: that of the first stream that the event is recorded on. Times take enable_timing. With
/// blocking=False a waiting thread spins for a few tens of microseconds before it sleeps, with True it sleeps at once. label
/// names the event for reports.
///
/// Recording again replaces the recording; who waits for the earlier one goes on doing so. Dropping a pending event is cheap and
/// cancels nothing. Under asyncio, `await event`.
#[pyclass(frozen, subclass, weakref, module = "gpu_events")]
pub(crate) struct Event {
    bound: OnceLock<Home>,
    timed: bool,
    blocking: bool,
    label: Option<Box<str>>,
}

/// What an event has from its first recording on, or from the start if its device was named.
struct Home {
    event: gpu_events::Event,
    device: gpu_events::Device,
}

impl Event {
    /// Around an event of the core's.
    pub(crate) fn of(
        event: gpu_events::Event,
        device: &gpu_events::Device,
        blocking: bool,
        label: Option<String>,
    ) -> Self {
        let timed = event.is_timed();
        let bound = OnceLock::from(Home { event, device: device.clone() });
        Self { bound, timed, blocking, label: label.map(Into::into) }
    }

    /// The core's event, if there is one yet: without, it is not recorded.
    #[inline]
    pub(crate) fn core(&self) -> Option<&gpu_events::Event> {
        self.bound.get().map(|bound| &bound.event)
    }

    pub(crate) fn is_blocking(&self) -> bool {
        self.blocking
    }

    fn bind(&self, event: gpu_events::Event, device: &gpu_events::Device) {
        if let Some(label) = &self.label {
            event.set_label(label);
        }
        // Another thread may have been first: then this one goes back to its pool.
        let _ = self.bound.set(Home { event, device: device.clone() });
    }

    #[inline]
    pub(crate) fn record_on(&self, py: Python<'_>, on: &Handle) -> Result<()> {
        if let Some(event) = self.core() {
            return on.record(py, event);
        }
        // Recorded before anybody sees it, which costs less.
        let event = on.record_new(py, self.timed)?;
        let id = event.id();
        self.bind(event, on.stream.device());
        match self.core() {
            Some(event) if event.id() != id => on.record(py, event),
            _ => Ok(()),
        }
    }

    pub(crate) fn wait_on(&self, py: Python<'_>, on: &Handle) -> Result<bool> {
        check_fork()?;
        match self.core() {
            None => Ok(false),
            Some(event) => Ok(on.call(py, |stream| stream.wait(event))?.inserted()),
        }
    }

    /// The stream that a method was given; without one, what PyTorch's users expect, or the default one of the event's device.
    fn stream<'py>(&self, py: Python<'py>, stream: Option<&Bound<'py, PyAny>>) -> Result<Taken<'py>> {
        let device = self.bound.get().map(|bound| &bound.device);
        if let Some(stream) = stream {
            return foreign::take(stream, device);
        }
        if let Some(current) = foreign::current_of_torch(py, device)? {
            return Ok(current);
        }
        let default = match device {
            Some(device) => Handle::default_of(py, device),
            None => Handle::default_of(py, &default_device(py)?),
        };
        default.map(Taken::Handle)
    }

    /// As `query`, where the status does not tell.
    #[cold]
    fn query_slow(event: &gpu_events::Event) -> Result<bool> {
        loop {
            if let Some(error) = event.error() {
                return Err(error.into());
            }
            // Recorded anew meanwhile.
            match event.status() {
                Status::Complete | Status::Unrecorded => return Ok(true),
                Status::Pending => return Ok(false),
                _ => {}
            }
        }
    }

    fn status_of(&self) -> &'static str {
        match self.core().map_or(Status::Unrecorded, gpu_events::Event::status) {
            Status::Unrecorded => "unrecorded",
            Status::NotSubmitted => "not_submitted",
            Status::Pending => "pending",
            Status::Complete => "complete",
            _ => "failed",
        }
    }
}

#[pymethods]
impl Event {
    #[new]
    #[pyo3(signature = (device=None, *, enable_timing=false, blocking=false, label=None))]
    fn new(
        py: Python<'_>,
        device: Option<DeviceArgument<'_>>,
        enable_timing: bool,
        blocking: bool,
        label: Option<String>,
    ) -> Result<Self> {
        check_fork()?;
        let label = label.map(Into::into);
        let made = Self { bound: OnceLock::new(), timed: enable_timing, blocking, label };
        if let Some(device) = device {
            let device = device.resolve(py)?;
            let pool = device.pool();
            made.bind(if enable_timing { pool.acquire_timed() } else { pool.acquire() }, &device);
        }
        Ok(made)
    }

    /// Records the event: it now stands for all work submitted to the stream before. None is PyTorch's current stream, where
    /// PyTorch uses the GPU already; otherwise the default stream of the event's device, or of the default device, which is one of
    /// this library's.
    ///
    /// Legal in any state. Raises WrongDeviceError if the event is of another device than the stream. On a failed stream the
    /// event has failed at once.
    #[pyo3(signature = (stream=None))]
    fn record<'py>(&self, py: Python<'py>, stream: Option<&Bound<'py, PyAny>>) -> Result<()> {
        self.record_on(py, self.stream(py, stream)?.handle())
    }

    /// Holds work that is submitted to the stream from now on back until the event is complete. None is the same stream as for
    /// record(). Never blocks the host. True if a wait was inserted.
    #[pyo3(signature = (stream=None))]
    fn wait<'py>(&self, py: Python<'py>, stream: Option<&Bound<'py, PyAny>>) -> Result<bool> {
        check_fork()?;
        self.wait_on(py, self.stream(py, stream)?.handle())
    }

    /// Whether the work is done. True also for an event that is not recorded. Never blocks; raises the work's failure.
    fn query(&self) -> Result<bool> {
        let Some(event) = self.core() else {
            check_fork()?;
            return Ok(true);
        };
        match event.status() {
            Status::Complete | Status::Unrecorded => Ok(true),
            Status::Pending => Ok(false),
            _ => Self::query_slow(event),
        }
    }

    /// Blocks until the work is done, with the GIL released. False if the timeout (seconds) is over first; raises the work's
    /// failure. At once for an event that is not recorded.
    #[pyo3(signature = (timeout=None))]
    fn synchronize(&self, py: Python<'_>, timeout: Option<f64>) -> Result<bool> {
        let deadline = wait::deadline(timeout)?;
        if self.query()? {
            return Ok(true);
        }
        let Some(event) = self.core() else { return Ok(true) };
        let mut recording = wait::Recordings::of([event]);
        let found = wait::block(py, deadline, !self.blocking, |options| {
            Ok((event.wait_with(options)?.is_complete() || recording.all()?).then_some(()))
        })?;
        Ok(found.is_some())
    }

    /// Milliseconds of the device's clock from this event to end_event; negative if that one came first. Waits for both.
    ///
    /// Raises TimingError, before it waits for anything, if either is not timed, not recorded, or of another clock. Raises the
    /// work's failure.
    fn elapsed_time(&self, py: Python<'_>, end_event: &Bound<'_, Self>) -> Result<f64> {
        check_fork()?;
        let end = end_event.get();
        if !(self.timed && end.timed) {
            return Err(ErrorKind::Untimed.into());
        }
        let (Some(start), Some(stop)) = (self.core(), end.core()) else {
            return Err(ErrorKind::Unrecorded.into());
        };
        loop {
            match stop.elapsed_millis(start) {
                Ok(elapsed) => return Ok(elapsed),
                Err(error) if error.kind() == ErrorKind::NotComplete => {
                    let spin = !(self.blocking && end.blocking);
                    wait::for_all(py, &[start, stop], None, spin)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// When the work was done, in nanoseconds of the device's own clock.
    ///
    /// Raises TimingError if the event is not timed or not recorded, the work's failure, and Error if it is not done yet.
    fn completion_time(&self) -> Result<u64> {
        check_fork()?;
        match self.core() {
            None if self.timed => Err(ErrorKind::Unrecorded.into()),
            None => Err(ErrorKind::Untimed.into()),
            Some(event) => Ok(event.completion_time()?.nanos()),
        }
    }

    /// Has callback(error) run once the work is done, with None, or has failed, with the Error.
    ///
    /// It runs once, on a thread of the library's for all callbacks of the device, in the order of the recordings; at once if
    /// the event is complete or not recorded. What it raises goes to sys.unraisablehook. What has not begun when the interpreter
    /// exits does not run.
    fn on_complete(&self, py: Python<'_>, callback: Bound<'_, PyAny>) -> Result<Callback> {
        check_fork()?;
        match self.core() {
            Some(event) => callback::register(event, callback),
            // It is called all the same, and that takes some device's thread.
            None => callback::register(&default_device(py)?.pool().acquire(), callback),
        }
    }

    /// Makes the event unrecorded again. Who waits for its recording goes on doing so.
    fn reset(&self) -> Result<()> {
        check_fork()?;
        if let Some(event) = self.core() {
            event.reset();
        }
        Ok(())
    }

    /// Where the event stands: 'unrecorded', 'not_submitted', 'pending', 'complete' or 'failed'.
    #[getter]
    fn status(&self) -> Result<&'static str> {
        check_fork()?;
        Ok(self.status_of())
    }

    /// Why the work failed, or None.
    #[getter]
    fn error<'py>(&self, py: Python<'py>) -> Result<Option<Bound<'py, PyAny>>> {
        check_fork()?;
        let error = self.core().and_then(gpu_events::Event::error);
        Ok(error.map(|error| exception(py, &error).into_value(py).into_bound(py).into_any()))
    }

    /// A number that no other event of this process has; None until the event has a device.
    #[getter]
    fn event_id(&self) -> Option<u64> {
        self.core().map(|event| event.id().get())
    }

    /// The event's device; None until it has one.
    #[getter]
    fn device(&self) -> Option<Device> {
        self.bound.get().map(|bound| Device(bound.device.clone()))
    }

    /// The label that it was given.
    #[getter]
    fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Whether its recordings are timed.
    #[getter]
    fn enable_timing(&self) -> bool {
        self.timed
    }

    /// Waits under asyncio: nobody polls, and the loop goes on. Raises the work's failure. A cancelled task leaves nothing behind.
    fn __await__<'py>(slf: &Bound<'py, Self>) -> Result<Bound<'py, PyAny>> {
        static WAIT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = slf.py();
        if slf.get().query()? {
            return Ok(PyTuple::empty(py).try_iter()?.into_any());
        }
        let wait = WAIT.get_or_try_init(py, || -> PyResult<_> {
            Ok(py.import("gpu_events._aio")?.getattr("wait")?.unbind())
        })?;
        Ok(wait.bind(py).call1((slf,))?)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let (event, class) = (slf.get(), slf.get_type().fully_qualified_name()?);
        let label = event.label.as_ref().map(|label| format!(" {label:?}")).unwrap_or_default();
        if check_fork().is_err() {
            return Ok(format!("<{class}{label} of the parent process>"));
        }
        let status = event.status_of();
        Ok(match event.bound.get() {
            None => format!("<{class}{label} {status}>"),
            Some(bound) => {
                format!("<{class} {}{label} {status} on {}>", bound.event.id(), bound.device.name())
            }
        })
    }

    fn __reduce__(&self) -> Result<()> {
        Err(Failure::Python(no_pickling("Event")))
    }
}
