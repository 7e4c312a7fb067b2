//! Streams.

use crate::{
    device::{Device, DeviceArgument, default_device, hash},
    errors::{Failure, Result, exception, no_pickling},
    event::Event,
    foreign,
    gate::{self, Kept},
    wait,
};
use gpu_events::{EventPool, Signal, StreamOptions, WaitOptions, WaitOutcome, check_fork};
use pyo3::{exceptions::PyTypeError, prelude::*, types::PyTuple};
use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

/// A deadline that is over: a wait until then only asks, and need not look at the clock first.
static BYGONE: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A core stream, and whether its calls may block.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(crate) stream: gpu_events::Stream,
    /// A driver is called, or a recording may have to wait for room: not with the GIL in hand. A CPU stream without a bound does
    /// neither, and giving the GIL back would cost more than the rest of a recording. `Some` if it may, with the pool that new
    /// events come from.
    blocks: Option<EventPool>,
}

impl Handle {
    pub(crate) fn new(stream: gpu_events::Stream) -> Self {
        let blocks = stream.device().info().backend != "cpu";
        Self::with(stream, blocks)
    }

    fn with(stream: gpu_events::Stream, blocks: bool) -> Self {
        let blocks = blocks.then(|| stream.device().pool());
        Self { stream, blocks }
    }

    pub(crate) fn default_of(py: Python<'_>, device: &gpu_events::Device) -> Result<Self> {
        if device.info().backend == "cpu" {
            return Ok(Self::with(device.default_stream()?, false));
        }
        Ok(Self::with(py.detach(|| device.default_stream())?, true))
    }

    /// Runs a call on the stream, with the GIL released where it may block.
    #[inline]
    pub(crate) fn call<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&gpu_events::Stream) -> T + Send,
    ) -> T {
        if self.blocks.is_some() { py.detach(|| call(&self.stream)) } else { call(&self.stream) }
    }

    /// Records an event that was recorded before, or is to be bound to this stream's device.
    pub(crate) fn record(&self, py: Python<'_>, event: &gpu_events::Event) -> Result<()> {
        if self.blocks.is_none() {
            return Ok(event.record(&self.stream)?);
        }
        let now = WaitOptions::new().deadline(*BYGONE);
        if py.detach(|| event.record_with(&self.stream, &now))? == WaitOutcome::TimedOut {
            // The queue is full: from here on a signal may interrupt it.
            wait::block(py, None, false, |options| {
                Ok(event.record_with(&self.stream, options)?.is_complete().then_some(()))
            })?;
        }
        Ok(())
    }

    /// A new event, recorded.
    #[inline]
    pub(crate) fn record_new(&self, py: Python<'_>, timed: bool) -> Result<gpu_events::Event> {
        let Some(pool) = &self.blocks else {
            return Ok(if timed { self.stream.record_timed() } else { self.stream.record() }?);
        };
        check_fork()?;
        let event = if timed { pool.acquire_timed() } else { pool.acquire() };
        self.record(py, &event)?;
        Ok(event)
    }
}

/// What a stream can be made with.
pub(crate) struct Options<'a> {
    pub(crate) label: Option<String>,
    pub(crate) queue_depth: Option<u64>,
    pub(crate) batch_bound: Option<u64>,
    pub(crate) signal: Option<&'a str>,
}

/// An in-order queue of work on one device: of Device or name, or of the default device. The options are those of
/// Device.create_stream.
///
/// Streams of PyTorch, CuPy, Numba and cuda.core are taken wherever one of these is.
#[pyclass(frozen, weakref, module = "gpu_events")]
pub(crate) struct Stream {
    pub(crate) handle: Handle,
}

impl Stream {
    pub(crate) fn of(handle: Handle) -> Self {
        Self { handle }
    }

