//! The Python package, as its users have it: installed by pip, into an environment of its own.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use xshell::cmd;

use crate::Context;
use crate::install;
use crate::readme;

/// Debian's.
pub(crate) const PACKAGES: &[&str] = &["python3-venv"];

/// What the READMEs say.
const INSTALL: &str = "pip install ./python";

pub(crate) fn run(cx: &Context) -> Result<()> {
    let sh = &cx.sh;
    if install::has_apt(sh) {
        install::packages(sh, PACKAGES)?;
    }
    let venv = PathBuf::from(cx.target_dir("python")).join("venv");
    cmd!(sh, "python3 -m venv --clear {venv}").run()?;
    // So that `pip` and `python`, as a user types them, are the environment's.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let bin = venv.join(if cfg!(windows) { "Scripts" } else { "bin" });
    let path = std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path)))?;
    let _path = sh.push_env("PATH", path);
    // With what is built already, and in no other version.
    let _target = sh.push_env("CARGO_TARGET_DIR", cx.target_dir("."));
    let _locked = sh.push_env("MATURIN_PEP517_ARGS", "--locked");

    let documents = ["README.md", "python/README.md"];
    for document in documents {
        ensure!(sh.read_file(document)?.contains(INSTALL), "{document} has no line `{INSTALL}`");
    }
    let words = INSTALL.split(' ').skip(1);
    cmd!(sh, "pip").args(words).run()?;
    for document in documents {
        let text = sh.read_file(document)?;
        let example = readme::blocks(&text, "python").into_iter().next();
        let example = example.with_context(|| format!("{document} has no example in Python"))?;
        println!("\nThe example of {document} says:");
        cmd!(sh, "python -c {example}").run()?;
    }

    cmd!(sh, "pip install --quiet --requirement python/requirements-test.txt").run()?;
    // From here, and not from the folder: its sources would be taken for what was installed.
    cmd!(sh, "python -m pytest -p no:cacheprovider python/tests").run()?;
    cmd!(sh, "python -m mypy.stubtest gpu_events").run()?;
    let _python = sh.push_dir("python");
    cmd!(sh, "python -m mypy").run()?;
    cmd!(sh, "python -m pyright").run()?;
    Ok(())
}
