//! Everything that users get wrong is one line that says what.

use crate::{complaint, file_of, gpu_events, pipeline, temp_dir};

#[test]
fn no_such_file() {
    let dir = temp_dir();
    let output = pipeline(&dir.path().join("nothing"), &[]);
    let line = complaint(&output, 1);
    assert!(line.contains("nothing: No such file") || line.contains("cannot find the file"), "{line}");
}

#[test]
fn a_directory() {
    let dir = temp_dir();
    let output = pipeline(dir.path(), &[]);
    assert!(complaint(&output, 1).ends_with(": is a directory, and only files have a digest"), "{output:?}");
}

#[test]
fn a_line_stays_one_line_whatever_the_name() {
    let dir = temp_dir();
    let output = pipeline(&dir.path().join("two\nlines\x1b[31m"), &[]);
    assert!(complaint(&output, 1).contains("two\\nlines\\u{1b}[31m: "), "{output:?}");
}

#[test]
fn devices_that_are_not_there() {
    let dir = temp_dir();
    let file = file_of(&dir, 5000);
    for device in ["cuda:99", "metal:99", "vulkan:3", "nonsense", "", "cpu:x"] {
        let output = pipeline(&file, &["--device", device]);
        assert!(complaint(&output, 1).starts_with(&format!("{device}: ")), "{output:?}");
        let output = gpu_events(["doctor", "--device", device]);
        assert!(complaint(&output, 1).starts_with(&format!("{device}: ")), "{output:?}");
    }
}

#[test]
fn options_that_make_no_sense() {
    let dir = temp_dir();
    let file = file_of(&dir, 5000);
    let multiple = "a chunk is a positive multiple of the 4 KiB";
    for (options, expected) in [
        (["--chunk", "0"], multiple),
        (["--chunk", "0K"], multiple),
        (["--chunk", "1"], multiple),
        (["--chunk", "4097"], multiple),
        (["--chunk", "64KB"], "unknown unit \"KB\""),
        (["--chunk", "many"], "a size is a whole number"),
        (["--chunk", "99999999999999999999"], "more than 64 bits can count"),
        (["--streams", "0"], "0 is not in 1..=256"),
        (["--streams", "two"], "invalid digit"),
        (["--in-flight", "0"], "0 is not in 1..=4096"),
        (["--in-flight", "1000000000000"], "1000000000000 is not in 1..=4096"),
        (["--in-flight", "-1"], "unexpected argument '-1'"),
        (["--colour", "red"], "unexpected argument '--colour'"),
    ] {
        let output = pipeline(&file, &options);
        let line = complaint(&output, 2);
        assert!(line.contains(expected), "{options:?}: {line}");
    }
}

#[test]
fn buffers_that_would_eat_the_machine() {
    let dir = temp_dir();
    let file = dir.path().join("sparse");
    let sparse = std::fs::File::create(&file).expect("a new file");
    sparse.set_len(1 << 36).expect("a sparse file");
    let output = pipeline(&file, &["--chunk", "8G", "--streams", "1"]);
    assert!(complaint(&output, 1).starts_with("4 buffers of 8 GiB are more than 1 GiB in all"), "{output:?}");
}

#[test]
fn no_command_or_an_unknown_one() {
    let none: [&str; 0] = [];
    assert!(complaint(&gpu_events(none), 2).starts_with("a command is needed"));
    assert!(complaint(&gpu_events(["pipelin"]), 2).contains("'pipelin'"));
    assert!(complaint(&gpu_events(["pipeline"]), 2).contains("<FILE>"));
}

#[test]
fn no_such_case() {
    let output = gpu_events(["doctor", "--case", "no-such-case"]);
    assert_eq!(complaint(&output, 1), "no case matches \"no-such-case\"");
}

#[cfg(unix)]
mod unix {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::Command;

    use crate::{BINARY, complaint, file_of, pipeline, temp_dir};

    #[test]
    fn an_unreadable_file() {
        const NOBODY: u32 = 65534;
        let dir = temp_dir();
        let file = file_of(&dir, 5000);
        let owner = fs::metadata(&file).expect("it is there").uid();
        fs::set_permissions(&file, Permissions::from_mode(0o000)).expect("it is ours");
        let output = if owner == 0 {
            // Root may read everything, so somebody else asks, who may get at a copy of the binary.
            let binary = dir.path().join("gpu-events");
            // By another process: were the copy open for writing here, a process that another test starts meanwhile would
            // inherit that, and the copy could not be run ("text file busy").
            let copied = Command::new("cp").arg(BINARY).arg(&binary).status().expect("cp starts");
            assert!(copied.success(), "room for a copy");
            fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("it is ours");
            Command::new(binary)
                .arg("pipeline")
                .arg(&file)
                .uid(NOBODY)
                .current_dir("/")
                .output()
                .expect("it starts")
        } else {
            pipeline(&file, &[])
        };
        assert!(complaint(&output, 1).ends_with("5000 bytes: Permission denied (os error 13)"), "{output:?}");
    }

    #[test]
    fn files_that_are_no_files() {
        let dir = temp_dir();
        let fifo = dir.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().expect("POSIX has it").success());
        // A FIFO without a writer must not make it wait, either.
        for path in [&*fifo, Path::new("/dev/null"), Path::new("/dev/zero")] {
            let output = pipeline(path, &[]);
            assert!(complaint(&output, 1).contains("is not a regular file"), "{output:?}");
        }
    }
}
