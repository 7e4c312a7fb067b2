//! A pipeline of three stages on three streams, with two buffers: how much of the work overlaps.
//!
//! `cargo run --release -p gpu-events --example overlap`

use gpu_events::{Device, Error, Event, Stream};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

const CHUNKS: usize = 64;
const BUFFERS: usize = 2;

pub(crate) fn main() -> Result<(), Error> {
    let device = Device::open("cpu")?;
    let stages = [device.create_stream()?, device.create_stream()?, device.create_stream()?];
    let buffers: [Arc<Mutex<Vec<u64>>>; BUFFERS] = std::array::from_fn(|_| Arc::default());
    let total = Arc::new(Mutex::new(0_u64));

    // Per stage, the beginning and the end of each chunk's work.
    let mut spans: [Vec<(Event, Event)>; 3] = Default::default();
    for chunk in 0..CHUNKS {
        let buffer = &buffers[chunk % BUFFERS];
        for (stage, stream) in stages.iter().enumerate() {
            // A stage waits for the one before, and the first one for its buffer to be free again.
            let previous = match stage {
                0 => chunk.checked_sub(BUFFERS).map(|earlier| &spans[2][earlier]),
                _ => Some(&spans[stage - 1][chunk]),
            };
            if let Some((_, end)) = previous {
                stream.wait(end)?;
            }
            let start = stream.record_timed()?;
            submit(stream, stage, chunk as u64, buffer.clone(), total.clone())?;
            spans[stage].push((start, stream.record_timed()?));
        }
    }
    stages[2].synchronize()?;

    let mut busy = Duration::ZERO;
    for (name, spans) in ["fill", "hash", "collect"].iter().zip(&spans) {
        let mut stage = Duration::ZERO;
        for (start, end) in spans {
            stage += end.elapsed_since(start)?.duration();
        }
        println!("{name:>8}: {stage:.2?}");
        busy += stage;
    }
    let (first, last) = (&spans[0][0].0, &spans[2][CHUNKS - 1].1);
    let wall = last.elapsed_since(first)?.duration();
    println!(
        "together: {busy:.2?} of work in {wall:.2?}, {:.2} at a time",
        busy.as_secs_f64() / wall.as_secs_f64()
    );
    println!("  result: {:016x}", *total.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(())
}

fn submit(
    stream: &Stream,
    stage: usize,
    chunk: u64,
    buffer: Arc<Mutex<Vec<u64>>>,
    total: Arc<Mutex<u64>>,
) -> Result<(), Error> {
    stream.cpu()?.enqueue(move || {
        // Never contended: it is the events that keep the stages apart.
        let mut buffer = buffer.lock().unwrap_or_else(PoisonError::into_inner);
        match stage {
            0 => {
                buffer.clear();
                buffer.extend((0..50_000).map(|n| n * (chunk + 1)));
            }
            1 => buffer.iter_mut().for_each(|n| *n = hash(*n)),
            _ => {
                let sum = buffer.iter().fold(0, |sum: u64, n| sum.rotate_left(1) ^ n);
                let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                *total = hash(*total ^ sum);
            }
        }
    })
}

/// The finalizer of SplitMix64.
fn hash(mut n: u64) -> u64 {
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
