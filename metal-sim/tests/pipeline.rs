//! `gpu-events pipeline --device metal` on the simulated GPU, from outside.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn pipeline(file: &Path, options: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-events"));
    command.arg("pipeline").arg(file).args(options).envs(environment.iter().copied());
    command.output().expect("the binary starts")
}

#[track_caller]
fn stdout(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    assert_eq!(str::from_utf8(&output.stderr), Ok(""));
    str::from_utf8(&output.stdout).expect("UTF-8")
}

#[track_caller]
fn digest(output: &Output) -> &str {
    stdout(output).lines().next().expect("a line")
}

/// A file of so many bytes, no two blocks of which are alike.
fn file_of(dir: &TempDir, len: usize) -> PathBuf {
    let path = dir.path().join(len.to_string());
    let bytes: Vec<u8> = (0..len).map(|i| (i / 4096 * 31 + i % 249) as u8).collect();
    fs::write(&path, bytes).expect("room for a small file");
    path
}

fn temp_dir() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn the_digest_is_the_one_of_the_cpu() {
    let dir = temp_dir();
    for len in [0, 1, 3, 4095, 4096, 4097, 129 * 4096, (1 << 20) + 3] {
        let file = file_of(&dir, len);
        let cpu = pipeline(&file, &["--device", "cpu"], &[]);
        let metal = pipeline(&file, &["--device", "metal"], &[]);
        assert_eq!(digest(&metal), digest(&cpu), "{len} bytes");
    }
}

#[test]
fn no_option_changes_it() {
    let dir = temp_dir();
    let file = file_of(&dir, 300_001);
    let cpu = pipeline(&file, &[], &[]);
    for streams in ["1", "3"] {
        for chunk in ["4K", "64K", "100M"] {
            for in_flight in ["1", "2", "100"] {
                let options =
                    ["--device", "metal:0", "--streams", streams, "--chunk", chunk, "--in-flight", in_flight];
                assert_eq!(digest(&pipeline(&file, &options, &[])), digest(&cpu), "{options:?}");
            }
        }
    }
}

#[test]
fn a_traced_run_has_every_stage_and_the_same_digest() {
    let dir = temp_dir();
    let file = file_of(&dir, 1_000_000);
    let [page, trace] = ["out.html", "out.pftrace"].map(|name| dir.path().join(name));
    let outputs = ["--timeline", page.to_str().expect("UTF-8"), "--trace", trace.to_str().expect("UTF-8")];
    let options =
        [&["--device", "metal", "--json", "--chunk", "16K", "--streams", "2"], &outputs[..]].concat();
    let run: Value = serde_json::from_str(stdout(&pipeline(&file, &options, &[]))).expect("JSON");
    assert_eq!(run["digest"], digest(&pipeline(&file, &[], &[])).split(' ').next().expect("a digest"));
    let streams = run["trace"]["streams"].as_array().expect("a list");
    let names: Vec<_> = streams.iter().map(|stream| stream["stream"].as_str().expect("a name")).collect();
    assert_eq!(names, ["read 0", "collect", "upload", "hash 0", "hash 1", "download"]);
    assert_eq!(run["trace"]["dropped"], 0);
    for stream in streams {
        assert!(stream["busy_ns"].as_u64() > Some(0), "{stream}");
    }
    assert_eq!(
        run["trace"]["waits"].as_array().map(Vec::len),
        run["waits_inserted"].as_u64().map(|waits| waits as usize)
    );
    assert!(page.exists() && trace.exists());
}

