//! An event's whole life: taken from its pool, recorded, complete, given back.

use super::harness::{Batch, Group, Measure, repeated};
use super::report::Target;
use super::seed::{SeedEvent, SeedPool};
use super::{Bench, HeldStream, limits};
use anyhow::{Result, ensure};
use gpu_events::{Event, EventPool, Stream};
use std::hint::black_box;

pub(super) fn group<'a>(bench: &'a Bench) -> Group<'a> {
    let mut group = Group::new("Record");
    let plain = "the seed's way on a CPU: its pool, and an event of a mutex and a condition variable";
    let plain = group.variant(plain, seed(bench, SeedEvent::complete));
    let clocked = group.variant(
        "the seed's way on a CPU, and a reading of the clock",
        seed(bench, SeedEvent::complete_timed),
    );

    let untimed = group.variant("untimed", idle(bench, EventPool::acquire));
    let timed = group.variant("timed", idle(bench, EventPool::acquire_timed));
    let busy_untimed = group.variant("busy stream, untimed", busy(bench, EventPool::acquire));
    let busy_timed = group.variant("busy stream, timed", busy(bench, EventPool::acquire_timed));
    for (name, subject, baseline, target) in [
        ("acquire+record+complete+drop, untimed", untimed, plain, Some(45.0)),
        ("acquire+record+drop on a busy stream, untimed", busy_untimed, plain, Some(100.0)),
        ("acquire+record+complete+drop, timed", timed, clocked, Some(80.0)),
        ("acquire+record+drop on a busy stream, timed", busy_timed, clocked, None),
    ] {
        let targets = target.map_or_else(Vec::new, |ns| bench.targets([Target::Ns(ns)]));
        group.row(name, subject, baseline, targets);
    }
    let limit = group.variant("a thread's own stack, a lock and an exchange", limits::life(&bench.plan));
    let timed_limit = group.variant(
        "a thread's own stack, a lock, an exchange and a reading of the clock",
        limits::timed_life(&bench.plan),
    );
    for (name, subject, limit) in [
        ("acquire+record+complete+drop, untimed, beside its limit", untimed, limit),
        ("acquire+record+complete+drop, timed, beside its limit", timed, timed_limit),
    ] {
        group.row(name, subject, limit, []);
    }
    group
}

/// One event's life but for its completion, which is the stream's.
#[inline]
fn live(pool: &EventPool, acquire: impl Fn(&EventPool) -> Event, stream: &Stream) -> Result<()> {
    let event = acquire(black_box(pool));
    event.record(black_box(stream))?;
    black_box(&event);
    Ok(())
}

/// On a stream with nothing to do. Where recordings aren't complete on the spot, a batch includes waiting for its last.
fn idle<'a>(bench: &'a Bench, acquire: impl Fn(&EventPool) -> Event + Copy + 'a) -> Measure<'a> {
    let pool = EventPool::new(&bench.device);
    let mut batch = Batch::new(&bench.plan);
    let mut stream = None;
    Box::new(move |samples| {
        let stream = match &mut stream {
            Some(stream) => stream,
            none => none.insert(bench.device.create_stream()?),
        };
        batch.sample_batches(samples, |operations| {
            for _ in 0..operations {
                live(&pool, acquire, stream)?;
            }
            Ok(stream.synchronize()?)
        })?;
        let event = acquire(&pool);
        event.record(stream)?;
        event.synchronize()?;
        ensure!(event.is_complete()?, "an event that was waited for is not complete");
        Ok(())
    })
}

/// On a stream that a gate holds back, so that every recording is still pending when its event is dropped.
fn busy<'a>(bench: &'a Bench, acquire: impl Fn(&EventPool) -> Event + Copy + 'a) -> Measure<'a> {
    let pool = EventPool::new(&bench.device);
    let mut batch = Batch::new(&bench.plan);
    Box::new(move |samples| {
        let held = HeldStream::new(&bench.device)?;
        batch.sample(samples, || live(&pool, acquire, &held.stream))?;
        Ok(held.release()?)
    })
}

fn seed<'a>(bench: &'a Bench, complete: impl Fn(&SeedEvent) + 'a) -> Measure<'a> {
    let pool = SeedPool::default();
    repeated(&bench.plan, move || {
        let handle = black_box(&pool).acquire();
        handle.event().record();
        complete(handle.event());
        black_box(handle.event());
        Ok(())
    })
}
