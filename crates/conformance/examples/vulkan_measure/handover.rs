//! From stream to stream, and from device to device.

use crate::{
    bench::{Bench, submit, work},
    measuring::{Entry, nanos, reach},
    report::{Goal, goals, in_turn},
};
use gpu_events::{Device, Result, Stream, StreamOptions};
use std::{
    hint,
    time::{Duration, Instant},
};

/// What the one stream does before the other may go on, so that both know of one another in time.
const WORK: Duration = Duration::from_micros(200);
const ROUNDS: usize = 300;

pub(crate) fn run(bench: &Bench) -> Result<()> {
    same_device(bench)?;
    // A row for each way in which streams can wait for another device's events: where a device can have the drivers see to
    // it, its `StreamOptions` go here.
    let ways = [("by a gate", StreamOptions::new())];
    for (way, options) in ways {
        other_device(bench, way, &options, Peer::Cpu)?;
        #[cfg(feature = "cuda")]
        match Device::open("cuda") {
            Ok(_) => other_device(bench, way, &options, Peer::Cuda)?,
            Err(error) => println!("\nCUDA: {error}"),
        }
    }
    Ok(())
}

fn micros(begun: Instant) -> f64 {
    nanos(begun) / 1e3
}

fn same_device(bench: &Bench) -> Result<()> {
    let streams = (0..8).map(|_| bench.device.create_stream()).collect::<Result<Vec<_>>>()?;
    let (from, to) = (&streams[0], &streams[1]);
    let (raw_from, raw_to) = (&bench.raw(Some(from))?, &bench.raw(Some(to))?);
    let (long, tiny) = (bench.lasting(WORK)?, bench.tiny()?);
    let all = in_turn(
        &format!(
            "{WORK:?} of work on one stream, an event, a wait on another, small work, and its event: from the first submission to the host, spinning, knowing of the last."
        ),
        "µs",
        ROUNDS,
        vec![
            Entry::new("raw: two submissions, the second waits for the semaphore of the first", || {
                let begun = Instant::now();
                let value = raw_from.submit(&[long])?;
                let last = raw_to.submit_behind(Some((raw_from, value)), &[tiny])?;
                raw_to.spin(last)?;
                Ok(micros(begun))
            }),
            Entry::new("raw: one submission of both", || {
                let begun = Instant::now();
                raw_from.spin(raw_from.submit(&[long, tiny])?)?;
                Ok(micros(begun))
            }),
            Entry::new("ours: from stream to stream", || {
                let begun = Instant::now();
                submit(from, work(long))?;
                to.wait(&from.record()?)?;
                submit(to, work(tiny))?;
                reach(&to.record()?)?;
                Ok(micros(begun))
            }),
            Entry::new("ours: both on one stream", || {
                let begun = Instant::now();
                submit(from, work(long))?;
                submit(from, work(tiny))?;
                reach(&from.record()?)?;
                Ok(micros(begun))
            }),
            Entry::new("ours: eight streams, one after the other", || {
                let begun = Instant::now();
                submit(from, work(long))?;
                for pair in streams.windows(2) {
                    pair[1].wait(&pair[0].record()?)?;
                    submit(&pair[1], work(tiny))?;
                }
                reach(&streams[7].record()?)?;
                Ok(micros(begun))
            }),
        ],
    )?;
    goals(&[
        ("from stream to stream / raw", all[2].median / all[0].median, Goal::None),
        ("from stream to stream, later than on one, µs", all[2].median - all[3].median, Goal::None),
        ("each of seven hand-overs, µs", (all[4].median - all[3].median) / 7.0, Goal::None),
    ]);
    Ok(())
}

#[derive(Clone, Copy)]
enum Peer {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            #[cfg(feature = "cuda")]
            Self::Cuda => "CUDA",
        }
    }

    fn device(self) -> Result<Device> {
        match self {
            Self::Cpu => Device::open("cpu"),
            #[cfg(feature = "cuda")]
            Self::Cuda => Device::open("cuda"),
        }
    }

    /// Something that takes as long, on its stream.
    fn work(self, stream: &Stream) -> Result<()> {
        match self {
            Self::Cpu => stream.cpu()?.enqueue(|| {
                let begun = Instant::now();
                while begun.elapsed() < WORK {
                    hint::spin_loop();
                }
            }),
            #[cfg(feature = "cuda")]
            Self::Cuda => gpu_events_conformance::cuda::Kernels::of(0)?.spin(stream.cuda()?.raw(), WORK),
        }
    }
}

/// Both ways between Vulkan, opened as everybody opens it, and another device.
fn other_device(bench: &Bench, way: &str, options: &StreamOptions, peer: Peer) -> Result<()> {
    let theirs = &peer.device()?.create_stream_with(options)?;
    let ours = &bench.system.create_stream_with(options)?;
    let busy = bench.lasting_on_system(WORK)?;
    let title = format!(
        "Vulkan and {}, {way}: {WORK:?} of work on one, a wait on the other, and its event; from the first submission to the host, spinning, knowing.",
        peer.name()
    );
    let all = in_turn(
        &title,
        "µs",
        ROUNDS,
        vec![
            Entry::new("Vulkan alone", || {
                let begun = Instant::now();
                submit(ours, work(busy))?;
                reach(&ours.record()?)?;
                Ok(micros(begun))
            }),
            Entry::new(format!("Vulkan → {}", peer.name()), || {
                let begun = Instant::now();
                submit(ours, work(busy))?;
                theirs.wait(&ours.record()?)?;
                reach(&theirs.record()?)?;
                Ok(micros(begun))
            }),
            Entry::new(format!("{} alone", peer.name()), || {
                let begun = Instant::now();
                peer.work(theirs)?;
                reach(&theirs.record()?)?;
                Ok(micros(begun))
            }),
            Entry::new(format!("{} → Vulkan", peer.name()), || {
                let begun = Instant::now();
                peer.work(theirs)?;
                ours.wait(&theirs.record()?)?;
                reach(&ours.record()?)?;
                Ok(micros(begun))
            }),
        ],
    )?;
    goals(&[
        ("Vulkan to the other, later by µs", all[1].median - all[0].median, Goal::None),
        ("the other to Vulkan, later by µs", all[3].median - all[2].median, Goal::None),
    ]);
    Ok(())
}
