//! The digest, against Debian's `fsverity`.

use std::env;
use std::path::Path;
use std::process::Command;

use crate::{file_of, gpu_events, pipeline, stdout, temp_dir};

const BLOCK: usize = 4096;

/// What `fsverity digest` prints for the file; `None` where it is not installed and need not be.
fn oracle(file: &Path) -> Option<String> {
    match Command::new("fsverity").arg("digest").arg(file).output() {
        Ok(output) => {
            assert!(output.status.success(), "{output:?}");
            Some(String::from_utf8(output.stdout).expect("UTF-8"))
        }
        Err(error) => {
            let required = env::var("GPU_EVENTS_REQUIRE").unwrap_or_default();
            assert!(!required.contains("fsverity"), "fsverity is required here: {error}");
            eprintln!("no oracle to compare with: fsverity: {error}");
            None
        }
    }
}

#[test]
fn the_first_line_is_the_one_of_fsverity() {
    let dir = temp_dir();
    for len in [
        0,
        1,
        BLOCK - 1,
        BLOCK,
        BLOCK + 1,
        2 * BLOCK,
        128 * BLOCK - 1,
        128 * BLOCK,
        128 * BLOCK + 1,
        129 * BLOCK,
        1_234_567,
    ] {
        let file = file_of(&dir, len);
        let Some(expected) = oracle(&file) else { return };
        let output = pipeline(&file, &[]);
        let (first, rest) = stdout(&output).split_once('\n').expect("a line and a table");
        assert_eq!(format!("{first}\n"), expected);
        assert!(rest.starts_with("\nstage "), "{rest}");
    }
}

#[test]
fn three_levels_of_the_tree() {
    let dir = temp_dir();
    let file = dir.path().join("sparse");
    // 128 * 128 + 1 blocks, none of which takes room.
    let sparse = std::fs::File::create(&file).expect("a new file");
    sparse.set_len((128 * 128 + 1) * 4096).expect("a sparse file");
    let Some(expected) = oracle(&file) else { return };
    let output = pipeline(&file, &["--chunk", "1M"]);
    assert!(stdout(&output).starts_with(&expected), "{output:?}");
}

#[test]
fn no_option_changes_it() {
    let dir = temp_dir();
    let file = file_of(&dir, 777_777);
    let default = pipeline(&file, &[]);
    let digest = stdout(&default).lines().next();
    for streams in ["1", "2", "7"] {
        for chunk in ["4K", "64KiB", "100M"] {
            for in_flight in ["1", "2", "50"] {
                let options = ["--streams", streams, "--chunk", chunk, "--in-flight", in_flight];
                let output = pipeline(&file, &options);
                assert_eq!(stdout(&output).lines().next(), digest, "{options:?}");
            }
        }
    }
    let compared = pipeline(&file, &["--compare", "--device", "cpu:0"]);
    assert_eq!(stdout(&compared).lines().next(), digest);
}

#[test]
fn a_gpu_finds_the_same() {
    let devices = gpu_events(["devices", "--json"]);
    for device in ["metal:0", "vulkan:0"] {
        if !stdout(&devices).contains(&format!("\"{device}\"")) {
            println!(
                "skipped: there is no {device} here (metal-sim/tests/pipeline.rs has a simulated Metal)"
            );
            continue;
        }
        let dir = temp_dir();
        for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 1_234_567, 64 << 20] {
            let file = file_of(&dir, len);
            let (cpu, gpu) = (pipeline(&file, &[]), pipeline(&file, &["--device", device]));
            assert_eq!(stdout(&gpu).lines().next(), stdout(&cpu).lines().next(), "{device}: {len} bytes");
        }
    }
}
