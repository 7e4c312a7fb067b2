//! What Metal's objects need from whoever holds them: autorelease pools, threads, and words for its errors.

use crate::{
    error::{Error, ErrorKind},
    fork,
};
use objc2::{
    Message,
    ffi::{objc_autoreleasePoolPop, objc_autoreleasePoolPush},
    rc::Retained,
    runtime::ProtocolObject,
};
use objc2_metal::{
    MTLCommandBuffer, MTLCommandBufferError, MTLCommandQueue, MTLDevice, MTLEvent, MTLSharedEvent,
};
use std::{ffi::c_void, fmt, mem::ManuallyDrop, ops::Deref};

pub(super) type RawDevice = ProtocolObject<dyn MTLDevice>;
pub(super) type RawQueue = ProtocolObject<dyn MTLCommandQueue>;
pub(super) type RawBuffer = ProtocolObject<dyn MTLCommandBuffer>;
pub(super) type RawEvent = ProtocolObject<dyn MTLSharedEvent>;

/// Runs calls of Metal's with an autorelease pool around them. Any method may leave temporaries behind, and a thread
/// without a pool, as every Rust thread is, would keep them for as long as it lives.
///
/// Not `objc2`'s own: in debug builds that keeps a thread-local list, and cannot be used by what is let go of when a
/// thread ends. The runtime's can.
#[inline]
pub(super) fn pooled<R>(calls: impl FnOnce() -> R) -> R {
    struct Pool(*mut c_void);

    impl Drop for Pool {
        #[inline]
        fn drop(&mut self) {
            // SAFETY: pushed below by this thread, and popped here once, in the opposite order of pushing: the value
            // never leaves its scope.
            unsafe { objc_autoreleasePoolPop(self.0) };
        }
    }
    // SAFETY: needs nothing but to be popped.
    let _pool = Pool(unsafe { objc_autoreleasePoolPush() });
    calls()
}

/// A reference that is also let go of inside a pool: the last one runs the object's `dealloc`, wherever that may be.
pub(super) struct Owned<T: Message>(ManuallyDrop<Retained<T>>);

impl<T: Message> Owned<T> {
    pub(super) fn new(object: Retained<T>) -> Self {
        Self(ManuallyDrop::new(object))
    }

    /// Another reference, to give away.
    pub(super) fn retained(&self) -> Retained<T> {
        (*self.0).clone()
    }
}

impl<T: Message> Clone for Owned<T> {
    fn clone(&self) -> Self {
        Self::new(self.retained())
    }
}

impl<T: Message> Deref for Owned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Message> Drop for Owned<T> {
    fn drop(&mut self) {
        // In a fork's child the object is the parent's, and Objective-C may not be usable at all (R41).
        if !fork::happened() {
            // SAFETY: dropped here, once, and nowhere else.
            pooled(|| unsafe { ManuallyDrop::drop(&mut self.0) });
        }
    }
}

impl<T: Message> fmt::Debug for Owned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Pointer::fmt(&Retained::as_ptr(&self.0), f)
    }
}

/// A command buffer on its way from the thread that encodes to the one that commits.
#[derive(Clone, Debug)]
pub(super) struct CommandBuffer(Owned<RawBuffer>);

// SAFETY: Metal's command buffers belong to no thread; they must not be used by two at once. Ours are used under their
// stream's submit lock alone, by whoever holds it.
unsafe impl Send for CommandBuffer {}

impl CommandBuffer {
    /// The next buffer of `queue`, unless Metal has none to give.
    pub(super) fn new(queue: &RawQueue) -> Option<Self> {
        pooled(|| queue.commandBuffer()).map(|buffer| Self(Owned::new(buffer)))
    }

    pub(super) fn encode_wait(&self, event: &RawEvent, value: u64) {
        pooled(|| self.0.encodeWaitForEvent_value(as_event(event), value));
    }

    pub(super) fn encode_signal(&self, event: &RawEvent, value: u64) {
        pooled(|| self.0.encodeSignalEvent_value(as_event(event), value));
    }
}

impl Deref for CommandBuffer {
    type Target = RawBuffer;

    fn deref(&self) -> &RawBuffer {
        &self.0
    }
}

/// What `encodeWaitForEvent:value:` and its like take.
pub(super) fn as_event(event: &RawEvent) -> &ProtocolObject<dyn MTLEvent> {
    ProtocolObject::from_ref(event)
}

/// Why a command buffer failed, in Metal's own words. Inside of a pool.
pub(super) fn failure_of(buffer: &RawBuffer) -> Error {
    let Some(error) = buffer.error() else {
        return Error::with_text(
            ErrorKind::WorkFailed,
            "the command buffer failed, and Metal gives no error",
        );
    };
    let code = MTLCommandBufferError(error.code().cast_unsigned());
    let name = match code {
        MTLCommandBufferError::Internal => "Internal",
        MTLCommandBufferError::Timeout => "Timeout",
        MTLCommandBufferError::PageFault => "PageFault",
        MTLCommandBufferError::AccessRevoked => "AccessRevoked",
        MTLCommandBufferError::NotPermitted => "NotPermitted",
        MTLCommandBufferError::OutOfMemory => "OutOfMemory",
        MTLCommandBufferError::InvalidResource => "InvalidResource",
        MTLCommandBufferError::Memoryless => "Memoryless",
        MTLCommandBufferError::DeviceRemoved => "DeviceRemoved",
        MTLCommandBufferError::StackOverflow => "StackOverflow",
        _ => "",
    };
    let kind = match code {
        // The GPU is gone, or takes nothing from this process any more.
        MTLCommandBufferError::DeviceRemoved | MTLCommandBufferError::AccessRevoked => ErrorKind::DeviceLost,
        _ => ErrorKind::WorkFailed,
    };
    Error::with_text(
        kind,
        format!("MTLCommandBufferError{name} ({}): {}", error.code(), error.localizedDescription()),
    )
}
