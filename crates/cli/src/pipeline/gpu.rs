//! A GPU's stages: the CPU reads and collects, the GPU copies and hashes, and events of both keep order.

use std::cell::Cell;
use std::mem;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use gpu_events::{Device, Error, ErrorKind, Stream, StreamOptions};

use super::run::{Chunk, Plan};
use super::source::{self, Source};
use super::stages::{Layout, Stage, Stages, alone};
use crate::fsverity::{BLOCK, Hash, Tree};
use crate::units;

/// What is different from one kind of GPU to the other. Work is submitted, and not waited for.
pub(super) trait Gpu: 'static {
    /// Memory that the CPU sees as well.
    type Shared: Shared;
    /// The GPU's own memory. Aligned to 16 bytes at least.
    type Own: Send + Sync + 'static;

    fn shared(&self, bytes: usize) -> anyhow::Result<Self::Shared>;

    fn own(&self, bytes: usize) -> anyhow::Result<Self::Own>;

    /// Copies the first `len` bytes.
    fn upload(
        &self,
        stream: &Stream,
        from: &Self::Shared,
        to: &Self::Own,
        len: usize,
    ) -> gpu_events::Result<()>;

    /// Hashes each block of the first `len` bytes, the last padded with zeros.
    fn hash(
        &self,
        stream: &Stream,
        data: &Self::Own,
        hashes: &Self::Own,
        len: usize,
    ) -> gpu_events::Result<()>;

    /// Copies the first `len` bytes.
    fn download(
        &self,
        stream: &Stream,
        from: &Self::Own,
        to: &Self::Shared,
        len: usize,
    ) -> gpu_events::Result<()>;

    /// How many chunks may be submitted and not collected, if so many of the GPU's stages share a stream.
    fn ahead(&self, stages_on_stream: usize) -> usize;

    /// Whether memory that work of the GPU's may still use can be let go of, since the work holds on to it.
    fn work_retains_memory(&self) -> bool;
}

pub(super) trait Shared: Send + Sync + 'static {
    /// The first `len` bytes.
    ///
    /// # Safety
    /// There are as many; and until the slice is gone, neither the GPU nor the CPU uses them otherwise.
    #[expect(clippy::mut_from_ref, reason = "it is the events that tell who may write")]
    unsafe fn bytes(&self, len: usize) -> &mut [u8];
}

/// The copying between memory that the CPU sees and the GPU's own is done by the GPU, on streams of its own, so that it
/// goes on beside the hashing.
pub(super) struct GpuStages<G: Gpu> {
    stages: [Stage; 5],
    /// The CPU device, whose streams read and collect.
    cpu: Device,
    source: Arc<dyn Source>,
    gpu: G,
    slots: Vec<Arc<Slot<G>>>,
    tree: Arc<Mutex<Tree>>,
    /// How many stages share one of the GPU's streams.
    stages_on_stream: usize,
    /// Everything was collected, so the GPU is through with all that it was given.
    through: Cell<bool>,
}

const READ: usize = 0;
const UPLOAD: usize = 1;
const HASH: usize = 2;
const DOWNLOAD: usize = 3;
const COLLECT: usize = 4;

/// Where a chunk lives from the reading of its bytes to the collecting of its hashes.
struct Slot<G: Gpu> {
    /// What the CPU reads into, and what the GPU hashes.
    staged: G::Shared,
    data: G::Own,
    /// What the GPU hashes into, and what the CPU collects.
    hashes: G::Own,
    results: G::Shared,
    /// Held by whichever of the CPU's stages is at work here.
    cpu: Mutex<()>,
}

impl<G: Gpu> GpuStages<G> {
    pub(super) fn new(
        device: &Device,
        gpu: G,
        layout: Layout,
        plan: &Plan,
        source: Arc<dyn Source>,
    ) -> anyhow::Result<Self> {
        let slots = (0..plan.slots).map(|_| Slot::new(&gpu, plan).map(Arc::new)).collect::<Result<_, _>>()?;
        let cpu = Device::open("cpu").context("cpu")?;
        let stream =
            |device: &Device, label: String| device.create_stream_with(&StreamOptions::new().label(label));
        let (streams, stages_on_stream) = match layout {
            Layout::Pipelined { readers, hashers } => {
                let read = (0..readers).map(|n| stream(&cpu, format!("read {n}")));
                let hash = (0..hashers).map(|n| stream(device, format!("hash {n}")));
                let streams = [
                    read.collect::<Result<_, _>>()?,
                    vec![stream(device, "upload".into())?],
                    hash.collect::<Result<_, _>>()?,
                    vec![stream(device, "download".into())?],
                    vec![stream(&cpu, "collect".into())?],
                ];
                (streams, 1)
            }
            // One of each device: a chunk is read after the one before was collected, so the two take turns.
            Layout::OneStream => {
                let host = vec![stream(&cpu, "read, collect".into())?];
                let only = vec![stream(device, "upload, hash, download".into())?];
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
            gpu,
            slots,
            tree: Arc::default(),
            stages_on_stream,
            through: Cell::new(false),
        })
    }
}

impl<G: Gpu> Drop for GpuStages<G> {
    fn drop(&mut self) {
        // What was not read yet, after a failure or Ctrl-C, nobody wants any more.
        self.cpu.close();
        if !self.through.get() && !self.gpu.work_retains_memory() {
            // The GPU may be at work there yet, and of streams that have failed no event says until when.
            mem::forget(mem::take(&mut self.slots));
        }
    }
}

impl<G: Gpu> Slot<G> {
    fn new(gpu: &G, plan: &Plan) -> anyhow::Result<Self> {
        let hashes = plan.chunk / BLOCK * size_of::<Hash>();
        let short = |error: anyhow::Error| {
            let (slots, chunk) = (plan.slots, units::bytes(plan.chunk as u64));
            let kind = error.downcast_ref().map(Error::kind);
            // Only of memory: a GPU that is lost has all that it had.
            if kind.is_none_or(|kind| kind == ErrorKind::Resources) {
                error.context(format!("no memory for {slots} buffers of {chunk}, each twice"))
            } else {
                error
            }
        };
        Ok(Self {
            staged: gpu.shared(plan.chunk).map_err(short)?,
            data: gpu.own(plan.chunk).map_err(short)?,
            hashes: gpu.own(hashes).map_err(short)?,
            results: gpu.shared(hashes).map_err(short)?,
            cpu: Mutex::default(),
        })
    }
}

impl<G: Gpu> Stages for GpuStages<G> {
    fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn ahead(&self) -> usize {
        self.gpu.ahead(self.stages_on_stream)
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
            UPLOAD => self.gpu.upload(stream, &slot.staged, &slot.data, chunk.len),
            HASH => self.gpu.hash(stream, &slot.data, &slot.hashes, chunk.len),
            DOWNLOAD => self.gpu.download(stream, &slot.hashes, &slot.results, hashes),
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
            _ => unreachable!("a GPU has five stages"),
        }
    }

    fn root(&self) -> anyhow::Result<Hash> {
        self.through.set(true);
        let tree = mem::take(&mut *alone(&self.tree).map_err(anyhow::Error::msg)?);
        Ok(tree.root())
    }
}
