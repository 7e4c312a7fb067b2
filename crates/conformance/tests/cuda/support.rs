//! What the trials share.

pub(crate) use crate::waits::{BOUND, complete, keep_alive, until};
use gpu_events::{
    Device, Result,
    cuda::{self, RawEvent, RawStream},
};
use gpu_events_conformance::cuda::Kernels;
use std::{
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

/// What cuEventQuery says of an event that was not reached.
pub(crate) const NOT_READY: u32 = 600;

/// Why there is nothing to test on, if so.
pub(crate) fn missing() -> Option<String> {
    let api = match cuda::system_api() {
        Ok(api) => api,
        Err(error) => return Some(error.to_string()),
    };
    let mut count = 0;
    // SAFETY: the driver was started; the call writes to `count` alone.
    match unsafe { (api.device_get_count)(&mut count) } {
        0 if count > 0 => None,
        0 => Some("CUDA's driver is here and finds no GPU".to_owned()),
        code => Some(format!("CUDA's driver is here and does not count its GPUs: {code}")),
    }
}

/// The GPU, and its kernels.
pub(crate) fn gpu() -> (Device, &'static Kernels) {
    // Loading them waits for what is on the GPU, so it comes first.
    let kernels = Kernels::of(0).expect("the kernels");
    (Device::open("cuda:0").expect("a GPU"), kernels)
}

/// A word that kernels and the host share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell(&'static AtomicU32);

impl Cell {
    pub(crate) fn new(kernels: &Kernels) -> Self {
        let cell: *mut u32 = kernels.shared_memory(4).expect("pinned memory").cast();
        // SAFETY: zeroed memory, aligned, never given back, and reached through atomics and by the GPU alone.
        Self(unsafe { AtomicU32::from_ptr(cell) })
    }

    /// Holds a stream back until [`put`](Self::put) makes this other than zero.
    pub(crate) fn hold(kernels: &Kernels, stream: RawStream) -> Self {
        let cell = Self::new(kernels);
        kernels.until(stream, cell.raw()).expect("a launch");
        cell
    }

    pub(crate) fn raw(self) -> *mut u32 {
        self.0.as_ptr()
    }

    pub(crate) fn put(self, value: u32) {
        // Release: what came before it is there for the work behind it.
        self.0.store(value, Ordering::Release);
    }

    pub(crate) fn get(self) -> u32 {
        // Relaxed: that a value is seen must come from the event that ordered it.
        self.0.load(Ordering::Relaxed)
    }
}

/// An event as another library would make it. Never destroyed.
pub(crate) fn native_event(device: &Device) -> Result<RawEvent> {
    const DISABLE_TIMING: u32 = 2;
    let api = cuda::system_api()?;
    let mut event = ptr::null_mut();
    // SAFETY: the call writes to `event` alone.
    let code = with_context(device, || unsafe { (api.event_create)(&mut event, DISABLE_TIMING) });
    assert_eq!(code, 0);
    Ok(event)
}

/// Makes calls of somebody else's that go by the current context, which the trials' threads do without.
#[track_caller]
pub(crate) fn with_context<T>(device: &Device, call: impl FnOnce() -> T) -> T {
    let api = cuda::system_api().expect("CUDA");
    let context = cuda::raw_context(device).expect("a context");
    // SAFETY: the context is the primary one, which the device keeps.
    assert_eq!(unsafe { (api.ctx_push_current)(context) }, 0);
    let answer = call();
    let mut popped = ptr::null_mut();
    // SAFETY: pops what was pushed.
    assert_eq!(unsafe { (api.ctx_pop_current)(&mut popped) }, 0);
    answer
}

/// Records an event as another library would.
pub(crate) fn record_native(event: RawEvent, stream: RawStream) {
    let api = cuda::system_api().expect("CUDA");
    // SAFETY: both are there, and of one context.
    assert_eq!(unsafe { (api.event_record)(event, stream) }, 0);
}

pub(crate) fn query_native(event: RawEvent) -> u32 {
    let api = cuda::system_api().expect("CUDA");
    // SAFETY: it is there.
    unsafe { (api.event_query)(event) }
}
