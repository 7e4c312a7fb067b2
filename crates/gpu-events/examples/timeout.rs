//! Waiting with patience: a time-out is an outcome and not an error, it changes nothing, and a stall report says what
//! it is that takes so long.
//!
//! `cargo run -p gpu-events --example timeout`

use gpu_events::{Device, Error, StallEnd, StreamOptions, WaitAny, WaitOptions, WaitOutcome, wait_any};
use std::time::Duration;

pub(crate) fn main() -> Result<(), Error> {
    let device = Device::open("cpu")?;
    let stream = device.create_stream_with(&StreamOptions::new().label("render"))?;
    let (input, signal) = device.host_event_labeled("input")?;
    stream.wait(&input)?;
    stream.cpu()?.enqueue(|| println!("  rendering"))?;
    let rendered = stream.record()?;

    // Zero only asks.
    assert_eq!(rendered.wait_timeout(Duration::ZERO)?, WaitOutcome::TimedOut);
    let patience = Duration::from_millis(20);
    if rendered.wait_timeout(patience)? == WaitOutcome::TimedOut {
        println!("not after {patience:?}; here is why:\n{}", device.stall_report());
        let ends = device.stall_report();
        assert!(ends.chains().iter().any(|chain| matches!(chain.end, StallEnd::HostSignal(_))));
    }

    // Nothing has changed: wait again, now for whichever comes first.
    let other = device.create_stream()?.record()?;
    let first = wait_any([&rendered, &other], &WaitOptions::new())?;
    assert_eq!(first, WaitAny::Settled(1));
    println!("the other stream was first");

    signal.complete();
    assert_eq!(rendered.wait_timeout(Duration::from_secs(10))?, WaitOutcome::Complete);
    println!("rendered");
    Ok(())
}
