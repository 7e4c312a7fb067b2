//! What happens to a run in its middle. The file is a terabyte of nothing, so the middle lasts; that reading has
//! begun is seen in what Linux counts for the process.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{BINARY, complaint, temp_dir};

fn sparse_terabyte(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("terabyte");
    File::create(&path).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
    path
}

/// Starts the pipeline and returns once it has read some of the file.
fn start(file: &Path, options: &[&str]) -> Child {
    let child = Command::new(BINARY)
        .arg("pipeline")
        .arg(file)
        .args(options)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    while bytes_read(&child) < 8 << 20 {
        assert!(Instant::now() < deadline, "nothing was read for a minute");
        thread::yield_now();
    }
    child
}

fn bytes_read(child: &Child) -> u64 {
    let counts = fs::read_to_string(format!("/proc/{}/io", child.id())).expect("it is running, and ours");
    let read = counts.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("a count of bytes read");
    read.parse().expect("a count")
}

/// Sends Ctrl-C, and asserts that it ends within a second.
fn interrupt(child: Child) -> Output {
    let sent = Instant::now();
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("POSIX has it");
    assert!(status.success());
    let output = child.wait_with_output().expect("it ends");
    let took = sent.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    output
}

#[test]
fn ctrl_c_ends_it_cleanly() {
    let dir = temp_dir();
    let file = sparse_terabyte(&dir);
    for options in
        [&[][..], &["--chunk", "4K", "--in-flight", "4096"], &["--chunk", "32M"], &["--compare", "--json"]]
    {
        let output = interrupt(start(&file, options));
        assert_eq!(output.status.signal(), None, "{output:?}");
        assert!(complaint(&output, 130).ends_with("interrupted"), "{output:?}");
    }
}

/// On a terminal, which `script` makes: it passes on what is written to it, Ctrl-C as well, as if typed.
#[test]
fn ctrl_c_leaves_no_half_drawn_bar() {
    let dir = temp_dir();
    let file = sparse_terabyte(&dir);
    let started = Command::new("script")
        .args(["--quiet", "--flush", "--command"])
        .arg(format!("exec {BINARY} pipeline {}", file.display()))
        .arg("/dev/null")
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut script = match started {
        Ok(script) => script,
        Err(error) => return eprintln!("no terminal to test on: script: {error}"),
    };
    let mut screen = script.stdout.take().expect("it is piped");
    let mut drawn = Vec::new();
    let mut buffer = [0; 4096];
    let mut read = |drawn: &mut Vec<u8>| {
        let read = screen.read(&mut buffer).expect("a pipe");
        drawn.extend_from_slice(&buffer[..read]);
        read > 0
    };
    while !String::from_utf8_lossy(&drawn).contains("of 1.00 TiB") {
        assert!(read(&mut drawn), "no bar: {:?}", String::from_utf8_lossy(&drawn));
    }
    script.stdin.take().expect("it is piped").write_all(b"\x03").expect("it is running");
    while read(&mut drawn) {}
    script.wait().expect("it ends");
    let drawn = String::from_utf8(drawn).expect("UTF-8");
    // The terminal's echo finds the cursor where the bar begins, and what follows the last clearing is no bar.
    assert!(drawn.contains("\r^C"), "{drawn:?}");
    let (_, left) = drawn.rsplit_once("\r\x1b[2K").expect("the line is cleared");
    assert_eq!(left.trim(), format!("gpu-events: {}: interrupted", file.display()), "{drawn:?}");
}

#[test]
fn a_file_that_shrinks_is_an_error_and_no_bus_error() {
    let dir = temp_dir();
    let file = sparse_terabyte(&dir);
    let child = start(&file, &[]);
    File::options().write(true).open(&file).and_then(|file| file.set_len(12_345)).expect("it is ours");
    let output = child.wait_with_output().expect("it ends");
    let line = complaint(&output, 1);
    assert!(line.contains("terabyte: shrank while it was read: nothing is left at byte "), "{line}");
}

#[test]
fn memory_stays_bounded_however_large_the_file() {
    let dir = temp_dir();
    let file = sparse_terabyte(&dir);
    let mut child = start(&file, &[]);
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it is running");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a size");
    let kib: u64 = peak.trim().trim_end_matches("kB").trim().parse().expect("a count");
    child.kill().expect("it is ours");
    child.wait().expect("it ends");
    assert!(kib < 64 << 10, "{kib} KiB");
}
