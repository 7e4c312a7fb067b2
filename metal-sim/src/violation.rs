//! What a client did that Apple's documentation forbids.

use crate::random;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

static VIOLATIONS: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// Whether a violation ends the process. It does unless a test asked to collect them.
static ABORTS: AtomicBool = AtomicBool::new(true);

/// Records a violation, and ends the process on the spot unless violations are being collected.
///
/// It aborts rather than panics: violations are found in destructors, on the simulation's own threads and below
/// foreign frames, where a panic would be lost or do harm of its own.
pub(crate) fn violation(text: impl Into<String>) {
    let text = text.into();
    let fatal = ABORTS.load(Ordering::Relaxed);
    if fatal {
        report(&text);
        std::process::abort();
    }
    VIOLATIONS.lock().unwrap_or_else(PoisonError::into_inner).push(text);
}

/// Ends the process for a violation after which there is nothing sensible to go on with.
pub(crate) fn fatal(text: impl AsRef<str>) -> ! {
    report(text.as_ref());
    std::process::abort();
}

fn report(text: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("?");
    let trace = std::backtrace::Backtrace::capture();
    // Not `eprintln!`: a test's captured output would be lost with the process. A failure to write is no reason
    // to go on.
    let _ = writeln!(
        std::io::stderr(),
        "\nmetal-sim: violation on thread '{name}': {text}\n(METAL_SIM_SEED={})\n{trace}",
        random::seed()
    );
}

/// The texts of all violations since [`take_violations`] was last called. There can only be any while they don't
/// abort: see [`Control::collect_violations`](crate::Control::collect_violations).
#[must_use]
pub fn violations() -> Vec<String> {
    VIOLATIONS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Like [`violations`], and forgets them.
#[must_use]
pub fn take_violations() -> Vec<String> {
    std::mem::take(&mut VIOLATIONS.lock().unwrap_or_else(PoisonError::into_inner))
}

pub(crate) fn set_aborting(aborts: bool) {
    ABORTS.store(aborts, Ordering::Relaxed);
}

/// Ends the process if it is dropped by a panic: for code that a panic must not leave.
pub(crate) struct AbortOnUnwind(pub(crate) &'static str);

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        if std::thread::panicking() {
            fatal(format!("a panic left {}", self.0));
        }
    }
}
