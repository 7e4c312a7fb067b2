//! Devices.

use crate::{
    errors::{Failure, Result, no_pickling},
    event::Event,
    host::HostSignal,
    stream::{Handle, Options, Stream},
};
use gpu_events::check_fork;
use pyo3::{prelude::*, types::PyTuple};
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

/// The devices that are open, by name. From Python a name means one device, so that events and streams that were made apart
/// from each other fit: the core would open anew each time.
static OPEN: Mutex<Option<HashMap<String, gpu_events::Device>>> = Mutex::new(None);

/// Only after `check_fork`: in a child, the lock may be held by a thread that is not there.
fn open_devices() -> MutexGuard<'static, Option<HashMap<String, gpu_events::Device>>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The device of this name, opened if need be.
pub(crate) fn open(py: Python<'_>, name: &str) -> Result<gpu_events::Device> {
    check_fork()?;
    let full = if name.contains(':') { name.to_owned() } else { format!("{name}:0") };
    let known = open_devices().as_ref().and_then(|open| open.get(&full).cloned());
    if let Some(device) = known.filter(|device| !device.is_closed()) {
        return Ok(device);
    }
    // With the GIL released: a driver takes its time.
    Ok(share(py.detach(|| gpu_events::Device::open(name))?))
}

/// The one device of this name: the given one, unless another is open by now.
fn share(device: gpu_events::Device) -> gpu_events::Device {
    let mut open = open_devices();
    let open = open.get_or_insert_default();
    open.retain(|_, device| !device.is_closed());
    open.entry(device.name().to_owned()).or_insert(device).clone()
}

/// The device that is used where none is named.
pub(crate) fn default_device(py: Python<'_>) -> Result<gpu_events::Device> {
    static DEFAULT: OnceLock<gpu_events::Device> = OnceLock::new();
    check_fork()?;
    let device = match DEFAULT.get() {
        Some(device) => device,
        None => {
            let device = share(py.detach(gpu_events::Device::default)?);
            DEFAULT.get_or_init(|| device)
        }
    };
    if device.is_closed() { open(py, device.name()) } else { Ok(device.clone()) }
}

/// What a parameter `device` takes.
#[derive(FromPyObject)]
pub(crate) enum DeviceArgument<'py> {
    #[pyo3(annotation = "Device")]
    Device(Bound<'py, Device>),
    #[pyo3(annotation = "str")]
    Name(String),
}

impl DeviceArgument<'_> {
    pub(crate) fn resolve(&self, py: Python<'_>) -> Result<gpu_events::Device> {
        match self {
            Self::Device(device) => Ok(device.get().0.clone()),
            Self::Name(name) => open(py, name),
        }
    }
}

/// The devices that can be opened here, GPUs first.
#[pyfunction]
pub(crate) fn devices(py: Python<'_>) -> Result<Vec<DeviceInfo>> {
    check_fork()?;
    Ok(py.detach(gpu_events::Device::list).into_iter().map(DeviceInfo).collect())
}

/// What a device is.
#[pyclass(frozen, module = "gpu_events")]
pub(crate) struct DeviceInfo(gpu_events::DeviceInfo);

#[pymethods]
impl DeviceInfo {
    /// The name that opens it, as "cuda:0".
    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }

    /// The backend that drives it, as "cuda".
    #[getter]
    fn backend(&self) -> &'static str {
        self.0.backend
    }

    /// What the hardware or its driver calls it.
    #[getter]
    fn description(&self) -> &str {
        &self.0.description
    }

    /// Where its times come from.
    #[getter]
    fn clock(&self) -> &'static str {
        self.0.clock.source()
    }

    /// The step of its clock, in nanoseconds.
    #[getter]
    fn clock_resolution_ns(&self) -> u64 {
        self.0.clock.resolution().as_nanos() as u64
    }

    /// Whether its recordings can be timed.
    #[getter]
    fn timed(&self) -> bool {
        self.0.capabilities.timed
    }

    /// Whether the CPU does its work, as with Mesa's lavapipe.
    #[getter]
    fn emulated(&self) -> bool {
        self.0.emulated
    }

    /// How many incomplete recordings a stream takes before a recording waits; None: no limit.
    #[getter]
    fn queue_depth(&self) -> Option<u64> {
        self.0.capabilities.queue_depth
    }

    /// The most recordings that are gathered before they are submitted; None: each goes at once.
    #[getter]
    fn batch_bound(&self) -> Option<u64> {
        self.0.capabilities.batch_bound
    }

    /// The backends whose events its streams wait for without the host's help.
    #[getter]
    fn native_waits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.0.capabilities.native_waits)
    }

    fn __repr__(&self) -> String {
        format!("<gpu_events.DeviceInfo {}: {}>", self.0.name, self.0.description)
    }
}

