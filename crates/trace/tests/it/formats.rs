//! Perfetto's format, back and forth, and Chrome's.

use crate::common::{any_trace, small};
use gpu_events_trace::{ErrorKind, Process, Span, Trace, Track};
use proptest::prelude::*;
use serde_json::Value;
use std::collections::HashMap;

fn kind(bytes: &[u8]) -> ErrorKind {
    Trace::from_perfetto(bytes).expect_err("it is no whole trace of ours").kind()
}

#[test]
fn every_prefix_of_a_trace_is_truncated() {
    let bytes = small().to_perfetto().unwrap();
    assert_eq!(Trace::from_perfetto(&bytes).unwrap(), small_again(&bytes));
    assert_eq!(kind(&[]), ErrorKind::Empty);
    for end in 1..bytes.len() {
        assert_eq!(kind(&bytes[..end]), ErrorKind::Truncated, "{end} of {} bytes", bytes.len());
    }
}

/// As read a second time: the small trace has a clock of its own each time that it is made.
fn small_again(bytes: &[u8]) -> Trace {
    let trace = Trace::from_perfetto(bytes).unwrap();
    let mut expected = small();
    expected.processes = trace.processes.clone();
    assert_eq!(trace, expected);
    trace
}

#[test]
fn what_is_not_ours_is_foreign() {
    // A trace of somebody else's: one packet, with a timestamp.
    for bytes in
        [&b"\x0a\x02\x40\x07"[..], b"{\"traceEvents\": []}", b"\x7fELF", b"\n", b"hello, world", &[0; 64]]
    {
        let found = kind(bytes);
        assert!(
            found == ErrorKind::Foreign || (found == ErrorKind::Truncated && bytes == b"\n"),
            "{bytes:?}: {found:?}"
        );
    }
    // Two of ours, one behind the other.
    let bytes = small().to_perfetto().unwrap();
    assert_eq!(kind(&[&bytes[..], &bytes].concat()), ErrorKind::Invalid);
}

#[test]
fn nothing_is_empty() {
    let nothing = Trace::new(Process::new("nothing")).to_perfetto().unwrap();
    assert_eq!(kind(&nothing), ErrorKind::Empty);
}

#[test]
fn a_trace_whose_parts_do_not_fit_is_not_written() {
    let mut traces = [small(), small(), small(), small(), small()];
    traces[0].spans[0].track = 9;
    traces[1].spans[0].end = 0;
    traces[2].waits[0].source = Some(99);
    traces[3].tracks[0].process = 1;
    let overlapping = Span::new(0, "overlapping", 20_000, 22_000);
    traces[4].add_span(overlapping);
    for trace in traces {
        assert_eq!(trace.check().unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(trace.to_perfetto().unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(trace.to_chrome().unwrap_err().kind(), ErrorKind::Invalid);
        let mut mended = trace.clone();
        if mended.spans.len() > 5 {
            mended.untangle();
            mended.check().unwrap();
            assert_eq!(mended.tracks.last().map(|track| track.name.as_str()), Some("copy (2)"));
        }
    }
}

#[test]
fn chromes_json_is_what_its_description_asks_for() {
    let trace = small();
    let json: Value = serde_json::from_str(&trace.to_chrome().unwrap()).unwrap();
    assert_eq!(json["displayTimeUnit"], "ns");
    let events = json["traceEvents"].as_array().unwrap();
    let of = |phase: &'static str| events.iter().filter(move |event| event["ph"] == phase);
    // Each event has what all have, and each track and process a name.
    let mut names = HashMap::new();
    for event in events {
        let place = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
        assert!(event["name"].is_string() && event["ph"].is_string());
        match event["ph"].as_str().unwrap() {
            "M" => {
                let name = event["args"]["name"].as_str().unwrap_or_default().to_owned();
                names.insert((event["name"].as_str().unwrap().to_owned(), place), name);
            }
            _ => assert!(event["ts"].is_number() && event["cat"].is_string()),
        }
    }
    assert_eq!(names[&("thread_name".to_owned(), (0, 1))], "cuda:0: hash");
    assert_eq!(names[&("thread_name".to_owned(), (0, 2))], "main");
    // Times are microseconds, exact to the nanosecond.
    let slices: Vec<_> =
        of("X").map(|slice| (slice["name"].as_str().unwrap(), &slice["ts"], &slice["dur"])).collect();
    assert_eq!(slices.len(), trace.spans.len());
    for ((name, ts, dur), span) in slices.iter().zip(&trace.spans) {
        assert_eq!(*name, &*span.name);
        assert_eq!(
            ((ts.as_f64().unwrap() * 1e3).round() as i64, (dur.as_f64().unwrap() * 1e3).round() as u64),
            (span.start, span.nanos())
        );
    }
    assert_eq!(
        events.iter().find(|event| event["name"] == "check").unwrap()["args"]["error"],
        "no \"such\" thing"
    );
    // One flow, from within `upload` to within `file`.
    let (starts, ends): (Vec<_>, Vec<_>) = (of("s").collect(), of("f").collect());
    assert_eq!((starts.len(), ends.len()), (1, 1));
    assert_eq!(
        (&starts[0]["id"], &starts[0]["name"], &starts[0]["tid"]),
        (&ends[0]["id"], &ends[0]["name"], &0.into())
    );
    assert_eq!((&ends[0]["bp"], &ends[0]["tid"]), (&"e".into(), &1.into()));
}

#[test]
fn many_spans_do_not_take_many_bytes() {
    let mut trace = Trace::new(Process::new("many"));
    let track = trace.add_track(Track::stream("cpu", "work"));
    for index in 0..10_000 {
        trace.add_span(Span::new(track, "work", index * 1_000, index * 1_000 + 900));
    }
    let bytes = trace.to_perfetto().unwrap();
    assert!(bytes.len() < 10_000 * 160, "{} bytes", bytes.len());
    assert_eq!(Trace::from_perfetto(&bytes).unwrap(), trace);
}

proptest! {
    #[test]
    fn all_of_a_trace_comes_back(trace in any_trace()) {
        trace.check().unwrap();
        let bytes = trace.to_perfetto().unwrap();
        prop_assert_eq!(Trace::from_perfetto(&bytes).unwrap(), trace.clone());
        serde_json::from_str::<Value>(&trace.to_chrome().unwrap()).unwrap();
    }

    #[test]
    fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 0..2_000_usize) {
        let _ = Trace::from_perfetto(&bytes);
        // With a good beginning as well.
        let good = small().to_perfetto().unwrap();
        let start = cut.min(good.len());
        if let Ok(trace) = Trace::from_perfetto(&[&good[..start], &bytes[..]].concat()) {
            trace.check().unwrap();
        }
    }
}
