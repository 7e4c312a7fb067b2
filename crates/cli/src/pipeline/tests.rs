//! The pipeline over sources that lie, stutter, fail or wait: what no file can be made to do on demand.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use super::*;
use crate::fsverity::{Hash, Tree, hash_blocks};

/// A source that is well-behaved but for the ways that a test asks for.
#[derive(Default)]
struct Memory {
    bytes: Vec<u8>,
    /// What `len` answers, first and later; each `None` is the truth.
    claims: [Option<u64>; 2],
    asked: AtomicUsize,
    /// Reads at or beyond this fail.
    fails_at: Option<u64>,
    /// Reads come in pieces of at most so many bytes, and are interrupted before each.
    stutters: Option<usize>,
    reads: AtomicU64,
    /// Reads wait until it is open.
    gate: Option<Gate>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    waiting: bool,
    open: bool,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting = true;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| !state.open).unwrap());
    }

    fn until_somebody_waits(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| !state.waiting).unwrap());
    }

    fn open(&self) {
        self.state.lock().unwrap().open = true;
        self.changed.notify_all();
    }
}

impl Source for Memory {
    fn len(&self) -> io::Result<u64> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(self.claims[asked.min(1)].unwrap_or(self.bytes.len() as u64))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Some(gate) = &self.gate {
            gate.pass();
        }
        if self.fails_at.is_some_and(|at| offset + buffer.len() as u64 > at) {
            return Err(io::Error::other("the disk is on fire"));
        }
        let limit = self.stutters.unwrap_or(usize::MAX);
        if self.stutters.is_some() && self.reads.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let rest = self.bytes.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(buffer.len()).min(limit);
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 4096 * 7 + i % 253) as u8).collect()
}

fn root_of(bytes: &[u8]) -> Hash {
    let mut hashes = Vec::new();
    hash_blocks(bytes, &mut hashes);
    let mut tree = Tree::default();
    hashes.iter().for_each(|hash| tree.push(hash));
    tree.root()
}

const PIPELINED: Layout = Layout::Pipelined { readers: 1, hashers: 2 };

fn run_over(source: Memory, layout: Layout, chunk: u64, in_flight: u32) -> anyhow::Result<Run> {
    run_over_on("cpu", source, layout, chunk, in_flight)
}

fn run_over_on(
    device: &str,
    source: Memory,
    layout: Layout,
    chunk: u64,
    in_flight: u32,
) -> anyhow::Result<Run> {
    let stages = if device == "cpu" { 3 } else { 5 };
    let device = Device::open(device).unwrap();
    // Held for as long as the run: a dropped signal settles its event as well.
    let (stop, _signal) = device.host_event().unwrap();
    let (readers, hashers) =
        if let Layout::Pipelined { readers, hashers } = layout { (readers, hashers) } else { (1, 1) };
    let plan = plan(source.len()?, chunk, readers, hashers, Some(in_flight))?;
    let mut collected = 0;
    let run =
        run_on(&device, layout, &plan, Arc::new(source), &stop, Timing::Timed, |bytes| collected += bytes)?;
    assert_eq!(collected, plan.bytes);
    assert!(run.peak_chunks <= plan.slots, "{} chunks in {} buffers", run.peak_chunks, plan.slots);
    assert_eq!(run.recorded, plan.chunks() * 2 * stages);
    for (name, _, totals) in &run.stages {
        assert!(totals.alone <= totals.busy && totals.busy <= totals.device, "{name}: {totals:?}");
        assert!(totals.busy <= run.wall.as_nanos() as u64, "{name}: {totals:?} in {:?}", run.wall);
    }
    Ok(run)
}

#[test]
fn every_layout_gives_the_same_root() {
    for len in [0, 1, 4096, 4097, 40 * 4096 + 17] {
        let bytes = bytes(len);
        let root = root_of(&bytes);
        for (readers, hashers) in [(1, 1), (1, 2), (2, 3), (5, 1), (1, 16)] {
            for chunk in [4096, 3 * 4096, 1 << 20] {
                for in_flight in [1, 2, 3, 64] {
                    let source = Memory { bytes: bytes.clone(), ..Memory::default() };
                    let run =
                        run_over(source, Layout::Pipelined { readers, hashers }, chunk, in_flight).unwrap();
                    assert_eq!(run.root, root, "{len} bytes, {readers}, {hashers}, {chunk}, {in_flight}");
                }
            }
        }
    }
}

