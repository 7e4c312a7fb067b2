//! What becomes of a case that ends otherwise than well.

use gpu_events::{Device, Result, Stream};
use gpu_events_conformance::{
    Case, CaseReport, Cells, Context, CpuSubject, Expectation, Filter, Group, Outcome, Stop, Subject,
    Verdict, cases, run, run_cases,
};
use std::{panic::resume_unwind, sync::Arc, time::Duration};

/// The CPU, with expectations by number: 1 passes, 2 is skipped, 3 is to fail.
#[derive(Debug)]
struct Expecting(CpuSubject);

impl Subject for Expecting {
    fn name(&self) -> String {
        "expecting".to_owned()
    }

    fn open(&self) -> Verdict<Device> {
        self.0.open()
    }

    fn cells(&self, device: &Device, count: usize) -> Verdict<Arc<dyn Cells>> {
        self.0.cells(device, count)
    }

    fn expectation(&self, case: &Case) -> Expectation {
        match case.id {
            2 => Expectation::Skip("not here".to_owned()),
            3 => Expectation::Fail("known to be wrong".to_owned()),
            _ => Expectation::Pass,
        }
    }

    fn limit(&self, _case: &Case) -> Duration {
        Duration::from_millis(300)
    }
}

fn run_one(id: u16, body: fn(&Context) -> Verdict) -> CaseReport {
    let subject: Arc<dyn Subject> = Arc::new(Expecting(CpuSubject::default()));
    let case = Case { id, name: "made-up", group: Group::Status, rules: &[1], run: body };
    let mut told = Vec::new();
    let report = run_cases(&subject, [&case], &mut |case| told.push(case.outcome));
    assert_eq!(report.device, "expecting");
    assert_eq!(report.passed + report.failed + report.skipped + report.expected_failures, 1);
    assert_eq!(told, [report.cases[0].outcome]);
    report.cases.into_iter().next().unwrap()
}

fn pass(_: &Context) -> Verdict {
    Ok(())
}

fn fail(_: &Context) -> Verdict {
    Err(Stop::fail("it is wrong"))
}

fn outcome(report: &CaseReport) -> (Outcome, &str) {
    (report.outcome, report.reason.as_deref().unwrap_or("none"))
}

#[test]
fn a_pass_needs_no_reason() {
    assert_eq!(outcome(&run_one(1, pass)), (Outcome::Passed, "none"));
}

#[test]
fn a_failure_says_what_and_where() {
    let report = run_one(1, fail);
    assert_eq!(report.outcome, Outcome::Failed);
    let reason = report.reason.unwrap();
    assert!(reason.starts_with("it is wrong (runner.rs:"), "{reason}");
}

#[test]
fn an_error_says_what_and_where() {
    let report = run_one(1, |ctx| {
        let device = ctx.device()?;
        device.close();
        device.create_stream()?;
        Ok(())
    });
    let reason = report.reason.unwrap();
    assert!(reason.contains("the device is closed") && reason.contains("runner.rs:"), "{reason}");
}

#[test]
fn a_skip_keeps_its_reason() {
    assert_eq!(
        outcome(&run_one(1, |_| Err(Stop::skip("no such thing")))),
        (Outcome::Skipped, "no such thing")
    );
}

#[test]
fn an_expected_skip_is_not_run() {
    assert_eq!(outcome(&run_one(2, fail)), (Outcome::Skipped, "not here"));
}

#[test]
fn an_expected_failure_is_none() {
    let report = run_one(3, fail);
    assert_eq!(report.outcome, Outcome::ExpectedFailure);
    let reason = report.reason.unwrap();
    assert!(reason.starts_with("known to be wrong: it is wrong"), "{reason}");
}

#[test]
fn an_unexpected_pass_is_a_failure() {
    let report = run_one(3, pass);
    assert_eq!(outcome(&report), (Outcome::Failed, "passed, but was expected to fail: known to be wrong"));
}

#[test]
fn a_panic_is_a_failure_with_its_text() {
    // Without the panic hook, which would print a backtrace of a test that passes.
    let report = run_one(1, |_| resume_unwind(Box::new("out of order")));
    assert_eq!(outcome(&report), (Outcome::Failed, "panicked: out of order"));
    let report = run_one(1, |_| resume_unwind(Box::new(format!("{} of order", "out"))));
    assert_eq!(outcome(&report), (Outcome::Failed, "panicked: out of order"));
    let report = run_one(1, |_| resume_unwind(Box::new(7)));
    assert_eq!(outcome(&report), (Outcome::Failed, "panicked: with a payload that is no text"));
}

