//! What CI runs, as a program that anyone runs: `cargo xtask` lists the checks, `cargo xtask ci` runs them all.

mod capi;
mod checks;
mod install;
mod instructions;
mod metal;
mod python;
mod readme;
mod toolchain;
mod trace;
mod vulkan;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use xshell::{Shell, cmd};

/// One thing that `cargo xtask NAME` does.
struct Task {
    name: &'static str,
    about: &'static str,
    run: fn(&Context) -> Result<()>,
    in_ci: bool,
    /// What it builds with flags of its own, in a target directory of that name, and no later check of `ci` needs.
    leaves: Option<&'static str>,
}

/// In the order in which `ci` runs them: what fails soonest and most often comes first, and the debug build of
/// the README's test command is the only one (it *is* `test`, in a clean copy).
const TASKS: &[Task] = &[
    check("fmt", "formatting", checks::fmt),
    check("msrv", "no locked dependency asks for a newer Rust than ours", checks::msrv),
    check("deny", "licences, bans and sources of dependencies", checks::deny),
    check("clippy", "lints of the whole workspace, warnings denied", checks::clippy),
    check("features", "lints with no features, and with each one alone", checks::features),
    check("doc", "documentation, private items included, warnings denied", checks::doc),
    check("readme", "the README's commands, in a clean copy; digests against fsverity", readme::run)
        .leaving("readme"),
    check("model", "the model test against its oracle, with more cases", checks::model),
    check("stress", "millions of operations on several threads, optimized", checks::stress),
    check("doctor", "the conformance suite on the CPU device, through the binary", checks::doctor),
    check("bench-smoke", "a short bench runs and its JSON parses", checks::bench_smoke),
    check("instructions", "what operations take in instructions, by callgrind", instructions::run),
    check("vulkan", "the Vulkan backend on lavapipe, with the validation layer on", vulkan::run),
    check("trace", "traces in Perfetto's trace processor and in a browser", trace::run),
    check(
        "capi",
        "the C interface's header, and the tests in C and C++, under sanitizers and valgrind too",
        capi::run,
    )
    .leaving("capi"),
    check("python", "the Python package: installed, tested, type-checked", python::run).leaving("python"),
    check("loom", "every interleaving of the core's small models", checks::loom).leaving("loom"),
    check("windows", "type check for x86_64-pc-windows-msvc", checks::windows),
    check("macos", "type check for aarch64-apple-darwin", checks::macos).leaving("cross"),
    check("metal-sim", "the Metal backend on the simulated Metal: suite, integration, stress", metal::test)
        .leaving("metal-sim"),
    check("metal-lint", "lints of what only Apple's targets build, through the simulation", metal::lint)
        .leaving("metal-lint"),
    check("tsan", "integration, stress, and CUDA on the fake driver, under ThreadSanitizer", checks::tsan)
        .leaving("tsan"),
    check("metal-tsan", "the simulated Metal's tests under ThreadSanitizer", metal::tsan)
        .leaving("metal-tsan"),
    check("metal-asan", "the simulated Metal's tests under AddressSanitizer", metal::asan)
        .leaving("metal-asan"),
    extra("test", "cargo test --workspace, in place", checks::test),
    extra("advisories", "known vulnerabilities; fetches RustSec's database", checks::advisories),
    extra("header", "writes the C interface's header anew", capi::header),
    extra("instructions-accept", "writes the committed instructions anew", instructions::accept),
    extra("install", "installs what the checks need (Debian)", install::run),
];

const fn check(name: &'static str, about: &'static str, run: fn(&Context) -> Result<()>) -> Task {
    Task { name, about, run, in_ci: true, leaves: None }
}

const fn extra(name: &'static str, about: &'static str, run: fn(&Context) -> Result<()>) -> Task {
    Task { name, about, run, in_ci: false, leaves: None }
}

impl Task {
    const fn leaving(mut self, target: &'static str) -> Task {
        self.leaves = Some(target);
        self
    }
}

/// What every task works with.
struct Context {
    sh: Shell,
    /// `cargo metadata`, without dependencies: the members, their features, the target directory.
    metadata: serde_json::Value,
}

impl Context {
    fn new() -> Result<Context> {
        let sh = Shell::new()?;
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        sh.change_dir(root);
        let metadata = cmd!(sh, "cargo metadata --format-version 1 --no-deps").quiet().read()?;
        Ok(Context { metadata: serde_json::from_str(&metadata)?, sh })
    }

