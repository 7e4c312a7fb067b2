//! `gpu-events bench --quick` from the outside: the figures mean little, their form has to be right.

use serde_json::Value;
use std::process::{Command, Output};

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-events"));
    command.arg("bench").args(arguments).output().expect("the binary runs")
}

fn rows(arguments: &[&str]) -> Vec<Value> {
    let output = bench(&[&["--quick", "--json"], arguments].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(output.stderr.is_empty(), "no progress and no remarks where no terminal is: {stderr}");
    let mut report: Value =
        serde_json::from_slice(&output.stdout).expect("standard output is JSON and nothing else");
    let place = &report["where"];
    assert_eq!(place["arguments"][0], "bench", "the command line is another: {place}");
    assert!(place["date"].is_string() && place["version"].is_string(), "no date or no version: {place}");
    match report["rows"].take() {
        Value::Array(rows) => rows,
        other => panic!("not a list: {other}"),
    }
}

fn names(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["name"].as_str().expect("a row has a name")).collect()
}

/// What the bench promises to measure.
fn promised() -> Vec<String> {
    let mut names: Vec<String> = [
        "acquire+drop",
        "an atomic read",
        "an atomic addition that nobody contends",
        "a lock that nobody contends, and its release",
        "a thread's own stack: pop and push",
        "an allocation of an event's size, and its end",
        "a reading of the clock",
        "acquire+drop beside a lean deleter",
        "acquire+drop beside its limit",
        "acquire+drop, 2 threads",
        "acquire+drop, 4 threads",
        "acquire+drop, 16 threads",
        "acquire+record+complete+drop, untimed",
        "acquire+record+complete+drop, timed",
        "acquire+record+drop on a busy stream, untimed",
        "acquire+record+drop on a busy stream, timed",
        "acquire+record+complete+drop, untimed, beside its limit",
        "acquire+record+complete+drop, timed, beside its limit",
        "span, tracing off",
        "span on a busy stream, tracing on",
        "status, known",
        "status, pending",
        "status, known, beside its limit",
        "status, pending, beside its limit",
        "hand-over",
        "hand-over with a closure",
        "completion to host return, park",
        "completion to host return, spin then park",
        "completion to host return, spin",
        "completion to callback",
        "completion to awaiting task",
    ]
    .map(String::from)
    .into();
    if cfg!(target_os = "linux") {
        names.extend(["memory: pending event", "memory: idle stream"].map(String::from));
        names.push("a futex wake with nobody to wake".to_owned());
        names.push("completion to host return, park, beside its limit".to_owned());
    }
    for operation in ["acquire+record+drop with", "status in turn of", "status at random of"] {
        names.extend(
            ["1", "1,000", "10,000", "100,000", "1,000,000"]
                .map(|count| format!("{operation} {count} pending")),
        );
    }
    for operation in [
        "acquire+record+complete+drop on own streams",
        "the same in the seed's way",
        "an addition to an own word",
        "acquire+record+complete+release by id",
        "a table of ids for each thread",
        "the same by the seed's ids",
        "acquire+record+complete+drop on one stream",
        "an addition under one lock",
        "an addition to one word",
        "a read of one word",
        "status of one pending event",
        "poll and drop of one event's future",
    ] {
        names.push(format!("{operation}, 1 thread"));
        names.extend(["2", "4", "8", "16"].map(|threads| format!("{operation}, {threads} threads")));
    }
    for operation in ["acquire+record+drop in turn on", "acquire+record+drop at random on"] {
        names.push(format!("{operation} 1 stream"));
        names.extend(
            ["10", "100", "1,000", "10,000", "100,000"].map(|count| format!("{operation} {count} streams")),
        );
    }
    names
}

#[test]
fn every_row_is_there_and_makes_sense() {
    let rows = rows(&[]);
    let (mut there, mut promised) = (names(&rows), promised());
    there.sort_unstable();
    promised.sort_unstable();
    assert_eq!(there, promised);

    for row in &rows {
        let figure = |field: &str| match row[field].as_f64() {
            Some(figure) if figure.is_finite() && figure > 0.0 => figure,
            _ => panic!("{field} is not a positive number: {row}"),
        };
        let (ns, baseline_ns) = (figure("ns"), figure("baseline_ns"));
        assert!((figure("ratio") / (ns / baseline_ns) - 1.0).abs() < 1e-9, "the ratio is another: {row}");
        assert!(
            figure("p99_ns") >= ns && figure("baseline_p99_ns") >= baseline_ns,
            "a tail before its median: {row}"
        );
        assert!(
            row["baseline"].as_str().is_some_and(|baseline| !baseline.is_empty()),
            "beside nothing: {row}"
        );
        assert_eq!(
            row["bytes"].is_f64(),
            row["name"].as_str().is_some_and(|name| name.starts_with("memory")),
            "{row}"
        );
        for verdict in row["targets"].as_array().into_iter().flatten() {
            assert!(
                verdict["target"].is_string() && verdict["value"].is_f64() && verdict["met"].is_boolean(),
                "{row}"
            );
        }
    }
}

#[test]
fn a_filter_picks_rows() {
    let expected = [
        "status, known",
        "status, known, beside its limit",
        "status, pending",
        "status, pending, beside its limit",
    ];
    assert_eq!(names(&rows(&["--filter", "STATUS, "])), expected);
}

#[test]
fn the_table_names_what_was_measured_and_on_what() {
    let output = bench(&["--quick", "--filter", "status, known"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("the table is text");
    for expected in ["status, known", "beside", "targets met", "machine ", "command ", "--filter"] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    assert!(!text.contains('\x1b'), "colours where no terminal is:\n{text}");
}

#[test]
fn bad_input_is_one_line_and_a_failure() {
    for arguments in [
        &["--device", "no-such-device"][..],
        &["--filter", "no such row"],
        &["--rounds", "0"],
        &["--rounds", "soon"],
    ] {
        let output = bench(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert_eq!(stderr.trim_end().lines().count(), 1, "{arguments:?}: {stderr}");
    }
}
