//! A GPU's stages, through Metal: the CPU reads and collects, the GPU copies and hashes, and events of both keep order.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;
use std::slice;
use std::sync::{Arc, Mutex};

use anyhow::{Context, anyhow, ensure};
use gpu_events::{Device, Error, ErrorKind, Stream, StreamOptions, metal};
use objc2::Message;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSString;
use objc2_metal::{
    MTLBlitCommandEncoder, MTLBuffer, MTLCommandBuffer, MTLCommandEncoder, MTLComputeCommandEncoder,
    MTLComputePipelineState, MTLDevice, MTLLibrary, MTLResourceOptions, MTLSize,
};

use super::run::{Chunk, Plan};
use super::source::{self, Source};
use super::stages::{Layout, Stage, Stages, alone};
use crate::fsverity::{BLOCK, Hash, Tree};
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

/// The copying between memory that the CPU sees and the GPU's own is done by the GPU, on streams of its own, so that it
/// goes on beside the hashing. Metal orders nothing of this itself: the buffers are made with its tracking off.
pub(super) struct MetalStages {
    stages: [Stage; 5],
    /// The CPU device, whose streams read and collect.
    cpu: Device,
    source: Arc<dyn Source>,
    slots: Vec<Arc<Slot>>,
    kernel: Object<RawKernel>,
    tree: Arc<Mutex<Tree>>,
    /// How many stages share one of the GPU's streams.
    stages_on_stream: usize,
}

const READ: usize = 0;
const UPLOAD: usize = 1;
const HASH: usize = 2;
const DOWNLOAD: usize = 3;
const COLLECT: usize = 4;

/// Where a chunk lives from the reading of its bytes to the collecting of its hashes.
struct Slot {
    /// What the CPU reads into, and what the GPU hashes.
    staged: Memory,
    data: Memory,
    /// What the GPU hashes into, and what the CPU collects.
    hashes: Memory,
    results: Memory,
    /// Held by whichever of the CPU's stages is at work here.
    cpu: Mutex<()>,
}

impl MetalStages {
    pub(super) fn new(
        device: &Device,
        layout: Layout,
        plan: &Plan,
        source: Arc<dyn Source>,
    ) -> anyhow::Result<Self> {
        let gpu = Object::new(metal::raw_device(device)?);
        let kernel = compile(&gpu)?;
        let slots = (0..plan.slots).map(|_| Slot::new(&gpu, plan).map(Arc::new)).collect::<Result<_, _>>()?;
        let cpu = Device::open("cpu").context("cpu")?;
        let stream = |device: &Device, label: String| {
            device.create_stream_with(&StreamOptions::new().label(label)).map(|stream| vec![stream])
        };
        let (streams, stages_on_stream) = match layout {
            Layout::Pipelined { hashers } => {
                let hash = (0..hashers).map(|n| stream(device, format!("hash {n}")));
                let streams = [
                    stream(&cpu, "read".into())?,
                    stream(device, "upload".into())?,
                    hash.collect::<Result<Vec<_>, _>>()?.concat(),
                    stream(device, "download".into())?,
                    stream(&cpu, "collect".into())?,
                ];
                (streams, 1)
            }
            // One of each device: a chunk is read after the one before was collected, so the two take turns.
            Layout::OneStream => {
                let host = stream(&cpu, "read, collect".into())?;
                let only = stream(device, "upload, hash, download".into())?;
                ([host.clone(), only.clone(), only.clone(), only, host], 3)
            }
        };
        let [read, upload, hash, download, collect] = streams;
        Ok(Self {
            stages: [
                Stage { name: "read", streams: read },
                Stage { name: "upload", streams: upload },
                Stage { name: "hash", streams: hash },
                Stage { name: "download", streams: download },
                Stage { name: "collect", streams: collect },
            ],
            cpu,
            source,
            slots,
            kernel,
            tree: Arc::default(),
            stages_on_stream,
        })
    }
}

impl Drop for MetalStages {
    fn drop(&mut self) {
        // What was not read yet, after a failure or Ctrl-C, nobody wants any more.
        self.cpu.close();
    }
}

