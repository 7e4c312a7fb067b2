//! The driver's functions, as a table: filled from the system's library when the first device is asked for, or by
//! whoever brings a driver of another kind.
//!
//! A call costs an indirect call, and nothing else. What comes back is a number and not an enum: a newer driver may know
//! codes that no binding knows. A function that the library lacks makes the backend unavailable, by name, instead of
//! panicking where it is first used.

use crate::error::{Error, ErrorKind, Result};
use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    ptr,
    sync::OnceLock,
};

/// What a call answers: zero, or a `CUresult`.
pub type Code = c_uint;
/// A `CUcontext`.
pub type RawContext = *mut c_void;
/// A `CUstream`.
pub type RawStream = *mut c_void;
/// A `CUevent`.
pub type RawEvent = *mut c_void;
/// A `CUexternalSemaphore`.
pub type RawExternalSemaphore = *mut c_void;
/// A `CUdeviceptr`.
pub type DevicePointer = u64;

/// The stream that serialises with every other one of its context, which most programs know as stream 0.
pub const LEGACY_STREAM: RawStream = ptr::without_provenance_mut(1);
/// The stream that each thread has of its own.
pub const PER_THREAD_STREAM: RawStream = ptr::without_provenance_mut(2);

pub(super) const SUCCESS: Code = 0;
const OUT_OF_MEMORY: Code = 2;
pub(super) const NOT_READY: Code = 600;
const CAPTURE: std::ops::RangeInclusive<Code> = 900..=909;
/// The event was recorded under a capture, and has no state of its own until it is recorded again.
const CAPTURED_EVENT: Code = 907;
/// The capture that it is of was broken.
const CAPTURE_INVALIDATED: Code = 901;

pub(super) const STREAM_NON_BLOCKING: c_uint = 1;
pub(super) const EVENT_DISABLE_TIMING: c_uint = 2;
pub(super) const EVENT_INTERPROCESS: c_uint = 4;
pub(super) const EVENT_RECORD_EXTERNAL: c_uint = 1;
pub(super) const WRITE_VALUE_DEFAULT: c_uint = 0;
pub(super) const WAIT_VALUE_GEQ: c_uint = 0;
pub(super) const HOST_ALLOC_PORTABLE: c_uint = 1;
pub(super) const HOST_ALLOC_DEVICEMAP: c_uint = 2;
pub(super) const CAPTURE_MODE_RELAXED: c_int = 2;
pub(super) const CAPTURE_STATUS_NONE: c_int = 0;

/// A `CUipcEventHandle`: by value in the driver's interface, and 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawIpcHandle {
    /// Opaque.
    pub reserved: [u8; 64],
}

/// A `CUuuid`.
pub type RawUuid = [u8; 16];

/// `CU_EXTERNAL_SEMAPHORE_HANDLE_TYPE_TIMELINE_SEMAPHORE_FD`.
#[cfg(all(feature = "vulkan", unix))]
pub(super) const TIMELINE_SEMAPHORE_FD: c_uint = 9;

/// A `CUDA_EXTERNAL_SEMAPHORE_HANDLE_DESC`, for a handle that is a file descriptor.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SemaphoreHandleDescription {
    /// A `CUexternalSemaphoreHandleType`.
    pub kind: c_uint,
    /// The handle: a union, of which this is one.
    pub handle: SemaphoreFd,
    /// None are known.
    pub flags: c_uint,
    /// Zero.
    pub reserved: [c_uint; 16],
}

/// The part of a [`SemaphoreHandleDescription`] that is a union, the largest of whose other parts are two pointers.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct SemaphoreFd {
    /// The file descriptor.
    pub fd: c_int,
    /// Other parts' room.
    pub unused: [c_uint; 3],
}

/// A `CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS` or `…_WAIT_PARAMS`, which are alike for a semaphore that is a number.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SemaphoreParameters {
    /// The value to signal, or to wait for: `params.fence.value`.
    pub value: u64,
    /// What other kinds of semaphores want, and room: zero.
    pub others: [c_uint; 16],
    /// None.
    pub flags: c_uint,
    /// Zero.
    pub reserved: [c_uint; 16],
}

// As CUDA's header has them, on every target with 64 bits.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<SemaphoreHandleDescription>() == 96);
    assert!(std::mem::offset_of!(SemaphoreHandleDescription, handle) == 8);
    assert!(std::mem::offset_of!(SemaphoreHandleDescription, flags) == 24);
    assert!(size_of::<SemaphoreParameters>() == 144);
    assert!(std::mem::offset_of!(SemaphoreParameters, flags) == 72);
};

#[cfg(all(feature = "vulkan", unix))]
impl SemaphoreHandleDescription {
    pub(super) fn of_fd(kind: c_uint, fd: c_int) -> Self {
        Self { kind, handle: SemaphoreFd { fd, unused: [0; 3] }, flags: 0, reserved: [0; 16] }
    }
}

#[cfg(all(feature = "vulkan", unix))]
impl SemaphoreParameters {
    pub(super) fn of_value(value: u64) -> Self {
        Self { value, others: [0; 16], flags: 0, reserved: [0; 16] }
    }
}

