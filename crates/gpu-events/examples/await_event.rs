//! Awaiting events, on an executor that knows nothing of them; and a failure that arrives as one.
//!
//! `cargo run -p gpu-events --example await_event`

use gpu_events::{Device, Error, ErrorKind};

async fn run(device: &Device) -> Result<(), Error> {
    let stream = device.create_stream()?;
    stream.cpu()?.enqueue(|| println!("  working"))?;
    let event = stream.record()?;
    println!("before: {:?}", event.status());
    (&event).await?;
    println!("after: {:?}", event.status());

    // A future binds to the recording current when it is made. Dropping one cancels nothing but itself.
    let (gate, signal) = device.host_event()?;
    stream.wait(&gate)?;
    let gated = stream.record()?;
    let (first, second) = (gated.completion(), gated.completion());
    drop(second);
    signal.complete();
    first.await?;
    println!("the gate is open");

    // Work that fails wakes whoever awaits it.
    stream.cpu()?.enqueue(|| Err::<(), _>("no such luck"))?;
    let failed = stream.record()?;
    let error = failed.completion().await.expect_err("it failed");
    assert_eq!(error.kind(), ErrorKind::WorkFailed);
    println!("and then: {error}");
    Ok(())
}

pub(crate) fn main() -> Result<(), Error> {
    let device = Device::open("cpu")?;
    futures_lite::future::block_on(run(&device))
}
