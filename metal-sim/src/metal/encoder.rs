//! `MTLBlitCommandEncoder` and `MTLComputeCommandEncoder`.

use super::Label;
use super::command_buffer::CommandBuffer;
use super::device::Device;
use super::library::Pipeline;
use super::program::{Op, Slot, Use};
use super::resource::{Buffer, Memory};
use crate::kernels::Grid;
use crate::violation::violation;
use objc2::rc::Retained;
use objc2::runtime::{AnyObject, NSObject, NSObjectProtocol, ProtocolObject};
use objc2::{AnyThread, DefinedClass, Message, define_class, msg_send};
use objc2_foundation::{NSRange, NSString};
use objc2_metal::{
    MTLBlitCommandEncoder, MTLBuffer, MTLCommandEncoder, MTLComputeCommandEncoder, MTLComputePipelineState,
    MTLSize,
};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// What encoders of either kind have.
struct Common {
    buffer: Retained<CommandBuffer>,
    id: u64,
    ended: AtomicBool,
    label: Label,
    what: &'static str,
}

// SAFETY: a command buffer's own state is guarded; that one encodes on one thread at a time is the client's part.
unsafe impl Send for Common {}
// SAFETY: as above.
unsafe impl Sync for Common {}

impl Common {
    fn new(buffer: Retained<CommandBuffer>, id: u64, what: &'static str) -> Self {
        Self { buffer, id, ended: AtomicBool::new(false), label: Label::default(), what }
    }

    fn check(&self, step: &str) {
        if self.ended.load(Ordering::Relaxed) {
            violation(format!("{step} on a {} whose encoding has ended", self.what));
        }
    }

    fn encode(&self, op: Op, step: &str) {
        self.check(step);
        self.buffer.encode_in(self.id, op, step);
    }

    fn end(&self) {
        self.check("endEncoding");
        self.ended.store(true, Ordering::Relaxed);
        self.buffer.end_encoder(self.id);
    }

    fn device(&self) -> Retained<Device> {
        self.buffer.ivars().queue.ivars().device.clone()
    }

    fn use_of(&self, buffer: &Buffer) -> Use<Memory> {
        if !std::ptr::eq(buffer.owner(), &*self.buffer.ivars().queue.ivars().device) {
            violation("a buffer is used on a device that is not its own");
        }
        let object: &AnyObject = buffer.as_ref();
        Use::new(object, buffer.memory().clone(), self.buffer.retains())
    }
}

impl Drop for Common {
    fn drop(&mut self) {
        if !*self.ended.get_mut() {
            violation(format!("a {} is deallocated without endEncoding", self.what));
        }
    }
}

// ----------------------------------------------------------------------------------------------------------- blit
pub(super) struct BlitState {
    common: Common,
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SimMTLBlitCommandEncoder"]
    #[ivars = BlitState]
    pub(super) struct BlitEncoder;

    unsafe impl NSObjectProtocol for BlitEncoder {}

    unsafe impl MTLCommandEncoder for BlitEncoder {
        #[unsafe(method_id(device))]
        fn device(&self) -> Retained<Device> {
            self.ivars().common.device()
        }

        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().common.label.get()
        }

        #[unsafe(method(setLabel:))]
        fn set_label(&self, label: Option<&NSString>) {
            self.ivars().common.label.set(label);
        }

        #[unsafe(method(endEncoding))]
        fn end_encoding(&self) {
            self.ivars().common.end();
        }
    }

    unsafe impl MTLBlitCommandEncoder for BlitEncoder {
        #[unsafe(method(copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:))]
        fn copy(
            &self,
            from: &ProtocolObject<dyn MTLBuffer>,
            from_offset: usize,
            to: &ProtocolObject<dyn MTLBuffer>,
            to_offset: usize,
            size: usize,
        ) {
            const STEP: &str = "copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:";
            let (from, to) = (Buffer::of(from), Buffer::of(to));
            if !within(from, from_offset, size) || !within(to, to_offset, size) || size == 0 {
                return violation(format!("{STEP} of nothing, or beyond the end of a buffer"));
            }
            let common = &self.ivars().common;
            let (from, to) = (common.use_of(from), common.use_of(to));
            common.encode(Op::Copy { from, from_offset, to, to_offset, size }, STEP);
        }

        #[unsafe(method(fillBuffer:range:value:))]
        fn fill(&self, buffer: &ProtocolObject<dyn MTLBuffer>, range: NSRange, value: u8) {
            const STEP: &str = "fillBuffer:range:value:";
            let buffer = Buffer::of(buffer);
            if !within(buffer, range.location, range.length) || range.length == 0 {
                return violation(format!("{STEP} of nothing, or beyond the end of a buffer"));
            }
            let common = &self.ivars().common;
            let to = common.use_of(buffer);
            common.encode(Op::Fill { to, offset: range.location, size: range.length, value }, STEP);
        }
    }
);

fn within(buffer: &Buffer, offset: usize, size: usize) -> bool {
    offset.checked_add(size).is_some_and(|end| end <= buffer.memory().length())
}

impl BlitEncoder {
    pub(super) fn new(buffer: Retained<CommandBuffer>, id: u64) -> Retained<Self> {
        let this = Self::alloc().set_ivars(BlitState { common: Common::new(buffer, id, "blit encoder") });
        // SAFETY: the initializer of the superclass.
        unsafe { msg_send![super(this), init] }
    }
}

// -------------------------------------------------------------------------------------------------------- compute
pub(super) struct ComputeState {
    common: Common,
    bound: Mutex<Bound>,
}

