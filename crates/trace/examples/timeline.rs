//! Writes traces as HTML into a folder: a small one, one with names that mean ill, and one with 100,000 spans.
//!
//!     cargo run --release -p gpu-events-trace --example timeline -- FOLDER

use gpu_events_trace::{Process, Span, Trace, Track, Wait};
use std::{env, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(env::args_os().nth(1).ok_or("a folder to write to is needed")?);
    small().write_html(folder.join("small.html"))?;
    hostile().write_html(folder.join("hostile.html"))?;
    large().write_html(folder.join("large.html"))?;
    Ok(())
}

/// Four chunks that are read, hashed on two streams, and collected.
fn small() -> Trace {
    let mut trace = Trace::new(Process::new("fs-verity of four chunks"));
    trace.processes[0].dropped = 3;
    let read = trace.add_track(Track::stream("cpu", "read"));
    let hash = [0, 1].map(|n| trace.add_track(Track::stream("cuda:0", format!("hash {n}"))));
    let collect = trace.add_track(Track::stream("cpu", "collect"));
    let host = trace.add_track(Track::thread("main"));
    for stream in hash {
        trace.tracks[stream].uncertainty = 1_400;
        trace.tracks[stream].clock = "cuEventElapsedTime".to_owned();
    }
    trace.add_span(Span::new(host, "submit", 0, 38_000));
    let mut last = None;
    let mut collected = 0;
    for chunk in 0..4_i64 {
        let from = 2_000 + chunk * 30_000;
        let stream = hash[(chunk % 2) as usize];
        let next = |trace: &mut Trace, track, name: &str, start, length| {
            let mut span = Span::new(track, name, start, start + length);
            span.submitted = 1_000 + chunk * 9_000;
            trace.add_span(span)
        };
        let read = next(&mut trace, read, "read", from, 30_000);
        let start = (from + 31_500).max(last.unwrap_or(0));
        let hashed = next(&mut trace, stream, "hash", start, 52_000);
        next(&mut trace, stream, "load", start + 1_000, 9_000);
        next(&mut trace, stream, "sha256", start + 12_000, 38_000);
        let begun = (start + 53_500).max(collected);
        let written = next(&mut trace, collect, "collect", begun, 6_000);
        let reached = if chunk < 2 { 1_500 + chunk * 9_000 } else { start - 4_000 };
        let mut wait = Wait::new(stream, format!("chunk {chunk} is read"), reached, from + 30_000);
        (wait.source, wait.source_track, wait.before) = (Some(read), Some(0), Some(hashed));
        trace.add_wait(wait);
        let mut wait = Wait::new(collect, format!("chunk {chunk} is hashed"), collected, start + 52_000);
        (wait.source, wait.source_track, wait.before) = (Some(hashed), Some(stream), Some(written));
        trace.add_wait(wait);
        collected = begun + 6_000;
        last = (chunk > 0).then_some(start);
    }
    if let Some(span) = trace.spans.last_mut() {
        span.error = Some("the disk is on fire".into());
    }
    trace.untangle();
    trace
}

/// Names that a page must take for text.
fn hostile() -> Trace {
    let name = "</script><img src=x onerror=\"window.hacked = true\">'\"&\u{202e}\n";
    let mut trace = Trace::new(Process::new(name));
    let track = trace.add_track(Track::stream(name, name));
    let span = trace.add_span(Span::new(track, name, 0, 1_000));
    trace.spans[span].error = Some(name.into());
    let mut wait = Wait::new(track, name, 1_000, 2_000);
    wait.source = Some(span);
    trace.add_wait(wait);
    trace.add_span(Span::new(track, "", 2_000, 2_500));
    trace
}

/// 100,000 spans on 20 streams, a tenth of them nested, and 10,000 waits.
fn large() -> Trace {
    let mut trace = Trace::new(Process::new("100,000 spans"));
    let tracks: Vec<_> = (0..20)
        .map(|stream| {
            trace.add_track(Track::stream(format!("gpu:{}", stream / 5), format!("stream {stream}")))
        })
        .collect();
    let names = ["gemm", "softmax", "layer norm", "all-reduce", "copy", "attention"];
    let mut ends = vec![0_i64; tracks.len()];
    // Numbers that look random, and are the same each time.
    let mut state = 1_u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut last = 0;
    while trace.spans.len() < 100_000 {
        let track = next(tracks.len() as u64) as usize;
        let start = ends[track] + next(2_000) as i64;
        let end = start + 500 + next(20_000) as i64;
        let name = names[next(names.len() as u64) as usize];
        let span = trace.add_span(Span::new(tracks[track], name, start, end));
        if next(10) == 0 && trace.spans.len() < 100_000 {
            trace.add_span(Span::new(tracks[track], "inner", start + 100, end - 100));
        }
        if next(9) == 0 && trace.spans[last].end > ends[track] && trace.spans[last].end <= start {
            let mut wait = Wait::new(tracks[track], "last", ends[track], trace.spans[last].end);
            (wait.source, wait.source_track, wait.before) =
                (Some(last), Some(trace.spans[last].track), Some(span));
            trace.add_wait(wait);
        }
        (ends[track], last) = (end, span);
    }
    trace
}
