//! Completions on their way to an asyncio loop, without the GIL.
//!
//! A thread that runs Python without a pause gives the GIL up every 5 ms, if somebody asks. So whoever learns of a completion
//! does not ask: it notes the completion's number and, if it is the first note since the loop looked, writes a byte to a socket
//! that the loop watches beside its own (`add_reader`). All that touches Python happens on the loop's thread, in `_aio.py`.

use crate::{
    errors::{Result, exception},
    event::Event,
    gate,
};
use gpu_events::{Completion, Error, ErrorKind, check_fork};
use pyo3::prelude::*;
use std::{
    collections::HashMap,
    ffi::c_int,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

/// Not in a fork's child: the lock may be held by a thread that is not there.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the completions arrive that one loop awaits. For `_aio.py` alone.
#[pyclass(frozen, module = "gpu_events._native")]
pub(crate) struct Inbox {
    notes: Arc<Notes>,
    awaited: Mutex<Awaited>,
}

/// What is awaited, by number. Dropping an entry takes its registration back.
#[derive(Default)]
struct Awaited {
    last: u64,
    entries: HashMap<u64, Entry>,
}

struct Entry {
    completion: Completion,
    waker: Waker,
}

impl Entry {
    fn poll(&mut self) -> Poll<gpu_events::Result<()>> {
        Pin::new(&mut self.completion).poll(&mut Context::from_waker(&self.waker))
    }
}

#[pymethods]
impl Inbox {
    /// Raises OSError if the process may open no more files, and where there is no such socket.
    #[new]
    fn new() -> Result<Self> {
        check_fork()?;
        let notes = Notes { numbers: Mutex::default(), bell: Bell::new().map_err(PyErr::from)? };
        Ok(Self { notes: Arc::new(notes), awaited: Mutex::default() })
    }

    /// What the loop is to watch. Open until the Inbox has gone.
    fn fileno(&self) -> c_int {
        self.notes.bell.fileno()
    }

    /// Awaits the event's current recording: the number under which collect() will tell of it, or None if it is complete.
    /// Raises its failure.
    fn expect(&self, event: &Bound<'_, Event>) -> Result<Option<u64>> {
        check_fork()?;
        if gate::is_closed() {
            // Whoever was to complete it may not run any more.
            return Err(Error::with_text(ErrorKind::Closed, "the interpreter is exiting").into());
        }
        let Some(event) = event.get().core() else { return Ok(None) };
        let mut awaited = lock(&self.awaited);
        let number = awaited.last + 1;
        let waker = Waker::from(Arc::new(Note { number, notes: self.notes.clone() }));
        let mut entry = Entry { completion: event.completion(), waker };
        match entry.poll() {
            Poll::Ready(outcome) => Ok(outcome.map(|()| None)?),
            Poll::Pending => {
                awaited.last = number;
                awaited.entries.insert(number, entry);
                Ok(Some(number))
            }
        }
    }

    /// Takes back what expect() began.
    fn forget(&self, number: u64) {
        // In a child there is nothing to take back.
        if check_fork().is_ok() {
            let forgotten = lock(&self.awaited).entries.remove(&number);
            // With no lock held.
            drop(forgotten);
        }
    }

    /// What was settled since the last time: numbers, each with its Error or None.
    fn collect<'py>(&self, py: Python<'py>) -> Result<Vec<(u64, Option<Bound<'py, PyAny>>)>> {
        // The byte is the parent's to read.
        check_fork()?;
        let mut settled = Vec::new();
        {
            let mut awaited = lock(&self.awaited);
            for number in self.notes.take() {
                // It may have been forgotten since.
                let Some(entry) = awaited.entries.get_mut(&number) else { continue };
                // Pending, it has registered anew.
                if let Poll::Ready(outcome) = entry.poll() {
                    settled.push((number, outcome, awaited.entries.remove(&number)));
                }
            }
        }
        let error = |outcome: gpu_events::Result<()>| {
            outcome.err().map(|error| exception(py, &error).into_value(py).into_bound(py).into_any())
        };
        Ok(settled.into_iter().map(|(number, outcome, _)| (number, error(outcome))).collect())
    }
}

/// Numbers that the loop is to be told of.
struct Notes {
    numbers: Mutex<Vec<u64>>,
    bell: Bell,
}

impl Notes {
    fn add(&self, number: u64) {
        let is_first = {
            let mut numbers = lock(&self.numbers);
            numbers.push(number);
            numbers.len() == 1
        };
        if is_first {
            self.bell.ring();
        }
    }

    fn take(&self) -> Vec<u64> {
        // Before looking: a note from now on rings again, should it come too late to be seen below.
        self.bell.silence();
        std::mem::take(&mut lock(&self.numbers))
    }
}

/// The waker of one await. It is called by whoever learns of the completion, so it takes no GIL and never blocks.
struct Note {
    number: u64,
    notes: Arc<Notes>,
}

impl Wake for Note {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // The socket is the parent's as well.
        if check_fork().is_ok() {
            self.notes.add(self.number);
        }
    }
}

/// Two ends of a socket, which live as long as anybody may ring: a byte never goes to a descriptor that has come to be another's,
/// nor to a socket that nobody can read, even when the loop has long been closed.
#[cfg(unix)]
struct Bell {
    rung: std::os::unix::net::UnixStream,
    heard: std::os::unix::net::UnixStream,
}

#[cfg(unix)]
impl Bell {
    fn new() -> io::Result<Self> {
        let (rung, heard) = std::os::unix::net::UnixStream::pair()?;
        for end in [&rung, &heard] {
            end.set_nonblocking(true)?;
        }
        Ok(Self { rung, heard })
    }

    fn fileno(&self) -> c_int {
        std::os::fd::AsRawFd::as_raw_fd(&self.heard)
    }

    fn ring(&self) {
        // There is room: two bytes at most lie there. `write_all` goes on after a signal.
        let _ = io::Write::write_all(&mut &self.rung, &[0]);
    }

    /// Takes out what was written, which at the loop's next look would be news again.
    fn silence(&self) {
        let mut bytes = [0; 8];
        while let Err(error) = io::Read::read(&mut &self.heard, &mut bytes) {
            if error.kind() != io::ErrorKind::Interrupted {
                // Nothing was there.
                return;
            }
        }
    }
}

/// Elsewhere asyncio's own loop watches no sockets (Windows' Proactor).
#[cfg(not(unix))]
enum Bell {}

#[cfg(not(unix))]
impl Bell {
    fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn fileno(&self) -> c_int {
        match *self {}
    }

    fn ring(&self) {
        match *self {}
    }

    fn silence(&self) {
        match *self {}
    }
}
