//! The simulated Metal beside the CPU, Vulkan (if it is here) and the fake CUDA, both ways.

use gpu_events::{Device, Signal, Stream};
use gpu_events_conformance::{
    Cells, CpuSubject, CudaSubject, MetalSubject, Stop, Subject, Verdict,
    pairs::{Peer, pair_checks},
};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use metal_sim::{exclusive, host_work};
use std::{process::ExitCode, sync::Arc};

/// As on a Mac, and with work that fails.
#[derive(Debug)]
struct Simulated(MetalSubject);

impl Subject for Simulated {
    fn name(&self) -> String {
        self.0.name()
    }

    fn open(&self) -> Verdict<Device> {
        self.0.open()
    }

    fn cells(&self, device: &Device, count: usize) -> Verdict<Arc<dyn Cells>> {
        self.0.cells(device, count)
    }

    fn fail(&self, stream: &Stream) -> Verdict {
        let work = || Err("failed on demand".to_owned());
        Ok(stream.metal()?.encode(|commands| host_work(commands, work))?)
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The simulation is for one at a time.
    arguments.test_threads = Some(1);
    let mut peers = vec![
        Peer::new("metal", Simulated(MetalSubject::default())),
        Peer::new("cpu", CpuSubject::default()),
        Peer::new("fake_cuda", CudaSubject::fake(0, Signal::Cheap)),
    ];
    match Device::open("vulkan") {
        Ok(_) => peers.push(Peer::named("vulkan")),
        Err(why) => eprintln!("without Vulkan: {why}"),
    }
    // The pairs that Metal has no part in are tested elsewhere.
    let checks = pair_checks(&peers);
    let checks =
        checks.into_iter().filter(|check| ["metal", "all::"].iter().any(|part| check.name().contains(part)));
    let trials = checks.map(|check| {
        Trial::ignorable_test(check.name().to_owned(), move || {
            let mut simulation = exclusive();
            // Closing a device leaks what the GPU may still use.
            simulation.allow_leaks();
            match check.run() {
                Ok(()) => Ok(Completion::Completed),
                Err(Stop::Skip(why)) => Ok(Completion::ignored_with(why)),
                Err(Stop::Fail(why)) => Err(Failed::from(why)),
            }
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
