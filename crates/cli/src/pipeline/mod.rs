//! `gpu-events pipeline`: a file's fs-verity digest, computed by stages whose order is made by events alone.

mod bar;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(
    feature = "cuda",
    feature = "vulkan",
    all(feature = "metal", any(target_vendor = "apple", gpu_events_metal_sim))
))]
mod gpu;
mod interrupt;
#[cfg(all(feature = "metal", any(target_vendor = "apple", gpu_events_metal_sim)))]
mod metal;
mod report;
mod run;
mod source;
mod spans;
mod stages;
#[cfg(test)]
mod tests;
#[cfg(feature = "vulkan")]
mod vulkan;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, bail, ensure};
use gpu_events::trace::{self, Trace};
use gpu_events::{Device, Event};
use indicatif::ProgressBar;

pub(crate) use interrupt::EXIT_CODE as INTERRUPTED_EXIT_CODE;
pub(crate) use run::Interrupted;

use crate::fsverity::{self, BLOCK};
use crate::{output, units};
use report::{Other, Report};
use run::{Plan, Run, Timing};
use source::Source;
use stages::{CpuStages, Layout, Stages};

const STREAMS_LIMIT: u16 = 256;
const IN_FLIGHT_LIMIT: u32 = 1 << 12;

/// What the options are unless they are given.
#[derive(Clone, Copy)]
struct Defaults {
    readers: usize,
    hashers: usize,
    chunk: u64,
}

impl Defaults {
    fn of(backend: &str) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        match backend {
            // A GPU hashes faster than one stream reads. Few streams hash: they, the upload and the download share the
            // driver's eight connections, and one that waits holds up the others on its connection. However few blocks
            // a chunk has, to hash one takes the same time (reckoned, not measured: 0.2 ms), so there are more.
            // So for Vulkan, whose streams share a few queues.
            "cuda" | "vulkan" => Self { readers: cores.min(4), hashers: 4, chunk: 2 << 20 },
            // However many cores there are, one stream reads for 16, about ten times as fast as another hashes, and
            // buffers should not grow for nothing. The chunk is large enough that its dozen events and waits vanish
            // beside half a millisecond of hashing, small enough that it is still in a shared cache when it is hashed.
            // Measured: 256 KiB takes 3 % longer, 4 KiB a multiple.
            _ => Self { readers: 1, hashers: cores.min(16), chunk: 1 << 20 },
        }
    }
}

/// What the buffers may take in all; with a GPU twice that, since it has its own beside them. A mistyped size is told so,
/// rather than left to the OOM killer.
const BUFFERS_LIMIT: u64 = 1 << 30;

/// How often `--compare` runs each way, unless it is told.
const ROUNDS: u16 = 3;

/// Compute a file's fs-verity digest, and show what the streams did meanwhile.
#[derive(Debug, clap::Args)]
pub(crate) struct PipelineArgs {
    /// The file to digest
    file: PathBuf,

    /// The device that hashes
    #[arg(long, default_value = "cpu")]
    device: String,

    /// Streams that hash [default: one for each core, at most 16; with CUDA or Vulkan 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(STREAMS_LIMIT)))]
    streams: Option<u16>,

    /// Streams that read [default: 1; with CUDA or Vulkan one for each core, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(STREAMS_LIMIT)))]
    readers: Option<u16>,

    /// Bytes read, hashed and collected at a time: a multiple of 4 KiB, such as 64K or 1MiB [default: 1M; with CUDA or
    /// Vulkan 2M]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_chunk)]
    chunk: Option<u64>,

    /// Chunks submitted ahead of those collected [default: 8 for each stream that hashes]
    ///
    /// They share buffers, of which there are at most two for each stream that reads or hashes. A GPU may take fewer.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(IN_FLIGHT_LIMIT)))]
    in_flight: Option<u32>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Do the same work on a single stream as well, and say how much slower that is
    ///
    /// With a GPU, on one stream of it and one of the CPU, which take turns. Of a run that is traced, also what that costs,
    /// beside one in which nothing is timed.
    #[arg(long)]
    compare: bool,