macro_rules! table {
    (
        required { $($(#[$doc:meta])* $field:ident = $symbol:literal ($($argument:ty),*);)* }
        optional { $($extra:ident = $its_symbol:literal ($($its_argument:ty),*);)* }
    ) => {
        /// The functions of CUDA's driver that this backend calls, under their own names and with their own meaning.
        ///
        /// For those who stand in front of the driver or in its place: a simulator, a tracer. See
        /// [`open_with`](super::open_with).
        #[expect(missing_debug_implementations, reason = "function pointers have nothing to show")]
        #[derive(Clone, Copy)]
        pub struct Api {
            $($(#[$doc])* #[doc = concat!("`", $symbol, "`.")] pub $field: unsafe extern "system" fn($($argument),*) -> Code,)*
            $(
                #[doc = concat!("`", $its_symbol, "`, if there is that: the backend does without.")]
                pub $extra: Option<unsafe extern "system" fn($($its_argument),*) -> Code>,
            )*
        }

        impl Api {
            /// Fills the table from a library.
            ///
            /// # Safety
            /// What `find` answers for a name is null, or CUDA's function of that name.
            unsafe fn resolve(find: impl Fn(&str) -> *const c_void) -> Result<Self> {
                Ok(Self {
                    $($field: {
                        let found = find($symbol);
                        if found.is_null() {
                            return Err(unavailable(concat!("CUDA's driver has no ", $symbol, ": it is too old")));
                        }
                        // SAFETY: not null, and by the caller's word this function, whose type CUDA's documentation
                        // states.
                        unsafe { std::mem::transmute::<*const c_void, unsafe extern "system" fn($($argument),*) -> Code>(found) }
                    },)*
                    $($extra: {
                        let found = find($its_symbol);
                        // SAFETY: null, which is `None`, or as above.
                        unsafe { std::mem::transmute::<*const c_void, Option<unsafe extern "system" fn($($its_argument),*) -> Code>>(found) }
                    },)*
                })
            }
        }
    };
}

table! {
    required {
        init = "cuInit"(c_uint);
        driver_get_version = "cuDriverGetVersion"(*mut c_int);
        get_error_name = "cuGetErrorName"(Code, *mut *const c_char);
        get_error_string = "cuGetErrorString"(Code, *mut *const c_char);
        device_get_count = "cuDeviceGetCount"(*mut c_int);
        device_get = "cuDeviceGet"(*mut c_int, c_int);
        device_get_name = "cuDeviceGetName"(*mut c_char, c_int, c_int);
        primary_ctx_retain = "cuDevicePrimaryCtxRetain"(*mut RawContext, c_int);
        ctx_get_current = "cuCtxGetCurrent"(*mut RawContext);
        ctx_push_current = "cuCtxPushCurrent_v2"(RawContext);
        ctx_pop_current = "cuCtxPopCurrent_v2"(*mut RawContext);
        thread_exchange_capture_mode = "cuThreadExchangeStreamCaptureMode"(*mut c_int);
        stream_create = "cuStreamCreate"(*mut RawStream, c_uint);
        stream_destroy = "cuStreamDestroy_v2"(RawStream);
        stream_query = "cuStreamQuery"(RawStream);
        stream_get_ctx = "cuStreamGetCtx"(RawStream, *mut RawContext);
        stream_is_capturing = "cuStreamIsCapturing"(RawStream, *mut c_int);
        stream_wait_event = "cuStreamWaitEvent"(RawStream, RawEvent, c_uint);
        stream_write_value = "cuStreamWriteValue64_v2"(RawStream, DevicePointer, u64, c_uint);
        stream_wait_value = "cuStreamWaitValue64_v2"(RawStream, DevicePointer, u64, c_uint);
        event_create = "cuEventCreate"(*mut RawEvent, c_uint);
        event_destroy = "cuEventDestroy_v2"(RawEvent);
        event_record = "cuEventRecord"(RawEvent, RawStream);
        event_record_with_flags = "cuEventRecordWithFlags"(RawEvent, RawStream, c_uint);
        event_query = "cuEventQuery"(RawEvent);
        event_elapsed_time = "cuEventElapsedTime"(*mut f32, RawEvent, RawEvent);
        mem_host_alloc = "cuMemHostAlloc"(*mut *mut c_void, usize, c_uint);
        mem_host_get_device_pointer = "cuMemHostGetDevicePointer_v2"(*mut DevicePointer, *mut c_void, c_uint);
        ipc_get_event_handle = "cuIpcGetEventHandle"(*mut RawIpcHandle, RawEvent);
        ipc_open_event_handle = "cuIpcOpenEventHandle"(*mut RawEvent, RawIpcHandle);
    }
    optional {
        device_get_uuid = "cuDeviceGetUuid_v2"(*mut RawUuid, c_int);
        import_external_semaphore =
            "cuImportExternalSemaphore"(*mut RawExternalSemaphore, *const SemaphoreHandleDescription);
        destroy_external_semaphore = "cuDestroyExternalSemaphore"(RawExternalSemaphore);
        signal_external_semaphores = "cuSignalExternalSemaphoresAsync"(
            *const RawExternalSemaphore, *const SemaphoreParameters, c_uint, RawStream
        );
        wait_external_semaphores = "cuWaitExternalSemaphoresAsync"(
            *const RawExternalSemaphore, *const SemaphoreParameters, c_uint, RawStream
        );
    }
}

fn unavailable(text: impl Into<String>) -> Error {
    Error::with_text(ErrorKind::Unavailable, text)
}

impl Api {
    /// The system's driver, loaded and initialised by the first call; or why there is none.
    pub(super) fn of_system() -> Result<&'static Self> {
        static API: OnceLock<Result<Api>> = OnceLock::new();
        API.get_or_init(Self::load).as_ref().map_err(Clone::clone)
    }

    fn load() -> Result<Self> {
        use std::error::Error as _;

        // With the number first: without it is the name for linkers, which only a toolkit installs.
        const NAMES: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };
        // SAFETY: this runs the library's initialisers, which are CUDA's own.
        let libraries = NAMES.iter().map(|name| unsafe { libloading::Library::new(*name) });
        let mut refused = Vec::new();
        let found = libraries.filter_map(|library| library.map_err(|error| refused.push(error)).ok()).next();
        let Some(library) = found else {
            let in_words =
                |error: &libloading::Error| error.source().map_or(error.to_string(), ToString::to_string);
            let why: Vec<_> = refused.iter().map(in_words).collect();
            return Err(unavailable(format!(
                "CUDA's driver is not installed: looked for {} ({})",
                NAMES.join(" and "),
                why.join("; ")
            )));
        };
        // Never unloaded: what it has started runs on.
        let library: &'static libloading::Library = Box::leak(Box::new(library));
        let find = |name: &str| {
            // SAFETY: as the pointer that it is, a symbol of any type may be taken.
            let symbol = unsafe { library.get::<*const c_void>(name) };
            symbol.map_or(ptr::null(), |symbol| *symbol)
        };
        // SAFETY: CUDA's library has CUDA's functions under these names.
        let api = unsafe { Self::resolve(find) }?;
        api.start()?;
        Ok(api)
    }

    /// Initialises the driver. Once more does nothing.
    pub(super) fn start(&self) -> Result<()> {
        // SAFETY: no preconditions.
        match unsafe { (self.init)(0) } {
            SUCCESS => Ok(()),
            code => Err(unavailable(format!(
                "CUDA's driver is here and does not start: {}",
                self.say("cuInit", code)
            ))),
        }
    }

    /// What an answer means, in the driver's words.
    pub(super) fn say(&self, call: &str, code: Code) -> String {
        let text = |get: unsafe extern "system" fn(Code, *mut *const c_char) -> Code| {
            let mut text = ptr::null();
            // SAFETY: the call writes to `text` alone.
            if unsafe { get(code, &mut text) } != SUCCESS || text.is_null() {
                return None;
            }
            // SAFETY: the driver's texts end in a zero, and are there for good.
            unsafe { CStr::from_ptr(text) }.to_str().ok()
        };
        let name = text(self.get_error_name).unwrap_or("an unknown error");
        match text(self.get_error_string) {
            Some(words) => format!("{call}: {name} ({code}), {words}"),
            None => format!("{call}: {name} ({code})"),
        }
    }

    /// The error that an answer is.
    #[cold]
    pub(super) fn error(&self, call: &str, code: Code) -> Error {
        let text = self.say(call, code);
        if is_fault(code) {
            let text = format!("{text}; this process can't use the GPU any more, a new one may");
            return Error::with_text(ErrorKind::DeviceLost, text);
        }
        let kind = match code {
            OUT_OF_MEMORY => ErrorKind::Resources,
            code if CAPTURE.contains(&code) => ErrorKind::Capturing,
            _ => ErrorKind::Driver,
        };
        Error::with_text(kind, text)
    }

    /// `Ok` for zero.
    #[inline]
    pub(super) fn check(&self, call: &str, code: Code) -> Result<()> {
        if code == SUCCESS { Ok(()) } else { Err(self.error(call, code)) }
    }
}

/// Whether a code says that the whole context is beyond repair, whichever call it comes from.
pub(super) fn is_fault(code: Code) -> bool {
    matches!(
        code,
        4 // DEINITIALIZED
        | 214 // ECC_UNCORRECTABLE
        | 220 // NVLINK_UNCORRECTABLE
        | 700 // ILLEGAL_ADDRESS
        | 702 // LAUNCH_TIMEOUT
        | 709 // CONTEXT_IS_DESTROYED
        | 710 // ASSERT
        | 714
            ..=719 // HARDWARE_STACK_ERROR to LAUNCH_FAILED
        | 721 // CONTAINED
        | 999 // UNKNOWN
    )
}

/// Whether a code says of the event that was asked for that it is captured.
pub(super) fn is_captured(code: Code) -> bool {
    matches!(code, CAPTURED_EVENT | CAPTURE_INVALIDATED)
}

/// Whether a code says that a call is not allowed because somebody captures, and nothing about the work.
pub(super) fn is_capture(code: Code) -> bool {
    CAPTURE.contains(&code)
}