    /// A directory for builds whose flags would otherwise throw the ordinary ones away.
    fn target_dir(&self, name: &str) -> String {
        let target = self.metadata["target_directory"].as_str().unwrap_or("target");
        format!("{target}/{name}")
    }
}

struct Outcome {
    name: &'static str,
    result: Result<()>,
    took: Duration,
}

fn main() -> ExitCode {
    let names = std::env::args().skip(1).collect::<Vec<_>>();
    match try_main(&names) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything passed.
fn try_main(names: &[String]) -> Result<bool> {
    let Some(tasks) = select(names)? else {
        print_usage();
        return Ok(names.iter().any(|name| name == "help" || name == "--help"));
    };
    let context = Context::new().context("cannot read the workspace")?;
    // All of them, even after a failure: one run then tells everything.
    let outcomes = tasks.into_iter().map(|task| run(task, &context)).collect::<Vec<_>>();
    print_outcomes(&outcomes);
    Ok(outcomes.iter().all(|outcome| outcome.result.is_ok()))
}

/// The tasks that `names` ask for; `None` if they ask for help, or for nothing.
fn select(names: &[String]) -> Result<Option<Vec<&'static Task>>> {
    if names.is_empty() || names.iter().any(|name| name == "help" || name == "--help") {
        return Ok(None);
    }
    let mut tasks = Vec::new();
    for name in names {
        if name == "ci" {
            tasks.extend(TASKS.iter().filter(|task| task.in_ci));
        } else {
            let task = TASKS.iter().find(|task| task.name == name);
            tasks
                .push(task.with_context(|| format!("no task is called `{name}`; `cargo xtask` lists them"))?);
        }
    }
    Ok(Some(tasks))
}

fn print_usage() {
    println!("Usage: cargo xtask TASK...\n");
    for task in TASKS {
        println!("  {:<19} {}", task.name, task.about);
    }
    let others = TASKS.iter().filter(|task| !task.in_ci).map(|task| task.name).collect::<Vec<_>>();
    println!("  {:<19} all of these but {}", "ci", others.join(", "));
}

fn run(task: &Task, context: &Context) -> Outcome {
    println!("\n=== {}: {}", task.name, task.about);
    let start = Instant::now();
    let result = (task.run)(context);
    // A clone that is thrown away afterwards: all builds together would take some 20 GB. By hand, the next run wants them.
    if let Some(target) = task.leaves
        && std::env::var_os("CI").is_some()
    {
        // Where it can't be removed, there is less room for the next ones, who will say so.
        let _ = context.sh.remove_path(context.target_dir(target));
    }
    if let Err(error) = &result {
        println!("=== {} FAILED: {error:#}", task.name);
    }
    Outcome { name: task.name, result, took: start.elapsed() }
}

fn print_outcomes(outcomes: &[Outcome]) {
    println!();
    for Outcome { name, result, took } in outcomes {
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        println!("{name:<19} {:>7.1} s  {verdict}", took.as_secs_f64());
    }
    let total = outcomes.iter().map(|outcome| outcome.took).sum::<Duration>();
    let failed = outcomes.iter().filter(|outcome| outcome.result.is_err()).map(|outcome| outcome.name);
    let failed = failed.collect::<Vec<_>>();
    let verdict = if failed.is_empty() { "ok".to_owned() } else { format!("FAILED: {}", failed.join(", ")) };
    println!("{:<19} {:>7.1} s  {verdict}", "total", total.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(arguments: &[&str]) -> Option<Vec<&'static str>> {
        let arguments = arguments.iter().map(ToString::to_string).collect::<Vec<_>>();
        select(&arguments).ok().flatten().map(|tasks| tasks.iter().map(|task| task.name).collect())
    }

    #[test]
    fn tasks_are_selected_by_name() {
        assert_eq!(names(&["loom", "fmt"]), Some(vec!["loom", "fmt"]));
        assert_eq!(names(&["fmt", "nonsense"]), None);
        assert_eq!(names(&[]), None);
        let ci = names(&["ci"]).unwrap_or_default();
        assert!(ci.contains(&"readme") && ci.contains(&"tsan") && !ci.contains(&"install"));
    }

    #[test]
    fn no_two_checks_leave_the_same_build() {
        let mut left = TASKS.iter().filter_map(|task| task.leaves).collect::<Vec<_>>();
        let all = left.len();
        left.sort_unstable();
        left.dedup();
        assert_eq!(left.len(), all);
    }
}
