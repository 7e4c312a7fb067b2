//! A timeline of three streams, in `timeline.html`, and what held them back, as text.
//!
//!     cargo run --release -p gpu-events --features trace --example trace
//!
//! Two streams make halves of a picture of numbers, and a third puts them together; only events keep them in order. The same
//! lines trace streams of GPUs.

use gpu_events::{Device, StreamOptions, trace::Tracer};
use std::sync::{Arc, Mutex};

/// Rounds, and numbers in each half.
const ROUNDS: u64 = 6;
const NUMBERS: u64 = 400_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::open("cpu")?;
    let stream = |label: &str| device.create_stream_with(&StreamOptions::new().label(label));
    let halves = [stream("left half")?, stream("right half")?];
    let join = stream("join")?;

    let tracer = Tracer::new("halves");
    // Its waits are to be seen from the first one on.
    tracer.watch(&join);
    let sums = Arc::new([Mutex::new(0_u64), Mutex::new(0)]);
    let total = Arc::new(Mutex::new(0_u64));
    for round in 0..ROUNDS {
        let _submitting = tracer.thread_span("submit");
        for (half, stream) in halves.iter().enumerate() {
            let made = {
                let span = tracer.span(stream, "sum");
                let sums = sums.clone();
                // The right half has three times as much to do.
                let numbers = NUMBERS * (1 + 2 * half as u64);
                stream.cpu()?.enqueue(move || {
                    let sum =
                        (0..numbers).fold(round, |sum, number| (sum ^ number).wrapping_mul(0x0100_0000_01b3));
                    *sums[half].lock().expect("nobody panics") = sum;
                })?;
                span.end()
            };
            if let Some(made) = made {
                join.wait(&made)?;
            }
        }
        let joined = {
            let span = tracer.span(&join, "join");
            let (sums, total) = (sums.clone(), total.clone());
            join.cpu()?.enqueue(move || {
                let parts = sums.each_ref().map(|sum| *sum.lock().expect("nobody panics"));
                let mut total = total.lock().expect("nobody panics");
                *total = total.rotate_left(1) ^ parts[0] ^ parts[1];
            })?;
            span.end()
        };
        if let Some(joined) = joined {
            // The next round writes what this one has read.
            halves.iter().try_for_each(|stream| stream.wait(&joined).map(drop))?;
        }
    }

    let trace = tracer.finish();
    trace.write_html("timeline.html")?;
    print!("{}", trace.to_text(100));
    let total = *total.lock().expect("nobody panics");
    println!("\n{total:016x}, and timeline.html is to be looked at");
    Ok(())
}
