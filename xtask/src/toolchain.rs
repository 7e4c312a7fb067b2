//! Toolchains that can build the standard library: for sanitizers, and for targets whose own is not installed.
//!
//! Rustup's nightly with the `rust-src` component will do. Where that component cannot be had, Debian packages a
//! compiler with the library's source (`rustc-web`, `cargo-web`, `rust-web-src`). It comes without sanitizer
//! runtimes, so it is lent the one of whichever rustup toolchain is there.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use xshell::{Cmd, Shell, cmd};

/// A toolchain that has the standard library's source.
pub(crate) enum Toolchain {
    /// Rustup's nightly.
    Nightly,
    /// Debian's, in `/usr/bin`, whatever `PATH` says.
    Debian,
}

impl Toolchain {
    pub(crate) fn with_std_source(sh: &Shell) -> Result<Toolchain> {
        if has_std_source(nightly_sysroot(sh)) {
            Ok(Toolchain::Nightly)
        } else if Path::new("/usr/bin/cargo").exists() && has_std_source(sysroot(cmd!(sh, "/usr/bin/rustc")))
        {
            Ok(Toolchain::Debian)
        } else {
            bail!(
                "no toolchain here has the standard library's source: run `cargo xtask install` (Debian), \
                 or `rustup toolchain install nightly --component rust-src`"
            )
        }
    }

    /// This toolchain's cargo, allowed to use unstable flags.
    pub(crate) fn cargo<'sh>(&self, sh: &'sh Shell) -> Cmd<'sh> {
        match self {
            Toolchain::Nightly => cmd!(sh, "rustup run nightly cargo"),
            Toolchain::Debian => cmd!(sh, "/usr/bin/cargo")
                .env("RUSTC", "/usr/bin/rustc")
                .env("RUSTDOC", "/usr/bin/rustdoc")
                .env("RUSTC_BOOTSTRAP", "1")
                // Rustup's cargo, which runs this program, sets it to its own libraries.
                .env_remove("LD_LIBRARY_PATH"),
        }
    }

    /// The flags that compile with a sanitizer and link its runtime, and `others`, as `CARGO_ENCODED_RUSTFLAGS` wants
    /// them.
    pub(crate) fn sanitizer_flags(
        &self,
        sh: &Shell,
        sanitizer: Sanitizer,
        others: &[&str],
    ) -> Result<String> {
        let mut flags = others.iter().map(ToString::to_string).collect::<Vec<_>>();
        flags.push(format!("-Zsanitizer={}", sanitizer.name()));
        if let Toolchain::Debian = self {
            let runtime = borrowed_runtime(sh, sanitizer)?;
            println!("{}'s runtime: {}", sanitizer.product(), runtime.display());
            // Before everything else, since the runtime needs the C libraries that follow.
            let link = format!("-Zpre-link-arg=-Wl,--whole-archive,{},--no-whole-archive", runtime.display());
            flags.extend(["-Zexternal-clangrt".to_owned(), link]);
        }
        Ok(flags.join("\u{1f}"))
    }
}

/// Whether the toolchain in use comes with `target`'s standard library.
pub(crate) fn has_target(sh: &Shell, target: &str) -> bool {
    sysroot(cmd!(sh, "rustc")).is_some_and(|root| root.join("lib/rustlib").join(target).join("lib").exists())
}

/// The host's target triple.
pub(crate) fn host(sh: &Shell) -> Result<String> {
    let version = cmd!(sh, "rustc -vV").quiet().read()?;
    match version.lines().find_map(|line| line.strip_prefix("host: ")) {
        Some(host) => Ok(host.to_owned()),
        None => bail!("`rustc -vV` names no host"),
    }
}

pub(crate) fn nightly_has_std_source(sh: &Shell) -> bool {
    has_std_source(nightly_sysroot(sh))
}

fn has_std_source(sysroot: Option<PathBuf>) -> bool {
    sysroot.is_some_and(|root| root.join("lib/rustlib/src/rust/library/std/Cargo.toml").exists())
}

/// What instruments a build.
#[derive(Clone, Copy)]
pub(crate) enum Sanitizer {
    Address,
    Thread,
}

impl Sanitizer {
    /// As `-Zsanitizer` takes it.
    fn name(self) -> &'static str {
        match self {
            Sanitizer::Address => "address",
            Sanitizer::Thread => "thread",
        }
    }

    pub(crate) fn product(self) -> &'static str {
        match self {
            Sanitizer::Address => "AddressSanitizer",
            Sanitizer::Thread => "ThreadSanitizer",
        }
    }

    /// As the files of its runtime are named.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Sanitizer::Address => "asan",
            Sanitizer::Thread => "tsan",
        }
    }
}

fn borrowed_runtime(sh: &Shell, sanitizer: Sanitizer) -> Result<PathBuf> {
    let host = host(sh)?;
    let lenders = [(sysroot(cmd!(sh, "rustc")), "stable"), (nightly_sysroot(sh), "nightly")];
    for (sysroot, channel) in lenders {
        let Some(sysroot) = sysroot else { continue };
        let library = sysroot.join("lib/rustlib").join(&host).join("lib");
        let runtime = library.join(format!("librustc-{channel}_rt.{}.a", sanitizer.short()));
        if runtime.exists() {
            return Ok(runtime);
        }
    }
    bail!(
        "neither the toolchain in use nor rustup's nightly has {}'s runtime for {host} to lend",
        sanitizer.product()
    )
}

fn nightly_sysroot(sh: &Shell) -> Option<PathBuf> {
    sysroot(cmd!(sh, "rustup run nightly rustc"))
}

fn sysroot(rustc: Cmd<'_>) -> Option<PathBuf> {
    rustc.arg("--print=sysroot").quiet().ignore_stderr().read().ok().map(PathBuf::from)
}
