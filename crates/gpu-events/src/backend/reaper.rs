//! Lets go of what users gave to be kept, where nobody waits for that.

#[cfg(feature = "vulkan")]
use crate::fork;
use crate::{contain::contain, primitive::spawn};
#[cfg(feature = "vulkan")]
use std::mem::ManuallyDrop;
use std::{
    any::Any,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, Sender},
    },
};

/// What keeps a foreign object alive.
pub(super) type KeepAlive = Arc<dyn Any + Send + Sync>;

/// A thread, made when there is something to let go of: a user's destructor may do anything, and take its time.
pub(super) struct Reaper {
    name: String,
    thread: OnceLock<Option<Sender<KeepAlive>>>,
}

impl Reaper {
    /// Of the device with this name.
    pub(super) fn new(device: &str) -> Self {
        Self { name: format!("gpu-events lets go, {device}"), thread: OnceLock::new() }
    }

    /// Drops `kept` on the thread.
    pub(super) fn let_go_of(&self, kept: KeepAlive) {
        // SeqCst: with `quiesce`. Either this is counted, or it is leaked.
        PENDING.fetch_add(1, Ordering::SeqCst);
        if CLOSED.load(Ordering::SeqCst) {
            PENDING.fetch_sub(1, Ordering::SeqCst);
            return std::mem::forget(kept);
        }
        let thread = self.thread.get_or_init(|| {
            let (send, receive) = mpsc::channel::<KeepAlive>();
            let drop_all = move || {
                receive.into_iter().for_each(|kept| {
                    contain(|| drop(kept));
                    // SeqCst: as where it is counted.
                    PENDING.fetch_sub(1, Ordering::SeqCst);
                });
            };
            spawn(self.name.clone(), drop_all).ok().map(|()| send)
        });
        match thread {
            Some(thread) => drop(thread.send(kept)),
            None => {
                // No thread to be had: leaked rather than run on somebody else's.
                std::mem::forget(kept);
                PENDING.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

/// What is to be let go of, and is not yet, by all of them.
static PENDING: AtomicUsize = AtomicUsize::new(0);
/// The process ends: what would be let go of is leaked.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// At the end of the process: waits until nothing is being let go of, or for so long. With `for_good`, nothing is any more
/// from then on: whoever's destructor would call a driver that has ended itself by then would crash.
#[cfg(all(feature = "vulkan", unix))]
pub(super) fn quiesce(for_good: bool, most: std::time::Duration) {
    CLOSED.fetch_or(for_good, Ordering::SeqCst);
    let until = std::time::Instant::now() + most;
    // SeqCst: see `let_go_of`.
    while PENDING.load(Ordering::SeqCst) > 0 && std::time::Instant::now() < until {
        std::thread::yield_now();
    }
}

impl fmt::Debug for Reaper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reaper").field(&self.name).finish()
    }
}

/// Something of a user's that is let go of by the reaper, wherever this is dropped.
#[cfg(feature = "vulkan")]
pub(super) struct Kept {
    what: ManuallyDrop<KeepAlive>,
    reaper: Arc<Reaper>,
}

#[cfg(feature = "vulkan")]
impl Kept {
    pub(super) fn new(what: KeepAlive, reaper: &Arc<Reaper>) -> Self {
        Self { what: ManuallyDrop::new(what), reaper: reaper.clone() }
    }
}

#[cfg(feature = "vulkan")]
impl Drop for Kept {
    fn drop(&mut self) {
        // A fork's child has no such thread, and what is kept is its parent's.
        if !fork::happened() {
            // SAFETY: taken here, once: nobody uses it after its drop.
            self.reaper.let_go_of(unsafe { ManuallyDrop::take(&mut self.what) });
        }
    }
}

#[cfg(feature = "vulkan")]
impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}
