//! Times wgpu's compute passes, holds one back, and has a stream of the CPU read what it wrote: with events alone.
//! `cargo run -p gpu-events-wgpu-example`

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("This example is for Linux.");
}

#[cfg(target_os = "linux")]
fn main() -> gpu_events_wgpu_example::Result<()> {
    use gpu_events::Device;
    use gpu_events_wgpu_example::{Passes, Shared};
    use std::sync::Arc;

    let shared = Arc::new(Shared::open()?);
    let passes = Arc::new(Passes::new(&shared));
    println!("On {}:", shared.device.info().description);

    // Events around what wgpu submits, on its own queue.
    let mut times = Vec::new();
    for _ in 0..4 {
        let start = shared.stream.record_timed()?;
        shared.submit(passes.encode(&shared));
        times.push((start, shared.stream.record_timed()?));
    }
    shared.stream.synchronize()?;
    for (pass, (start, end)) in times.iter().enumerate() {
        println!("  pass {pass} took {}", end.elapsed_since(start)?);
    }

    // A pass that has to wait for something that wgpu knows nothing of,
    let (ready, signal) = shared.device.host_event()?;
    shared.stream.wait(&ready)?;
    shared.submit(passes.encode(&shared));
    let written = shared.stream.record()?;

    // and somebody that wgpu knows nothing of, who waits for the pass.
    let cpu = Device::open("cpu")?.create_stream()?;
    cpu.wait(&written)?;
    let reader = shared.clone();
    cpu.cpu()?.enqueue(move || {
        let numbers = passes.read(&reader).map_err(|error| error.to_string())?;
        let expected = Passes::expected(5);
        let right = numbers.iter().all(|&number| number == expected);
        println!("  after five passes the numbers are {}", if right { "right" } else { "WRONG" });
        Ok::<_, String>(())
    })?;
    println!("  held back, the pass is {:?}", written.status());
    signal.complete();
    cpu.synchronize()?;
    println!("  let go, it is {:?}", written.status());
    Ok(())
}
