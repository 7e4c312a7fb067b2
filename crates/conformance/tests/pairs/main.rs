//! Every two devices that are here beside each other, both ways: `gpu_events_conformance::pairs` has the checks.
//!
//! A GPU that is not here is left out, and it is said why; `GPU_EVENTS_REQUIRE` (a list, with commas) makes that a failure.
//! Mesa's lavapipe will do for Vulkan: `VK_DRIVER_FILES=/usr/share/vulkan/icd.d/lvp_icd.x86_64.json`.

use gpu_events::Device;
#[cfg(feature = "cuda")]
use gpu_events::Signal;
#[cfg(feature = "cuda")]
use gpu_events_conformance::CudaSubject;
use gpu_events_conformance::{
    CpuSubject, Stop,
    pairs::{Peer, pair_checks},
    toy::ToySubject,
};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One at a time: a lost GPU is lost to the whole process, and gates in a CUDA driver hold up others' streams.
    arguments.test_threads = Some(1);
    let mut peers =
        vec![Peer::new("cpu", CpuSubject::default()), Peer::new("simulated", ToySubject::default())];
    let mut trials = Vec::new();
    #[cfg(feature = "cuda")]
    peers.extend([
        Peer::new("fake_cuda", CudaSubject::fake(0, Signal::Cheap)),
        Peer::new("prompt_fake_cuda", CudaSubject::fake(1_000, Signal::Prompt)),
    ]);
    #[cfg(feature = "cuda")]
    add(&mut peers, &mut trials, "cuda", || Peer::new("cuda", CudaSubject::new(0, Signal::Cheap)));
    add(&mut peers, &mut trials, "vulkan", || Peer::named("vulkan"));
    trials.extend(pair_checks(&peers).into_iter().map(|check| {
        Trial::ignorable_test(check.name().to_owned(), move || match check.run() {
            Ok(()) => Ok(Completion::Completed),
            Err(Stop::Skip(why)) => Ok(Completion::ignored_with(why)),
            Err(Stop::Fail(why)) => Err(Failed::from(why)),
        })
    }));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Adds the device if it is here, and otherwise what says that it is not.
fn add(peers: &mut Vec<Peer>, trials: &mut Vec<Trial>, name: &'static str, peer: impl FnOnce() -> Peer) {
    let why = match Device::open(name) {
        Ok(_) => return peers.push(peer()),
        Err(error) => error.to_string(),
    };
    let required = std::env::var("GPU_EVENTS_REQUIRE")
        .is_ok_and(|list| list.split(',').any(|required| required.trim() == name));
    trials.push(Trial::ignorable_test(format!("{name}::is_here"), move || match required {
        true => Err(Failed::from(format!("GPU_EVENTS_REQUIRE asks for {name}: {why}"))),
        false => Ok(Completion::ignored_with(why)),
    }));
}
