//! Metal: `id`s as pointers.

use crate::{
    handles::{DEVICES, DeviceHandle, EVENTS, EventHandle, STREAMS, StreamHandle, event_id},
    held,
    pointers::{Out, UserData},
    status::{Failure, Result, Status, done},
    stream::{StreamOptions, read_options},
};
use std::ffi::c_void;

/// Opens an `id<MTLDevice>` that the caller has already, and retains it.
///
/// Errors: `UNAVAILABLE` on systems without Metal.
///
/// # Safety
/// `raw` is an `id<MTLDevice>`; `device` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_metal_open(raw: *mut c_void, device: *mut DeviceHandle) -> Status {
    done(|| {
        // SAFETY: as promised.
        let device = unsafe { Out::new(device, "device") }?;
        // SAFETY: as promised.
        device.put(DEVICES.enter(unsafe { system::open(raw) }?));
        Ok(())
    })
}

/// The `id<MTLDevice>` of a Metal device, good for as long as it.
///
/// Errors: `UNSUPPORTED` if it is no Metal device; `UNAVAILABLE` on systems without Metal.
///
/// # Safety
/// `raw` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_metal_get_device(device: DeviceHandle, raw: *mut *mut c_void) -> Status {
    done(|| {
        // SAFETY: as promised.
        let raw = unsafe { Out::new(raw, "raw") }?;
        raw.put(system::device(&DEVICES.get(device)?)?);
        Ok(())
    })
}

/// Makes a stream that commits to an `id<MTLCommandQueue>` of the caller's, which it retains. The stream orders what goes through
/// it, and keeps to 16 of the queue's places.
///
/// Errors: `UNSUPPORTED` if it is no Metal device, `WRONG_DEVICE` if the queue is of another GPU, `RESOURCES` if Metal has no
/// shared event to give; `UNAVAILABLE` on systems without Metal.
///
/// # Safety
/// `queue` is an `id<MTLCommandQueue>`. `options` is null, or good for reading, and so is its label; `stream` is good for
/// writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_metal_adopt_queue(
    device: DeviceHandle,
    queue: *mut c_void,
    options: *const StreamOptions,
    stream: *mut StreamHandle,
) -> Status {
    done(|| {
        // SAFETY: as promised.
        let stream = unsafe { Out::new(stream, "stream") }?;
        // SAFETY: as promised.
        let options = unsafe { read_options(options) }?;
        let device = DEVICES.get(device)?;
        // SAFETY: as promised.
        stream.put(STREAMS.enter(unsafe { system::adopt(&device, queue, &options) }?));
        Ok(())
    })
}

/// What puts work into a command buffer: an `id<MTLCommandBuffer>`.
pub type EncodeFn = Option<unsafe extern "C" fn(user_data: *mut c_void, command_buffer: *mut c_void)>;

/// Has `encode` put work into a Metal stream's current command buffer, behind all that was submitted before, on this thread and
/// before this returns. It ends the encoders that it opens, and neither commits, enqueues nor keeps the buffer. It must not wait
/// for the stream.
///
/// Errors: the stream's failure; `UNSUPPORTED` if it is no Metal stream; `WOULD_BLOCK`; `UNAVAILABLE` on systems without Metal.
///
/// # Safety
/// `encode` does as it was said.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_metal_encode(
    stream: StreamHandle,
    encode: EncodeFn,
    user_data: *mut c_void,
) -> Status {
    done(|| {
        let encode = encode.ok_or_else(|| Failure::null("encode"))?;
        let data = UserData::new(user_data);
        let run = |buffer: *mut c_void| {
            // SAFETY: the caller's function, with what it was given for.
            unsafe { encode(data.get(), buffer) };
        };
        match held::with(|| STREAMS.get(stream), |guard| system::encode_held(guard, run)) {
            Some(encoded) => encoded,
            None => system::encode(&STREAMS.get(stream)?, run),
        }
    })
}