    /// How often `--compare` runs each way
    #[arg(long, value_name = "N", requires = "compare", default_value_t = ROUNDS, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Write a timeline to look at: one HTML file, for any browser
    #[arg(long, value_name = "FILE")]
    timeline: Option<PathBuf>,

    /// Write a trace: for Perfetto (.pftrace), for Chrome (.json) or as HTML (.html)
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// Read the clock of another machine, where `gpu-events trace clock` runs, beside this one's, so that traces of the two can
    /// be merged
    #[arg(long, value_name = "ADDRESS", requires = "trace")]
    clock: Option<String>,
}

pub(crate) fn run(args: &PipelineArgs) -> anyhow::Result<()> {
    let name = args.file.display();
    let source = Arc::new(open(&args.file).with_context(|| name.to_string())?);
    let bytes = source.len().with_context(|| name.to_string())?;
    let device = Device::open(&args.device).with_context(|| args.device.clone())?;
    // Whatever way this returns, nothing goes on in the back: work not begun is dropped, not done.
    let _close = Close(&device);
    let defaults = Defaults::of(device.info().backend);
    let readers = args.readers.map_or(defaults.readers, usize::from);
    let hashers = args.streams.map_or(defaults.hashers, usize::from);
    let plan = plan(bytes, args.chunk.unwrap_or(defaults.chunk), readers, hashers, args.in_flight)?;
    // What can't be written should not be found out after an hour's work.
    args.timeline.iter().try_for_each(trace::check_writable)?;
    args.trace.iter().try_for_each(Trace::check_output)?;
    let traced = args.timeline.is_some() || args.trace.is_some();
    let timing = if traced { Timing::Traced } else { Timing::Timed };
    let mut samples = Vec::new();
    let mut sample = || -> anyhow::Result<()> {
        samples.extend(args.clock.as_deref().map(crate::trace::sample).transpose()?);
        Ok(())
    };
    let stop = interrupt::on_ctrl_c(&device)?;

    let rounds = if args.compare { args.rounds.into() } else { 1_usize };
    let ways = if args.compare { 2 + usize::from(traced) } else { 1 };
    let bar = bar::over(bytes.saturating_mul((rounds * ways) as u64));
    let job = Job { device: &device, plan: &plan, source, stop: &stop, bar: &bar };
    let (mut pipelined, mut one_stream, mut untimed) = (Vec::new(), Vec::new(), Vec::new());
    sample()?;
    for _ in 0..rounds {
        // Interleaved, so that what else goes on in the machine meets all ways alike.
        let layout = Layout::Pipelined { readers, hashers };
        pipelined.push(job.run(layout, timing).with_context(|| name.to_string())?);
        if args.compare && traced {
            untimed.push(job.run(layout, Timing::Untimed).with_context(|| name.to_string())?);
        }
        if args.compare {
            one_stream.push(job.run(Layout::OneStream, Timing::Timed).with_context(|| name.to_string())?);
        }
    }
    sample()?;
    let mut roots = pipelined.iter().chain(&one_stream).chain(&untimed).map(|run| run.root);
    let first = roots.next();
    ensure!(roots.all(|root| Some(root) == first), "{name}: changed between two rounds of reading it");
    bar.finish_and_clear();

    let mut run = median(pipelined);
    if let Some(trace) = &mut run.trace {
        trace.samples.extend(samples);
        args.timeline.iter().try_for_each(|path| trace.write_html(path))?;
        args.trace.iter().try_for_each(|path| trace.save(path))?;
    }
    let report = Report {
        path: &args.file,
        digest: fsverity::format(&fsverity::digest(&run.root, bytes)),
        device: &device,
        plan: &plan,
        one_stream: args.compare.then(|| Other { wall: median(one_stream).wall, rounds }),
        untimed: (args.compare && traced).then(|| Other { wall: median(untimed).wall, rounds }),
        run: &run,
        resident_peak: resident_peak(),
    };
    if args.json { output::print_json(&report.json()) } else { output::print(report.text()) }
}

