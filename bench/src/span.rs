//! A span of a trace: while nobody traces, and while somebody does.

use super::harness::{Batch, Group, Measure, repeated};
use super::report::Target;
use super::{Bench, HeldStream};
use gpu_events::Event;
use gpu_events::trace::{TraceOptions, Tracer};
use std::hint::black_box;

pub(super) fn group<'a>(bench: &'a Bench) -> Group<'a> {
    let mut group = Group::new("Span");
    let nothing = group.variant(
        "an empty loop",
        repeated(&bench.plan, || {
            black_box(());
            Ok(())
        }),
    );
    let off = group.variant("tracing off", off(bench));
    group.row("span, tracing off", off, nothing, vec![Target::Ns(2.0)]);
    let events = group.variant("the two timed events alone", on_busy_stream(bench, false));
    let on = group.variant("tracing on", on_busy_stream(bench, true));
    group.row("span on a busy stream, tracing on", on, events, Vec::new());
    group
}

/// As the program has it that is not being traced.
fn off<'a>(bench: &'a Bench) -> Measure<'a> {
    let tracer = Tracer::off();
    let mut batch = Batch::new(&bench.plan);
    let mut stream = None;
    Box::new(move |samples| {
        let stream = match &mut stream {
            Some(stream) => stream,
            none => none.insert(bench.device.create_stream()?),
        };
        batch.sample(samples, || {
            // The look whether the tracer is on is atomic, and done each time; and what is within the span stands for the work
            // that it is around.
            let span = tracer.span(stream, "span");
            black_box(());
            drop(span);
            Ok(())
        })
    })
}

/// A span, or what it records, on a stream that a gate holds back.
fn on_busy_stream<'a>(bench: &'a Bench, traced: bool) -> Measure<'a> {
    let mut batch = Batch::new(&bench.plan);
    Box::new(move |samples| {
        let held = HeldStream::new(&bench.device)?;
        // No span of the round is dropped for want of room: that would be cheaper than to take it.
        let room = TraceOptions::new().capacity(usize::MAX).pending(usize::MAX);
        let tracer = Tracer::with("bench", room);
        let mut kept: Vec<Event> = Vec::new();
        batch.sample(samples, || {
            if traced {
                drop(tracer.span(&held.stream, "span"));
            } else {
                kept.extend([held.stream.record_timed()?, held.stream.record_timed()?]);
            }
            Ok(())
        })?;
        held.release()?;
        anyhow::ensure!(tracer.dropped() == 0, "{} spans were dropped", tracer.dropped());
        Ok(())
    })
}
