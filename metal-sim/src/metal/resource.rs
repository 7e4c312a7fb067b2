//! `MTLBuffer`.

use super::device::Device;
use super::{Label, downcast};
use crate::dispatch::SendBlock;
use crate::violation::violation;
use objc2::rc::Retained;
use objc2::runtime::{NSObject, NSObjectProtocol, ProtocolObject};
use objc2::{AnyThread, DefinedClass, define_class, msg_send};
use objc2_foundation::{NSRange, NSString};
use objc2_metal::{
    MTLAllocation, MTLBuffer, MTLCPUCacheMode, MTLHazardTrackingMode, MTLResource, MTLResourceOptions,
    MTLStorageMode,
};
use std::alloc::Layout;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

type Deallocator = dyn Fn(NonNull<c_void>, usize);

/// A buffer's bytes. Host and GPU access them through raw pointers, plainly.
pub(crate) struct Memory {
    pointer: NonNull<u8>,
    length: usize,
    /// For memory that came from the client: what to call in the end.
    foreign: Option<Option<SendBlock<Deallocator>>>,
    device: Retained<Device>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("length", &self.length).finish_non_exhaustive()
    }
}

// SAFETY: the pointer is to memory that this owns, or that the client promised to anybody; what is done with it is
// the client's to order.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// Apple's buffers begin on pages.
const PAGE: usize = 4096;

impl Memory {
    fn layout(length: usize) -> Layout {
        Layout::from_size_align(length, PAGE).expect("checked against the device's limit")
    }

    pub(crate) fn pointer(&self) -> *mut u8 {
        self.pointer.as_ptr()
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match self.foreign.take() {
            None => {
                // SAFETY: it was allocated with this layout.
                unsafe { std::alloc::dealloc(self.pointer.as_ptr(), Self::layout(self.length)) };
                self.device.allocated(-self.length.cast_signed());
            }
            Some(Some(deallocator)) => deallocator.0.call((self.pointer.cast(), self.length)),
            Some(None) => {}
        }
    }
}

pub(super) struct BufferState {
    device: Retained<Device>,
    memory: Arc<Memory>,
    options: MTLResourceOptions,
    label: Label,
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SimMTLBuffer"]
    #[ivars = BufferState]
    pub(super) struct Buffer;

    unsafe impl NSObjectProtocol for Buffer {}

    unsafe impl MTLAllocation for Buffer {
        #[unsafe(method(allocatedSize))]
        fn allocated_size(&self) -> usize {
            self.ivars().memory.length.next_multiple_of(PAGE)
        }
    }

    unsafe impl MTLResource for Buffer {
        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().label.get()
        }

        #[unsafe(method(setLabel:))]
        fn set_label(&self, label: Option<&NSString>) {
            self.ivars().label.set(label);
        }

        #[unsafe(method_id(device))]
        fn device(&self) -> Retained<Device> {
            self.ivars().device.clone()
        }

        #[unsafe(method(cpuCacheMode))]
        fn cpu_cache_mode(&self) -> MTLCPUCacheMode {
            MTLCPUCacheMode(self.ivars().options.0 & 0xf)
        }

        #[unsafe(method(storageMode))]
        fn storage_mode(&self) -> MTLStorageMode {
            self.storage()
        }

        #[unsafe(method(hazardTrackingMode))]
        fn hazard_tracking_mode(&self) -> MTLHazardTrackingMode {
            MTLHazardTrackingMode(self.ivars().options.0 >> 8 & 0x3)
        }

        #[unsafe(method(resourceOptions))]
        fn resource_options(&self) -> MTLResourceOptions {
            self.ivars().options
        }
    }

    unsafe impl MTLBuffer for Buffer {
        #[unsafe(method(length))]
        fn length(&self) -> usize {
            self.ivars().memory.length
        }

        #[unsafe(method(contents))]
        fn contents(&self) -> NonNull<c_void> {
            if self.storage() == MTLStorageMode::Private {
                violation("contents of a buffer that is private to the GPU");
            }
            self.ivars().memory.pointer.cast()
        }

        #[unsafe(method(didModifyRange:))]
        fn did_modify(&self, range: NSRange) {
            if self.storage() != MTLStorageMode::Managed {
                violation("didModifyRange: of a buffer whose storage is not managed");
            }
            if range.location.checked_add(range.length).is_none_or(|end| end > self.ivars().memory.length) {
                violation("didModifyRange: beyond the end of the buffer");
            }
        }
    }
);

impl Buffer {
    fn storage(&self) -> MTLStorageMode {
        MTLStorageMode(self.ivars().options.0 >> 4 & 0xf)
    }

    pub(super) fn of(buffer: &ProtocolObject<dyn MTLBuffer>) -> &Self {
        downcast(buffer)
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.ivars().memory
    }

    pub(super) fn owner(&self) -> &Device {
        &self.ivars().device
    }

    fn wrap(device: Retained<Device>, memory: Memory, options: MTLResourceOptions) -> Retained<Self> {
        let state = BufferState { device, memory: Arc::new(memory), options, label: Label::default() };
        let this = Self::alloc().set_ivars(state);
        // SAFETY: the initializer of the superclass.
        unsafe { msg_send![super(this), init] }
    }

    /// A buffer of zeros, or none if it is too large.
    pub(super) fn zeroed(
        device: Retained<Device>,
        length: usize,
        options: MTLResourceOptions,
    ) -> Option<Retained<Self>> {
        if length == 0 {
            violation("a buffer of length 0");
        }
        if length == 0 || length > super::device::MAX_BUFFER_LENGTH {
            return None;
        }
        // SAFETY: the layout is not empty.
        let pointer = NonNull::new(unsafe { std::alloc::alloc_zeroed(Memory::layout(length)) })?;
        device.allocated(length.cast_signed());
        let memory = Memory { pointer, length, foreign: None, device: device.clone() };
        Some(Self::wrap(device, memory, options))
    }

    /// A buffer of the client's own memory.
    pub(super) fn foreign(
        device: Retained<Device>,
        pointer: NonNull<c_void>,
        length: usize,
        options: MTLResourceOptions,
        deallocator: Option<SendBlock<Deallocator>>,
    ) -> Retained<Self> {
        if !pointer.addr().get().is_multiple_of(PAGE) || length == 0 || !length.is_multiple_of(PAGE) {
            violation("newBufferWithBytesNoCopy: of memory that doesn't begin and end on a page");
        }
        let memory =
            Memory { pointer: pointer.cast(), length, foreign: Some(deallocator), device: device.clone() };
        Self::wrap(device, memory, options)
    }
}
