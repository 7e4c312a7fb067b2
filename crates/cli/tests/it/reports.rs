//! What is printed beside the digest, for people and for programs.

use std::io;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{BINARY, file_of, gpu_events, pipeline, stdout, temp_dir};

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn the_table_has_every_figure_and_no_colour() {
    let dir = temp_dir();
    let output = pipeline(&file_of(&dir, 1 << 20), &["--chunk", "64K", "--compare"]);
    let text = stdout(&output);
    assert!(!text.contains('\x1b'), "{text}");
    for figure in [
        "stage ",
        "read ",
        "hash ",
        "collect ",
        "bound by ",
        "throughput ",
        "events ",
        "in flight ",
        "clock ",
        "one stream ",
    ] {
        assert_eq!(text.lines().filter(|line| line.starts_with(figure)).count(), 1, "{figure:?} in {text}");
    }
    assert!(text.contains("96 recorded"), "{text}");
    assert!(text.contains("16 chunks of 64 KiB"), "{text}");
}

#[test]
fn the_json_of_a_run_adds_up() {
    let dir = temp_dir();
    let file = file_of(&dir, 1_000_000);
    let options = ["--json", "--compare", "--chunk", "16K", "--streams", "3", "--in-flight", "5"];
    let run = json(stdout(&pipeline(&file, &options)));
    assert_eq!(run["file"], *file.to_string_lossy());
    assert!(run["digest"].as_str().expect("a string").starts_with("sha256:"));
    assert_eq!(run["bytes"], 1_000_000);
    assert_eq!(run["chunk_bytes"], 16384);
    assert_eq!(run["chunks"], 62);
    assert_eq!(run["events_recorded"], 62 * 6);
    assert_eq!(run["in_flight_limit"], 5);
    assert_eq!(run["buffers"], 5);
    let wall = run["wall_ns"].as_u64().expect("a count");
    let stages = run["stages"].as_array().expect("a list");
    let streams = [("read", 1), ("hash", 3), ("collect", 1)];
    assert_eq!(stages.len(), streams.len());
    let mut slowest = 0;
    for (stage, (name, streams)) in stages.iter().zip(streams) {
        assert_eq!((&stage["name"], &stage["streams"]), (&name.into(), &streams.into()));
        let time = |of: &str| stage[of].as_u64().expect("a count");
        assert!(time("overlapped_ns") <= time("busy_ns"), "{stage}");
        assert!(time("busy_ns") <= time("device_ns"), "{stage}");
        assert!(time("busy_ns") <= wall, "{stage}");
        slowest = slowest.max(time("busy_ns"));
    }
    let ratio = run["wall_over_slowest"].as_f64().expect("a number");
    assert!((ratio - wall as f64 / slowest as f64).abs() < 1e-9, "{run}");
    assert_eq!(run["one_stream"]["rounds"], 3);
    assert!(run["one_stream"]["slower"].as_f64().expect("a number") > 0.0);
}

#[test]
fn an_empty_file_has_no_rates() {
    let dir = temp_dir();
    let run = json(stdout(&pipeline(&file_of(&dir, 0), &["--json"])));
    assert_eq!(run["chunks"], 0);
    assert_eq!(run["events_recorded"], 0);
    for absent in ["bytes_per_second", "bound_by", "wall_over_slowest", "one_stream"] {
        assert_eq!(run[absent], Value::Null, "{absent}");
    }
}

#[test]
fn the_list_says_why_there_is_no_cuda() {
    let listing = json(stdout(&gpu_events(["devices", "--json"])));
    let absent = listing["unavailable"].as_array().expect("a list");
    // None where the machine has it.
    for backend in absent.iter().filter(|backend| backend["backend"] == "cuda") {
        let said = backend.to_string();
        let looked_for = ["libcuda.so.1", "nvcuda.dll", "no GPU", "not compiled in", "does not start"];
        assert!(looked_for.iter().any(|why| said.contains(why)), "{said}");
        let text = gpu_events(["devices"]);
        assert!(stdout(&text).lines().any(|line| line.starts_with("cuda  not available  ")), "{text:?}");
    }
}

#[test]
fn devices_lists_the_cpu() {
    let listing = json(stdout(&gpu_events(["devices", "--json"])));
    let devices = listing["devices"].as_array().expect("a list");
    let cpu = devices.iter().find(|device| device["backend"] == "cpu").expect("every machine has one");
    assert!(cpu["clock"]["resolution_ns"].as_u64().expect("a count") > 0, "{cpu}");
    assert_eq!(cpu["capabilities"]["timed"], true);
    for unavailable in listing["unavailable"].as_array().expect("a list") {
        assert!(!unavailable["reason"].as_str().expect("a reason").is_empty(), "{unavailable}");
    }
    let text = gpu_events(["devices"]);
    assert!(stdout(&text).contains("cpu:0"), "{text:?}");
}

#[test]
fn doctor_runs_what_it_is_asked_to() {
    let report = json(stdout(&gpu_events(["doctor", "--json", "--device", "cpu", "--case", "1"])));
    let [device] = report["devices"].as_array().expect("a list").as_slice() else { panic!("{report}") };
    assert_eq!(device["device"], "cpu:0");
    assert_eq!((&device["passed"], &device["failed"], &device["skipped"]), (&1.into(), &0.into(), &0.into()));
    let [case] = device["cases"].as_array().expect("a list").as_slice() else { panic!("{report}") };
    assert_eq!(case["id"], 1);
    assert_eq!(case["outcome"], "passed");
    assert_eq!(case["reason"], Value::Null);
    assert!(case["ms"].as_f64().expect("a number") >= 0.0);

    let text = gpu_events(["doctor", "--case", "1"]);
    assert!(stdout(&text).contains("1 passed, 0 failed"), "{text:?}");
}

#[test]
fn help_and_version_go_to_standard_output() {
    for (option, expected) in [("--help", "Usage: gpu-events"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let output = gpu_events([option]);
        assert!(stdout(&output).contains(expected), "{output:?}");
    }
}

#[test]
fn a_reader_that_is_gone_is_no_failure() {
    let dir = temp_dir();
    let file = file_of(&dir, 10_000);
    for args in [vec!["devices"], vec!["--help"], vec!["pipeline", file.to_str().expect("UTF-8")]] {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let output = Command::new(BINARY)
            .args(&args)
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .and_then(|child| child.wait_with_output())
            .expect("the binary runs");
        stdout(&output);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_failure() {
    let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux has one");
    let output = Command::new(BINARY)
        .arg("devices")
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|child| child.wait_with_output())
        .expect("the binary runs");
    assert!(crate::complaint(&output, 1).starts_with("standard output: No space left"), "{output:?}");
}
