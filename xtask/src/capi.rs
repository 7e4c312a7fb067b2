//! The C interface: its header, and the tests in C and C++.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use xshell::{Shell, cmd};

use crate::Context;
use crate::{install, vulkan};

/// Debian's.
pub(crate) const PACKAGES: &[&str] = &["cmake", "g++", "libvulkan-dev", "make", "pkg-config", "valgrind"];

/// The version whose output the header is.
const CBINDGEN: &str = "~0.29";

const FOLDER: &str = "crates/capi";
const HEADER: &str = "include/gpu_events.h";

/// What README.md says, in the folder.
const COMMANDS: &str = "cmake -B build && cmake --build build && ctest --test-dir build";

/// Those that are here. The first build lists the others as skipped.
const DEVICES: &str = "-DGPU_EVENTS_TEST_DEVICES=cpu;vulkan:0";

/// These very commands, but for where they build, and two at a time.
const BUILDS: &[(&str, &[&str])] = &[
    ("plain", &[]),
    ("sanitizers", &[DEVICES, "-DGPU_EVENTS_SANITIZE=address,undefined"]),
    ("valgrind", &[DEVICES, "-DGPU_EVENTS_VALGRIND=ON"]),
];

pub(crate) fn install(sh: &Shell) -> Result<()> {
    if cmd!(sh, "cbindgen --version").quiet().ignore_stdout().ignore_stderr().run().is_err() {
        // It runs for a second, and optimizing it takes two minutes.
        cmd!(sh, "cargo install --locked --debug cbindgen --version {CBINDGEN}").run()?;
    }
    Ok(())
}

/// Writes the header.
pub(crate) fn header(cx: &Context) -> Result<()> {
    install(&cx.sh)?;
    let text = generate(&cx.sh)?;
    cx.sh.write_file(Path::new(FOLDER).join(HEADER), text)?;
    Ok(())
}

/// The header against the source, then the tests: as a user runs them, watched by sanitizers, and by valgrind.
pub(crate) fn run(cx: &Context) -> Result<()> {
    let sh = &cx.sh;
    if install::has_apt(sh) {
        install::packages(sh, PACKAGES)?;
    }
    install(sh)?;
    ensure!(
        sh.read_file(Path::new(FOLDER).join(HEADER))? == generate(sh)?,
        "{HEADER} is not what cbindgen makes of the source: `cargo xtask header`"
    );
    ensure!(sh.read_file("README.md")?.contains(COMMANDS), "README.md has no line `{COMMANDS}`");

    let _folder = sh.push_dir(FOLDER);
    // What the other checks have built serves as well.
    let _target = sh.push_env("CARGO_TARGET_DIR", cx.target_dir("."));
    let _driver = sh.push_env("VK_DRIVER_FILES", vulkan::lavapipe(sh)?);
    let _required = sh.push_env("GPU_EVENTS_REQUIRE", "vulkan");
    let builds = PathBuf::from(cx.target_dir("capi"));
    for &(name, options) in BUILDS {
        println!("\n{name}:");
        let build = builds.join(name);
        let common = ["-DCMAKE_BUILD_TYPE=Debug", "-DGPU_EVENTS_CARGO_FLAGS=--locked"];
        cmd!(sh, "cmake -B {build} {common...} {options...}").run()?;
        cmd!(sh, "cmake --build {build} --parallel 2").run()?;
        cmd!(sh, "ctest --test-dir {build} --output-on-failure --parallel 2").run()?;
    }
    Ok(())
}

/// The tests, on one device, with an archive that was built elsewhere.
pub(crate) fn test_archive(sh: &Shell, archive: &Path, device: &str) -> Result<()> {
    let out = sh.create_temp_dir()?;
    let folder = Path::new(FOLDER);
    let program = out.path().join("test");
    for (compiler, standard, tests) in [("gcc", "c11", "c"), ("g++", "c++17", "cpp")] {
        for source in sh.read_dir(folder.join("tests").join(tests))? {
            // What is included only, and what takes a device of its own kind.
            if source.extension().is_none_or(|extension| extension == "h") || source.ends_with("vulkan.c") {
                continue;
            }
            let include = folder.join("include");
            let defines = ["-D_POSIX_C_SOURCE=200809L", "-DGPU_EVENTS_TEST_VERSION=\"0.0.0\""];
            // The simulated runtime lacks functions that nobody calls: what refers to them goes.
            let libraries = ["-Wl,--gc-sections", "-lpthread", "-ldl", "-lm"];
            cmd!(sh, "{compiler} -std={standard} -Wall -Wextra -Werror {defines...} -I {include} {source} {archive} {libraries...} -o {program}")
                .quiet()
                .run()?;
            println!("{}:", source.display());
            cmd!(sh, "{program} {device}").quiet().run()?;
        }
    }
    Ok(())
}

fn generate(sh: &Shell) -> Result<String> {
    let _folder = sh.push_dir(FOLDER);
    let text = cmd!(sh, "cbindgen --quiet --config cbindgen.toml .").read().context("cbindgen")?;
    Ok(text + "\n")
}