#[test]
fn one_stream_gives_the_same_root_and_overlaps_nothing() {
    let bytes = bytes(40 * 4096 + 17);
    let root = root_of(&bytes);
    let run = run_over(Memory { bytes, ..Memory::default() }, Layout::OneStream, 4096, 16).unwrap();
    assert_eq!(run.root, root);
    assert_eq!(run.peak_chunks, 1);
    for (name, _, totals) in run.stages {
        assert_eq!(totals.overlapped(), 0, "{name}");
        assert_eq!(totals.device, totals.busy, "{name}");
    }
}

#[test]
fn reads_that_stutter_are_put_together() {
    let bytes = bytes(10 * 4096 + 1);
    let root = root_of(&bytes);
    let source = Memory { bytes, stutters: Some(1000), ..Memory::default() };
    assert_eq!(run_over(source, PIPELINED, 4096, 4).unwrap().root, root);
}

#[test]
fn a_source_that_shrinks_under_the_reader_is_an_error() {
    for layout in [PIPELINED, Layout::OneStream] {
        let source = Memory { bytes: bytes(100_000), claims: [Some(500_000), None], ..Memory::default() };
        let error = run_over(source, layout, 4096, 8).unwrap_err();
        assert_eq!(format!("{error:#}"), "shrank while it was read: nothing is left at byte 100000");
    }
}

#[test]
fn a_source_that_loses_what_was_read_is_an_error() {
    let source = Memory { bytes: bytes(10_000), claims: [None, Some(7)], ..Memory::default() };
    let error = run_over(source, PIPELINED, 4096, 8).unwrap_err();
    assert_eq!(format!("{error:#}"), "shrank while it was read: it had 10000 bytes, and has 7 now");
}

#[test]
fn a_source_that_grows_is_an_error() {
    let source = Memory { bytes: bytes(10_000), claims: [None, Some(10_001)], ..Memory::default() };
    let error = run_over(source, PIPELINED, 4096, 8).unwrap_err();
    assert_eq!(format!("{error:#}"), "grew while it was read: it had 10000 bytes, and has 10001 now");
}

#[test]
fn what_the_system_says_of_a_read_arrives() {
    let source = Memory { bytes: bytes(100_000), fails_at: Some(50_000), ..Memory::default() };
    let error = run_over(source, PIPELINED, 4096, 8).unwrap_err();
    assert_eq!(format!("{error:#}"), "can't be read at byte 49152: the disk is on fire");
}

#[test]
fn stopping_does_not_wait_for_a_read_that_hangs() {
    let device = Device::open("cpu").unwrap();
    let (stop, signal) = device.host_event().unwrap();
    let source = Arc::new(Memory { bytes: bytes(100_000), gate: Some(Gate::default()), ..Memory::default() });
    let gate = source.gate.as_ref().unwrap();
    let plan = plan(100_000, 4096, 1, 2, None).unwrap();
    thread::scope(|scope| {
        let run =
            scope.spawn(|| run_on(&device, PIPELINED, &plan, source.clone(), &stop, Timing::Timed, |_| ()));
        gate.until_somebody_waits();
        signal.complete();
        let error = run.join().unwrap().unwrap_err();
        assert!(error.is::<Interrupted>(), "{error:#}");
        // And with its context too, as `main` gets to see it.
        assert!(error.context("file").is::<Interrupted>());
        gate.open();
    });
}