#[test]
fn a_hang_is_a_failure_and_the_next_case_runs() {
    fn hang(ctx: &Context) -> Verdict {
        let (event, signal) = ctx.device()?.host_event()?;
        let never = event.synchronize();
        drop(signal);
        Ok(never?)
    }
    let subject: Arc<dyn Subject> = Arc::new(Expecting(CpuSubject::default()));
    let table = [("hangs", hang as fn(&Context) -> Verdict), ("runs", pass)];
    let table = table.map(|(name, run)| Case { id: 1, name, group: Group::Limits, rules: &[1], run });
    let report = run_cases(&subject, &table, &mut |_| ());
    assert_eq!(outcome(&report.cases[0]), (Outcome::Failed, "did not finish in 0.3 s"));
    assert!(report.cases[0].ms >= 300.0, "{}", report.cases[0].ms);
    assert_eq!(outcome(&report.cases[1]), (Outcome::Passed, "none"));
    assert_eq!((report.passed, report.failed), (1, 1));
}

#[test]
fn a_thread_s_panic_and_a_thread_that_hangs_are_failures() {
    let report = run_one(1, |ctx| ctx.spawn(|| resume_unwind(Box::new("beside")))?.finish());
    let reason = report.reason.unwrap();
    assert!(reason.starts_with("a thread panicked: beside"), "{reason}");
    let report = run_one(1, |ctx| {
        let (event, _signal) = ctx.device()?.host_event()?;
        Ok(ctx.spawn(move || event.synchronize())?.finish()??)
    });
    let reason = report.reason.unwrap();
    assert!(reason.starts_with("a call did not return within 75ms"), "{reason}");
}

#[test]
fn a_missing_device_skips_every_case() {
    #[derive(Debug)]
    struct Missing;

    impl Subject for Missing {
        fn name(&self) -> String {
            "missing".to_owned()
        }

        fn open(&self) -> Verdict<Device> {
            Err(Stop::skip("no driver"))
        }

        fn cells(&self, _device: &Device, _count: usize) -> Verdict<Arc<dyn Cells>> {
            Err(Stop::skip("no driver"))
        }
    }

    let subject: Arc<dyn Subject> = Arc::new(Missing);
    // One is about the core's arithmetic alone and opens nothing.
    let needy = cases().filter(|case| case.id != 65);
    let report = run_cases(&subject, needy, &mut |_| ());
    assert_eq!((report.passed, report.failed, report.skipped), (0, 0, report.cases.len()));
}

#[test]
fn what_a_subject_does_not_bring_is_skipped_with_a_reason() {
    /// What every backend can bring, and nothing else.
    #[derive(Debug)]
    struct Least(CpuSubject);

    impl Subject for Least {
        fn name(&self) -> String {
            "least".to_owned()
        }

        fn open(&self) -> Verdict<Device> {
            self.0.open()
        }

        fn cells(&self, _device: &Device, _count: usize) -> Verdict<Arc<dyn Cells>> {
            struct None;

            impl Cells for None {
                fn write(&self, _stream: &Stream, _cell: usize, _value: u32) -> Result<()> {
                    Ok(())
                }

                fn copy(&self, _stream: &Stream, _from: usize, _to: usize) -> Result<()> {
                    Ok(())
                }

                fn read(&self, _cell: usize) -> u32 {
                    0
                }
            }

            let _ = None;
            Err(Stop::skip("no memory"))
        }
    }

    let subject: Arc<dyn Subject> = Arc::new(Least(CpuSubject::default()));
    let report = run(&subject, &Filter::all(), &mut |_| ());
    assert_eq!(report.failed, 0);
    let skipped = report.cases.iter().filter(|case| case.outcome == Outcome::Skipped);
    for case in skipped {
        assert!(case.reason.as_ref().is_some_and(|reason| !reason.is_empty()), "{}", case.name);
    }
    assert!(report.passed > 60, "{} passed", report.passed);
}

#[test]
fn filters() {
    let names = |pattern: &str| -> Vec<&str> {
        let filter = Filter::new(pattern);
        cases().filter(|case| filter.matches(case)).map(|case| case.name).collect()
    };
    assert_eq!(names("13"), ["held-work-is-pending-then-complete"]);
    assert_eq!(names("*/fork"), ["fork"]);
    assert_eq!(names("limits/f?rk"), ["fork"]);
    assert_eq!(names("fork-and"), ["fork-and-join-carry-data"]);
    assert!(names("fork").len() > 1);
    assert_eq!(names("limits/*").len(), cases().filter(|case| case.group == Group::Limits).count());
    assert_eq!(names("*").len(), cases().count());
    assert_eq!(names("*a*-*e*once").len(), cases().filter(|case| glob_by_hand(case)).count());
    assert!(names("limits/").iter().all(|name| !name.is_empty()));
    assert!(names("0").is_empty() && names("9999").is_empty() && names("nonsense").is_empty());
    assert_eq!(cases().filter(|case| Filter::all().matches(case)).count(), cases().count());
}

fn glob_by_hand(case: &Case) -> bool {
    let path = format!("{}/{}", case.group, case.name);
    let Some(path) = path.strip_suffix("once") else { return false };
    let Some((_, rest)) = path.split_once('a') else { return false };
    rest.split_once('-').is_some_and(|(_, rest)| rest.contains('e'))
}
