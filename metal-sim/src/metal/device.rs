//! `MTLDevice`.

use super::event::{Event, SharedEvent};
use super::library::{Function, Library, Pipeline};
use super::queue::CommandQueue;
use super::resource::Buffer;
use super::{gpu, new_id, now_nanoseconds};
use crate::control::{COUNTS, Nil, count, gives_nil};
use crate::dispatch::SendBlock;
use crate::foundation::error;
use block2::DynBlock;
use objc2::rc::{Retained, Weak, autoreleasepool};
use objc2::runtime::{AnyObject, NSObject, NSObjectProtocol, ProtocolObject};
use objc2::{AnyThread, DefinedClass, Message, define_class, msg_send};
use objc2_foundation::{NSError, NSString};
use objc2_metal::{MTLDevice, MTLFunction, MTLResourceOptions, MTLSharedEventHandle, MTLSize, MTLTimestamp};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::{Mutex, PoisonError};

pub(super) const MAX_BUFFER_LENGTH: usize = 1 << 30;
/// How many uncompleted command buffers a queue has if its maker doesn't say.
const MAX_COMMAND_BUFFERS: usize = 64;

pub(super) struct DeviceState {
    pub(super) id: u64,
    lost: AtomicBool,
    allocated: AtomicIsize,
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SimMTLDevice"]
    #[ivars = DeviceState]
    pub(super) struct Device;

    unsafe impl NSObjectProtocol for Device {}

    unsafe impl MTLDevice for Device {
        #[unsafe(method_id(name))]
        fn name(&self) -> Retained<NSString> {
            NSString::from_str("Simulated Metal device")
        }

        #[unsafe(method(registryID))]
        fn registry_id(&self) -> u64 {
            0x1_0000_0000 + self.ivars().id
        }

        #[unsafe(method(hasUnifiedMemory))]
        fn has_unified_memory(&self) -> bool {
            true
        }

        #[unsafe(method(isLowPower))]
        fn is_low_power(&self) -> bool {
            false
        }

        #[unsafe(method(isRemovable))]
        fn is_removable(&self) -> bool {
            false
        }

        #[unsafe(method(isHeadless))]
        fn is_headless(&self) -> bool {
            false
        }

        #[unsafe(method(maxBufferLength))]
        fn max_buffer_length(&self) -> usize {
            MAX_BUFFER_LENGTH
        }

        #[unsafe(method(recommendedMaxWorkingSetSize))]
        fn recommended_max_working_set_size(&self) -> u64 {
            MAX_BUFFER_LENGTH as u64
        }

        #[unsafe(method(maxThreadsPerThreadgroup))]
        fn max_threads_per_threadgroup(&self) -> MTLSize {
            MTLSize { width: 1024, height: 1024, depth: 1024 }
        }

        #[unsafe(method(currentAllocatedSize))]
        fn current_allocated_size(&self) -> usize {
            self.ivars().allocated.load(Ordering::Relaxed).cast_unsigned()
        }

        #[unsafe(method_id(newCommandQueue))]
        fn new_command_queue(&self) -> Option<Retained<CommandQueue>> {
            (!gives_nil(Nil::CommandQueue)).then(|| CommandQueue::new(self.retain(), MAX_COMMAND_BUFFERS))
        }

        #[unsafe(method_id(newCommandQueueWithMaxCommandBufferCount:))]
        fn new_command_queue_with_max(&self, max: usize) -> Option<Retained<CommandQueue>> {
            (!gives_nil(Nil::CommandQueue)).then(|| CommandQueue::new(self.retain(), max))
        }

        #[unsafe(method_id(newEvent))]
        fn new_event(&self) -> Option<Retained<Event>> {
            (!gives_nil(Nil::Event)).then(|| Event::new(self.retain()))
        }

        #[unsafe(method_id(newSharedEvent))]
        fn new_shared_event(&self) -> Option<Retained<SharedEvent>> {
            (!gives_nil(Nil::SharedEvent)).then(|| {
                count(&COUNTS.shared_events);
                SharedEvent::new(self.retain())
            })
        }

        #[unsafe(method_id(newSharedEventWithHandle:))]
        fn new_shared_event_with_handle(
            &self,
            handle: &MTLSharedEventHandle,
        ) -> Option<Retained<SharedEvent>> {
            (!gives_nil(Nil::SharedEvent)).then(|| {
                count(&COUNTS.shared_events);
                SharedEvent::with_handle(self.retain(), handle)
            })
        }

        #[unsafe(method_id(newBufferWithLength:options:))]
        fn new_buffer_with_length(
            &self,
            length: usize,
            options: MTLResourceOptions,
        ) -> Option<Retained<Buffer>> {
            if gives_nil(Nil::Buffer) { None } else { Buffer::zeroed(self.retain(), length, options) }
        }

