//! The native half of the Python package `gpu_events`.
//!
//! Each module here is a Python class or a few. What they share: `errors` turns a core error into an exception, `wait` blocks
//! without the GIL and with an ear for signals, `gate` is the way of Rust's threads into Python and its end, `inbox` the way of
//! news to a loop that does without, `foreign` takes other libraries' streams.

mod callback;
mod device;
mod errors;
mod event;
mod foreign;
mod gate;
mod host;
mod inbox;
mod pool;
mod stream;
mod trace;
mod wait;

/// The native half of gpu_events. Import from gpu_events.
#[pyo3::pymodule]
mod _native {
    use pyo3::{exceptions::PyImportError, ffi, prelude::*};

    /// Threads of the library's come back to the interpreter that loaded it, and its end is theirs: there can be one.
    fn refuse_subinterpreters() -> PyResult<()> {
        // SAFETY: a module is made with the GIL in hand.
        let current = unsafe { ffi::PyInterpreterState_Get() };
        // SAFETY: it is the one that runs this.
        match unsafe { ffi::PyInterpreterState_GetID(current) } {
            0 => Ok(()),
            _ => Err(PyImportError::new_err(
                "gpu_events works in the main interpreter alone, and this is a subinterpreter",
            )),
        }
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        refuse_subinterpreters()?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }

    #[pymodule_export]
    use crate::{
        callback::Callback,
        device::{Device, DeviceInfo, devices},
        event::Event,
        gate::{after_fork, before_fork, close_gate},
        host::HostSignal,
        inbox::Inbox,
        pool::{EventPool, PoolStatistics},
        stream::Stream,
        trace::{Span, ThreadSpan, Trace, Tracer},
        wait::{wait_all, wait_any},
    };
}
