//! Runs the commands that README.md promises, as it gives them, in a copy of what is (or would be) committed.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use xshell::{Shell, cmd};

use crate::Context;

const PIPELINE: &str = "cargo run --release -- pipeline <FILE>";
const TEST: &str = "cargo test --workspace";

/// Sizes at the edges of blocks (4 KiB) and of the Merkle tree's levels (128 blocks each), and the digests that
/// Debian's `fsverity digest` gives for them, for machines that don't have it.
const FILES: &[(u64, &str)] = &[
    (0, "sha256:3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"),
    (1, "sha256:67081430bf6bd2c63dbdd27453c1606e397aa4f14d045148a1de0b4500efd365"),
    (4095, "sha256:b9e0676d5acb258e7fffaeb3b18cc9f75bdae2ec99982da065fd15d31fdfdc64"),
    (4096, "sha256:470b8f44de7a7b4d4d0f3e4269935f16323a86394cc6e01f59f17e355b724999"),
    (4097, "sha256:e776aaa5d170e12d7b1fe0d0a38297c5f46a3516733d9e87ced1a2f12061797e"),
    (128 * 4096, "sha256:15bb590b87ad8aca2feb1bf2bf2a10a96912489d9f1533f557b85bc7725de5e3"),
    (128 * 4096 + 1, "sha256:dca719d5f107f5cf0bf0cbbeb1e3c56ab50d2f3e2cfd1fa35f937755ddd13ccd"),
    (128 * 128 * 4096 + 1, "sha256:3c98ca4f6fdc65ba1206c083b51ce8b93dc921d976f2e0237356c5ee0bb6ae03"),
];

pub(crate) fn run(cx: &Context) -> Result<()> {
    let sh = &cx.sh;
    let readme = sh.read_file("README.md").context("the README is what this checks")?;
    for command in [PIPELINE, TEST] {
        ensure!(
            commands(&readme).iter().any(|line| line == command),
            "README.md has no line `{command}` in a console block"
        );
    }

    let scratch = sh.create_temp_dir()?;
    let copy = scratch.path().join("gpu-events");
    copy_committed(sh, &copy)?;
    // Not with the other builds: Cargo takes the copy's crates for the same ones, and a path that one was built
    // with (`CARGO_MANIFEST_DIR`) is gone afterwards.
    let target = cx.target_dir("readme");
    let command = |line: &str, file: &Path| {
        let mut words =
            line.split(' ').map(|word| if word == "<FILE>" { file.as_os_str() } else { word.as_ref() });
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).current_dir(&copy).env("CARGO_TARGET_DIR", &target);
        command
    };

    let mut table = String::new();
    for &(size, recorded) in FILES {
        let file = scratch.path().join(format!("{size} bytes"));
        write_sample(&file, size)?;
        let output = command(PIPELINE, &file).stderr(Stdio::inherit()).output()?;
        table = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "`{PIPELINE}` on {size} bytes: {}\n{table}", output.status);
        let digest = fsverity(sh, &file)?.unwrap_or_else(|| recorded.to_owned());
        ensure!(
            digest == recorded,
            "the sample of {size} bytes has digest {digest}, and {recorded} is recorded"
        );
        ensure!(table.contains(&digest), "{size} bytes have digest {digest}, and the pipeline says\n{table}");
        println!("{size:>9} bytes: {digest}");
    }
    println!("\n{table}");

    let status = command(TEST, &copy).status()?;
    ensure!(status.success(), "`{TEST}`: {status}");
    Ok(())
}

/// What a fresh clone would hold once everything here was committed.
fn copy_committed(sh: &Shell, to: &Path) -> Result<()> {
    let files = cmd!(sh, "git ls-files --cached --others --exclude-standard -z").quiet().read()?;
    for file in files.split_terminator('\0').filter(|file| sh.path_exists(file)) {
        let copy = to.join(file);
        sh.create_dir(copy.parent().unwrap_or(to))?;
        sh.copy_file(file, copy)?;
    }
    Ok(())
}

/// The same bytes on every machine, and no two blocks alike.
fn write_sample(file: &Path, size: u64) -> Result<()> {
    let mut sample = BufWriter::new(File::create(file)?);
    let mut state = 0_u64;
    for at in (0..size).step_by(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bytes = (state >> 8).to_le_bytes();
        let left = usize::try_from(size - at).map_or(8, |left| left.min(8));
        sample.write_all(&bytes[..left])?;
    }
    sample.flush()?;
    Ok(())
}

/// What the `fsverity` tool says; `None` on systems that have no such tool.
fn fsverity(sh: &Shell, file: &Path) -> Result<Option<String>> {
    if cfg!(not(target_os = "linux")) {
        return Ok(None);
    }
    let digest = cmd!(sh, "fsverity digest --compact {file}").quiet().read();
    let digest = digest.context("`cargo xtask install` installs fsverity")?;
    Ok(Some(format!("sha256:{digest}")))
}

/// The lines of a document's `console` blocks, without a prompt.
fn commands(document: &str) -> Vec<String> {
    let blocks = blocks(document, "console");
    let lines = blocks.iter().flat_map(|block| block.lines());
    lines.map(|line| line.strip_prefix("$ ").unwrap_or(line).trim_end().to_owned()).collect()
}

/// A document's blocks of this kind.
pub(crate) fn blocks(document: &str, kind: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in document.lines() {
        match line.strip_prefix("```") {
            Some(of) => {
                is_open = !is_open && of.trim() == kind;
                if is_open {
                    blocks.push(String::new());
                }
            }
            None if is_open => {
                if let Some(block) = blocks.last_mut() {
                    *block += line;
                    block.push('\n');
                }
            }
            None => {}
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_console_blocks_hold_commands() {
        let document = "cargo a\n```console\n$ cargo b\ncargo c\n```\ncargo d\n```rust\ncargo e\n```\n";
        assert_eq!(commands(document), ["cargo b", "cargo c"]);
    }
}
