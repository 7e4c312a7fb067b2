//! Tests on a device of Vulkan's, each in a process of its own: what stands still ends with it.
//!
//! Without one they are ignored, and it is said why; `GPU_EVENTS_REQUIRE=vulkan` (a list, with commas) makes that a failure.
//! Whatever validation layers say of a trial is a failure as well: `VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation`.
//! `cargo test -p gpu-events-conformance --test vulkan -- NAME` runs those with this in their names.

mod calls;
#[path = "../shared/observers.rs"]
mod observers;
#[path = "../shared/stress.rs"]
mod stress;
#[path = "../shared/suite.rs"]
mod suite;
#[path = "../shared/trial.rs"]
mod trial;
#[path = "../shared/waits.rs"]
mod waits;

use gpu_events::Device;
use gpu_events_conformance::VulkanSubject;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::{process::ExitCode, sync::Arc, time::Duration};

/// A name, what is run in a process of its own, and how long that may take.
type Row = (&'static str, fn(), Duration);

const SHORT: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(300);

const TRIALS: &[Row] = &[
    ("suite::system", || suite::run(Arc::new(VulkanSubject::new(0))), LONG),
    ("suite::users", || suite::run(Arc::new(VulkanSubject::users(0))), LONG),
    ("stress::system", || stress(&VulkanSubject::new(0)), LONG),
    ("calls::submissions", calls::submissions, SHORT),
    ("calls::semaphores", calls::semaphores, SHORT),
    ("calls::polls", calls::polls, SHORT),
    ("calls::loss", calls::loss, SHORT),
    ("calls::adopted", calls::adopted, SHORT),
    ("calls::foreign", calls::foreign, SHORT),
    ("calls::kept", calls::kept, SHORT),
    ("calls::nothing_is_left", calls::nothing_is_left, SHORT),
];

fn stress(subject: &VulkanSubject) {
    stress::run(&[subject, subject], 5_000);
}

fn main() -> ExitCode {
    if let Some(name) = trial::role() {
        let (_, run, _) = TRIALS.iter().find(|(known, ..)| *known == name).expect("a name from this program");
        run();
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    // They would only wait for each other, and be slower than they say.
    arguments.test_threads.get_or_insert(1);
    let missing = Device::open("vulkan:0").err();
    let required = trial::is_required("vulkan");
    let trials = TRIALS.iter().map(|(name, _, limit)| {
        let missing = missing.clone();
        Trial::ignorable_test(*name, move || match missing {
            None => watched(name, *limit).map(|()| Completion::Completed),
            Some(why) if required => Err(Failed::from(format!("GPU_EVENTS_REQUIRE asks for Vulkan: {why}"))),
            Some(why) => Ok(Completion::ignored_with(why.to_string())),
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Runs a trial, about which no validation layer may have anything to say.
fn watched(name: &str, limit: Duration) -> Result<(), Failed> {
    let output = trial::in_a_process(name, limit)?;
    let said: Vec<_> = output.lines().filter(|line| line.contains("VUID-")).collect();
    if said.is_empty() { Ok(()) } else { Err(format!("validation: {}", said.join("\n")).into()) }
}
