//! Writes traces into a folder, in the formats that others read, and beside each what they are to find in it, as JSON.
//!
//!     cargo run --release -p gpu-events-trace --example formats -- FOLDER

use gpu_events_trace::{Process, Span, Trace, Track, Wait};
use serde_json::json;
use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(env::args_os().nth(1).ok_or("a folder to write to is needed")?);
    for (name, trace) in [("small", small()), ("nested", nested()), ("early", early())] {
        trace.write_perfetto(folder.join(name).with_extension("pftrace"))?;
        trace.write_chrome(folder.join(name).with_extension("json"))?;
        fs::write(folder.join(name).with_extension("expected"), expected(&trace).to_string())?;
    }
    Ok(())
}

/// What is in a trace, as its reader should say.
fn expected(trace: &Trace) -> serde_json::Value {
    let origin = trace.spans.iter().map(|span| span.start).min().unwrap_or(0);
    let spans = trace.spans.iter().map(|span| {
        let track = &trace.tracks[span.track];
        json!({
            "name": *span.name,
            "device": track.device,
            "track": track.name,
            "start": span.start - origin,
            "duration": span.nanos(),
            "error": span.error.as_deref(),
            "submitted": span.submitted - span.start,
        })
    });
    let of = |span: usize| (*trace.spans[span].name).to_owned();
    let flows = trace.waits.iter().filter_map(|wait| Some(json!([of(wait.source?), of(wait.before?)])));
    let waits = trace.waits.iter().filter(|wait| wait.held() > 0);
    let waits = waits.map(|wait| json!([*wait.event, wait.reached - origin, wait.held()]));
    json!({
        "processes": trace.processes.iter().map(|process| json!([process.name, process.pid])).collect::<Vec<_>>(),
        "spans": spans.collect::<Vec<_>>(),
        "flows": flows.collect::<Vec<_>>(),
        "waits": waits.collect::<Vec<_>>(),
    })
}

/// Two streams of a GPU, one of the CPU, and a thread; two streams of one name; and a wait.
fn small() -> Trace {
    let mut trace = Trace::new(Process::new("small"));
    let origin = 1_234_567_890_123;
    let copy = trace.add_track(Track::stream("cuda:0", "copy"));
    let hash = trace.add_track(Track::stream("cuda:0", "copy"));
    let read = trace.add_track(Track::stream("cpu", "copy"));
    let host = trace.add_track(Track::thread("main"));
    let mut add = |track, name: &str, start: i64, length: i64| {
        let mut span = Span::new(track, name, origin + start, origin + start + length);
        span.submitted -= 17;
        trace.add_span(span)
    };
    add(read, "read", 0, 9_999);
    let upload = add(copy, "upload", 10_001, 20_000);
    let sum = add(hash, "sha256 \"µ\"", 30_500, 41_001);
    add(hash, "nothing", 71_501, 0);
    add(host, "submit", 1, 2);
    let failed = add(copy, "download", 72_000, 3);
    trace.spans[failed].error = Some("out of memory".into());
    let mut wait = Wait::new(hash, "uploaded", origin + 500, origin + 30_001);
    (wait.source, wait.source_track, wait.before) = (Some(upload), Some(copy), Some(sum));
    trace.add_wait(wait);
    let mut wait = Wait::new(copy, "hashed", origin + 30_001, origin + 71_501);
    (wait.source, wait.source_track, wait.before) = (Some(sum), Some(hash), Some(failed));
    trace.add_wait(wait);
    trace
}

/// Spans in spans, that begin and end together.
fn nested() -> Trace {
    let mut trace = Trace::new(Process::new("nested"));
    let track = trace.add_track(Track::stream("cuda:0", "work"));
    for turn in 0..50 {
        let start = turn * 1_000;
        trace.add_span(Span::new(track, "outer", start, start + 1_000));
        trace.add_span(Span::new(track, "middle", start, start + 600));
        trace.add_span(Span::new(track, "inner", start, start + 300));
        trace.add_span(Span::new(track, "last", start + 600, start + 1_000));
    }
    trace
}

/// Two processes, one of which was at work before the other's clock began to count.
fn early() -> Trace {
    let mut trace = Trace::new(Process::new("first"));
    trace.processes[0].pid = 11;
    let mut other = Process::new("other");
    (other.pid, other.uncertainty) = (12, 250);
    trace.processes.push(other);
    let track = trace.add_track(Track::stream("cpu", "work"));
    let mut there = Track::stream("cpu", "work");
    there.process = 1;
    let there = trace.add_track(there);
    trace.add_span(Span::new(track, "here", 100, 200));
    trace.add_span(Span::new(there, "there", -5_000, 150));
    trace
}
