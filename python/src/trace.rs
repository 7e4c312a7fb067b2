//! Traces: what streams did, and when.

use crate::{
    errors::{Failure, Result, no_pickling},
    foreign,
    stream::Handle,
    wait,
};
use gpu_events::{StreamId, WaitOptions, check_fork, trace};
use pyo3::{
    exceptions::{PyOSError, PyRuntimeError},
    prelude::*,
    types::PyTuple,
};
use std::{
    cell::RefCell,
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// Only after `check_fork`: in a child, the lock may be held by a thread that is not there.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Collects spans of streams and of threads, and what the streams waited for, for a process of this name.
///
/// It keeps at most capacity spans and waits, and lets at most pending spans be under way; what comes on top is dropped and
/// counted, and nobody waits for room.
#[pyclass(frozen, weakref, module = "gpu_events")]
pub(crate) struct Tracer {
    tracer: trace::Tracer,
    /// The end of each stream's last span: once it is complete, all are.
    ends: Ends,
}

type Ends = Arc<Mutex<HashMap<StreamId, Arc<gpu_events::Event>>>>;

#[pymethods]
impl Tracer {
    #[new]
    #[pyo3(signature = (process_name, *, capacity=None, pending=None))]
    fn new(process_name: String, capacity: Option<usize>, pending: Option<usize>) -> Result<Self> {
        check_fork()?;
        let mut options = trace::TraceOptions::new();
        if let Some(capacity) = capacity {
            options = options.capacity(capacity);
        }
        if let Some(pending) = pending {
            options = options.pending(pending);
        }
        Ok(Self { tracer: trace::Tracer::with(process_name, options), ends: Ends::default() })
    }

    /// A span on a stream, around the work that is submitted within `with`.
    fn span(&self, stream: &Bound<'_, PyAny>, name: String) -> Result<Span> {
        check_fork()?;
        let on = foreign::take(stream, None)?.handle().clone();
        Ok(Span { tracer: self.tracer.clone(), ends: self.ends.clone(), on, name, open: Mutex::default() })
    }

    /// A span on this thread, for as long as `with` takes.
    fn thread_span(&self, name: String) -> Result<ThreadSpan> {
        check_fork()?;
        // Relaxed: only uniqueness matters.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ok(ThreadSpan { tracer: self.tracer.clone(), name, key: NEXT.fetch_add(1, Ordering::Relaxed) })
    }

    /// Has a stream's waits collected from now on. With its first span that comes by itself.
    fn watch(&self, py: Python<'_>, stream: &Bound<'_, PyAny>) -> Result<()> {
        check_fork()?;
        let on = foreign::take(stream, None)?;
        on.handle().call(py, |stream| self.tracer.watch(stream));
        Ok(())
    }

    /// Ends the trace, once all spans that have ended on the host are complete on their devices, and returns it. What is not
    /// complete when the timeout (seconds) is over is dropped and counted, and so are spans that are open still, and waits behind
    /// a stream's last span that are not over.
    #[pyo3(signature = (timeout=None))]
    fn finish(&self, py: Python<'_>, timeout: Option<f64>) -> Result<Trace> {
        check_fork()?;
        let deadline = wait::deadline(timeout)?;
        let ends: Vec<_> = lock(&self.ends).values().cloned().collect();
        // Here a signal can interrupt it, and not below. A failed stream's spans are dropped there.
        for end in ends {
            wait::block(py, deadline, false, |options| {
                Ok(end.wait_with(options).map_or(true, |outcome| outcome.is_complete()).then_some(()))
            })?;
        }
        let now = WaitOptions::new().deadline(Instant::now());
        Ok(Trace(py.detach(|| self.tracer.finish_with(&now))))
    }

    /// Spans and waits that were dropped so far.
    #[getter]
    fn dropped(&self) -> u64 {
        self.tracer.dropped()
    }

    fn __repr__(&self) -> &'static str {
        "<gpu_events.Tracer>"
    }

    fn __reduce__(&self) -> Result<()> {
        Err(Failure::Python(no_pickling("Tracer")))
    }
}

/// A span of a stream's: a context manager. See Tracer.span.
#[pyclass(frozen, module = "gpu_events")]
pub(crate) struct Span {
    tracer: trace::Tracer,
    ends: Ends,
    on: Handle,
    name: String,
    open: Mutex<Option<trace::SpanGuard>>,
}