impl Slot {
    fn new(gpu: &RawDevice, plan: &Plan) -> anyhow::Result<Self> {
        let hashes = plan.chunk / BLOCK * size_of::<Hash>();
        let memory = |bytes, storage| {
            Memory::new(gpu, bytes, storage).with_context(|| {
                let (slots, chunk) = (plan.slots, units::bytes(plan.chunk as u64));
                format!("no memory for {slots} buffers of {chunk}, each twice")
            })
        };
        Ok(Self {
            staged: memory(plan.chunk, MTLResourceOptions::StorageModeShared)?,
            data: memory(plan.chunk, MTLResourceOptions::StorageModePrivate)?,
            hashes: memory(hashes, MTLResourceOptions::StorageModePrivate)?,
            results: memory(hashes, MTLResourceOptions::StorageModeShared)?,
            cpu: Mutex::default(),
        })
    }
}

impl Stages for MetalStages {
    fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn ahead(&self) -> usize {
        BUFFERS_AHEAD / (BUFFERS_PER_STAGE * self.stages_on_stream)
    }

    fn submit(&self, stage: usize, stream: &Stream, chunk: Chunk) -> gpu_events::Result<()> {
        let slot = &self.slots[chunk.slot];
        let hashes = chunk.len.div_ceil(BLOCK) * size_of::<Hash>();
        match stage {
            READ => {
                let (slot, source) = (Arc::clone(slot), Arc::clone(&self.source));
                stream.cpu()?.enqueue(move || -> Result<(), String> {
                    let _alone = alone(&slot.cpu)?;
                    // SAFETY: it is the CPU's from the download of the chunk that was here before to the upload of
                    // this one, which the events keep apart from this; and no other stage of the CPU's is here.
                    let data = unsafe { slot.staged.bytes(chunk.len) };
                    source::read_exact_at(&*source, data, chunk.offset).map_err(|error| error.to_string())
                })
            }
            // On a Mac the sizes of copies are multiples of 4 bytes; the kernel does not look at what is too much.
            UPLOAD => encode(stream, |commands| {
                copy(commands, &slot.staged, &slot.data, chunk.len.next_multiple_of(4))
            }),
            HASH => encode(stream, |commands| self.hash(commands, slot, chunk.len)),
            DOWNLOAD => encode(stream, |commands| copy(commands, &slot.hashes, &slot.results, hashes)),
            COLLECT => {
                let (slot, tree) = (Arc::clone(slot), Arc::clone(&self.tree));
                stream.cpu()?.enqueue(move || -> Result<(), String> {
                    let _alone = alone(&slot.cpu)?;
                    // SAFETY: as for reading; here the next to write is the download of the chunk that comes after.
                    let results = unsafe { slot.results.bytes(hashes) };
                    let mut tree = alone(&tree)?;
                    let (hashes, _) = results.as_chunks();
                    hashes.iter().for_each(|hash| tree.push(hash));
                    Ok(())
                })
            }
            _ => unreachable!("Metal has five stages"),
        }
    }

    fn root(&self) -> anyhow::Result<Hash> {
        let tree = std::mem::take(&mut *alone(&self.tree).map_err(anyhow::Error::msg)?);
        Ok(tree.root())
    }
}

impl MetalStages {
    fn hash(&self, commands: &RawCommands, slot: &Slot, len: usize) -> Option<()> {
        let compute = commands.computeCommandEncoder()?;
        compute.setComputePipelineState(&self.kernel);
        // SAFETY: the kernel's first argument are so many words, rounded up to whole blocks, as the buffer has.
        unsafe { compute.setBuffer_offset_atIndex(Some(&slot.data), 0, 0) };
        // SAFETY: the second is 32 bytes for each block of the first.
        unsafe { compute.setBuffer_offset_atIndex(Some(&slot.hashes), 0, 1) };
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
struct Memory(Object<RawBuffer>);

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

    /// The first `len` bytes.
    ///
    /// # Safety
    /// The buffer has as many, and is shared between the GPU and the CPU; and until the slice is gone, neither uses
    /// them otherwise.
    #[expect(clippy::mut_from_ref, reason = "it is the events that tell who may write")]
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