        #[unsafe(method_id(newBufferWithBytes:length:options:))]
        fn new_buffer_with_bytes(
            &self,
            bytes: NonNull<c_void>,
            length: usize,
            options: MTLResourceOptions,
        ) -> Option<Retained<Buffer>> {
            let zeroed =
                if gives_nil(Nil::Buffer) { None } else { Buffer::zeroed(self.retain(), length, options) };
            zeroed.inspect(|buffer| {
                // SAFETY: the sender passes as many bytes, and nobody else has the buffer.
                unsafe { buffer.memory().pointer().copy_from_nonoverlapping(bytes.as_ptr().cast(), length) };
            })
        }

        #[unsafe(method_id(newBufferWithBytesNoCopy:length:options:deallocator:))]
        fn new_buffer_no_copy(
            &self,
            pointer: NonNull<c_void>,
            length: usize,
            options: MTLResourceOptions,
            deallocator: Option<&DynBlock<dyn Fn(NonNull<c_void>, usize)>>,
        ) -> Option<Retained<Buffer>> {
            // SAFETY: the sender promises that the block may be called on any thread.
            let block = deallocator
                .and_then(|block| unsafe { SendBlock::copy(std::ptr::from_ref(block).cast_mut()) });
            (!gives_nil(Nil::Buffer)).then(|| Buffer::foreign(self.retain(), pointer, length, options, block))
        }

        #[unsafe(method_id(newLibraryWithSource:options:error:))]
        fn new_library(
            &self,
            source: &NSString,
            _options: Option<&AnyObject>,
            error_out: Option<&mut *mut NSError>,
        ) -> Option<Retained<Library>> {
            let library = if gives_nil(Nil::Library) {
                Err(error("MTLLibraryErrorDomain", 3, "simulated: no library"))
            } else {
                Library::compile(self.retain(), source)
            };
            give(library, error_out)
        }

        #[unsafe(method_id(newComputePipelineStateWithFunction:error:))]
        fn new_compute_pipeline(
            &self,
            function: &ProtocolObject<dyn MTLFunction>,
            error_out: Option<&mut *mut NSError>,
        ) -> Option<Retained<Pipeline>> {
            let pipeline = if gives_nil(Nil::Pipeline) {
                Err(error("MTLComputePipelineErrorDomain", 3, "simulated: no pipeline"))
            } else {
                Pipeline::new(self.retain(), Function::of(function))
            };
            give(pipeline, error_out)
        }

        #[unsafe(method(sampleTimestamps:gpuTimestamp:))]
        fn sample_timestamps(&self, cpu: NonNull<MTLTimestamp>, gpu: NonNull<MTLTimestamp>) {
            let now = now_nanoseconds();
            // SAFETY: the sender passes where the results belong.
            unsafe {
                cpu.write(now);
                gpu.write(now);
            }
        }
    }
);

/// Returns a result as Objective-C does: nil, and an autoreleased error through a pointer.
fn give<T>(
    result: Result<Retained<T>, Retained<NSError>>,
    error_out: Option<&mut *mut NSError>,
) -> Option<Retained<T>> {
    match result {
        Ok(object) => Some(object),
        Err(error) => {
            if let Some(out) = error_out {
                *out = Retained::autorelease_ptr(error);
            }
            None
        }
    }
}

impl Device {
    fn new() -> Retained<Self> {
        let state =
            DeviceState { id: new_id(), lost: AtomicBool::new(false), allocated: AtomicIsize::new(0) };
        let this = Self::alloc().set_ivars(state);
        // SAFETY: the initializer of the superclass.
        unsafe { msg_send![super(this), init] }
    }

    pub(super) fn allocated(&self, by: isize) {
        self.ivars().allocated.fetch_add(by, Ordering::Relaxed);
    }

    pub(super) fn is_lost(&self) -> bool {
        self.ivars().lost.load(Ordering::Relaxed)
    }

    pub(super) fn lose(&self) {
        self.ivars().lost.store(true, Ordering::Relaxed);
        gpu::lose_device(self.ivars().id);
    }
}

/// Makes a device that is distinct from the system's default one and from all others.
#[must_use]
pub fn new_device() -> Retained<ProtocolObject<dyn MTLDevice>> {
    autoreleasepool(|_| ProtocolObject::from_retained(Device::new()))
}

/// The same object for as long as anybody has it.
#[unsafe(no_mangle)]
extern "C-unwind" fn MTLCreateSystemDefaultDevice() -> *mut ProtocolObject<dyn MTLDevice> {
    static DEFAULT: Mutex<Option<Weak<Device>>> = Mutex::new(None);
    if gives_nil(Nil::Device) {
        return std::ptr::null_mut();
    }
    let mut default = DEFAULT.lock().unwrap_or_else(PoisonError::into_inner);
    let device =
        default.as_ref().and_then(Weak::load).filter(|device| !device.is_lost()).unwrap_or_else(|| {
            let device = Device::new();
            *default = Some(Weak::from_retained(&device));
            device
        });
    Retained::into_raw(ProtocolObject::from_retained(device))
}
