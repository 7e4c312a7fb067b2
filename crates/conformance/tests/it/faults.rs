//! Each way to break a backend is noticed.

use gpu_events_conformance::{
    Outcome, Report, Subject, cases, run_cases,
    toy::{Fault, ToySubject},
};
use std::{sync::Arc, thread, time::Duration};

/// For each fault, cases that must notice it, all of them: those that are about what it breaks.
/// Most faults make many more fail; `survey` prints them all.
const NOTICED: &[(Fault, &[u16])] = &[
    (Fault::SignalsEarly, &[14, 23]),
    (Fault::CompletesTwice, &[18, 21, 39]),
    (Fault::SignalsBeforeEffects, &[22, 27, 97]),
    (Fault::Rewinds, &[16, 95]),
    (Fault::WakesNobody, &[38, 43, 54]),
    (Fault::LosesFlushes, &[21, 27, 84]),
    (Fault::SitsOnWork, &[83]),
    (Fault::IgnoresWaits, &[22, 23, 27]),
    (Fault::LeaksThroughGates, &[13, 17, 39, 101]),
    (Fault::KeepsGatesShut, &[13, 41, 81]),
    (Fault::GatesBlockTheDevice, &[2, 20, 100]),
    (Fault::ForgetsFailure, &[46, 66, 68]),
    (Fault::FailsAfterRelease, &[66, 90]),
    (Fault::FailsBackwards, &[68]),
    (Fault::FailsEverything, &[70]),
    (Fault::ForgetsLoss, &[78]),
    (Fault::ForgetsRefusal, &[113]),
    (Fault::BlocksWhenFull, &[82, 112]),
    (Fault::ForgetsDepth, &[82, 112]),
    (Fault::SwallowsCallbacks, &[43, 44, 45, 86]),
    (Fault::StampsSubmission, &[58, 64]),
    (Fault::StampsZero, &[57, 62]),
    (Fault::CountsFast, &[58, 63]),
    (Fault::TurnsBack, &[59, 62]),
    (Fault::MisplacesClock, &[63]),
    (Fault::ExceedsValueGap, &[75]),
];

fn run(fault: Fault, ids: Option<&[u16]>) -> Report {
    let subject: Arc<dyn Subject> = Arc::new(ToySubject::with_fault(fault).limit(Duration::from_secs(4)));
    run_cases(&subject, cases().filter(|case| ids.is_none_or(|ids| ids.contains(&case.id))), &mut |_| ())
}

#[test]
#[ignore = "a survey, to choose from: prints which cases notice which fault"]
fn survey() {
    let threads: Vec<_> = Fault::ALL.map(|fault| (fault, thread::spawn(move || run(fault, None)))).into();
    for (fault, thread) in threads {
        let report = thread.join().unwrap();
        let failed = report.cases.iter().filter(|case| case.outcome == Outcome::Failed);
        let noticed: Vec<u16> = failed.map(|case| case.id).collect();
        println!("{fault:?}: {noticed:?}");
    }
}

#[test]
fn every_fault_is_listed() {
    for fault in Fault::ALL {
        let listed = NOTICED.iter().filter(|(listed, cases)| *listed == fault && !cases.is_empty()).count();
        assert_eq!(listed, 1, "{fault:?}");
    }
}

#[test]
fn every_fault_is_noticed() {
    // Side by side: a case that notices a fault mostly waits for what does not come.
    let threads: Vec<_> =
        NOTICED.iter().map(|&(fault, ids)| (fault, thread::spawn(move || missed(fault, ids)))).collect();
    for (fault, thread) in threads {
        let missed = thread.join().unwrap();
        assert!(missed.is_empty(), "{fault:?} in cases {missed:?}");
    }
}

/// The cases that do not notice the fault. Which threads meet is up to the machine, and a race that is not run into is
/// not noticed: so a case that missed it is asked again.
fn missed(fault: Fault, ids: &[u16]) -> Vec<u16> {
    let mut missed = ids.to_vec();
    for _ in 0..4 {
        let report = run(fault, Some(&missed));
        missed =
            report.cases.iter().filter(|case| case.outcome != Outcome::Failed).map(|case| case.id).collect();
        if missed.is_empty() {
            break;
        }
    }
    missed
}