    pub(crate) fn create(py: Python<'_>, device: &gpu_events::Device, options: Options<'_>) -> Result<Self> {
        let blocks = device.info().backend != "cpu" || options.queue_depth.is_some();
        let mut made = StreamOptions::new();
        if let Some(label) = options.label {
            made = made.label(label);
        }
        if let Some(depth) = options.queue_depth {
            made = made.queue_depth(depth);
        }
        if let Some(bound) = options.batch_bound {
            made = made.batch_bound(bound);
        }
        made = match options.signal {
            None => made,
            Some("cheap") => made.signal(Signal::Cheap),
            Some("prompt") => made.signal(Signal::Prompt),
            Some(other) => {
                return Err(Failure::argument(format!(
                    "signal is {other:?}, and has to be 'cheap' or 'prompt'"
                )));
            }
        };
        let stream = py.detach(|| device.create_stream_with(&made))?;
        Ok(Self { handle: Handle::with(stream, blocks) })
    }

    fn core(&self) -> &gpu_events::Stream {
        &self.handle.stream
    }

    fn raw(&self) -> Result<usize> {
        check_fork()?;
        Ok(self.core().cuda()?.raw() as usize)
    }
}

#[pymethods]
impl Stream {
    #[new]
    #[pyo3(signature = (device=None, *, label=None, queue_depth=None, batch_bound=None, signal=None))]
    fn new(
        py: Python<'_>,
        device: Option<DeviceArgument<'_>>,
        label: Option<String>,
        queue_depth: Option<u64>,
        batch_bound: Option<u64>,
        signal: Option<&str>,
    ) -> Result<Self> {
        let device = device.map_or_else(|| default_device(py), |device| device.resolve(py))?;
        Self::create(py, &device, Options { label, queue_depth, batch_bound, signal })
    }

    /// Takes over a stream of another library's: anything with __cuda_stream__, cuda_stream, ptr or handle. The object is kept
    /// alive for as long as it is needed. Its GPU is found out unless device says it.
    #[staticmethod]
    #[pyo3(signature = (stream, device=None))]
    fn from_external(
        py: Python<'_>,
        stream: &Bound<'_, PyAny>,
        device: Option<DeviceArgument<'_>>,
    ) -> Result<Self> {
        let device = device.map(|device| device.resolve(py)).transpose()?;
        let taken = foreign::take(stream, device.as_ref())?;
        if device.is_some_and(|device| device.id() != taken.handle().stream.device().id()) {
            return Err(gpu_events::ErrorKind::WrongDevice.into());
        }
        Ok(Self { handle: taken.handle().clone() })
    }

