//! What needs a GPU and is no conformance case: `cuda_hardware costs`, `cuda_hardware fault trap|illegal`.
//!
//! A fault ends the GPU's context for its process, so each is to be run in one of its own.

#[cfg(feature = "cuda")]
mod hardware {
    use gpu_events::{Device, Result, Signal, cuda};
    use gpu_events_conformance::cuda::Kernels;
    use std::{
        hint::black_box,
        ptr,
        sync::mpsc,
        time::{Duration, Instant},
    };

    /// Nanoseconds of one call: the median of rounds of twenty, with the stream drained in between.
    fn median(mut call: impl FnMut(), mut drain: impl FnMut()) -> f64 {
        let mut times: Vec<f64> = (0..2_000)
            .map(|_| {
                let begun = Instant::now();
                (0..20).for_each(|_| call());
                let time = begun.elapsed().as_nanos() as f64 / 20.0;
                drain();
                time
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }

    pub(crate) fn costs() -> Result<()> {
        let api = cuda::system_api()?;
        Kernels::of(0)?;
        for signal in [Signal::Cheap, Signal::Prompt] {
            let device = cuda::open(0, signal)?;
            let pool = device.pool();
            let ours = device.create_stream()?;
            let kernels = Kernels::of(0)?;
            let raw = kernels.make_stream()?;
            let memory = kernels.shared_memory(64)?;
            let mut native = ptr::null_mut();
            device.create_stream()?.synchronize()?;
            // A stream of ours has the context current on this thread for callbacks alone: an event made by hand needs it.
            let made = ours.cuda()?.raw_context();
            // SAFETY: the context is the primary one, and stays.
            unsafe { (api.ctx_push_current)(made) };
            // SAFETY: the call writes to `native` alone.
            unsafe { (api.event_create)(&mut native, 2) };
            let quiet = device.create_stream()?;
            let drain = || while !matches!(unsafe_query(api, raw), 0) {};
            let record = median(
                || {
                    // SAFETY: both are there.
                    black_box(unsafe { (api.event_record)(native, raw) });
                },
                drain,
            );
            let mut value = 0;
            let write = median(
                || {
                    value += 1;
                    // SAFETY: pinned memory, aligned, which stays.
                    black_box(unsafe { (api.stream_write_value)(raw, memory.addr() as u64, value, 0) });
                },
                drain,
            );
            let mine = median(
                || {
                    let event = pool.acquire();
                    let recorded = event.record(&quiet);
                    assert!(recorded.is_ok(), "{recorded:?}");
                },
                || drop(quiet.synchronize()),
            );
            println!(
                "{signal:?}: acquire+record+drop {mine:.1} ns; raw cuEventRecord {record:.1}, raw cuStreamWriteValue64 {write:.1}"
            );
            let known = quiet.record()?;
            known.synchronize()?;
            let status = median(
                || {
                    black_box(known.status());
                },
                || {},
            );
            println!("{signal:?}: status of a known recording {status:.2} ns");

            // A thousand pending events on eight streams, behind one gate: more would hold up the GPU.
            let streams = (0..8).map(|_| device.create_stream()).collect::<Result<Vec<_>>>()?;
            let (gate, open) = device.host_event()?;
            streams[0].wait(&gate)?;
            let first = streams[0].record()?;
            for stream in &streams[1..] {
                stream.wait(&first)?;
            }
            let events = (0..1_000).map(|i| streams[i % 8].record()).collect::<Result<Vec<_>>>()?;
            let polled = median(
                || {
                    events.iter().for_each(|event| {
                        black_box(event.status());
                    })
                },
                || {},
            );
            assert!(events.iter().all(|event| event.status() == gpu_events::Status::Pending));
            open.complete();
            for event in &events {
                event.synchronize()?;
            }
            // SAFETY: it is there.
            let query = median(
                || {
                    // SAFETY: it is there.
                    let code = unsafe { (api.event_query)(native) };
                    black_box(code);
                },
                || {},
            );
            println!(
                "{signal:?}: a round over 1,000 pending events {polled:.0} ns; one cuEventQuery {query:.1} ns"
            );
        }
        Ok(())
    }

    fn unsafe_query(api: &cuda::Api, raw: cuda::RawStream) -> u32 {
        // SAFETY: the stream is there.
        unsafe { (api.stream_query)(raw) }
    }

    pub(crate) fn fault(illegal: bool) -> Result<()> {
        for_both(illegal, &Device::open("cpu")?)
    }

    fn for_both(illegal: bool, cpu: &Device) -> Result<()> {
        let kernels = Kernels::of(0)?;
        let devices = [cuda::open(0, Signal::Cheap)?, cuda::open(0, Signal::Prompt)?];
        let flag: *mut u32 = kernels.shared_memory(4)?.cast();
        let (told, tell) = mpsc::channel();
        let mut waiters = Vec::new();
        let mut callbacks = Vec::new();
        for device in &devices {
            let stream = device.create_stream()?;
            kernels.until(stream.cuda()?.raw(), flag)?;
            let event = std::sync::Arc::new(stream.record()?);
            for spin in [false, true] {
                let event = event.clone();
                let told = told.clone();
                waiters.push(std::thread::spawn(move || {
                    let strategy =
                        if spin { gpu_events::WaitStrategy::Spin } else { gpu_events::WaitStrategy::Park };
                    let outcome = event.wait_with(&gpu_events::WaitOptions::new().strategy(strategy));
                    let _ = told.send(("waiter", Instant::now(), outcome.map(|_| ())));
                }));
            }
            let told = told.clone();
            callbacks.push(event.on_complete(move |outcome| {
                let _ = told.send(("callback", Instant::now(), outcome));
            })?);
        }
        let victim = devices[0].create_stream()?;
        let begun = Instant::now();
        if illegal {
            kernels.illegal(victim.cuda()?.raw())?
        } else {
            kernels.trap(victim.cuda()?.raw())?
        }
        for _ in 0..6 {
            match tell.recv_timeout(Duration::from_secs(5)) {
                Ok((who, when, Err(error))) => {
                    println!("{who} told after {:?}: {:?}: {error}", when - begun, error.kind());
                }
                Ok((who, _, Ok(()))) => println!("FAILED: a {who} was told of success"),
                Err(error) => println!("FAILED: nobody was told within 5 s: {error}"),
            }
        }
        let after = devices[1].create_stream().map(drop).map_err(|error| error.kind());
        println!("a stream made afterwards: {after:?}");
        let event = cpu.create_stream()?.record()?;
        event.synchronize()?;
        println!("the CPU goes on: {:?}", event.status());
        Ok(())
    }
}

fn main() -> std::process::ExitCode {
    #[cfg(feature = "cuda")]
    {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["costs"] => hardware::costs(),
            ["fault", "trap"] => hardware::fault(false),
            ["fault", "illegal"] => hardware::fault(true),
            _ => Err(gpu_events::ErrorKind::InvalidArgument.into()),
        };
        if let Err(error) = done {
            eprintln!("{error}");
            return std::process::ExitCode::FAILURE;
        }
    }
    std::process::ExitCode::SUCCESS
}
