//! Metal without a Mac: the backend's own source, built and run against the simulated Metal in `metal-sim`.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use xshell::{Cmd, Shell, cmd};

use crate::Context;
use crate::capi;
use crate::toolchain::{self, Sanitizer, Toolchain};

/// What `metal-sim/.cargo/config.toml` says; flags in the environment take its place.
const FLAGS: [&str; 2] = ["--cfg", "gpu_events_metal_sim"];

/// A shell in the workspace of the simulation, with the bindings that it wants.
fn simulation(cx: &Context) -> Result<Shell> {
    let sh = cx.sh.clone();
    sh.change_dir("metal-sim");
    cmd!(sh, "./prepare").run().context("the published bindings could not be had")?;
    Ok(sh)
}

/// The suite, the integration tests and the stress test of the library, and the simulation's own tests.
pub(crate) fn test(cx: &Context) -> Result<()> {
    let sh = simulation(cx)?;
    let target = cx.target_dir("metal-sim");
    // Said here as well: a `RUSTFLAGS` of the caller's takes the place of what the folder's configuration says.
    let flags = FLAGS.join("\u{1f}");
    let sim = |command: Cmd<'_>| command.env("CARGO_ENCODED_RUSTFLAGS", &flags).run();
    sim(cmd!(sh, "cargo test --locked --target-dir {target}"))?;
    sim(cmd!(sh, "cargo test --locked --target-dir {target} --release --test stress"))?;
    sim(cmd!(sh, "cargo run --locked --target-dir {target} --bin gpu-events -- doctor --device metal"))?;
    sim(cmd!(sh, "cargo build --locked --target-dir {target} --package metal-sim-capi"))?;
    capi::test_archive(&cx.sh, &Path::new(&target).join("debug/libgpuevents.a"), "metal")
}

/// Clippy on everything that the simulation builds of ours, which is what Apple's targets build: the compiler is
/// replaced, because cargo lints members of a workspace only. What comes from the registry stays unlinted.
pub(crate) fn lint(cx: &Context) -> Result<()> {
    let sh = simulation(cx)?;
    let target = cx.target_dir("metal-lint");
    cmd!(sh, "cargo check --locked --workspace --all-targets --target-dir {target}")
        .env("RUSTC_WRAPPER", clippy_driver(&sh)?)
        .env("CARGO_ENCODED_RUSTFLAGS", [&FLAGS[..], &["-Dwarnings"]].concat().join("\u{1f}"))
        .run()?;
    cmd!(sh, "cargo fmt --check").run()?;
    Ok(())
}

/// The compiler with clippy in it, which lies beside the ordinary one.
fn clippy_driver(sh: &Shell) -> Result<String> {
    let sysroot = cmd!(sh, "rustc --print=sysroot").quiet().read()?;
    Ok(format!("{sysroot}/bin/clippy-driver"))
}

pub(crate) fn tsan(cx: &Context) -> Result<()> {
    sanitized(cx, Sanitizer::Thread)
}

pub(crate) fn asan(cx: &Context) -> Result<()> {
    sanitized(cx, Sanitizer::Address)
}

/// The simulation's runtime and everything above it, instrumented along with the standard library.
fn sanitized(cx: &Context, sanitizer: Sanitizer) -> Result<()> {
    let sh = simulation(cx)?;
    let toolchain = Toolchain::with_std_source(&sh)?;
    let host = toolchain::host(&sh)?;
    let flags = toolchain.sanitizer_flags(&sh, sanitizer, &FLAGS)?;
    let target = cx.target_dir(&format!("metal-{}", sanitizer.short()));
    let cargo = |subcommand: &str| -> Cmd<'_> {
        toolchain
            .cargo(&sh)
            .args([subcommand, "--locked", "-Zbuild-std", "--target", &host, "--target-dir", &target])
            .env("CARGO_ENCODED_RUSTFLAGS", &flags)
            // The simulation counts what is alive itself, and knows where a test leaks on purpose.
            .env("ASAN_OPTIONS", "detect_leaks=0")
            // Unoptimized code is too slow under a sanitizer.
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
            .env("GPU_EVENTS_STRESS", std::env::var("GPU_EVENTS_STRESS").unwrap_or_else(|_| "0.1".to_owned()))
    };
    println!("First something planted, which has to be reported:");
    let planted =
        cargo("run").args(["--bin", "planted", "--", sanitizer.short()]).ignore_status().output()?;
    let report = String::from_utf8_lossy(&planted.stderr);
    ensure!(
        !planted.status.success() && report.contains(sanitizer.product()),
        "{} did not report what was planted:\n{report}",
        sanitizer.product()
    );
    println!("It was.");
    // Not the documentation's examples: rustdoc takes these flags from elsewhere.
    cargo("test").arg("--tests").run()?;
    Ok(())
}
