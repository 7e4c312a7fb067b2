//! Tests that take a GPU of NVIDIA's, each in a process of its own: what a fault breaks, and what stands still, ends with it.
//!
//! Without a GPU they are ignored, and it is said why; `GPU_EVENTS_REQUIRE=cuda` (a list, with commas) makes that a failure.
//! `cargo test -p gpu-events-conformance --test cuda -- NAME` runs those with this in their names.

mod adopt;
mod exit;
mod fault;
mod graph;
mod ipc;
#[path = "../shared/observers.rs"]
mod observers;
#[path = "../shared/stress.rs"]
mod stress;
#[path = "../shared/suite.rs"]
mod suite;
mod support;
#[path = "../shared/trial.rs"]
mod trial;
#[cfg(unix)]
mod vulkan;
#[path = "../shared/waits.rs"]
mod waits;

use gpu_events::Signal;
use gpu_events_conformance::CudaSubject;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::{process::ExitCode, sync::Arc, time::Duration};

/// A name, what is run in a process of its own, and how long that may take.
type Row = (&'static str, fn(), Duration);

const SHORT: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(300);

const TRIALS: &[Row] = &[
    ("suite::cheap", || suite::run(Arc::new(CudaSubject::new(0, Signal::Cheap))), LONG),
    ("suite::prompt", || suite::run(Arc::new(CudaSubject::new(0, Signal::Prompt))), LONG),
    ("stress::both_modes", both_modes, LONG),
    ("fault::illegal_address", fault::illegal_address, SHORT),
    ("fault::trap", fault::trap, SHORT),
    ("fault::closed_while_a_kernel_spins", fault::closed_while_a_kernel_spins, SHORT),
    ("adopt::streams", adopt::streams, SHORT),
    ("adopt::streams_without_handles", adopt::streams_without_handles, SHORT),
    ("adopt::events", adopt::events, SHORT),
    ("adopt::raw_events", adopt::raw_events, SHORT),
    ("adopt::cudarc_streams", adopt::cudarc_streams, SHORT),
    ("adopt::cudarc_default_stream", adopt::cudarc_default_stream, SHORT),
    ("adopt::cudarc_on_ours", adopt::cudarc_on_ours, SHORT),
    ("adopt::cudarc_events", adopt::cudarc_events, SHORT),
    ("graph::capture_takes_no_recording", graph::capture_takes_no_recording, SHORT),
    ("graph::observing_breaks_no_capture", graph::observing_breaks_no_capture, SHORT),
    ("graph::launched_twice", graph::launched_twice, SHORT),
    ("graph::captured_event_is_refused", graph::captured_event_is_refused, SHORT),
    ("ipc::pending_then_complete", ipc::pending_then_complete, SHORT),
    ("ipc::limits", ipc::limits, SHORT),
    ("ipc::exporter_has_gone", ipc::exporter_has_gone, SHORT),
    ("ipc::exporter_dies", ipc::exporter_dies, SHORT),
    ("ipc::made_up_handle", ipc::made_up_handle, SHORT),
    ("exit::with_pending_work", exit::with_pending_work, SHORT),
    #[cfg(unix)]
    ("vulkan::both_ways", vulkan::both_ways, SHORT),
    #[cfg(unix)]
    ("vulkan::exact", vulkan::exact, SHORT),
    #[cfg(unix)]
    ("vulkan::gated_source", vulkan::gated_source, SHORT),
    #[cfg(unix)]
    ("vulkan::ping_pong", vulkan::ping_pong, LONG),
    #[cfg(unix)]
    ("vulkan::fault", vulkan::fault, SHORT),
];

fn both_modes() {
    let subjects = [Signal::Cheap, Signal::Prompt].map(|signal| CudaSubject::new(0, signal));
    stress::run(&[&subjects[0], &subjects[1]], 20_000);
}

/// What a trial starts processes of its own for.
const HELPERS: &[(&str, fn())] = &[
    ("ipc::import", ipc::import),
    ("ipc::export_and_go", ipc::export_and_go),
    ("ipc::export_and_hold", ipc::export_and_hold),
];

fn main() -> ExitCode {
    if let Some(name) = trial::role() {
        let found = TRIALS.iter().map(|(name, run, _)| (*name, *run)).chain(HELPERS.iter().copied());
        let (_, run) = found.into_iter().find(|(known, _)| *known == name).expect("a name from this program");
        run();
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    // They would only wait for each other's gates, and be slower than they say.
    arguments.test_threads.get_or_insert(1);
    let missing = support::missing();
    let required = trial::is_required("cuda");
    let trials = TRIALS.iter().map(|(name, _, limit)| {
        let missing = missing.clone();
        let required =
            required && (missing.is_some() || !name.starts_with("vulkan::") || trial::is_required("vulkan"));
        Trial::ignorable_test(*name, move || match missing.or_else(|| also_missing(name)) {
            None => trial::in_a_process(name, *limit).map(|_| Completion::Completed),
            Some(why) if required => Err(Failed::from(format!("GPU_EVENTS_REQUIRE asks for it: {why}"))),
            Some(why) => Ok(Completion::ignored_with(why)),
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Why there is nothing to test this trial on, though there is a GPU of CUDA's.
fn also_missing(name: &str) -> Option<String> {
    #[cfg(unix)]
    if name.starts_with("vulkan::") {
        return vulkan::missing();
    }
    let _ = name;
    None
}