    /// Records an event here, a new one if none is given, and returns it.
    #[pyo3(signature = (event=None))]
    fn record_event<'py>(
        &self,
        py: Python<'py>,
        event: Option<Bound<'py, Event>>,
    ) -> Result<Bound<'py, Event>> {
        match event {
            Some(event) => {
                event.get().record_on(py, &self.handle)?;
                Ok(event)
            }
            None => {
                let event = self.handle.record_new(py, false)?;
                Ok(Bound::new(py, Event::of(event, self.core().device(), false, None))?)
            }
        }
    }

    /// Holds work that is submitted from now on back until the event is complete. Never blocks the host.
    ///
    /// True if a wait was inserted; False if there was nothing to wait for. If the event fails, this stream fails with it.
    fn wait_event(&self, py: Python<'_>, event: &Bound<'_, Event>) -> Result<bool> {
        event.get().wait_on(py, &self.handle)
    }

    /// Holds work that is submitted from now on back until all that was submitted to the other stream is done. True if a wait was
    /// inserted.
    fn wait_stream(&self, py: Python<'_>, stream: &Bound<'_, PyAny>) -> Result<bool> {
        let other = foreign::take(stream, Some(self.core().device()))?;
        let event = other.handle().record_new(py, false)?;
        Ok(self.handle.call(py, |stream| stream.wait(&event))?.inserted())
    }

    /// Blocks until all that was submitted is done. False if the timeout (seconds) is over first; raises the stream's failure.
    #[pyo3(signature = (timeout=None))]
    fn synchronize(&self, py: Python<'_>, timeout: Option<f64>) -> Result<bool> {
        check_fork()?;
        let deadline = wait::deadline(timeout)?;
        let mut recorded = None;
        let found = wait::block(py, deadline, true, |options| {
            // Marked once: what others submit while this waits is not waited for. Before that there may be no room.
            if recorded.is_none() {
                let event = self.core().device().pool().acquire();
                match event.record_with(self.core(), options)? {
                    WaitOutcome::Complete => recorded = Some(event),
                    WaitOutcome::TimedOut => return Ok(None),
                }
            }
            let Some(event) = &recorded else { return Ok(None) };
            Ok(event.wait_with(options)?.is_complete().then_some(()))
        })?;
        Ok(found.is_some())
    }

    /// Whether all that was submitted is done. Never blocks; raises the stream's failure.
    fn query(&self, py: Python<'_>) -> Result<bool> {
        let now = WaitOptions::new().timeout(Duration::ZERO);
        Ok(self.handle.call(py, |stream| stream.synchronize_with(&now))?.is_complete())
    }

    /// Submits what is gathered, where the device gathers any. Never blocks; raises the stream's failure.
    fn flush(&self, py: Python<'_>) -> Result<()> {
        Ok(self.handle.call(py, |stream| stream.flush())?)
    }

    /// Has callable(*args) run on this CPU stream, behind all that was submitted before, on a thread of the library's and with
    /// the GIL. An exception fails the stream, with its text.
    ///
    /// What has not begun when the interpreter exits does not run. Raises UnsupportedError on other devices.
    #[pyo3(signature = (callable, /, *args))]
    fn enqueue(&self, callable: Bound<'_, PyAny>, args: Bound<'_, PyTuple>) -> Result<()> {
        let cpu = self.core().cpu()?;
        if !callable.is_callable() {
            return Err(Failure::Python(PyTypeError::new_err(
                "enqueue takes something to call, and its arguments",
            )));
        }
        let work = Kept::new((callable.unbind(), args.unbind()));
        cpu.enqueue(move || {
            // Moved in, to be dropped while the GIL is there.
            gate::attach(move |py| {
                let (callable, args) = work.get();
                callable.call1(py, args.bind(py)).map(drop).map_err(|error| error.to_string())
            })
            .unwrap_or_else(|| Err("the interpreter is exiting".to_owned()))
        })?;
        Ok(())
    }

    /// The stream's first failure, or None.
    #[getter]
    fn error<'py>(&self, py: Python<'py>) -> Result<Option<Bound<'py, PyAny>>> {
        check_fork()?;
        Ok(self.core().error().map(|error| exception(py, &error).into_value(py).into_bound(py).into_any()))
    }

    /// The CUstream, as an int. Raises UnsupportedError on other devices.
    #[getter]
    fn cuda_stream(&self) -> Result<usize> {
        self.raw()
    }

    /// The protocol by which CUDA libraries take each other's streams: its version, and the CUstream.
    fn __cuda_stream__(&self) -> Result<(u32, usize)> {
        Ok((0, self.raw()?))
    }

    /// The label that it was given.
    #[getter]
    fn label(&self) -> Option<&str> {
        self.core().label()
    }

    /// The device that it is on.
    #[getter]
    fn device(&self) -> Device {
        Device(self.core().device().clone())
    }

    /// A number that no other stream of this process has.
    #[getter]
    fn stream_id(&self) -> u64 {
        self.core().id().get()
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| other.get().core().id() == self.core().id())
    }

    fn __hash__(&self) -> u64 {
        hash(self.core().id())
    }

    fn __repr__(&self) -> String {
        let label = self.core().label().map(|label| format!(" {label:?}")).unwrap_or_default();
        format!("<gpu_events.Stream {}{label} on {}>", self.core().id().get(), self.core().device().name())
    }

    fn __reduce__(&self) -> Result<()> {
        Err(Failure::Python(no_pickling("Stream")))
    }
}
