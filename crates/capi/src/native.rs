//! What the drivers' own handles are for: giving work to a stream, adopting what the caller has already, and handing out what
//! this library has.
//!
//! All of it is there on every system. Where a backend is not, it answers that.

pub mod metal;
pub mod vulkan;

use crate::{
    handles::{DEVICES, DeviceHandle, EVENTS, EventHandle, STREAMS, StreamHandle},
    held,
    pointers::{Kept, Out, ReleaseFn},
    status::{Status, done},
    stream::{StreamOptions, read_options},
};
use gpu_events::cuda;
use std::ffi::c_void;

/// The `CUstream` behind a CUDA stream, to give work to. It is good for as long as the stream.
///
/// Errors: `UNSUPPORTED` if it is no CUDA stream.
///
/// # Safety
/// `raw` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_cuda_get_stream(stream: StreamHandle, raw: *mut *mut c_void) -> Status {
    done(|| {
        // SAFETY: as promised.
        let raw = unsafe { Out::new(raw, "raw") }?;
        let handle = match held::with(|| STREAMS.get(stream), |guard| Ok(guard.cuda()?.raw())) {
            Some(handle) => handle?,
            None => STREAMS.get(stream)?.cuda()?.raw(),
        };
        raw.put(handle);
        Ok(())
    })
}

/// The primary `CUcontext` of a CUDA device's GPU, which every library in the process shares that uses primary contexts.
///
/// # Safety
/// `raw` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_cuda_get_context(device: DeviceHandle, raw: *mut *mut c_void) -> Status {
    done(|| {
        // SAFETY: as promised.
        let raw = unsafe { Out::new(raw, "raw") }?;
        raw.put(cuda::raw_context(&DEVICES.get(device)?)?);
        Ok(())
    })
}

/// Makes a stream of this library's around a `CUstream` of your own: any, null and the legacy and per-thread streams included.
/// `release`, which may be null, is called once with `user_data` when the stream's last handle, event and waiter has gone, on
/// any thread: what keeps the `CUstream` goes then. It is called at once if this call fails.
///
/// Errors: `UNSUPPORTED` if it is no CUDA device, `WRONG_DEVICE` if the stream is not of its GPU's primary context.
///
/// # Safety
/// `raw` is a `CUstream`, and stays one until `release` is called. `options` is null, or good for reading, and so is its label;
/// `stream` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_cuda_adopt_stream(
    device: DeviceHandle,
    raw: *mut c_void,
    release: ReleaseFn,
    user_data: *mut c_void,
    options: *const StreamOptions,
    stream: *mut StreamHandle,
) -> Status {
    let kept = Kept::alive(release, user_data);
    done(|| {
        // SAFETY: as promised.
        let stream = unsafe { Out::new(stream, "stream") }?;
        // SAFETY: as promised.
        let options = unsafe { read_options(options) }?;
        let device = DEVICES.get(device)?;
        // SAFETY: as promised.
        stream.put(STREAMS.enter(unsafe { cuda::adopt_stream(&device, raw, kept, &options) }?));
        Ok(())
    })
}

/// Makes an event of a `CUevent` that somebody else recorded, for its recording of this moment. It carries no failure but the
/// whole context's, and no time. `release` is as for `gpuev_cuda_adopt_stream`.
///
/// Errors: `UNSUPPORTED` if it is no CUDA device, `CAPTURING` if it was recorded under a capture.
///
/// # Safety
/// `raw` is a `CUevent` of a context on the device's GPU, and stays one until `release` is called; `event` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_cuda_import_event(
    device: DeviceHandle,
    raw: *mut c_void,
    release: ReleaseFn,
    user_data: *mut c_void,
    event: *mut EventHandle,
) -> Status {
    let kept = Kept::alive(release, user_data);
    done(|| {
        // SAFETY: as promised.
        let event = unsafe { Out::new(event, "event") }?;
        let device = DEVICES.get(device)?;
        // SAFETY: as promised.
        let imported = unsafe { cuda::import_event(&device, raw, kept) }?;
        event.put(EVENTS.insert(imported, &device.pool())?.get());
        Ok(())
    })
}
