//! What ThreadSanitizer is told about simulated GPU work.
//!
//! A command buffer is a thread of its own to it (a "fiber" in its terms): begun by the thread that commits, so
//! ordered after what that thread did before; and ordered with anything else only by the atomics that it touches,
//! which are the values of events and the buffer's status. The engine threads that happen to run the work are not
//! part of it, nor are their locks: entering and leaving a fiber synchronizes nothing. So two command buffers that
//! touch the same memory with no event between them are a race to ThreadSanitizer, however they were scheduled.
//!
//! Code that runs on a track may read what the committing thread wrote, touch the contents of Metal buffers, and
//! use atomics. It must return nothing but a number, and share no locals with its caller.

/// One command buffer, as ThreadSanitizer sees it.
#[derive(Debug)]
pub(crate) struct Track {
    #[cfg(metal_sim_tsan)]
    fiber: *mut std::ffi::c_void,
}

// SAFETY: a fiber may be entered by any thread, one at a time, and a track is moved to whoever enters it.
unsafe impl Send for Track {}

#[cfg(metal_sim_tsan)]
mod tsan {
    use std::ffi::{c_uint, c_void};

    unsafe extern "C" {
        pub(super) fn __tsan_get_current_fiber() -> *mut c_void;
        pub(super) fn __tsan_create_fiber(flags: c_uint) -> *mut c_void;
        pub(super) fn __tsan_destroy_fiber(fiber: *mut c_void);
        pub(super) fn __tsan_switch_to_fiber(fiber: *mut c_void, flags: c_uint);
    }
    pub(super) const NO_SYNC: c_uint = 1;

    extern "C" fn start<T: super::Apart>(this: *mut c_void) -> *mut c_void {
        // SAFETY: whoever waits for this thread keeps it.
        unsafe { &*this.cast::<T>() }.run();
        std::ptr::null_mut()
    }

    /// Runs on a track: a thread that begins where the track is, and where the track goes on when it ends. Through
    /// the C library, since the standard one would use the variables of the engine's thread.
    pub(super) fn thread<T: super::Apart>(this: *const T) -> u64 {
        // SAFETY: the memory is large and aligned enough for the one number, and nobody else has it.
        unsafe {
            let thread = libc::malloc(size_of::<libc::pthread_t>()).cast::<libc::pthread_t>();
            let failed = libc::pthread_create(thread, std::ptr::null(), start::<T>, this.cast_mut().cast())
                != 0
                || libc::pthread_join(*thread, std::ptr::null_mut()) != 0;
            libc::free(thread.cast());
            if failed {
                std::process::abort();
            }
        }
        0
    }
}

impl Track {
    /// Begins a track that is ordered after everything that this thread did so far.
    pub(crate) fn new() -> Self {
        Self {
            // SAFETY: no requirements.
            #[cfg(metal_sim_tsan)]
            fiber: unsafe { tsan::__tsan_create_fiber(0) },
        }
    }

    /// Runs `f` on the track. `f` is a function and its argument a plain address, so that nothing in this thread's
    /// stack is shared with it.
    #[inline(never)]
    pub(crate) fn run<T>(&self, f: fn(*const T) -> u64, argument: *const T) -> u64 {
        #[cfg(metal_sim_tsan)]
        {
            let fiber = self.fiber;
            // SAFETY: the fiber is this track's, and this thread alone has the track.
            unsafe {
                let engine = tsan::__tsan_get_current_fiber();
                tsan::__tsan_switch_to_fiber(fiber, tsan::NO_SYNC);
                let result = f(argument);
                tsan::__tsan_switch_to_fiber(engine, tsan::NO_SYNC);
                result
            }
        }
        #[cfg(not(metal_sim_tsan))]
        f(argument)
    }
}

/// Something that runs code of a test's, which may use whatever a thread has.
pub(crate) trait Apart: Sync {
    /// Runs it.
    fn run(&self);
}

impl Track {
    /// Runs something as part of the track that needs a stack and thread-local variables of its own: those of an
    /// engine are shared with other tracks. So ThreadSanitizer gets a thread for it.
    pub(crate) fn run_apart<T: Apart>(&self, this: *const T) {
        #[cfg(metal_sim_tsan)]
        self.run(tsan::thread, this);
        // SAFETY: the caller's reference.
        #[cfg(not(metal_sim_tsan))]
        unsafe { &*this }.run();
    }
}

impl Drop for Track {
    fn drop(&mut self) {
        #[cfg(metal_sim_tsan)]
        // SAFETY: nobody is on the fiber: this thread alone has the track.
        unsafe {
            tsan::__tsan_destroy_fiber(self.fiber);
        }
    }
}