/// An opened device. A name means one device in the whole process: Device("cpu") is equal to Device("cpu:0"), until it is closed.
///
/// Raises InvalidArgumentError if that is no device's name, and UnavailableError, with the reason, if there is none here.
#[pyclass(frozen, weakref, module = "gpu_events")]
pub(crate) struct Device(pub(crate) gpu_events::Device);

#[pymethods]
impl Device {
    #[new]
    fn new(py: Python<'_>, name: &str) -> Result<Self> {
        open(py, name).map(Self)
    }

    /// The device that is used where none is named: the first of devices() that is not emulated.
    #[staticmethod]
    fn default(py: Python<'_>) -> Result<Self> {
        default_device(py).map(Self)
    }

    /// The name that opens it.
    #[getter]
    fn name(&self) -> &str {
        self.0.name()
    }

    /// What it is.
    #[getter]
    fn info(&self) -> DeviceInfo {
        DeviceInfo(self.0.info().clone())
    }

    /// Makes a stream.
    ///
    /// label names it for reports. queue_depth is how many incomplete recordings it takes before a recording waits for room;
    /// batch_bound how many recordings are gathered, where the device gathers any. signal is "cheap" (for events that other
    /// streams wait for) or "prompt" (for events that the host waits for), where the device has the choice.
    #[pyo3(signature = (label=None, queue_depth=None, batch_bound=None, signal=None))]
    fn create_stream(
        &self,
        py: Python<'_>,
        label: Option<String>,
        queue_depth: Option<u64>,
        batch_bound: Option<u64>,
        signal: Option<&str>,
    ) -> Result<Stream> {
        Stream::create(py, &self.0, Options { label, queue_depth, batch_bound, signal })
    }

    /// The stream that is used where none is named.
    fn default_stream(&self, py: Python<'_>) -> Result<Stream> {
        Ok(Stream::of(Handle::default_of(py, &self.0)?))
    }

    /// An event that the host completes, and the signal to do so. The event is pending from the start.
    #[pyo3(signature = (label=None))]
    fn host_event(&self, label: Option<String>) -> Result<(Event, HostSignal)> {
        let (event, signal) = match &label {
            Some(label) => self.0.host_event_labeled(label)?,
            None => self.0.host_event()?,
        };
        Ok((Event::of(event, &self.0, false, label), HostSignal::new(signal)))
    }

    /// Who on this device waits for what, since when, and which end of the chain has not moved.
    fn stall_report(&self, py: Python<'_>) -> Result<String> {
        check_fork()?;
        Ok(py.detach(|| self.0.stall_report().to_string()))
    }

    /// Ends the device for all who use it in this process: what is pending fails with ClosedError, callbacks run with that, and
    /// the name opens it anew. Doing it again does nothing.
    fn close(&self, py: Python<'_>) -> Result<()> {
        check_fork()?;
        py.detach(|| self.0.close());
        Ok(())
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self) -> bool {
        self.0.is_closed()
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> Result<()> {
        self.close(py)
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| other.get().0.id() == self.0.id())
    }

    fn __hash__(&self) -> u64 {
        hash(self.0.id())
    }

    fn __repr__(&self) -> String {
        let closed = if self.0.is_closed() { " closed" } else { "" };
        format!("<gpu_events.Device {}{closed}>", self.0.name())
    }

    fn __reduce__(&self) -> Result<()> {
        Err(Failure::Python(no_pickling("Device")))
    }
}

/// A hash of an id, for `__hash__`.
pub(crate) fn hash(id: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}
