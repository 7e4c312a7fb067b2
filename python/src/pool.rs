//! Pools.

use crate::{
    device::{Device, DeviceArgument, default_device},
    errors::{Failure, Result, no_pickling},
    event::Event,
};
use gpu_events::check_fork;
use pyo3::prelude::*;

/// A pool of events of one device: a Device or its name, or the default device.
///
/// It keeps at most max_idle events for reuse (4096 unless told otherwise), and never limits how many are out. Events may
/// outlive it. Each device has a pool of its own that Event and Stream.record_event take from; another one is for a bound of its
/// own, and for statistics.
#[pyclass(frozen, weakref, module = "gpu_events")]
pub(crate) struct EventPool(gpu_events::EventPool);

#[pymethods]
impl EventPool {
    #[new]
    #[pyo3(signature = (device=None, max_idle=None))]
    fn new(py: Python<'_>, device: Option<DeviceArgument<'_>>, max_idle: Option<usize>) -> Result<Self> {
        let device = device.map_or_else(|| default_device(py), |device| device.resolve(py))?;
        check_fork()?;
        let bound = max_idle.unwrap_or(gpu_events::EventPool::DEFAULT_BOUND);
        Ok(Self(gpu_events::EventPool::bounded(&device, bound)))
    }

    /// An event that is not recorded yet.
    #[pyo3(signature = (enable_timing=false))]
    fn acquire(&self, enable_timing: bool) -> Result<Event> {
        check_fork()?;
        let event = if enable_timing { self.0.acquire_timed() } else { self.0.acquire() };
        Ok(Event::of(event, self.0.device(), false, None))
    }

    /// Frees what is kept for reuse. Events that are out are not touched. What other threads keep for themselves, 64 at most for
    /// each, they free when they next use the pool.
    fn empty_cache(&self) -> Result<()> {
        check_fork()?;
        self.0.empty_cache();
        Ok(())
    }

    /// What the pool has been up to.
    fn statistics(&self) -> Result<PoolStatistics> {
        check_fork()?;
        Ok(PoolStatistics(self.0.statistics()))
    }

    /// The device whose events these are.
    #[getter]
    fn device(&self) -> Device {
        Device(self.0.device().clone())
    }

    fn __repr__(&self) -> String {
        format!("<gpu_events.EventPool on {}>", self.0.device().name())
    }

    fn __reduce__(&self) -> Result<()> {
        Err(Failure::Python(no_pickling("EventPool")))
    }
}

/// What a pool has been up to. Exact when no other thread is using it.
#[pyclass(frozen, module = "gpu_events")]
pub(crate) struct PoolStatistics(gpu_events::PoolStatistics);

#[pymethods]
impl PoolStatistics {
    /// Event objects that were made.
    #[getter]
    fn created(&self) -> u64 {
        self.0.created
    }

    /// Events that were handed out.
    #[getter]
    fn acquired(&self) -> u64 {
        self.0.acquired
    }

    /// Events that are out.
    #[getter]
    fn live(&self) -> u64 {
        self.0.live
    }

    /// Objects that are kept to be handed out again.
    #[getter]
    fn idle(&self) -> u64 {
        self.0.idle
    }

    /// The most that are kept.
    #[getter]
    fn bound(&self) -> u64 {
        self.0.bound
    }

    fn __repr__(&self) -> String {
        let gpu_events::PoolStatistics { created, acquired, live, idle, bound, .. } = self.0;
        format!(
            "<gpu_events.PoolStatistics created={created} acquired={acquired} live={live} idle={idle} bound={bound}>"
        )
    }
}