#[test]
fn plans_are_bounded() {
    let slots = |bytes, chunk, streams, in_flight| plan(bytes, chunk, 1, streams, in_flight).unwrap().slots;
    assert_eq!(slots(1 << 40, 1 << 20, 2, None), 6);
    assert_eq!(slots(1 << 40, 1 << 20, 2, Some(3)), 3);
    assert_eq!(slots(1 << 20, 1 << 20, 2, None), 1);
    assert_eq!(slots(0, 1 << 20, 2, None), 0);
    // A small file needs no large buffers, whatever was asked for.
    let small = plan(5000, 1 << 40, 1, 2, None).unwrap();
    assert_eq!((small.chunk, small.slots, small.chunks()), (8192, 1, 1));
    let error = plan(1 << 50, 1 << 40, 1, 2, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "6 buffers of 1024 GiB are more than 1 GiB in all: choose a smaller --chunk, or fewer --streams or --in-flight"
    );
    assert!(plan(u64::MAX, u64::MAX - 4095, 1, 2, None).is_err());
}

/// What the tests of any GPU's stages are.
#[cfg(any(feature = "cuda", feature = "vulkan"))]
fn gives_the_same_root_in_every_layout(device: &str) {
    let pipelined = |readers, hashers| Layout::Pipelined { readers, hashers };
    for len in [0, 1, 4095, 4096, 4097, 33 * 4096 - 61, (40 << 20) + 4099] {
        let bytes = bytes(len);
        let root = root_of(&bytes);
        for layout in [Layout::OneStream, pipelined(1, 1), pipelined(4, 4), pipelined(2, 9)] {
            for (chunk, in_flight) in [(1 << 16, 1), (1 << 16, 64), (2 << 20, 32)] {
                let source = Memory { bytes: bytes.clone(), ..Memory::default() };
                let run = run_over_on(device, source, layout, chunk, in_flight).unwrap();
                assert_eq!(run.root, root, "{len} bytes, {layout:?}, {chunk}, {in_flight}");
            }
        }
    }
}

#[cfg(any(feature = "cuda", feature = "vulkan"))]
fn passes_on_what_the_system_says_of_a_read(device: &str) {
    for layout in [PIPELINED, Layout::OneStream] {
        let source = Memory { bytes: bytes(100_000), fails_at: Some(50_000), ..Memory::default() };
        let error = run_over_on(device, source, layout, 4096, 8).unwrap_err();
        assert_eq!(format!("{error:#}"), "can't be read at byte 49152: the disk is on fire");
    }
}

/// Whether `GPU_EVENTS_REQUIRE`, a list with commas, names this backend: then its tests run wherever this does.
#[cfg(any(feature = "cuda", feature = "vulkan"))]
fn is_required(backend: &str) -> bool {
    let required = std::env::var("GPU_EVENTS_REQUIRE").unwrap_or_default();
    required.split(',').any(|name| name.trim() == backend)
}

#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a GPU: cargo test -p gpu-events-cli --lib cuda -- --ignored"]
fn cuda_gives_the_same_root_in_every_layout() {
    gives_the_same_root_in_every_layout("cuda:0");
}

#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a GPU: cargo test -p gpu-events-cli --lib cuda -- --ignored"]
fn cuda_passes_on_what_the_system_says_of_a_read() {
    passes_on_what_the_system_says_of_a_read("cuda:0");
}

#[cfg(feature = "cuda")]
#[test]
fn what_is_required_is_there() {
    if is_required("cuda") {
        cuda_gives_the_same_root_in_every_layout();
        cuda_passes_on_what_the_system_says_of_a_read();
    }
}

/// Vulkan has devices that are no GPUs, as Mesa's lavapipe: so its tests are not ignored. Where there is none, they say so.
#[cfg(feature = "vulkan")]
fn has_vulkan() -> bool {
    match Device::open("vulkan:0") {
        Ok(_) => true,
        Err(error) if is_required("vulkan") => panic!("GPU_EVENTS_REQUIRE asks for Vulkan: {error}"),
        Err(error) => {
            println!("skipped: {error}");
            false
        }
    }
}

#[cfg(feature = "vulkan")]
#[test]
fn vulkan_gives_the_same_root_in_every_layout() {
    if has_vulkan() {
        gives_the_same_root_in_every_layout("vulkan:0");
    }
}

#[cfg(feature = "vulkan")]
#[test]
fn vulkan_passes_on_what_the_system_says_of_a_read() {
    if has_vulkan() {
        passes_on_what_the_system_says_of_a_read("vulkan:0");
    }
}
