//! Two streams, the second of which waits for the first, and how long the first one took.
//!
//! `cargo run -p gpu-events --example quickstart`

use gpu_events::{Device, Error};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) fn main() -> Result<(), Error> {
    let device = Device::open("cpu")?;
    let (produce, consume) = (device.create_stream()?, device.create_stream()?);
    let shared = Arc::new(Mutex::new(Vec::new()));

    // Work runs in the order in which it is submitted to its stream.
    let start = produce.record_timed()?;
    let produced = shared.clone();
    produce.cpu()?.enqueue(move || {
        produced.lock().unwrap_or_else(PoisonError::into_inner).extend((1..=1_000_u64).map(|n| n * n));
    })?;
    let end = produce.record_timed()?;

    // Between streams, events make the order: on the device, and the host goes on at once.
    consume.wait(&end)?;
    consume.cpu()?.enqueue(move || {
        let squares = shared.lock().unwrap_or_else(PoisonError::into_inner);
        println!("the sum of {} squares is {}", squares.len(), squares.iter().sum::<u64>());
    })?;

    // The host waits for what it needs.
    let done = consume.record()?;
    done.synchronize()?;
    assert!(done.is_complete()? && end.is_complete()?);
    println!("producing them took {}, by the {}", end.elapsed_since(&start)?, device.clock().source());
    Ok(())
}
