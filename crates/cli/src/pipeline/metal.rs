//! The GPU's part, through Metal. It orders nothing of this itself: the buffers are made with its tracking off.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;
use std::slice;

use anyhow::{Context, anyhow, ensure};
use gpu_events::{Device, Error, ErrorKind, Stream, metal};
use objc2::Message;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSString;
use objc2_metal::{
    MTLBlitCommandEncoder, MTLBuffer, MTLCommandBuffer, MTLCommandEncoder, MTLComputeCommandEncoder,
    MTLComputePipelineState, MTLDevice, MTLLibrary, MTLResourceOptions, MTLSize,
};

use super::gpu::{Gpu, Shared};
use crate::fsverity::BLOCK;
use crate::units;

type RawBuffer = ProtocolObject<dyn MTLBuffer>;
type RawCommands = ProtocolObject<dyn MTLCommandBuffer>;
type RawDevice = ProtocolObject<dyn MTLDevice>;
type RawKernel = ProtocolObject<dyn MTLComputePipelineState>;

/// Command buffers that a stream is given before the first of them is known to be done: enough to keep a GPU at work. A
/// full queue would have the host wait for room, which does not notice Ctrl-C.
const BUFFERS_AHEAD: usize = 48;

/// A timed event ends a command buffer, and there is one before and one after the work of each stage.
const BUFFERS_PER_STAGE: usize = 2;

pub(super) struct MetalGpu {
    gpu: Object<RawDevice>,
    kernel: Object<RawKernel>,
}

impl MetalGpu {
    pub(super) fn new(device: &Device) -> anyhow::Result<Self> {
        let gpu = Object::new(metal::raw_device(device)?);
        let kernel = compile(&gpu)?;
        Ok(Self { gpu, kernel })
    }

    fn encode_hash(&self, commands: &RawCommands, data: &Memory, hashes: &Memory, len: usize) -> Option<()> {
        let compute = commands.computeCommandEncoder()?;
        compute.setComputePipelineState(&self.kernel);
        // SAFETY: the kernel's first argument are so many words, rounded up to whole blocks, as the buffer has.
        unsafe { compute.setBuffer_offset_atIndex(Some(data), 0, 0) };
        // SAFETY: the second is 32 bytes for each block of the first.
        unsafe { compute.setBuffer_offset_atIndex(Some(hashes), 0, 1) };
        // All buffers together are less than 4 GiB.
        let length = len as u32;
        // SAFETY: the third is a number of 32 bits, and copied here.
        unsafe { compute.setBytes_length_atIndex(NonNull::from(&length).cast(), size_of_val(&length), 2) };
        // Groups as small as they get, so that the blocks spread over the whole GPU. The last may go beyond the blocks,
        // which the kernel sees to: not every Mac takes grids that are no multiple of their groups.
        let in_group = self.kernel.threadExecutionWidth();
        let line = |width| MTLSize { width, height: 1, depth: 1 };
        let groups = len.div_ceil(BLOCK).div_ceil(in_group);
        compute.dispatchThreadgroups_threadsPerThreadgroup(line(groups), line(in_group));
        compute.endEncoding();
        Some(())
    }
}

impl Gpu for MetalGpu {
    type Shared = Memory;
    type Own = Memory;

    fn shared(&self, bytes: usize) -> anyhow::Result<Memory> {
        Memory::new(&self.gpu, bytes, MTLResourceOptions::StorageModeShared)
    }

    fn own(&self, bytes: usize) -> anyhow::Result<Memory> {
        Memory::new(&self.gpu, bytes, MTLResourceOptions::StorageModePrivate)
    }

    fn upload(&self, stream: &Stream, from: &Memory, to: &Memory, len: usize) -> gpu_events::Result<()> {
        // On a Mac the sizes of copies are multiples of 4 bytes; the kernel does not look at what is too much.
        encode(stream, |commands| copy(commands, from, to, len.next_multiple_of(4)))
    }

    fn hash(&self, stream: &Stream, data: &Memory, hashes: &Memory, len: usize) -> gpu_events::Result<()> {
        encode(stream, |commands| self.encode_hash(commands, data, hashes, len))
    }

