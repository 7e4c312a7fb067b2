//! Traces, as those see them that they are written for: Perfetto's own trace processor, and a browser.

use std::path::PathBuf;

use anyhow::Result;
use xshell::cmd;

use crate::Context;
use crate::install;

/// Debian's.
pub(crate) const PACKAGES: &[&str] = &["chromium", "python3-venv"];

/// The tests, each a folder with what pip is to install for it, and the example that makes what it looks at.
const SUITES: &[(&str, &str)] = &[("browser", "timeline"), ("perfetto", "formats")];

pub(crate) fn run(cx: &Context) -> Result<()> {
    let sh = &cx.sh;
    if install::has_apt(sh) {
        install::packages(sh, PACKAGES)?;
    }
    // With what is off by default, and so no part of `cargo test --workspace`.
    cmd!(sh, "cargo test --locked -p gpu-events-trace --all-features").run()?;
    cmd!(sh, "cargo test --locked -p gpu-events --features tracing --doc trace").run()?;
    let made = PathBuf::from(cx.target_dir("trace"));
    let venv = made.join("venv");
    cmd!(sh, "python3 -m venv {venv}").run()?;
    for (suite, example) in SUITES {
        println!("\n{suite}:");
        let folder = PathBuf::from("crates/trace/tests").join(suite);
        let samples = made.join(suite);
        sh.remove_path(&samples)?;
        sh.create_dir(&samples)?;
        cmd!(sh, "cargo run --locked --release -p gpu-events-trace --example {example} -- {samples}")
            .run()?;
        let requirements = folder.join("requirements.txt");
        let (pip, pytest) = (venv.join("bin/pip"), venv.join("bin/pytest"));
        cmd!(sh, "{pip} install --quiet --requirement {requirements}").run()?;
        cmd!(sh, "{pytest} -p no:cacheprovider {folder}")
            .env("SAMPLES", &samples)
            .env("SHOTS", &samples)
            .run()?;
    }
    Ok(())
}