/// Opens a regular file. Others are refused before they are opened, since opening a FIFO waits for its writer.
fn open(path: &Path) -> anyhow::Result<File> {
    let metadata = fs::metadata(path)?;
    ensure!(!metadata.is_dir(), "is a directory, and only files have a digest");
    ensure!(metadata.is_file(), "is not a regular file, which can be read by position");
    Ok(File::open(path)?)
}

fn plan(
    bytes: u64,
    chunk: u64,
    readers: usize,
    hashers: usize,
    in_flight: Option<u32>,
) -> anyhow::Result<Plan> {
    // A buffer needs no room for what the file does not have.
    let chunk = chunk.min(bytes.checked_next_multiple_of(BLOCK as u64).unwrap_or(u64::MAX)).max(BLOCK as u64);
    let in_flight = in_flight.map_or(8 * hashers, |in_flight| in_flight as usize);
    // For each hashing stream one chunk at work and one that is ready when it is done, and for each reading one two that
    // are read and collected meanwhile: more would only be farther from the caches.
    let slots = in_flight
        .min(2 * (readers + hashers))
        .min(usize::try_from(bytes.div_ceil(chunk)).unwrap_or(usize::MAX));
    let buffers = chunk.checked_mul(slots as u64).filter(|buffers| *buffers <= BUFFERS_LIMIT);
    ensure!(
        buffers.is_some(),
        "{slots} buffers of {} are more than {} in all: choose a smaller --chunk, or fewer --streams or --in-flight",
        units::bytes(chunk),
        units::bytes(BUFFERS_LIMIT),
    );
    // At most the limit, which fits.
    Ok(Plan { bytes, chunk: chunk as usize, in_flight, slots })
}

/// What all runs over one file share.
struct Job<'a> {
    device: &'a Device,
    plan: &'a Plan,
    source: Arc<File>,
    stop: &'a Event,
    bar: &'a ProgressBar,
}

impl Job<'_> {
    fn run(&self, layout: Layout, timing: Timing) -> anyhow::Result<Run> {
        let collected = |bytes| self.bar.inc(bytes);
        run_on(self.device, layout, self.plan, self.source.clone(), self.stop, timing, collected)
    }
}

fn run_on(
    device: &Device,
    layout: Layout,
    plan: &Plan,
    source: Arc<dyn Source>,
    stop: &Event,
    timing: Timing,
    collected: impl FnMut(u64),
) -> anyhow::Result<Run> {
    // The place where another backend's stages join.
    let stages: Box<dyn Stages> = match device.info().backend {
        "cpu" => Box::new(CpuStages::new(device, layout, plan, Arc::clone(&source))?),
        #[cfg(all(feature = "metal", any(target_vendor = "apple", gpu_events_metal_sim)))]
        "metal" => {
            let gpu = metal::MetalGpu::new(device)?;
            Box::new(gpu::GpuStages::new(device, gpu, layout, plan, Arc::clone(&source))?)
        }
        #[cfg(feature = "cuda")]
        "cuda" => {
            let gpu = cuda::CudaGpu::new(device)?;
            Box::new(gpu::GpuStages::new(device, gpu, layout, plan, Arc::clone(&source))?)
        }
        #[cfg(feature = "vulkan")]
        "vulkan" => {
            let gpu = vulkan::VulkanGpu::new(device)?;
            Box::new(gpu::GpuStages::new(device, gpu, layout, plan, Arc::clone(&source))?)
        }
        backend => bail!("{}: the pipeline has no stages for {backend} devices", device.name()),
    };
    let run = run::run(plan, &*stages, stop, timing, collected)?;
    // A file that lost only what had been read already, or grew, is not what the digest is of either.
    let now = source.len()?;
    ensure!(now >= plan.bytes, "shrank while it was read: it had {} bytes, and has {now} now", plan.bytes);
    ensure!(now == plan.bytes, "grew while it was read: it had {} bytes, and has {now} now", plan.bytes);
    Ok(run)
}

/// Closes the device in the end.
struct Close<'a>(&'a Device);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The run whose wall time is in the middle.
fn median(mut runs: Vec<Run>) -> Run {
    runs.sort_by_key(|run| run.wall);
    runs.swap_remove(runs.len() / 2)
}

/// The most memory that this process ever had resident, where the system tells.
fn resident_peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}
