//! The system's driver, with recordings that it can be told to refuse.

use gpu_events::{
    Result,
    cuda::{self, Api, Code, DevicePointer, RawEvent, RawStream},
};
use std::{
    ffi::c_uint,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

const NOT_INITIALIZED: Code = 3;
const OUT_OF_MEMORY: Code = 2;

/// The stream whose next recording is refused; 0 if none's is.
static REFUSED: AtomicUsize = AtomicUsize::new(0);

/// The system's driver, but for what it is told to refuse. A GPU opened with it has a pump of its own, on the same context.
pub(super) fn api() -> Result<&'static Api> {
    static API: OnceLock<Api> = OnceLock::new();
    let system = cuda::system_api()?;
    Ok(API.get_or_init(|| Api { event_record, stream_write_value, ..*system }))
}

/// Has the next recording on this stream be refused, having done nothing.
pub(super) fn refuse(stream: RawStream) {
    // Relaxed: told to the thread that records next, or to one that it tells.
    REFUSED.store(stream.addr(), Ordering::Relaxed);
}

fn is_refused(stream: RawStream) -> bool {
    // Relaxed: see `refuse`.
    !stream.is_null()
        && REFUSED.compare_exchange(stream.addr(), 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

unsafe extern "system" fn event_record(event: RawEvent, stream: RawStream) -> Code {
    if is_refused(stream) {
        return OUT_OF_MEMORY;
    }
    // SAFETY: the caller's call.
    cuda::system_api().map_or(NOT_INITIALIZED, |api| unsafe { (api.event_record)(event, stream) })
}

unsafe extern "system" fn stream_write_value(
    stream: RawStream,
    at: DevicePointer,
    value: u64,
    flags: c_uint,
) -> Code {
    if is_refused(stream) {
        return OUT_OF_MEMORY;
    }
    // SAFETY: the caller's call.
    let write = |api: &Api| unsafe { (api.stream_write_value)(stream, at, value, flags) };
    cuda::system_api().map_or(NOT_INITIALIZED, write)
}
