//! Running cases, and what comes of them.

use crate::{Case, Context, Expectation, Group, Stop, Subject, Verdict, cases};
use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

/// Which cases to run.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pattern: Option<String>,
}

impl Filter {
    /// Every case.
    pub fn all() -> Self {
        Self::default()
    }

    /// The cases that `pattern` names, in one of three ways: a number is an id; with `*` or `?` in it, it is a
    /// glob over the whole of `group/name`; anything else is looked for within `group/name`.
    ///
    /// ```
    /// use gpu_events_conformance::{Filter, cases};
    ///
    /// let count = |pattern| cases().filter(|case| Filter::new(pattern).matches(case)).count();
    /// assert_eq!(count("42"), 1);
    /// assert!(count("timing/*") > 5);
    /// assert!(count("callback") > 5);
    /// assert_eq!(count("no such case"), 0);
    /// ```
    pub fn new(pattern: impl Into<String>) -> Self {
        Self { pattern: Some(pattern.into()) }
    }

    /// Whether it lets this case through.
    pub fn matches(&self, case: &Case) -> bool {
        let Some(pattern) = &self.pattern else { return true };
        if let Ok(id) = pattern.parse::<u16>() {
            return case.id == id;
        }
        let path = format!("{}/{}", case.group, case.name);
        if pattern.contains(['*', '?']) {
            glob(pattern.as_bytes(), path.as_bytes())
        } else {
            path.contains(&**pattern)
        }
    }
}

/// Matches `?` with any byte and `*` with any run of them. On a mismatch only the latest `*` has to give way:
/// what an earlier one could take more of, the later one can take as well.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It ran to its end.
    Passed,
    /// A promise was broken, or the case panicked, hung, or passed against expectation.
    Failed,
    /// It could not run here.
    Skipped,
    /// It failed, as its backend said it would.
    ExpectedFailure,
}

impl Outcome {
    /// The outcome in one word, as reports carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::ExpectedFailure => "expected_failure",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What came of one case.
#[derive(Clone, Debug)]
pub struct CaseReport {
    /// The case's number.
    pub id: u16,
    /// The case's name.
    pub name: &'static str,
    /// The heading it stands under.
    pub group: Group,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, unless it passed.
    pub reason: Option<String>,
    /// How long it took, in milliseconds.
    pub ms: f64,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The subject's name.
    pub device: String,
    /// How many cases passed.
    pub passed: usize,
    /// How many failed.
    pub failed: usize,
    /// How many were skipped.
    pub skipped: usize,
    /// How many failed as expected.
    pub expected_failures: usize,
    /// Each case, in the order in which they ran.
    pub cases: Vec<CaseReport>,
}

impl Report {
    fn add(&mut self, case: CaseReport) {
        *match case.outcome {
            Outcome::Passed => &mut self.passed,
            Outcome::Failed => &mut self.failed,
            Outcome::Skipped => &mut self.skipped,
            Outcome::ExpectedFailure => &mut self.expected_failures,
        } += 1;
        self.cases.push(case);
    }
}

/// Runs the suite's cases that `filter` lets through, and tells `on_case` of each as it ends.
pub fn run(subject: &Arc<dyn Subject>, filter: &Filter, on_case: &mut dyn FnMut(&CaseReport)) -> Report {
    run_cases(subject, cases().filter(|case| filter.matches(case)), on_case)
}

/// Runs any cases: the suite's, or a backend's own beside them.
pub fn run_cases<'a>(
    subject: &Arc<dyn Subject>,
    cases: impl IntoIterator<Item = &'a Case>,
    on_case: &mut dyn FnMut(&CaseReport),
) -> Report {
    let mut report = Report { device: subject.name(), ..Report::default() };
    for case in cases {
        let case = run_case(subject, case);
        on_case(&case);
        report.add(case);
    }
    report
}

fn run_case(subject: &Arc<dyn Subject>, case: &Case) -> CaseReport {
    let started = Instant::now();
    let (outcome, reason) = match subject.expectation(case) {
        Expectation::Skip(reason) => (Outcome::Skipped, Some(reason)),
        Expectation::Pass => match attempt(subject, case) {
            Ok(()) => (Outcome::Passed, None),
            Err(Stop::Skip(reason)) => (Outcome::Skipped, Some(reason)),
            Err(Stop::Fail(reason)) => (Outcome::Failed, Some(reason)),
        },
        Expectation::Fail(expected) => match attempt(subject, case) {
            Ok(()) => (Outcome::Failed, Some(format!("passed, but was expected to fail: {expected}"))),
            Err(Stop::Skip(reason)) => (Outcome::Skipped, Some(reason)),
            Err(Stop::Fail(reason)) => (Outcome::ExpectedFailure, Some(format!("{expected}: {reason}"))),
        },
    };
    let ms = started.elapsed().as_secs_f64() * 1e3;
    CaseReport { id: case.id, name: case.name, group: case.group, outcome, reason, ms }
}

/// Runs the case on a thread of its own. A thread that hangs is left behind: nothing can end it, and the next
/// case, which opens its own device, does not need it to end.
fn attempt(subject: &Arc<dyn Subject>, case: &Case) -> Verdict {
    let limit = subject.limit(case);
    let context = Context::new(subject.clone(), limit);
    let run = case.run;
    let (tell, verdict) = mpsc::channel();
    let body = move || {
        let verdict = catch_unwind(AssertUnwindSafe(|| run(&context)))
            .unwrap_or_else(|payload| Err(Stop::Fail(format!("panicked: {}", panic_text(&*payload)))));
        // Nobody listens any more once the time is up.
        let _ = tell.send(verdict);
    };
    if let Err(error) = thread::Builder::new().name(format!("case-{}", case.id)).spawn(body) {
        return Err(Stop::Fail(format!("no thread to run the case on: {error}")));
    }
    match verdict.recv_timeout(limit) {
        Ok(verdict) => verdict,
        Err(RecvTimeoutError::Timeout) => Err(Stop::Fail(format!("did not finish in {}", Seconds(limit)))),
        Err(RecvTimeoutError::Disconnected) => Err(Stop::Fail("its thread went away".to_owned())),
    }
}

/// A duration in seconds, as one says it.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}

/// The message of a panic.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "with a payload that is no text",
    }
}
