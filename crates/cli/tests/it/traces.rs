//! Traces of `pipeline`, and what `trace` does with them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::{fs, str};

use gpu_events::trace::{Trace, TrackKind};
use serde_json::Value;

use crate::{BINARY, file_of, gpu_events, pipeline, stdout, temp_dir};

/// What is in a folder: nothing half-written.
fn files(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn stderr(output: &std::process::Output) -> &str {
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(str::from_utf8(&output.stdout), Ok(""));
    let text = str::from_utf8(&output.stderr).expect("UTF-8");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn a_pipeline_is_traced_and_its_digest_is_the_same() {
    let dir = temp_dir();
    let file = file_of(&dir, 1_000_000);
    let [html, trace] = ["out.html", "out.pftrace"].map(|name| dir.path().join(name));
    let (as_html, as_trace) = (html.to_str().unwrap(), trace.to_str().unwrap());
    let options = [
        "--chunk",
        "64K",
        "--streams",
        "3",
        "--timeline",
        as_html,
        "--trace",
        as_trace,
        "--json",
        "--compare",
        "--rounds",
        "1",
    ];
    let run: Value = serde_json::from_str(stdout(&pipeline(&file, &options))).expect("JSON");
    let plain: Value = serde_json::from_str(stdout(&pipeline(&file, &["--json"]))).expect("JSON");
    assert_eq!(run["digest"], plain["digest"]);
    assert!(run["untraced"]["traced_slower"].as_f64().unwrap() > 0.0);
    assert!(plain.get("trace").is_none());

    let trace = Trace::open(&trace).unwrap();
    assert_eq!((trace.spans.len(), trace.dropped()), (16 * 3, 0));
    let names: Vec<_> = trace.tracks.iter().map(|track| track.name.as_str()).collect();
    assert_eq!(names, ["read 0", "hash 0", "hash 1", "hash 2", "collect"]);
    assert!(trace.tracks.iter().all(|track| track.kind == TrackKind::Stream && track.device == "cpu:0"));
    // The sums of the report are those of the trace.
    for stage in run["stages"].as_array().unwrap() {
        let of_stage = trace.spans.iter().filter(|span| *span.name == *stage["name"].as_str().unwrap());
        assert_eq!(stage["device_ns"].as_u64().unwrap(), of_stage.map(|span| span.nanos()).sum::<u64>());
    }
    let streams = run["trace"]["streams"].as_array().unwrap();
    for stream in streams {
        let parts = ["busy_ns", "waiting_ns", "idle_ns"].map(|part| stream[part].as_u64().unwrap());
        assert_eq!(parts.iter().sum::<u64>(), run["trace"]["extent_ns"].as_u64().unwrap());
    }
    // Each wait that a stream had inserted is for a span, and before one.
    assert_eq!(trace.waits.len() as u64, run["waits_inserted"].as_u64().unwrap());
    for wait in &trace.waits {
        let (source, before) = (&trace.spans[wait.source.unwrap()], &trace.spans[wait.before.unwrap()]);
        assert_eq!(wait.released, source.end);
        assert!(source.end <= before.start && before.track == wait.track);
    }
    let page = fs::read_to_string(&html).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
}

#[test]
fn the_table_tells_what_each_stream_did() {
    let dir = temp_dir();
    let trace = dir.path().join("out.json");
    let output = pipeline(
        &file_of(&dir, 1 << 20),
        &["--chunk", "64K", "--compare", "--rounds", "1", "--trace", trace.to_str().unwrap()],
    );
    let text = stdout(&output);
    for part in [
        "\ntracing ",
        "\nstream ",
        "\ncpu:0 read 0 ",
        "\ncpu:0 collect ",
        "\noverlap: ",
        "\nwaits: ",
        "\ncritical path:\n",
    ] {
        assert_eq!(text.matches(part).count(), 1, "{part:?} in {text}");
    }
    serde_json::from_slice::<Value>(&fs::read(trace).unwrap()).expect("Chrome's JSON");
}

#[test]
fn traces_of_two_processes_are_put_on_one_axis() {
    let dir = temp_dir();
    let file = file_of(&dir, 200_000);
    let [a, b, both] = ["a.pftrace", "b.pftrace", "both.pftrace"].map(|name| dir.path().join(name));
    for trace in [&a, &b] {
        stdout(&pipeline(&file, &["--chunk", "64K", "--trace", trace.to_str().unwrap()]));
    }
    let merge = ["trace", "merge"]
        .map(Into::into)
        .into_iter()
        .chain([a.as_os_str(), b.as_os_str(), "-o".as_ref(), both.as_os_str()].map(ToOwned::to_owned));
    let output = gpu_events(merge);
    let text = stdout(&output);
    assert_eq!(text.lines().count(), 2);
    assert!(text.lines().all(|line| line.starts_with("pipeline (") && line.contains("): within ")), "{text}");
    let (a, both) = (Trace::open(&a).unwrap(), Trace::open(&both).unwrap());
    assert_eq!((both.processes.len(), both.spans.len()), (2, 2 * a.spans.len()));
    // The second was started when the first had ended; both are of this machine, whose clock Linux lets all processes read.
    #[cfg(target_os = "linux")]
    {
        let (first, second) = both.spans.split_at(a.spans.len());
        let end = first.iter().map(|span| span.end).max();
        let doubt = both.processes[1].uncertainty as i64;
        assert!(second.iter().map(|span| span.start).min() > end.map(|end| end - doubt));
        assert!(doubt < 1_000_000, "{doubt} ns");
    }
    let shown = gpu_events([
        "trace".as_ref(),
        "show".as_ref(),
        dir.path().join("both.pftrace").as_os_str(),
        "--width".as_ref(),
        "80".as_ref(),
    ]);
    assert!(stdout(&shown).contains("critical path:"));
}

#[test]
fn another_machines_clock_is_read_and_kept() {
    let dir = temp_dir();
    let mut clock =
        Command::new(BINARY).args(["trace", "clock", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(clock.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("the clock of this machine is at ").unwrap();
    let trace = dir.path().join("out.pftrace");
    let file = file_of(&dir, 10_000);
    stdout(&pipeline(&file, &["--trace", trace.to_str().unwrap(), "--clock", address]));
    clock.kill().unwrap();
    clock.wait().unwrap();
    let trace = Trace::open(trace).unwrap();
    assert_eq!(trace.samples.len(), 2, "before and after");
    for sample in &trace.samples {
        assert_eq!(sample.clock, trace.processes[0].clock);
        // It is the very same clock here.
        #[cfg(target_os = "linux")]
        assert!(sample.reading.abs_diff(sample.other_reading) <= sample.uncertainty + 2_000, "{sample:?}");
    }
    // And nobody is there any more.
    let gone = dir.path().join("gone.pftrace");
    let output = pipeline(&file, &["--trace", gone.to_str().unwrap(), "--clock", address]);
    assert!(stderr(&output).contains(address));
    assert!(!gone.exists());
}

#[test]
fn what_is_no_trace_is_refused_and_nothing_is_left() {
    let dir = temp_dir();
    let file = file_of(&dir, 50_000);
    let good = dir.path().join("good.pftrace");
    stdout(&pipeline(&file, &["--trace", good.to_str().unwrap()]));
    let bytes = fs::read(&good).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let bad = [
        (write("truncated.pftrace", &bytes[..bytes.len() - 10]), "ends in the middle"),
        (write("foreign.pftrace", b"\x0a\x02\x40\x07"), "no trace that gpu-events wrote"),
        (write("empty.pftrace", b""), "empty"),
        (dir.path().join("missing.pftrace"), "missing.pftrace"),
    ];
    let before = files(dir.path());
    let out = dir.path().join("out.html");
    for (path, why) in &bad {
        let output = gpu_events([
            "trace".as_ref(),
            "merge".as_ref(),
            good.as_os_str(),
            path.as_os_str(),
            "-o".as_ref(),
            out.as_os_str(),
        ]);
        let text = stderr(&output);
        assert!(text.contains(why) && text.contains(path.to_str().unwrap()), "{text}");
        stderr(&gpu_events(["trace".as_ref(), "show".as_ref(), path.as_os_str()]));
    }
    // The same one twice.
    let twice = gpu_events([
        "trace".as_ref(),
        "merge".as_ref(),
        good.as_os_str(),
        good.as_os_str(),
        "-o".as_ref(),
        out.as_os_str(),
    ]);
    assert!(stderr(&twice).contains("twice"));
    assert_eq!(files(dir.path()), before);
}

#[test]
fn what_can_not_be_written_is_said_before_the_work() {
    let dir = temp_dir();
    let file = file_of(&dir, 50_000);
    let nowhere = dir.path().join("no such folder/out.html");
    for (option, path, why) in [
        ("--timeline", nowhere.to_str().unwrap(), "no such folder"),
        ("--trace", nowhere.to_str().unwrap(), "no such folder"),
        ("--trace", dir.path().to_str().unwrap(), "should end in"),
        ("--trace", "out.xyz", "should end in one of .pftrace"),
    ] {
        let output = pipeline(&file, &[option, path]);
        assert!(stderr(&output).contains(why), "{output:?}");
    }
    // What was there stays as it was, if the work fails.
    let kept = dir.path().join("kept.html");
    fs::write(&kept, "kept").unwrap();
    stderr(&pipeline(&dir.path().join("missing"), &["--timeline", kept.to_str().unwrap()]));
    assert_eq!(fs::read_to_string(&kept).unwrap(), "kept");
    assert_eq!(files(dir.path()).len(), 2, "{:?}", files(dir.path()));
}

#[test]
fn a_gpus_streams_are_on_the_axis_of_the_hosts() {
    let devices = gpu_events(["devices", "--json"]);
    for device in ["metal:0", "vulkan:0"] {
        if !stdout(&devices).contains(&format!("\"{device}\"")) {
            println!(
                "skipped: there is no {device} here (metal-sim/tests/pipeline.rs has a simulated Metal)"
            );
            continue;
        }
        let dir = temp_dir();
        let trace = dir.path().join("out.pftrace");
        let options = [
            "--device",
            device,
            "--streams",
            "1",
            "--readers",
            "1",
            "--chunk",
            "256K",
            "--trace",
            trace.to_str().unwrap(),
        ];
        stdout(&pipeline(&file_of(&dir, 4 << 20), &options));
        let trace = Trace::open(&trace).unwrap();
        assert_eq!((trace.tracks.len(), trace.spans.len(), trace.dropped()), (5, 16 * 5, 0));
        let stage = |name: &str| {
            let mut spans: Vec<_> = trace.spans.iter().filter(|span| *span.name == *name).collect();
            spans.sort_by_key(|span| span.start);
            spans
        };
        // Each chunk goes from stage to stage, whoever's clock has told when.
        let stages = ["read", "upload", "hash", "download", "collect"].map(stage);
        for (before, after) in stages.iter().zip(&stages[1..]) {
            assert_eq!(before.len(), 16);
            for (before, after) in before.iter().zip(after) {
                let doubt = (trace.uncertainty(before.track) + trace.uncertainty(after.track)) as i64;
                assert!(before.end <= after.start + doubt, "{before:?} and {after:?}, within {doubt}");
            }
        }
        assert!(trace.uncertainty(stages[1][0].track) > 0, "another's clock is never quite sure");
        assert!(trace.waits.iter().all(|wait| wait.source.is_some() && wait.before.is_some()));
    }
}
