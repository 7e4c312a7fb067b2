//! What an object weighs, as the growth of resident memory over very many of them.
//!
//! Each kind is measured in a process of its own, so that nothing else grows meanwhile. Resident memory, not what was
//! asked of the allocator: its rounding and its own books are paid for as well. Handles count.
//!
//! It is the process's anonymous memory. Host memory that a GPU's driver pins and maps itself, as that of the words and rings
//! which streams and timed events have there, is outside of it, and so is memory of the GPU's own: a leak of either shows in no
//! row here, and not in the soak, which reads the same.

use super::harness::{Group, Measure, Plan};
use super::report::Target;
use super::seed::{SeedHandle, SeedPool};
use super::text;
use super::{Bench, HeldStream};
use anyhow::{Context, Result, bail};
use gpu_events::{Event, EventPool, Stream};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(super) fn group<'a>(bench: &'a Bench) -> Group<'a> {
    let mut group = Group::of_processes("Memory, and the time to make one");
    if resident_bytes().is_err() {
        return group; // no rows: this system doesn't tell
    }
    let mut row = |name: &str, probe: Probe, label: &str, baseline: Probe, limit: f64| {
        let ours = group.variant(name, in_a_process(bench, probe));
        let baseline = group.variant(label, in_a_process(bench, baseline));
        group.row(name, ours, baseline, bench.targets([Target::Bytes(limit)]));
    };
    row(
        "memory: pending event",
        Probe::PendingEvents,
        "the seed's event, on a CPU",
        Probe::SeedEvents,
        128.0,
    );
    let threads = "a parked thread with a queue, its kernel's side not counted";
    row("memory: idle stream", Probe::IdleStreams, threads, Probe::ParkedThreads, 512.0);
    group
}

/// What a process measures.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum Probe {
    PendingEvents,
    SeedEvents,
    IdleStreams,
    ParkedThreads,
}

impl Probe {
    fn count(self, plan: &Plan) -> usize {
        match self {
            Self::ParkedThreads => plan.pick(2_000, 100),
            Self::PendingEvents | Self::SeedEvents | Self::IdleStreams => plan.pick(1_000_000, 50_000),
        }
    }

    /// Measures in this process, and prints for [`in_a_process`].
    pub(super) fn run(self, bench: &Bench) -> Result<()> {
        let count = self.count(&bench.plan);
        let weighed = match self {
            Self::PendingEvents => {
                let (pool, held) = (EventPool::new(&bench.device), HeldStream::new(&bench.device)?);
                weigh(count, || -> Result<Event> {
                    let event = pool.acquire();
                    event.record(&held.stream)?;
                    Ok(event)
                })
            }
            Self::SeedEvents => {
                let pool = SeedPool::default();
                weigh(count, || -> Result<SeedHandle> {
                    let handle = pool.acquire();
                    handle.event().record();
                    Ok(handle)
                })
            }
            Self::IdleStreams => weigh(count, || -> Result<Stream> {
                // Idle, but not unused: what it needs to record at all is there.
                let stream = bench.device.create_stream()?;
                stream.record()?.synchronize()?;
                Ok(stream)
            }),
            Self::ParkedThreads => weigh(count, parked_thread),
        };
        text::print_json(&weighed?)
    }

    fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self).expect("no probe is skipped");
        value.get_name().to_owned()
    }
}

/// What a probe prints.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Weighed {
    bytes: f64,
    ns: f64,
}

/// Makes `count` objects; the process ends with them.
fn weigh<T>(count: usize, mut make: impl FnMut() -> Result<T>) -> Result<Weighed> {
    // What is set up once, for the first ones, is not theirs.
    let few = (0..16).map(|_| make()).collect::<Result<Vec<T>>>()?;
    let mut made: Vec<T> = Vec::with_capacity(count);
    let (before, start) = (resident_bytes()?, Instant::now());
    for _ in 0..count {
        made.push(make()?);
    }
    let took = start.elapsed();
    let grown = resident_bytes()?.saturating_sub(before);
    let weighed = Weighed { bytes: grown as f64 / count as f64, ns: took.as_nanos() as f64 / count as f64 };
    // Taking a million objects apart one by one tells nothing here.
    std::mem::forget((few, made));
    Ok(weighed)
}

/// Memory of this process's own that is resident, without pages of its program, what a driver has pinned, and a GPU's memory.
pub(super) fn resident_bytes() -> Result<u64> {
    let rollup =
        fs::read_to_string("/proc/self/smaps_rollup").context("this system doesn't tell resident memory")?;
    anonymous_bytes(&rollup).context("no line for anonymous memory in /proc/self/smaps_rollup")
}

fn anonymous_bytes(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// What a stream would be without strands.
fn parked_thread() -> Result<Arc<(Mutex<VecDeque<u64>>, Condvar)>> {
    let queue = Arc::new((Mutex::new(VecDeque::new()), Condvar::new()));
    let (started, running) = std::sync::mpsc::channel();
    let own = Arc::clone(&queue);
    std::thread::Builder::new().spawn(move || {
        let (queue, pushed) = &*own;
        let mut items = queue.lock().unwrap_or_else(PoisonError::into_inner);
        // It has to be parked, not on its way there, when memory is read: it says so while it holds the lock.
        let _ = started.send(());
        while items.pop_front().is_none() {
            items = pushed.wait(items).unwrap_or_else(PoisonError::into_inner);
        }
    })?;
    running.recv()?;
    Ok(queue)
}

fn in_a_process<'a>(bench: &'a Bench, probe: Probe) -> Measure<'a> {
    Box::new(move |samples| {
        let mut command = Command::new(std::env::current_exe()?);
        // The name of the subcommand differs from program to program.
        command.args(std::env::args_os().nth(1)).args([
            "--device",
            bench.device.name(),
            "--probe",
            &probe.name(),
        ]);
        if bench.plan.quick {
            command.arg("--quick");
        }
        let output = command.output()?;
        if !output.status.success() {
            bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        let weighed: Weighed = serde_json::from_slice(&output.stdout)?;
        samples.bytes(weighed.bytes);
        samples.batch(Duration::from_nanos((weighed.ns * 1000.0) as u64), 1000);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_memory_is_read_in_bytes() {
        let rollup = "7ffe-7fff ---p 00000000 00:00 0 [rollup]\nRss:  99 kB\nAnonymous:          12 kB\n";
        assert_eq!(anonymous_bytes(rollup), Some(12 * 1024));
        assert_eq!(anonymous_bytes("Rss: 99 kB\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_page_weighs_a_page() {
        let weighed = weigh(4_000, || Ok(vec![1_u8; 8 * 4096])).unwrap();
        let own = 8.0 * 4096.0;
        // Other tests share this process: the order of magnitude has to be right, not the last page.
        assert!((own * 0.5..own * 2.0).contains(&weighed.bytes), "{weighed:?}");
    }
}
