//! Traces to try things on.

use gpu_events_trace::{ClockId, ClockSample, Process, Span, Trace, Track, Wait};
use proptest::prelude::*;

/// Two streams and a thread, one wait that mattered and one that did not.
pub(crate) fn small() -> Trace {
    let mut trace = Trace::new(Process::new("small"));
    let copy = trace.add_track(Track::stream("cuda:0", "copy"));
    let hash = trace.add_track(Track::stream("cuda:0", "hash"));
    let host = trace.add_track(Track::thread("main"));
    trace.tracks[copy].uncertainty = 700;
    let upload = trace.add_span(Span::new(copy, "upload", 1_000, 21_000));
    let check = trace.add_span(Span::new(copy, "check", 21_000, 22_500));
    let inner = trace.add_span(Span::new(hash, "sha256", 24_000, 40_001));
    let outer = trace.add_span(Span::new(hash, "file", 24_000, 50_000));
    trace.add_span(Span::new(host, "submit", 500, 3_000));
    trace.spans[check].error = Some("no \"such\" thing".into());
    let mut matters = Wait::new(hash, "uploaded", 2_000, 21_000);
    (matters.source, matters.source_track, matters.before) = (Some(upload), Some(copy), Some(outer));
    trace.add_wait(matters);
    let mut idle = Wait::new(hash, "checked", 40_001, 22_500);
    (idle.source, idle.source_track) = (Some(check), Some(copy));
    trace.add_wait(idle);
    assert_eq!(trace.spans[inner].nanos(), 16_001);
    trace
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "\\PC{0,12}", Just("</script>\u{0}\n\"'\\\u{202e}".to_owned())]
}

/// Any sound trace.
pub(crate) fn any_trace() -> impl Strategy<Value = Trace> {
    let pieces =
        proptest::collection::vec((0..4_usize, 0..1_000_i64, 0..1_000_i64, any::<bool>(), text()), 1..40);
    let index = any::<proptest::sample::Index>;
    let waits =
        proptest::collection::vec((index(), text(), any::<[i32; 3]>(), index(), any::<[bool; 3]>()), 0..10);
    let samples = proptest::collection::vec(any::<(u128, i64, u128, i64, u64)>(), 0..3);
    let process = (text(), any::<u32>(), any::<(u128, u64, u64, u64)>());
    let tracks = proptest::collection::vec((text(), text(), any::<bool>(), any::<u64>(), text()), 4);
    let origin = prop_oneof![Just(0), Just(-5_000), Just(1_i64 << 60), any::<i32>().prop_map(i64::from)];
    (pieces, waits, samples, process, tracks, origin).prop_map(
        |(pieces, waits, samples, process, tracks, origin)| {
            let (name, pid, (clock, uncertainty, anchor, dropped)) = process;
            let mut trace = Trace::new(Process::new(name));
            let its = &mut trace.processes[0];
            (its.pid, its.clock, its.uncertainty, its.anchor, its.dropped) =
                (pid, ClockId(clock), uncertainty, anchor, dropped);
            for (device, name, is_thread, id, clock) in tracks {
                let mut track = if is_thread { Track::thread(name) } else { Track::stream(device, name) };
                (track.id, track.uncertainty, track.clock) = (id, id / 3, clock);
                trace.add_track(track);
            }
            let mut ends = [origin; 4];
            for (track, gap, length, nested, name) in pieces {
                let start = ends[track] + gap;
                ends[track] = start + length;
                let mut span = Span::new(track, name.as_str(), start, ends[track]);
                span.submitted -= gap * 3;
                span.error = nested.then(|| name.as_str().into());
                trace.add_span(span);
                if nested {
                    trace.add_span(Span::new(track, "inside", start, start + length / 2));
                }
            }
            for (track, event, times, span, given) in waits {
                let [submitted, reached, released] = times.map(|time| origin + i64::from(time));
                let mut wait = Wait::new(track.index(4), event.as_str(), reached, released);
                wait.submitted = submitted;
                wait.source = given[0].then(|| span.index(trace.spans.len()));
                wait.source_track = given[1].then(|| span.index(4));
                wait.before = given[2].then(|| span.index(trace.spans.len()));
                trace.add_wait(wait);
            }
            trace.samples = samples
                .into_iter()
                .map(|(clock, reading, other, other_reading, uncertainty)| ClockSample {
                    clock: ClockId(clock),
                    reading,
                    other: ClockId(other),
                    other_reading,
                    uncertainty,
                })
                .collect();
            trace
        },
    )
}