#[pymethods]
impl Span {
    fn __enter__(slf: &Bound<'_, Self>) -> Result<Py<Self>> {
        check_fork()?;
        let span = slf.get();
        let guard = span.on.call(slf.py(), |stream| span.tracer.span(stream, &span.name));
        let before = lock(&span.open).replace(guard);
        // Entered again: the earlier one ends here.
        drop(before);
        Ok(slf.clone().unbind())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> Result<()> {
        check_fork()?;
        let guard = lock(&self.open).take();
        if let Some(end) = self.on.call(py, |_| guard.and_then(trace::SpanGuard::end)) {
            let before = lock(&self.ends).insert(self.on.stream.id(), end);
            drop(before);
        }
        Ok(())
    }

    fn __repr__(&self) -> String {
        format!("<gpu_events.Span {:?}>", self.name)
    }
}

/// A span of a thread's: a context manager. See Tracer.thread_span.
#[pyclass(frozen, module = "gpu_events")]
pub(crate) struct ThreadSpan {
    tracer: trace::Tracer,
    name: String,
    key: u64,
}

thread_local! {
    /// The spans that are open on this thread. They can't leave it, as Python's objects can.
    static OPEN: RefCell<Vec<(u64, trace::ThreadSpan)>> = const { RefCell::new(Vec::new()) };
}

#[pymethods]
impl ThreadSpan {
    fn __enter__(slf: &Bound<'_, Self>) -> Result<Py<Self>> {
        check_fork()?;
        let span = slf.get();
        OPEN.with_borrow_mut(|open| open.push((span.key, span.tracer.thread_span(&span.name))));
        Ok(slf.clone().unbind())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) -> Result<()> {
        check_fork()?;
        OPEN.with_borrow_mut(|open| {
            let at = open.iter().rposition(|(key, _)| *key == self.key);
            let at =
                at.ok_or_else(|| Failure::argument("a thread's span ends on the thread that it began on"))?;
            drop(open.remove(at));
            Ok(())
        })
    }

    fn __repr__(&self) -> String {
        format!("<gpu_events.ThreadSpan {:?}>", self.name)
    }
}

/// What happened: len() is the number of spans.
#[pyclass(frozen, weakref, module = "gpu_events")]
pub(crate) struct Trace(trace::Trace);

/// The error of a trace, in Python's terms.
fn told(error: &trace::Error) -> PyErr {
    match error.kind() {
        trace::ErrorKind::Io => {
            let reason =
                std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
            PyOSError::new_err(format!("{error}{reason}"))
        }
        _ => PyRuntimeError::new_err(error.to_string()),
    }
}

#[pymethods]
impl Trace {
    /// Writes it as a page for any browser. Raises OSError.
    fn write_html(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.0.write_html(path)).map_err(|error| told(&error))
    }

    /// Writes it for Perfetto. Raises OSError.
    fn write_perfetto(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.0.write_perfetto(path)).map_err(|error| told(&error))
    }

    /// Writes it as Chrome's JSON. Raises OSError.
    fn write_chrome(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.0.write_chrome(path)).map_err(|error| told(&error))
    }

    /// The timeline as text, so many characters wide.
    #[pyo3(signature = (width=100))]
    fn to_text(&self, width: usize) -> String {
        self.0.to_text(width)
    }

    /// The analysis as text: how long each stream was busy, waiting and idle, and the critical path.
    fn to_table(&self) -> String {
        self.0.to_table()
    }

    /// The spans, each as (track, name, start, end): nanoseconds of the host's monotonic clock.
    #[getter]
    fn spans(&self) -> Vec<(&str, &str, i64, i64)> {
        let track = |index: usize| self.0.tracks.get(index).map_or("", |track| &*track.name);
        self.0.spans.iter().map(|span| (track(span.track), &*span.name, span.start, span.end)).collect()
    }

    /// Spans and waits that were dropped.
    #[getter]
    fn dropped(&self) -> u64 {
        self.0.dropped()
    }

    fn __len__(&self) -> usize {
        self.0.spans.len()
    }

    fn __repr__(&self) -> String {
        format!("<gpu_events.Trace of {} spans>", self.0.spans.len())
    }
}
