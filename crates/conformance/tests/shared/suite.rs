//! The conformance suite as a trial.

use gpu_events_conformance::{Filter, Outcome, Subject};
use std::sync::Arc;

/// Runs it, or as much of it as `GPU_EVENTS_CASES` names.
pub(crate) fn run(subject: Arc<dyn Subject>) {
    let filter = std::env::var("GPU_EVENTS_CASES").map_or_else(|_| Filter::all(), Filter::new);
    let report = gpu_events_conformance::run(&subject, &filter, &mut |case| {
        if case.outcome != Outcome::Passed {
            let reason = case.reason.as_deref().unwrap_or_default();
            println!("{} {}/{} {}: {reason}", case.id, case.group, case.name, case.outcome);
        }
    });
    println!(
        "{}: {} passed, {} failed, {} skipped",
        report.device, report.passed, report.failed, report.skipped
    );
    assert_eq!(report.failed, 0, "see above");
    assert!(report.passed > 0, "nothing was run");
}
