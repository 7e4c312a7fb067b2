//! Asking a recording how it is.

use super::harness::{Group, repeated};
use super::report::Target;
use super::seed::SeedPool;
use super::{Bench, HeldStream, limits};
use anyhow::ensure;
use gpu_events::{Event, Status};
use std::hint::black_box;

pub(super) fn group<'a>(bench: &'a Bench) -> Group<'a> {
    let mut group = Group::new("Status");
    for (name, expected, target) in
        [("status, known", Status::Complete, 1.5), ("status, pending", Status::Pending, 3.0)]
    {
        // One for each row: the known one stays on its stream after the gate has opened.
        let mut asked: Option<(Event, Option<HeldStream>)> = None;
        let mut batch = super::harness::Batch::new(&bench.plan);
        let ours = Box::new(move |samples: &mut _| {
            let (event, _held) = match &mut asked {
                Some(asked) => asked,
                none => none.insert(recorded(bench, expected)?),
            };
            ensure!(event.status() == expected, "the event is {:?}, not {expected:?}", event.status());
            batch.sample(samples, || {
                black_box(black_box(&*event).status());
                Ok(())
            })
        });
        let ours = group.variant(name, ours);

        let seed = SeedPool::default().acquire();
        seed.event().record();
        if expected == Status::Complete {
            seed.event().complete();
        }
        let seed = repeated(&bench.plan, move || {
            black_box(black_box(seed.event()).query());
            Ok(())
        });
        let seed = group.variant("the seed's way on a CPU: a flag behind a mutex", seed);
        group.row(name, ours, seed, bench.targets([Target::Ns(target)]));

        let (label, limit) = match expected {
            Status::Complete => ("an atomic read", limits::read(&bench.plan)),
            _ => ("two atomic reads, the second where the first says", limits::two_reads(&bench.plan)),
        };
        let limit = group.variant(label, limit);
        group.row(format!("{name}, beside its limit"), ours, limit, []);
    }
    group
}

/// An event in that status, and what keeps it there.
fn recorded(bench: &Bench, status: Status) -> gpu_events::Result<(Event, Option<HeldStream>)> {
    let held = HeldStream::new(&bench.device)?;
    let event = held.stream.record()?;
    if status != Status::Complete {
        return Ok((event, Some(held)));
    }
    held.release()?;
    Ok((event, None))
}
