//! The checks, each a few commands that can be typed by hand.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use xshell::cmd;

use crate::Context;
use crate::toolchain::{self, Sanitizer, Toolchain};

const LIBRARY: &str = "gpu-events";
const BINARY: &str = "gpu-events-cli";
const SUITE: &str = "gpu-events-conformance";

pub(crate) fn fmt(cx: &Context) -> Result<()> {
    cmd!(cx.sh, "cargo fmt --all --check").run()?;
    Ok(())
}

pub(crate) fn clippy(cx: &Context) -> Result<()> {
    cmd!(cx.sh, "cargo clippy --locked --workspace --all-targets -- -D warnings").run()?;
    Ok(())
}

/// With no features the library must still be whole: what is off says so at run time.
pub(crate) fn features(cx: &Context) -> Result<()> {
    for package in [LIBRARY, BINARY] {
        for feature in std::iter::once(String::new()).chain(cx.features(package)?) {
            let only = ["--no-default-features", "--features", &feature];
            cmd!(cx.sh, "cargo clippy --locked -p {package} {only...} -- -D warnings").run()?;
        }
    }
    Ok(())
}

/// The binaries apart from the libraries, since two of them share a name, and the public documentation last, so that
/// it is what `target/doc` is left with.
pub(crate) fn doc(cx: &Context) -> Result<()> {
    for what in
        [&["--bins", "--document-private-items"][..], &["--lib", "--document-private-items"], &["--lib"]]
    {
        cmd!(cx.sh, "cargo doc --locked --workspace --no-deps {what...}")
            .env("RUSTDOCFLAGS", "-D warnings")
            .run()?;
    }
    Ok(())
}

/// The command of README.md and CONTRIBUTING.md.
pub(crate) fn test(cx: &Context) -> Result<()> {
    cmd!(cx.sh, "cargo test --workspace").run()?;
    Ok(())
}

pub(crate) fn loom(cx: &Context) -> Result<()> {
    let target = cx.target_dir("loom");
    cmd!(cx.sh, "cargo test --locked --release -p {LIBRARY} --test loom --target-dir {target}")
        .env("RUSTFLAGS", "--cfg gpu_events_loom")
        .env("LOOM_MAX_PREEMPTIONS", "3")
        .run()?;
    Ok(())
}

/// `PROPTEST_CASES` asks for another number of cases.
pub(crate) fn model(cx: &Context) -> Result<()> {
    let cases = std::env::var("PROPTEST_CASES").unwrap_or_else(|_| "100000".to_owned());
    cmd!(cx.sh, "cargo test --locked --release -p {LIBRARY} --test model")
        .env("PROPTEST_CASES", cases)
        .run()?;
    Ok(())
}

pub(crate) fn stress(cx: &Context) -> Result<()> {
    cmd!(cx.sh, "cargo test --locked --release -p {LIBRARY} --test stress").run()?;
    Ok(())
}

/// A race is reported by the exit code, even where no assertion fails. That it would be is checked first, on an
/// example that races on purpose.
pub(crate) fn tsan(cx: &Context) -> Result<()> {
    let sh = &cx.sh;
    let toolchain = Toolchain::with_std_source(sh)?;
    let flags = toolchain.sanitizer_flags(sh, Sanitizer::Thread, &[])?;
    let host = toolchain::host(sh)?;
    let target_dir = cx.target_dir("tsan");
    // The standard library is built too: an uninstrumented one gives false alarms.
    let common = ["--locked", "-Zbuild-std", "--target", &host, "--target-dir", &target_dir];
    let cargo = |subcommand: &str| {
        toolchain
            .cargo(sh)
            .arg(subcommand)
            .args(common)
            .env("CARGO_ENCODED_RUSTFLAGS", &flags)
            // Unoptimized code is too slow under the sanitizer.
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
            .env("GPU_EVENTS_STRESS", std::env::var("GPU_EVENTS_STRESS").unwrap_or_else(|_| "0.2".to_owned()))
    };

    println!("First a planted race, which has to be reported:");
    let planted = cargo("run").args(["-p", "xtask", "--example", "planted_race"]).ignore_status().output()?;
    let report = String::from_utf8_lossy(&planted.stderr);
    ensure!(
        !planted.status.success() && report.contains("WARNING: ThreadSanitizer: data race"),
        "ThreadSanitizer did not report the planted race:\n{report}"
    );
    println!("It was.");

    cargo("test").args(["-p", LIBRARY, "--test", "it", "--test", "stress"]).run()?;
    // CUDA's backend, on the suite's fake driver.
    cargo("test").args(["-p", SUITE, "--test", "cuda_fake", "--test", "it"]).run()?;
    Ok(())
}

pub(crate) fn windows(cx: &Context) -> Result<()> {
    type_check(cx, "x86_64-pc-windows-msvc")
}