/// How many buffer arguments a kernel can have.
const SLOTS: usize = 31;
/// The most that `setBytes:length:atIndex:` takes.
const MAX_BYTES: usize = 4096;

#[derive(Default)]
struct Bound {
    pipeline: Option<Retained<Pipeline>>,
    slots: Vec<Argument>,
}

/// What is bound at an index, as the client set it.
#[derive(Clone, Default)]
enum Argument {
    #[default]
    Empty,
    Buffer(Retained<Buffer>, usize),
    Bytes(Box<[u8]>),
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SimMTLComputeCommandEncoder"]
    #[ivars = ComputeState]
    pub(super) struct ComputeEncoder;

    unsafe impl NSObjectProtocol for ComputeEncoder {}

    unsafe impl MTLCommandEncoder for ComputeEncoder {
        #[unsafe(method_id(device))]
        fn device(&self) -> Retained<Device> {
            self.ivars().common.device()
        }

        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().common.label.get()
        }

        #[unsafe(method(setLabel:))]
        fn set_label(&self, label: Option<&NSString>) {
            self.ivars().common.label.set(label);
        }

        #[unsafe(method(endEncoding))]
        fn end_encoding(&self) {
            self.ivars().common.end();
        }
    }

    unsafe impl MTLComputeCommandEncoder for ComputeEncoder {
        #[unsafe(method(setComputePipelineState:))]
        fn set_pipeline(&self, pipeline: &ProtocolObject<dyn MTLComputePipelineState>) {
            self.ivars().common.check("setComputePipelineState:");
            self.bound().pipeline = Some(Pipeline::of(pipeline).retain());
        }

        #[unsafe(method(setBuffer:offset:atIndex:))]
        fn set_buffer(&self, buffer: Option<&ProtocolObject<dyn MTLBuffer>>, offset: usize, index: usize) {
            let argument = match buffer.map(Buffer::of) {
                None => Argument::Empty,
                Some(buffer) if offset > buffer.memory().length() => {
                    return violation("setBuffer:offset:atIndex: beyond the end of the buffer");
                }
                Some(buffer) => Argument::Buffer(buffer.retain(), offset),
            };
            self.bind(argument, index, "setBuffer:offset:atIndex:");
        }

        #[unsafe(method(setBytes:length:atIndex:))]
        fn set_bytes(&self, bytes: NonNull<c_void>, length: usize, index: usize) {
            if length > MAX_BYTES {
                violation(format!(
                    "setBytes:length:atIndex: with {length} bytes: at most {MAX_BYTES} are allowed"
                ));
            }
            // SAFETY: the sender passes as many bytes.
            let bytes = unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<u8>(), length) };
            self.bind(Argument::Bytes(bytes.into()), index, "setBytes:length:atIndex:");
        }

        #[unsafe(method(dispatchThreads:threadsPerThreadgroup:))]
        fn dispatch_threads(&self, threads: MTLSize, per_group: MTLSize) {
            self.dispatch(size(threads), size(per_group), "dispatchThreads:threadsPerThreadgroup:");
        }

        #[unsafe(method(dispatchThreadgroups:threadsPerThreadgroup:))]
        fn dispatch_threadgroups(&self, groups: MTLSize, per_group: MTLSize) {
            let (groups, per_group) = (size(groups), size(per_group));
            let threads = std::array::from_fn(|i| groups[i] * per_group[i]);
            self.dispatch(threads, per_group, "dispatchThreadgroups:threadsPerThreadgroup:");
        }
    }
);

fn size(size: MTLSize) -> [usize; 3] {
    [size.width, size.height, size.depth]
}

impl ComputeEncoder {
    pub(super) fn new(buffer: Retained<CommandBuffer>, id: u64) -> Retained<Self> {
        let state =
            ComputeState { common: Common::new(buffer, id, "compute encoder"), bound: Mutex::default() };
        let this = Self::alloc().set_ivars(state);
        // SAFETY: the initializer of the superclass.
        unsafe { msg_send![super(this), init] }
    }

    fn bound(&self) -> std::sync::MutexGuard<'_, Bound> {
        self.ivars().bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bind(&self, argument: Argument, index: usize, step: &str) {
        self.ivars().common.check(step);
        if index >= SLOTS {
            return violation(format!("{step} at index {index}: there are {SLOTS}"));
        }
        let mut bound = self.bound();
        if bound.slots.len() <= index {
            bound.slots.resize(index + 1, Argument::Empty);
        }
        bound.slots[index] = argument;
    }

    fn dispatch(&self, threads: [usize; 3], per_group: [usize; 3], step: &str) {
        let common = &self.ivars().common;
        if threads.contains(&0) || per_group.contains(&0) {
            return violation(format!("{step} of no threads"));
        }
        let bound = self.bound();
        let Some(pipeline) = &bound.pipeline else {
            return violation(format!("{step} without a pipeline"));
        };
        if per_group.iter().product::<usize>() > super::library::MAX_THREADS {
            return violation(format!("{step} with more threads per threadgroup than the pipeline allows"));
        }
        let slots = bound.slots.iter().map(|argument| match argument {
            Argument::Empty => Slot::Empty,
            Argument::Buffer(buffer, offset) => Slot::Buffer(common.use_of(buffer), *offset),
            Argument::Bytes(bytes) => Slot::Bytes(bytes.clone()),
        });
        let grid = Grid { threads, threads_per_threadgroup: per_group };
        let op = Op::Dispatch { kernel: pipeline.kernel().clone(), grid, slots: slots.collect() };
        drop(bound);
        common.encode(op, step);
    }
}