#[test]
fn the_report_has_every_stage_and_adds_up() {
    let dir = temp_dir();
    let file = file_of(&dir, 1_000_000);
    let options = ["--device", "metal", "--json", "--compare", "--chunk", "16K", "--streams", "2"];
    let run: Value = serde_json::from_str(stdout(&pipeline(&file, &options, &[]))).expect("JSON");
    assert_eq!(run["device"], "metal:0");
    assert_eq!(run["clock"]["source"], "GPUEndTime");
    assert_eq!(run["chunks"], 62);
    assert_eq!(run["events_recorded"], 62 * 5 * 2);
    assert!(run["waits_inserted"].as_u64().expect("a count") > 62, "{run}");
    let count = |of: &str| run[of].as_u64().expect("a count");
    assert!(count("peak_in_flight") <= count("buffers"), "{run}");
    let stages = run["stages"].as_array().expect("a list");
    let streams = [("read", 1), ("upload", 1), ("hash", 2), ("download", 1), ("collect", 1)];
    assert_eq!(stages.len(), streams.len());
    for (stage, (name, streams)) in stages.iter().zip(streams) {
        assert_eq!((&stage["name"], &stage["streams"]), (&name.into(), &streams.into()));
        let time = |of: &str| stage[of].as_u64().expect("a count");
        assert!(time("overlapped_ns") <= time("busy_ns"), "{stage}");
        assert!(time("busy_ns") <= time("device_ns"), "{stage}");
        assert!(time("busy_ns") <= count("wall_ns"), "{stage}");
    }
    assert!(run["one_stream"]["slower"].as_f64().expect("a number") > 0.0, "{run}");
}

/// Whatever Metal has not got is one line that says what, and nothing hangs.
#[test]
fn what_metal_refuses_is_said() {
    let dir = temp_dir();
    let file = file_of(&dir, 300_000);
    for (nil, expected) in [
        ("Device:1", "Metal finds no GPU here"),
        ("Library:1", "Metal does not compile the kernel: "),
        ("Function:1", "Metal finds no sha256_blocks in the kernel"),
        ("Pipeline:1", "Metal makes no pipeline of sha256_blocks: "),
        ("Buffer:1", "each twice: Metal gave no buffer: the device returned nil"),
        ("Buffer:7", "each twice: Metal gave no buffer: the device returned nil"),
        ("CommandQueue:2", "Metal gave no command queue: the device returned nil"),
        ("SharedEvent:2", "Metal gave no shared event: the device returned nil"),
        ("CommandBuffer:1", "Metal gave no command buffer: the queue returned nil"),
        ("CommandBuffer:9", "Metal gave no command buffer: the queue returned nil"),
        ("BlitEncoder:1", "Metal gave no encoder: the command buffer returned nil"),
        ("BlitEncoder:4", "Metal gave no encoder: the command buffer returned nil"),
        ("ComputeEncoder:2", "Metal gave no encoder: the command buffer returned nil"),
    ] {
        let options = ["--device", "metal", "--chunk", "16K"];
        complains(&pipeline(&file, &options, &[("METAL_SIM_NIL", nil)]), expected);
    }
}

#[test]
fn what_fails_on_the_gpu_is_said() {
    let dir = temp_dir();
    let file = file_of(&dir, 300_000);
    for (code, expected) in [("1", "Internal (1)"), ("3", "PageFault (3)"), ("11", "DeviceRemoved (11)")] {
        let options = ["--device", "metal", "--chunk", "16K"];
        // What waited for failed work is let go, and may compute on what was never written (R26): races, and no bugs.
        let environment = [("METAL_SIM_FAIL", code), ("TSAN_OPTIONS", "report_bugs=0")];
        complains(&pipeline(&file, &options, &environment), expected);
    }
}

#[test]
fn times_that_are_missing_cost_no_digest() {
    let dir = temp_dir();
    let file = file_of(&dir, 300_000);
    let options = ["--device", "metal", "--chunk", "16K", "--json"];
    let run = pipeline(&file, &options, &[("METAL_SIM_ZERO_TIMES", "1")]);
    let run: Value = serde_json::from_str(stdout(&run)).expect("JSON");
    let cpu = pipeline(&file, &[], &[]);
    assert!(digest(&cpu).starts_with(run["digest"].as_str().expect("a string")), "{run}");
    assert_eq!(run["spans_not_measured"], 19 * 3);
    assert_eq!(run["stages"][2]["device_ns"], 0);
}

#[track_caller]
fn complains(output: &Output, expected: &str) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let stderr = str::from_utf8(&output.stderr).expect("UTF-8");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(expected), "{stderr}");
}

#[test]
fn devices_has_the_gpu() {
    let output = Command::new(env!("CARGO_BIN_EXE_gpu-events")).args(["devices", "--json"]).output();
    let listing: Value = serde_json::from_str(stdout(&output.expect("the binary starts"))).expect("JSON");
    assert_eq!(listing["devices"][0]["name"], "metal:0", "{listing}");
}
