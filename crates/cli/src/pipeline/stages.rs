//! What a device does with a chunk. The runner orders it; here is only the work.

use std::sync::{Arc, Mutex, MutexGuard};

use gpu_events::{Device, Stream, StreamOptions};

use super::run::{Chunk, Plan};
use super::source::{self, Source};
use crate::fsverity::{self, Hash, Tree};

/// One kind of work that every chunk passes through.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    /// Chunk `i` is worked on by stream `i % streams.len()`.
    pub(crate) streams: Vec<Stream>,
}

/// A device's way through the pipeline: the seam at which another device joins.
///
/// A device with memory of its own has more stages than the CPU does (read, upload, hash, download, collect), and their
/// streams may be of several devices: the order among them is made by events all the same.
pub(crate) trait Stages {
    /// The stages in the order in which a chunk passes through them.
    fn stages(&self) -> &[Stage];

    /// How many chunks may be submitted and not collected before a submission would wait for room.
    fn ahead(&self) -> usize;

    /// Submits the work of one stage on one chunk to `stream`, and does not wait for it.
    ///
    /// The runner promises: chunks come in order; the work starts after the same chunk's work of the stage
    /// before is done; that of the first stage after the last stage is done with what was in `chunk.slot`.
    fn submit(&self, stage: usize, stream: &Stream, chunk: Chunk) -> gpu_events::Result<()>;

    /// The root of the file's tree, once the last stage of the last chunk is complete.
    fn root(&self) -> anyhow::Result<Hash>;
}

/// Which streams the work is laid out on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Each stage has its own: so many read, so many hash, one collects.
    Pipelined { readers: usize, hashers: usize },
    /// All stages share one stream, or one of each device: the same work, one piece after the other.
    OneStream,
}

/// The CPU device's stages: closures on its streams.
pub(crate) struct CpuStages {
    stages: [Stage; 3],
    source: Arc<dyn Source>,
    slots: Vec<Arc<Mutex<Slot>>>,
    tree: Arc<Mutex<Tree>>,
}

const READ: usize = 0;
const HASH: usize = 1;
const COLLECT: usize = 2;

/// Where a chunk lives from the reading of its bytes to the collecting of its hashes.
#[derive(Debug)]
struct Slot {
    data: Vec<u8>,
    hashes: Vec<Hash>,
}

impl CpuStages {
    pub(crate) fn new(
        device: &Device,
        layout: Layout,
        plan: &Plan,
        source: Arc<dyn Source>,
    ) -> anyhow::Result<Self> {
        let stream = |label: String| device.create_stream_with(&StreamOptions::new().label(label));
        let streams = match layout {
            Layout::Pipelined { readers, hashers } => [
                (0..readers).map(|n| stream(format!("read {n}"))).collect::<Result<_, _>>()?,
                (0..hashers).map(|n| stream(format!("hash {n}"))).collect::<Result<_, _>>()?,
                vec![stream("collect".into())?],
            ],
            Layout::OneStream => {
                let only = stream("read, hash, collect".into())?;
                [vec![only.clone()], vec![only.clone()], vec![only]]
            }
        };
        let [read, hash, collect] = streams;
        let slots = (0..plan.slots).map(|_| Slot::new(plan).map(|slot| Arc::new(Mutex::new(slot))));
        Ok(Self {
            stages: [
                Stage { name: "read", streams: read },
                Stage { name: "hash", streams: hash },
                Stage { name: "collect", streams: collect },
            ],
            source,
            slots: slots.collect::<Result<_, _>>()?,
            tree: Arc::default(),
        })
    }
}

impl Slot {
    fn new(plan: &Plan) -> anyhow::Result<Self> {
        let mut data = Vec::new();
        if data.try_reserve_exact(plan.chunk).is_err() {
            anyhow::bail!(
                "no memory for {} buffers of {}",
                plan.slots,
                crate::units::bytes(plan.chunk as u64)
            );
        }
        data.resize(plan.chunk, 0);
        Ok(Self { data, hashes: Vec::with_capacity(plan.chunk.div_ceil(fsverity::BLOCK)) })
    }
}

impl Stages for CpuStages {
    fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn ahead(&self) -> usize {
        usize::MAX
    }

    fn submit(&self, stage: usize, stream: &Stream, chunk: Chunk) -> gpu_events::Result<()> {
        let cpu = stream.cpu()?;
        let slot = Arc::clone(&self.slots[chunk.slot]);
        match stage {
            READ => {
                let source = Arc::clone(&self.source);
                cpu.enqueue(move || -> Result<(), String> {
                    let data = &mut alone(&slot)?.data[..chunk.len];
                    source::read_exact_at(&*source, data, chunk.offset).map_err(|error| error.to_string())
                })
            }
            HASH => cpu.enqueue(move || -> Result<(), String> {
                let Slot { data, hashes } = &mut *alone(&slot)?;
                hashes.clear();
                fsverity::hash_blocks(&data[..chunk.len], hashes);
                Ok(())
            }),
            COLLECT => {
                let tree = Arc::clone(&self.tree);
                cpu.enqueue(move || -> Result<(), String> {
                    let mut tree = alone(&tree)?;
                    for hash in &alone(&slot)?.hashes {
                        tree.push(hash);
                    }
                    Ok(())
                })
            }
            _ => unreachable!("the CPU has three stages"),
        }
    }

    fn root(&self) -> anyhow::Result<Hash> {
        let tree = std::mem::take(&mut *alone(&self.tree).map_err(anyhow::Error::msg)?);
        Ok(tree.root())
    }
}

/// Takes what the events promise to be free.
///
/// The lock is what safe Rust asks for, and orders nothing: nobody waits for it. Finding it held means that the
/// events have failed to keep two stages apart, and then no digest is better than some digest.
pub(super) fn alone<T>(shared: &Mutex<T>) -> Result<MutexGuard<'_, T>, String> {
    shared.try_lock().map_err(|_| "two stages met on one buffer, which their events should keep apart".into())
}
