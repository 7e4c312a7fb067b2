//! Core errors as Python exceptions.

use gpu_events::ErrorKind;
use pyo3::{
    exceptions::{PyRuntimeError, PyTypeError},
    prelude::*,
    sync::PyOnceLock,
};

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a call from Python failed: in the core, or in Python. Turned into an exception at the very end, so that inner code can
/// look at the kind.
#[derive(Debug)]
pub(crate) enum Failure {
    Core(gpu_events::Error),
    Python(PyErr),
}

impl Failure {
    /// An argument that makes no sense, and why.
    pub(crate) fn argument(text: impl Into<String>) -> Self {
        Self::Core(gpu_events::Error::with_text(ErrorKind::InvalidArgument, text))
    }
}

impl From<gpu_events::Error> for Failure {
    fn from(error: gpu_events::Error) -> Self {
        Self::Core(error)
    }
}

impl From<ErrorKind> for Failure {
    fn from(kind: ErrorKind) -> Self {
        Self::Core(kind.into())
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Core(error) => Python::attach(|py| exception(py, &error)),
            Failure::Python(error) => error,
        }
    }
}

/// The exception that `error` is. Its class is chosen in `_errors.py`.
pub(crate) fn exception(py: Python<'_>, error: &gpu_events::Error) -> PyErr {
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let (kind, message) = (format!("{:?}", error.kind()), error.to_string());
    let made = MAKE
        .get_or_try_init(py, || py.import("gpu_events._errors")?.getattr("make").map(Bound::unbind))
        .and_then(|make| make.bind(py).call1((kind, &message)));
    match made {
        Ok(exception) => PyErr::from_value(exception),
        // The interpreter is being torn down.
        Err(_) => PyRuntimeError::new_err(message),
    }
}

/// The answer of `__reduce__`, which pickle and copy ask.
pub(crate) fn no_pickling(class: &str) -> PyErr {
    PyTypeError::new_err(format!("cannot pickle or copy a gpu_events.{class}: it belongs to this process"))
}