    fn download(&self, stream: &Stream, from: &Memory, to: &Memory, len: usize) -> gpu_events::Result<()> {
        encode(stream, |commands| copy(commands, from, to, len))
    }

    fn ahead(&self, stages_on_stream: usize) -> usize {
        BUFFERS_AHEAD / (BUFFERS_PER_STAGE * stages_on_stream)
    }

    fn work_retains_memory(&self) -> bool {
        true
    }
}

/// Encodes a stage's work; what it returns is `None` if there is no encoder to be had.
fn encode(stream: &Stream, work: impl FnOnce(&RawCommands) -> Option<()>) -> gpu_events::Result<()> {
    let encoded = stream.metal()?.encode(work)?;
    let nil = "Metal gave no encoder: the command buffer returned nil";
    encoded.ok_or_else(|| Error::with_text(ErrorKind::Resources, nil))
}

fn copy(commands: &RawCommands, from: &Memory, to: &Memory, size: usize) -> Option<()> {
    let blit = commands.blitCommandEncoder()?;
    // SAFETY: two buffers of one length, which is no less than `size`; the command buffer retains them, and events keep
    // whoever else uses them away.
    unsafe { blit.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(from, 0, to, 0, size) };
    blit.endEncoding();
    Some(())
}

fn compile(gpu: &RawDevice) -> anyhow::Result<Object<RawKernel>> {
    const NAME: &str = "sha256_blocks";
    autoreleasepool(|_| {
        let source = NSString::from_str(include_str!("sha256.metal"));
        let library = gpu.newLibraryWithSource_options_error(&source, None).map_err(|error| {
            anyhow!("Metal does not compile the kernel: {}", error.localizedDescription())
        })?;
        let function = library
            .newFunctionWithName(&NSString::from_str(NAME))
            .with_context(|| format!("Metal finds no {NAME} in the kernel"))?;
        gpu.newComputePipelineStateWithFunction_error(&function)
            .map(Object::new)
            .map_err(|error| anyhow!("Metal makes no pipeline of {NAME}: {}", error.localizedDescription()))
    })
}

/// A buffer of Metal's.
pub(super) struct Memory(Object<RawBuffer>);

// SAFETY: Metal's buffers belong to no thread. What is in them is looked at through `bytes` alone.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(gpu: &RawDevice, bytes: usize, storage: MTLResourceOptions) -> anyhow::Result<Self> {
        let options = storage | MTLResourceOptions::HazardTrackingModeUntracked;
        autoreleasepool(|_| {
            let limit = gpu.maxBufferLength();
            // Metal's validation ends processes that ask for more.
            ensure!(bytes <= limit, "a buffer has at most {} on this GPU", units::bytes(limit as u64));
            let buffer = gpu.newBufferWithLength_options(bytes, options);
            Ok(Self(Object::new(buffer.context("Metal gave no buffer: the device returned nil")?)))
        })
    }
}

impl Shared for Memory {
    unsafe fn bytes(&self, len: usize) -> &mut [u8] {
        let contents = autoreleasepool(|_| self.0.contents());
        // SAFETY: the caller's promise. Metal has written zeros there when it made the buffer.
        unsafe { slice::from_raw_parts_mut(contents.as_ptr().cast(), len) }
    }
}

impl Deref for Memory {
    type Target = RawBuffer;

    fn deref(&self) -> &RawBuffer {
        &self.0
    }
}

/// A reference that is let go of inside of an autorelease pool, whichever thread has it last.
struct Object<T: Message>(ManuallyDrop<Retained<T>>);

impl<T: Message> Object<T> {
    fn new(object: Retained<T>) -> Self {
        Self(ManuallyDrop::new(object))
    }
}

impl<T: Message> Deref for Object<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Message> Drop for Object<T> {
    fn drop(&mut self) {
        // SAFETY: dropped here, once, and nowhere else.
        autoreleasepool(|_| unsafe { ManuallyDrop::drop(&mut self.0) });
    }
}
