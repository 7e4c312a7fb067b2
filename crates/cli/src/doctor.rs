//! `gpu-events doctor`: the conformance suite, on the devices that are here.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use console::{Style, style};
#[cfg(feature = "cuda")]
use gpu_events::Signal;
use gpu_events::{Device, DeviceInfo};
#[cfg(feature = "cuda")]
use gpu_events_conformance::CudaSubject;
#[cfg(feature = "vulkan")]
use gpu_events_conformance::VulkanSubject;
use gpu_events_conformance::{
    CaseReport, CpuSubject, Filter, Outcome, Report, Subject, cases, run as run_suite,
};
use serde::Serialize;

use crate::{output, units};

/// Run the conformance suite on this machine's devices
///
/// Exits with 0 only if nothing failed.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// Only this device [default: every device that is available]
    #[arg(long)]
    device: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Only these cases: a number, a part of `group/name`, or a pattern with `*` and `?` for all of it
    #[arg(long, value_name = "PATTERN")]
    case: Option<String>,
}

pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let filter = args.case.as_ref().map_or_else(Filter::all, Filter::new);
    ensure!(
        cases().any(|case| filter.matches(case)),
        "no case matches {:?}",
        args.case.as_deref().unwrap_or("*")
    );
    let mut reports = Vec::new();
    for subject in subjects(args.device.as_deref())? {
        let mut printed = Ok(());
        let heading = format!("{}\n", style(subject.name()).bold());
        if !args.json {
            output::print(heading)?;
        }
        let report = run_suite(&subject, &filter, &mut |case| {
            if !args.json && printed.is_ok() {
                printed = output::print(case_line(case));
            }
        });
        printed?;
        if !args.json {
            output::print(summary(&report))?;
        }
        reports.push(report);
    }
    if args.json {
        output::print_json(&Json { devices: reports.iter().map(JsonDevice::new).collect() })?;
    }
    let failed = reports.iter().any(|report| report.failed > 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn subjects(device: Option<&str>) -> anyhow::Result<Vec<Arc<dyn Subject>>> {
    match device {
        Some(name) => {
            let device = Device::open(name).with_context(|| name.to_owned())?;
            subjects_of(device.info())
        }
        None => {
            let subjects = Device::list().iter().map(subjects_of).collect::<anyhow::Result<Vec<_>>>()?;
            Ok(subjects.into_iter().flatten().collect())
        }
    }
}

/// The place where another backend's subjects join.
fn subjects_of(device: &DeviceInfo) -> anyhow::Result<Vec<Arc<dyn Subject>>> {
    match device.backend {
        "cpu" => Ok(vec![Arc::new(CpuSubject::new(&device.name))]),
        #[cfg(all(feature = "metal", any(target_vendor = "apple", gpu_events_metal_sim)))]
        "metal" => Ok(vec![Arc::new(gpu_events_conformance::MetalSubject::new(&device.name))]),
        #[cfg(feature = "cuda")]
        "cuda" => {
            let number = device.name.trim_start_matches("cuda:").parse()?;
            Ok([Signal::Cheap, Signal::Prompt]
                .map(|signal| Arc::new(CudaSubject::new(number, signal)) as Arc<dyn Subject>)
                .into())
        }
        #[cfg(feature = "vulkan")]
        "vulkan" => {
            let number = device.name.trim_start_matches("vulkan:").parse()?;
            // As it is opened by name, and as a user's, which can be told to refuse and to be lost.
            let subjects = [VulkanSubject::new(number), VulkanSubject::users(number)];
            Ok(subjects.map(|subject| Arc::new(subject) as Arc<dyn Subject>).into())
        }
        backend => bail!("{}: the suite does not know {backend} devices yet", device.name),
    }
}

fn case_line(case: &CaseReport) -> String {
    let colour = match case.outcome {
        Outcome::Passed => Style::new().green(),
        Outcome::Failed => Style::new().red().bold(),
        Outcome::Skipped | Outcome::ExpectedFailure => Style::new().yellow(),
    };
    let outcome = colour.apply_to(format!("{:<16}", case.outcome.as_str().replace('_', " ")));
    let time = units::time(std::time::Duration::from_secs_f64(case.ms / 1e3));
    let name = format!("{}/{}", case.group, case.name);
    let reason = case.reason.as_ref().map(|reason| format!("\n      {reason}")).unwrap_or_default();
    format!("  {outcome} {:>3} {name:<60} {time:>8}{reason}\n", case.id)
}

fn summary(report: &Report) -> String {
    let Report { passed, failed, skipped, expected_failures, .. } = report;
    let failed = match failed {
        0 => style("0 failed".to_owned()).green(),
        failed => style(format!("{failed} failed")).red().bold(),
    };
    format!("  {passed} passed, {failed}, {skipped} skipped, {expected_failures} failed as expected\n")
}

#[derive(Serialize)]
struct Json<'a> {
    devices: Vec<JsonDevice<'a>>,
}

#[derive(Serialize)]
struct JsonDevice<'a> {
    device: &'a str,
    passed: usize,
    failed: usize,
    skipped: usize,
    expected_failures: usize,
    cases: Vec<JsonCase<'a>>,
}

#[derive(Serialize)]
struct JsonCase<'a> {
    id: u16,
    name: &'static str,
    outcome: &'static str,
    reason: Option<&'a str>,
    ms: f64,
}

impl<'a> JsonDevice<'a> {
    fn new(report: &'a Report) -> Self {
        let case = |case: &'a CaseReport| JsonCase {
            id: case.id,
            name: case.name,
            outcome: case.outcome.as_str(),
            reason: case.reason.as_deref(),
            ms: case.ms,
        };
        Self {
            device: &report.device,
            passed: report.passed,
            failed: report.failed,
            skipped: report.skipped,
            expected_failures: report.expected_failures,
            cases: report.cases.iter().map(case).collect(),
        }
    }
}
