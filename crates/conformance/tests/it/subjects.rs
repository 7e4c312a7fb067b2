//! The backends at hand pass.

use gpu_events_conformance::{CpuSubject, Filter, Outcome, Report, Subject, run, toy::ToySubject};
use std::sync::Arc;

/// Cases that the CPU cannot run, each for a reason that will not go away.
const NOT_ON_THE_CPU: [u16; 4] = [75, 78, 79, 113];
const NOT_ON_THE_TOY: [u16; 2] = [73, 115];

fn check(subject: impl Subject + 'static, skipped: &[u16]) {
    let subject: Arc<dyn Subject> = Arc::new(subject);
    let report = run(&subject, &Filter::all(), &mut |case| {
        if case.outcome == Outcome::Failed {
            println!("{} {}: {}", case.id, case.name, case.reason.as_deref().unwrap_or_default());
        }
    });
    assert_eq!(report.failed, 0, "{}", failures(&report));
    assert_eq!(report.expected_failures, 0);
    let found: Vec<u16> =
        report.cases.iter().filter(|case| case.outcome == Outcome::Skipped).map(|case| case.id).collect();
    let mut expected = skipped.to_vec();
    expected.sort_by_key(|id| report.cases.iter().position(|case| case.id == *id));
    assert_eq!(found, expected, "skipped cases");
    for case in &report.cases {
        let has_reason = case.reason.as_ref().is_some_and(|reason| !reason.trim().is_empty());
        assert_eq!(has_reason, case.outcome != Outcome::Passed, "the reason of {}", case.name);
    }
}

fn failures(report: &Report) -> String {
    let failed = report.cases.iter().filter(|case| case.outcome == Outcome::Failed);
    failed
        .map(|case| format!("\n{} {}: {}", case.id, case.name, case.reason.as_deref().unwrap_or_default()))
        .collect()
}

#[test]
fn the_cpu_passes() {
    check(CpuSubject::default(), &NOT_ON_THE_CPU);
}

#[test]
fn the_simulated_device_passes() {
    check(ToySubject::new(), &NOT_ON_THE_TOY);
}

/// What takes a fault that ends one stream alone, work that panics, or work that waits for the host.
#[cfg(feature = "cuda")]
const NOT_ON_CUDA: [u16; 6] = [66, 70, 73, 75, 86, 115];

#[cfg(feature = "cuda")]
#[test]
fn cuda_on_a_fake_driver_passes_cheap() {
    check(gpu_events_conformance::CudaSubject::fake(0, gpu_events::Signal::Cheap), &NOT_ON_CUDA);
}

#[cfg(feature = "cuda")]
#[test]
fn cuda_on_a_fake_driver_passes_prompt() {
    check(gpu_events_conformance::CudaSubject::fake(1_000, gpu_events::Signal::Prompt), &NOT_ON_CUDA);
}
