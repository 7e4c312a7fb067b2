//! Runs the suite on the CPU, on the simulated device or on CUDA's fake driver, and prints what comes of it:
//! `cargo run -p gpu-events-conformance --example run -- [cpu|toy|cuda-cheap|cuda-prompt] [PATTERN]`.

use gpu_events_conformance::{CpuSubject, Filter, Subject, run, toy::ToySubject};
use std::{process::ExitCode, sync::Arc};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let device = arguments.next().unwrap_or_else(|| "cpu".to_owned());
    let subject: Arc<dyn Subject> = match device.as_str() {
        "toy" => Arc::new(ToySubject::new()),
        #[cfg(feature = "cuda")]
        "cuda-cheap" => Arc::new(gpu_events_conformance::CudaSubject::fake(0, gpu_events::Signal::Cheap)),
        #[cfg(feature = "cuda")]
        "cuda-prompt" => Arc::new(gpu_events_conformance::CudaSubject::fake(0, gpu_events::Signal::Prompt)),
        _ => Arc::new(CpuSubject::new(device)),
    };
    let filter = arguments.next().map_or_else(Filter::all, Filter::new);
    let report = run(&subject, &filter, &mut |case| {
        let reason = case.reason.as_deref().unwrap_or_default();
        println!(
            "{:4} {:17} {:8.1} ms  {}/{}  {reason}",
            case.id, case.outcome, case.ms, case.group, case.name
        );
    });
    println!(
        "{}: {} passed, {} failed, {} skipped",
        report.device, report.passed, report.failed, report.skipped
    );
    if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
