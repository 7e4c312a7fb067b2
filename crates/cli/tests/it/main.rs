//! The binary from outside: what it prints, how it fails, and how it ends.

mod bad_input;
mod digest;
mod kernel;
mod reports;
mod traces;
#[cfg(target_os = "linux")]
mod under_way;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_gpu-events");

fn gpu_events<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Output {
    Command::new(BINARY).args(args).output().expect("the binary starts")
}

fn pipeline(file: &Path, options: &[&str]) -> Output {
    gpu_events([OsStr::new("pipeline"), file.as_os_str()].into_iter().chain(options.iter().map(OsStr::new)))
}

fn stdout(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    assert_eq!(str::from_utf8(&output.stderr), Ok(""), "nothing is wrong, and no terminal wants a bar");
    str::from_utf8(&output.stdout).expect("UTF-8")
}

/// Asserts that a command failed with this code and said so in one line, which it returns without the prefix.
#[track_caller]
fn complaint(output: &Output, code: i32) -> &str {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let stderr = str::from_utf8(&output.stderr).expect("UTF-8");
    let line = stderr.strip_suffix('\n').expect("a whole line");
    assert!(!line.contains('\n'), "more than one line: {stderr}");
    line.strip_prefix("gpu-events: ").expect("the program's name comes first")
}

/// A file of so many bytes, no two blocks of which are alike.
fn file_of(dir: &TempDir, len: usize) -> PathBuf {
    let path = dir.path().join(format!("{len} bytes"));
    let bytes: Vec<u8> = (0..len).map(|i| (i / 4096 * 31 + i % 249) as u8).collect();
    fs::write(&path, bytes).expect("room for a small file");
    path
}

fn temp_dir() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}
