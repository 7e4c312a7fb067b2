//! The host as a producer (R39).

use crate::errors::{Failure, Result, no_pickling};
use gpu_events::check_fork;
use pyo3::prelude::*;
use std::sync::{Mutex, PoisonError};

/// The producer's end of an event that the host completes; see Device.host_event.
///
/// Signals once. Dropped before that, the event fails: nobody waits for a producer that has gone.
#[pyclass(frozen, weakref, module = "gpu_events")]
pub(crate) struct HostSignal(Mutex<Option<gpu_events::HostSignal>>);

impl HostSignal {
    pub(crate) fn new(signal: gpu_events::HostSignal) -> Self {
        Self(Mutex::new(Some(signal)))
    }

    fn take(&self) -> Result<gpu_events::HostSignal> {
        check_fork()?;
        let signal = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        signal.ok_or_else(|| Failure::argument("the signal was given already"))
    }
}

#[pymethods]
impl HostSignal {
    /// Completes the event. Raises InvalidArgumentError if it was completed or failed before.
    fn complete(&self, py: Python<'_>) -> Result<()> {
        let signal = self.take()?;
        // What waited may be given to a driver now.
        py.detach(|| signal.complete());
        Ok(())
    }

    /// Fails the event, and whoever waits for it, with WorkFailedError and this text. Raises InvalidArgumentError if it was
    /// completed or failed before.
    fn fail(&self, py: Python<'_>, reason: String) -> Result<()> {
        let signal = self.take()?;
        py.detach(|| signal.fail(reason));
        Ok(())
    }

    fn __repr__(&self) -> &'static str {
        "<gpu_events.HostSignal>"
    }

    fn __reduce__(&self) -> Result<()> {
        Err(Failure::Python(no_pickling("HostSignal")))
    }
}