/// The `id<MTLSharedEvent>` behind the event's recording, and the value that it will have once that is complete: for
/// `encodeWaitForEvent:value:` elsewhere. Null if there is nothing to wait for any more; otherwise it is retained for the caller,
/// who releases it. A number carries no failure: ask the event.
///
/// Errors: `UNRECORDED`; the event's failure; `NOT_SUBMITTED`; `UNSUPPORTED` if it is pending and not of a Metal stream;
/// `UNAVAILABLE` on systems without Metal.
///
/// # Safety
/// `shared_event` and `value` are good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_metal_get_shared_event(
    event: EventHandle,
    shared_event: *mut *mut c_void,
    value: *mut u64,
) -> Status {
    done(|| {
        // SAFETY: as promised.
        let shared_event = unsafe { Out::new(shared_event, "shared_event") }?;
        // SAFETY: as promised.
        let value = unsafe { Out::new(value, "value") }?;
        let (raw, at) = system::shared_event(&*EVENTS.get(event_id(event))?)?;
        shared_event.put(raw);
        value.put(at);
        Ok(())
    })
}

#[cfg(any(target_vendor = "apple", gpu_events_metal_sim))]
mod system {
    use super::{Failure, Result, c_void};
    use gpu_events::{Device, Event, Stream, StreamGuard, StreamOptions, metal};
    use objc2::{rc::Retained, runtime::ProtocolObject};
    use objc2_metal::{MTLCommandQueue, MTLDevice};

    /// # Safety
    /// `raw` is null, or an object of this protocol.
    unsafe fn retain<T: objc2::Message>(raw: *mut T, argument: &str) -> Result<Retained<T>> {
        // SAFETY: as promised.
        unsafe { Retained::retain(raw) }.ok_or_else(|| Failure::null(argument))
    }

    pub(super) unsafe fn open(raw: *mut c_void) -> Result<Device> {
        // SAFETY: as promised.
        Ok(metal::open(unsafe { retain(raw.cast::<ProtocolObject<dyn MTLDevice>>(), "raw") }?)?)
    }

    pub(super) fn device(device: &Device) -> Result<*mut c_void> {
        // The device keeps it.
        Ok(Retained::as_ptr(&metal::raw_device(device)?).cast_mut().cast())
    }

    pub(super) unsafe fn adopt(
        device: &Device,
        queue: *mut c_void,
        options: &StreamOptions,
    ) -> Result<Stream> {
        let queue = queue.cast::<ProtocolObject<dyn MTLCommandQueue>>();
        // SAFETY: as promised.
        Ok(metal::adopt_queue(device, unsafe { retain(queue, "queue") }?, options)?)
    }

    pub(super) fn encode(stream: &Stream, run: impl FnOnce(*mut c_void)) -> Result<()> {
        Ok(stream.metal()?.encode(|buffer| run(std::ptr::from_ref(buffer).cast_mut().cast()))?)
    }

    pub(super) fn encode_held(guard: &mut StreamGuard<'_>, run: impl FnOnce(*mut c_void)) -> Result<()> {
        Ok(guard.metal()?.encode(|buffer| run(std::ptr::from_ref(buffer).cast_mut().cast()))?)
    }

    pub(super) fn shared_event(event: &Event) -> Result<(*mut c_void, u64)> {
        let found = metal::shared_event(event)?;
        Ok(found.map_or((std::ptr::null_mut(), 0), |(raw, at)| (Retained::into_raw(raw).cast(), at)))
    }
}

#[cfg(not(any(target_vendor = "apple", gpu_events_metal_sim)))]
mod system {
    use super::{Failure, Result, Status, c_void};
    use gpu_events::{Device, Event, Stream, StreamGuard, StreamOptions};

    fn none<T>() -> Result<T> {
        Err(Failure::new(Status::ErrorUnavailable, "Metal is there on Apple's systems alone"))
    }

    pub(super) unsafe fn open(_: *mut c_void) -> Result<Device> {
        none()
    }

    pub(super) fn device(_: &Device) -> Result<*mut c_void> {
        none()
    }

    pub(super) unsafe fn adopt(_: &Device, _: *mut c_void, _: &StreamOptions) -> Result<Stream> {
        none()
    }

    pub(super) fn encode(_: &Stream, _: impl FnOnce(*mut c_void)) -> Result<()> {
        none()
    }

    pub(super) fn encode_held(_: &mut StreamGuard<'_>, _: impl FnOnce(*mut c_void)) -> Result<()> {
        none()
    }

    pub(super) fn shared_event(_: &Event) -> Result<(*mut c_void, u64)> {
        none()
    }
}
