//! Callbacks.

use crate::{
    errors::{Failure, Result, exception, no_pickling},
    gate::{self, Kept},
};
use gpu_events::{Error, ErrorKind, check_fork};
use pyo3::{exceptions::PyTypeError, prelude::*};

/// A registered callback, to cancel it. Dropping this leaves the callback registered.
#[pyclass(frozen, weakref, module = "gpu_events")]
pub(crate) struct Callback(gpu_events::Callback);

#[pymethods]
impl Callback {
    /// Cancels the callback. True: it has not run and never will. False: it has run, is running, or was cancelled before.
    fn cancel(&self) -> Result<bool> {
        check_fork()?;
        Ok(self.0.cancel())
    }

    fn __repr__(&self) -> &'static str {
        "<gpu_events.Callback>"
    }

    fn __reduce__(&self) -> Result<()> {
        Err(Failure::Python(no_pickling("Callback")))
    }
}

pub(crate) fn register(event: &gpu_events::Event, callback: Bound<'_, PyAny>) -> Result<Callback> {
    if !callback.is_callable() {
        return Err(Failure::Python(PyTypeError::new_err("on_complete takes something to call")));
    }
    if gate::is_closed() {
        // It would never be called, and who awaits it would wait for ever.
        return Err(Error::with_text(ErrorKind::Closed, "the interpreter is exiting").into());
    }
    let callback = Kept::new(callback.unbind());
    let registered = event.on_complete(move |outcome| {
        // Moved in, to be dropped while the GIL is there.
        gate::attach(move |py| {
            let callback = callback.get().bind(py);
            let error = outcome.err().map(|error| exception(py, &error).into_value(py));
            if let Err(raised) = callback.call1((error,)) {
                raised.write_unraisable(py, Some(callback));
            }
        });
    })?;
    Ok(Callback(registered))
}
