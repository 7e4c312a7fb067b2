//! What a command buffer does: its commands, and how one is run.

use super::event::EventState;
use super::resource::Memory;
use crate::kernels::{Bindings, Grid, Kernel};
use crate::runtime;
use crate::track::{Apart, Track};
use crate::violation::{AbortOnUnwind, violation};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::AnyObject;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A use of an object by a command buffer: retained, unless the buffer doesn't retain references.
#[derive(Debug)]
pub(crate) struct Use<S> {
    /// Only kept, never used.
    _retained: Option<SendObject>,
    /// Where the object is: if it is not retained, then to notice that it is gone.
    address: *const AnyObject,
    state: Arc<S>,
}

#[derive(Debug)]
struct SendObject(#[expect(dead_code, reason = "it is kept for its reference")] Retained<AnyObject>);

// SAFETY: only classes of the simulation get here, and they are all thread-safe.
unsafe impl Send for SendObject {}
// SAFETY: as above.
unsafe impl Sync for SendObject {}
// SAFETY: the address is only compared with what the runtime knows.
unsafe impl<S: Send + Sync> Send for Use<S> {}
// SAFETY: as above.
unsafe impl<S: Send + Sync> Sync for Use<S> {}

impl<S> Use<S> {
    pub(super) fn new(object: &AnyObject, state: Arc<S>, retain: bool) -> Self {
        let retained = retain.then(|| SendObject(objc2::Message::retain(object)));
        Self { _retained: retained, address: object, state }
    }

    pub(crate) fn state(&self) -> &S {
        &self.state
    }

    pub(super) fn shared(&self) -> &Arc<S> {
        &self.state
    }

    /// Whether the object is still there; complains if not.
    fn check(&self, what: &str) -> bool {
        // SAFETY: the object was alive when it was encoded, and dead ones stay in the quarantine for long.
        let alive = unsafe { runtime::is_live(self.address.cast()) };
        if !alive {
            violation(format!("a command buffer that retains no references uses a deallocated {what}"));
        }
        alive
    }
}

/// What is bound at an index of a compute encoder.
#[derive(Debug, Default)]
pub(crate) enum Slot {
    #[default]
    Empty,
    Buffer(Use<Memory>, usize),
    Bytes(Box<[u8]>),
}

/// A command.
#[derive(Debug)]
pub(super) enum Op {
    Wait(Use<EventState>, u64),
    Signal(Use<EventState>, u64),
    Copy {
        from: Use<Memory>,
        from_offset: usize,
        to: Use<Memory>,
        to_offset: usize,
        size: usize,
    },
    Fill {
        to: Use<Memory>,
        offset: usize,
        size: usize,
        value: u8,
    },
    Dispatch {
        kernel: Kernel,
        grid: Grid,
        slots: Vec<Slot>,
    },
    /// Code of a test's: not part of Metal.
    Host(HostWork),
}

type Work = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// A test's own code, as a command.
pub(super) struct HostWork {
    work: Mutex<Option<Work>>,
    /// Whether it failed: looked at without ordering anything, so that the engine learns nothing else.
    failed: AtomicBool,
    text: Mutex<String>,
}

impl std::fmt::Debug for HostWork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HostWork").finish_non_exhaustive()
    }
}

impl HostWork {
    pub(super) fn new(work: impl FnOnce() -> Result<(), String> + Send + 'static) -> Self {
        Self {
            work: Mutex::new(Some(Box::new(work))),
            failed: AtomicBool::new(false),
            text: Mutex::default(),
        }
    }

    /// What there is to say about its failure, if it failed.
    pub(super) fn failure(&self) -> Option<String> {
        let failed = self.failed.load(Ordering::Relaxed);
        failed.then(|| self.text.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn run(&self) {
        let work = self.work.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(work) = work else { return };
        let outcome = autoreleasepool(|_| catch_unwind(AssertUnwindSafe(work)));
        if let Err(text) = outcome.unwrap_or_else(|_| Err("it panicked".into())) {
            *self.text.lock().unwrap_or_else(PoisonError::into_inner) = text;
            self.failed.store(true, Ordering::Relaxed);
        }
    }
}

impl Op {
    /// Whether all that it uses is still there.
    pub(super) fn check(&self) -> bool {
        match self {
            Self::Wait(event, _) | Self::Signal(event, _) => event.check("event"),
            Self::Copy { from, to, .. } => from.check("MTLBuffer") && to.check("MTLBuffer"),
            Self::Fill { to, .. } => to.check("MTLBuffer"),
            Self::Dispatch { slots, .. } => slots.iter().all(|slot| match slot {
                Slot::Buffer(memory, _) => memory.check("MTLBuffer"),
                Slot::Empty | Slot::Bytes(_) => true,
            }),
            Self::Host(_) => true,
        }
    }
}

/// The commands of a committed buffer, and its track.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) ops: Vec<Op>,
    pub(super) track: Track,
}

/// Runs one command: on a track, see there for what may be done here.
pub(super) fn run(op: *const Op) -> u64 {
    // SAFETY: the commands of a program don't change.
    match unsafe { &*op } {
        // Acquire: all that was done before the signal happened before what comes now. The value itself was looked at
        // before: this is only for that order.
        Op::Wait(event, _) => event.state().value.load(Ordering::Acquire),
        // Release, so that the above holds; and an earlier signal's release is kept, since this is an exchange. (Not
        // `fetch_max`: ThreadSanitizer doesn't see that.)
        Op::Signal(event, value) => {
            let larger = |now: u64| Some(now.max(*value));
            event.state().value.fetch_update(Ordering::Release, Ordering::Relaxed, larger).unwrap_or_default()
        }
        Op::Copy { from, from_offset, to, to_offset, size } => {
            let from = from.state().pointer().wrapping_add(*from_offset);
            let to = to.state().pointer().wrapping_add(*to_offset);
            if *size == size_of::<u32>() && from.cast::<u32>().is_aligned() && to.cast::<u32>().is_aligned() {
                // A word is written whole, and a host may look at it meanwhile: the conformance suite does, where looking
                // must not be an observation of any event. (More than a word, or none, is as plain as the rest.)
                // SAFETY: in bounds, as below, and aligned; whoever else accesses it meanwhile does so atomically, or races.
                let (from, to) =
                    unsafe { (AtomicU32::from_ptr(from.cast()), AtomicU32::from_ptr(to.cast())) };
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
                return 0;
            }
            // SAFETY: both ranges were checked when the command was encoded. (Overlapping ones are allowed here.)
            unsafe { std::ptr::copy(from, to, *size) };
            0
        }
        Op::Fill { to, offset, size, value } => {
            // SAFETY: the range was checked when the command was encoded.
            unsafe { to.state().pointer().wrapping_add(*offset).write_bytes(*value, *size) };
            0
        }
        Op::Dispatch { .. } | Op::Host(_) => unreachable!("they run apart"),
    }
}

impl Apart for Op {
    fn run(&self) {
        match self {
            Self::Dispatch { kernel, grid, slots } => {
                let abort = AbortOnUnwind("a kernel");
                (kernel.0)(grid, &mut Bindings::new(slots));
                drop(abort);
            }
            Self::Host(work) => work.run(),
            Self::Wait(..) | Self::Signal(..) | Self::Copy { .. } | Self::Fill { .. } => {
                unreachable!("they run on the track")
            }
        }
    }
}