pub(crate) fn macos(cx: &Context) -> Result<()> {
    type_check(cx, "aarch64-apple-darwin")
}

/// Lints as well, where the target's standard library is installed: clippy takes no other compiler's.
fn type_check(cx: &Context, target: &str) -> Result<()> {
    let sh = &cx.sh;
    let target_dir = cx.target_dir("cross");
    let cargo = if toolchain::has_target(sh, target) {
        cmd!(sh, "cargo clippy")
    } else {
        Toolchain::with_std_source(sh)?.cargo(sh).args(["check", "-Zbuild-std=std,panic_abort"])
    };
    cargo
        .args(["--locked", "-p", LIBRARY, "-p", SUITE, "-p", BINARY, "--all-targets"])
        .args(["--target", target, "--target-dir", &target_dir])
        .env("RUSTFLAGS", "-D warnings")
        .run()?;
    Ok(())
}

pub(crate) fn deny(cx: &Context) -> Result<()> {
    cmd!(cx.sh, "cargo deny --all-features --locked check licenses bans sources").run()?;
    println!("advisories: not checked, their database comes over the network (`cargo xtask advisories`)");
    Ok(())
}

pub(crate) fn advisories(cx: &Context) -> Result<()> {
    cmd!(cx.sh, "cargo deny --all-features --locked check advisories").run()?;
    Ok(())
}

/// The hosted workflow tests on that Rust itself; this says the same wherever only one toolchain is at hand.
pub(crate) fn msrv(cx: &Context) -> Result<()> {
    let metadata = cmd!(cx.sh, "cargo metadata --locked --format-version 1").quiet().read()?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let ours = cx.member(LIBRARY)?["rust_version"].as_str().context("the library states no Rust version")?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let mut stated = 0;
    for package in packages {
        if let Some(theirs) = package["rust_version"].as_str() {
            let (name, version) = (&package["name"], &package["version"]);
            ensure!(
                parse(theirs) <= parse(ours),
                "{name} {version} needs Rust {theirs}, and we promise {ours}"
            );
            stated += 1;
        }
    }
    println!("{stated} of {} packages name a Rust version, none newer than {ours}", packages.len());
    Ok(())
}

/// "1.88" and "1.88.0" are one version.
fn parse(version: &str) -> [u32; 3] {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    std::array::from_fn(|_| numbers.next().unwrap_or(0))
}

pub(crate) fn doctor(cx: &Context) -> Result<()> {
    // The report comes even when a case failed, and names it.
    let report =
        cmd!(cx.sh, "cargo run --locked --release -- doctor --device cpu --json").ignore_status().read()?;
    let report: Value = serde_json::from_str(&report).with_context(|| format!("not JSON: {report}"))?;
    let devices = report["devices"].as_array().context("no `devices`")?;
    let count = |what: &str| devices.iter().map(|device| device[what].as_u64().unwrap_or(0)).sum::<u64>();
    for case in devices.iter().filter_map(|device| device["cases"].as_array()).flatten() {
        if case["outcome"] != "passed" {
            println!("case {} {}: {}: {}", case["id"], case["name"], case["outcome"], case["reason"]);
        }
    }
    println!("{} passed, {} failed, {} skipped", count("passed"), count("failed"), count("skipped"));
    ensure!(count("failed") == 0, "the conformance suite fails on the CPU device");
    ensure!(count("passed") > 0, "the conformance suite ran no case");
    Ok(())
}

/// Says nothing of speed: a loaded machine would fail it for no reason.
pub(crate) fn bench_smoke(cx: &Context) -> Result<()> {
    let report = cmd!(cx.sh, "cargo run --locked --release -- bench --quick --json").read()?;
    let report: Value = serde_json::from_str(&report).with_context(|| format!("not JSON: {report}"))?;
    ensure!(report["where"].is_object(), "the bench does not say where it measured");
    let rows = report["rows"].as_array().context("no `rows`")?;
    ensure!(!rows.is_empty(), "the bench measured nothing");
    for row in rows {
        let (Some(name), Some(ns)) = (row["name"].as_str(), row["ns"].as_f64()) else {
            bail!("not a measurement: {row}");
        };
        println!("{name:<60} {ns:>12.1} ns");
    }
    Ok(())
}

impl Context {
    fn member(&self, name: &str) -> Result<&Value> {
        let mut members = self.metadata["packages"].as_array().into_iter().flatten();
        match members.find(|package| package["name"] == name) {
            Some(package) => Ok(package),
            None => bail!("the workspace has no package {name}"),
        }
    }

    fn features(&self, package: &str) -> Result<Vec<String>> {
        let features = self.member(package)?["features"].as_object().context("no list of features")?;
        Ok(features.keys().filter(|feature| *feature != "default").cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn versions_are_ordered_as_numbers() {
        assert_eq!(parse("1.88"), parse("1.88.0"));
        assert!(parse("1.9") < parse("1.88"));
    }
}
