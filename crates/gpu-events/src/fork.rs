//! Noticing that this process is a fork's child (R41).
//!
//! The threads that would complete anything live in the parent only, and a lock may have been held while it
//! forked: a child that goes on would hang or corrupt. So every entry point asks [`check`] first, one relaxed
//! load, before it takes a lock.

use crate::error::{Error, ErrorKind, Result};
use std::sync::atomic::{AtomicBool, Ordering};

/// Not from `primitive`: it is set between two lives of a process, which is nothing that loom could model.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Has a fork noticed from now on. Called when devices are listed or the first is opened.
pub(crate) fn watch() {
    #[cfg(unix)]
    {
        use std::sync::Once;

        extern "C" fn in_child() {
            // Relaxed: a child has one thread.
            FORKED.store(true, Ordering::Relaxed);
        }
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // SAFETY: `in_child` only stores to an atomic, which is safe to do in a child of a process with threads.
            // A refusal (no memory) leaves forks unnoticed, which is where every other library is.
            unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        });
    }
}

/// Whether this is a child of the process that opened the devices.
#[inline]
pub(crate) fn happened() -> bool {
    // Relaxed: see `in_child`.
    FORKED.load(Ordering::Relaxed)
}

/// Whether this process may go on: every call of this crate asks so before it takes a lock, and whoever wraps the crate in
/// locks of his own has to do the same (R41).
///
/// # Errors
/// [`ErrorKind::Forked`] in a child of the process that opened the first device.
#[inline]
pub fn check() -> Result<()> {
    if happened() { Err(Error::new(ErrorKind::Forked)) } else { Ok(()) }
}
