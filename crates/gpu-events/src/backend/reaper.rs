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
        let thread = self.thread.get_or_init(|| {
            let (send, receive) = mpsc::channel::<KeepAlive>();
            let drop_all = move || receive.into_iter().for_each(|kept| contain(|| drop(kept)));
            spawn(self.name.clone(), drop_all).ok().map(|()| send)
        });
        match thread {
            Some(thread) => drop(thread.send(kept)),
            // No thread to be had: leaked rather than run on somebody else's.
            None => std::mem::forget(kept),
        }
    }

    /// Waits until it has let go of everything so far, or for so long.
    #[cfg(all(feature = "vulkan", unix))]
    pub(super) fn drain(&self, most: std::time::Duration) {
        struct Last(Sender<()>);

        impl Drop for Last {
            fn drop(&mut self) {
                // Nobody may wait any more.
                let _ = self.0.send(());
            }
        }
        if let Some(Some(thread)) = self.thread.get() {
            let (through, wait) = mpsc::channel();
            // The thread lives as long as this does.
            let _ = thread.send(Arc::new(Last(through)));
            let _ = wait.recv_timeout(most);
        }
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
