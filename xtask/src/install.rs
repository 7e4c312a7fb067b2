//! Installs what the checks need beyond the Rust toolchain itself.

use anyhow::{Context as _, Result};
use xshell::{Shell, cmd};

use crate::{Context, capi, instructions, python, toolchain, trace, vulkan};

/// The version the configuration in deny.toml is written for.
const CARGO_DENY: &str = "~0.20";

/// Installs nothing that is there already.
pub(crate) fn run(cx: &Context) -> Result<()> {
    let sh = &cx.sh;
    if cfg!(target_os = "linux") {
        install_packages(sh)?;
    }
    if cmd!(sh, "cargo deny --version").quiet().ignore_stdout().ignore_stderr().run().is_err() {
        cmd!(sh, "cargo install --locked cargo-deny --version {CARGO_DENY}").run()?;
    }
    capi::install(sh)
}

fn install_packages(sh: &Shell) -> Result<()> {
    let mut wanted = vec!["fsverity"];
    wanted.extend(vulkan::PACKAGES);
    wanted.extend(trace::PACKAGES);
    wanted.extend(capi::PACKAGES);
    wanted.extend(instructions::PACKAGES);
    wanted.extend(python::PACKAGES);
    if !toolchain::nightly_has_std_source(sh) {
        wanted.extend(["rustc-web", "cargo-web", "rust-web-src"]);
    }
    packages(sh, &wanted)
}

/// Installs those of Debian's packages that are missing.
pub(crate) fn packages(sh: &Shell, wanted: &[&str]) -> Result<()> {
    let missing = wanted.iter().filter(|package| !is_installed(sh, package)).collect::<Vec<_>>();
    if missing.is_empty() {
        return Ok(());
    }
    let user = cmd!(sh, "id -u").quiet().read()?;
    // Both take variables before the command.
    let root = if user == "0" { "env" } else { "sudo" };
    let quiet = "DEBIAN_FRONTEND=noninteractive";
    // A new machine's lists are empty, or old.
    cmd!(sh, "{root} apt-get update").run().context("packages are installed with Debian's apt-get alone")?;
    let options = ["--yes", "--no-install-recommends"];
    cmd!(sh, "{root} {quiet} apt-get install {options...} {missing...}").run()?;
    Ok(())
}

/// Whether packages can be installed here at all.
pub(crate) fn has_apt(sh: &Shell) -> bool {
    cmd!(sh, "apt-get --version").quiet().ignore_stdout().ignore_stderr().run().is_ok()
}

fn is_installed(sh: &Shell, package: &str) -> bool {
    let format = "--showformat=${db:Status-Status}";
    let status = cmd!(sh, "dpkg-query --show {format} {package}").quiet().ignore_stderr().read();
    status.is_ok_and(|status| status == "installed")
}
