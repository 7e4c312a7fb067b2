//! The conformance suite against the simulated Metal.

use gpu_events::{Device, Stream, metal};
use gpu_events_conformance::{Adopted, Cells, Filter, MetalSubject, Outcome, Subject, Verdict, run};
use metal_sim::{control, counters, exclusive, host_work, new_device};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// As on a Mac, and with what only a simulation does on demand.
#[derive(Debug)]
struct Simulated(MetalSubject);

impl Subject for Simulated {
    fn name(&self) -> String {
        self.0.name()
    }

    /// On a GPU of its own: a case may lose it.
    fn open(&self) -> Verdict<Device> {
        Ok(metal::open(new_device())?)
    }

    fn cells(&self, device: &Device, count: usize) -> Verdict<Arc<dyn Cells>> {
        self.0.cells(device, count)
    }

    fn open_second(&self, _first: &Device) -> Verdict<Device> {
        Ok(metal::open(new_device())?)
    }

    fn busy(&self, stream: &Stream, time: Duration) -> Verdict {
        self.0.busy(stream, time)
    }

    fn fail(&self, stream: &Stream) -> Verdict {
        let work = || Err("failed on demand".to_owned());
        Ok(stream.metal()?.encode(|commands| host_work(commands, work))?)
    }

    fn panic(&self, stream: &Stream, text: &'static str) -> Verdict {
        self.0.panic(stream, text)
    }

    fn refuse_submission(&self, stream: &Stream) -> Verdict {
        self.0.refuse_submission(stream)
    }

    fn lose(&self, device: &Device) -> Verdict {
        let gpu = metal::raw_device(device)?;
        control().lose_device(&gpu);
        // Nobody tells of it but the next buffer that meets it.
        let stream = device.create_stream()?;
        stream.metal()?.encode(|_| ())?;
        Ok(stream.flush()?)
    }

    fn adopt(&self, device: &Device, adopter: &Device) -> Verdict<gpu_events::Result<Adopted>> {
        self.0.adopt(device, adopter)
    }

    fn value_gap(&self, device: &Device) -> Verdict<u64> {
        self.0.value_gap(device)
    }
}

/// Which cases are skipped, each for a reason that a Mac would share.
const SKIPPED: [u16; 4] = [73, 113, 75, 115];

/// Keeps an event on purpose, to outlive `main`.
const KEEPS: u16 = 5;

/// All cases, or those that `CASE` names.
fn filter() -> Filter {
    std::env::var("CASE").map_or_else(|_| Filter::all(), Filter::new)
}

#[test]
fn the_suite_passes() {
    let mut simulation = exclusive();
    // Case 5 keeps an event, and what that needs, to the end of the process.
    simulation.allow_leaks();
    let subject: Arc<dyn Subject> = Arc::new(Simulated(MetalSubject::default()));
    let mut alive = counters().live;
    let mut leaks = Vec::new();
    let report = run(&subject, &filter(), &mut |case| {
        // Threads that end may hold things until then.
        let start = Instant::now();
        while counters().live != alive && start.elapsed() < Duration::from_secs(5) {
            std::thread::yield_now();
        }
        let left = counters().live;
        if left != alive && case.id != KEEPS {
            leaks.push((case.id, left));
        }
        alive = left;
        println!(
            "{:<16} {:>3} {}/{} {}",
            case.outcome,
            case.id,
            case.group,
            case.name,
            case.reason.as_deref().unwrap_or("")
        );
    });
    println!("{} passed, {} failed, {} skipped", report.passed, report.failed, report.skipped);
    let ids = |outcome| {
        let of = report.cases.iter().filter(move |case| case.outcome == outcome);
        of.map(|case| case.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(Outcome::Failed), [0_u16; 0]);
    assert_eq!(leaks, [], "cases, and what is alive after them");
    let skipped = SKIPPED.into_iter().filter(|id| report.cases.iter().any(|case| case.id == *id));
    assert_eq!(ids(Outcome::Skipped), skipped.collect::<Vec<_>>());
    assert_eq!(counters().blocked_creations, simulation.before().blocked_creations);
}

/// What `gpu-events doctor` does on a Mac: fewer cases can run, and those that do pass.
#[test]
fn the_suite_passes_as_a_mac_would_run_it() {
    let mut simulation = exclusive();
    simulation.allow_leaks();
    let subject: Arc<dyn Subject> = Arc::new(MetalSubject::default());
    let report = run(&subject, &filter(), &mut |case| {
        if case.outcome != Outcome::Passed {
            println!("{} {} {}", case.outcome, case.id, case.reason.as_deref().unwrap_or(""));
        }
    });
    assert_eq!(report.failed, 0);
    assert!(report.passed > report.skipped);
}
