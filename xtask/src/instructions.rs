//! How many instructions operations take, counted by callgrind and held to what was committed.
//!
//! Time can't be judged on a machine that others use as well; instructions can, to one in a hundred and better. Each
//! path of `gpu-events-bench count` runs twice, and the difference over the operations that one run does more is the
//! figure: what setting up takes is in both.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use xshell::cmd;

use crate::{Context, install, toolchain};

/// Debian's.
pub(crate) const PACKAGES: &[&str] = &["valgrind"];

/// What is committed, written by `cargo xtask instructions-accept`.
const FIGURES: &str = "bench/instructions.json";

const BENCH: &str = "gpu-events-bench";

/// How often a path's operation is done in its two runs. Enough that what grows by doubling counts for little.
const RUNS: [u64; 2] = [1_000, 11_000];

/// The function that callgrind counts within, where the calling thread does it all.
const COUNTED: &str = "*instructions::counted*";

/// Holds every path to its committed figure.
pub(crate) fn run(cx: &Context) -> Result<()> {
    let text = cx.sh.read_file(FIGURES).context("`cargo xtask instructions-accept` writes it")?;
    let committed = Figures::parse(&text).with_context(|| format!("{FIGURES} is not as it was written"))?;
    let here = Machine::here(cx)?;
    ensure!(
        committed.machine.target == here.target,
        "{FIGURES} is of {}, and this is {}: instructions can't be compared",
        committed.machine.target,
        here.target
    );
    let counts = count_all(cx)?;
    print(&counts, &committed.instructions);
    let complaints = compare(&counts, &committed.instructions);
    if complaints.is_empty() {
        return Ok(());
    }
    let mut text = complaints.join("\n");
    if committed.machine.rustc != here.rustc {
        text.push_str(&format!(
            "\nThe committed figures are of {}, and this is {}: look whether that is all.",
            committed.machine.rustc, here.rustc
        ));
    }
    bail!("{text}\nIf it is to be so: `cargo xtask instructions-accept`")
}

/// Writes what is counted now as what is to be held to.
pub(crate) fn accept(cx: &Context) -> Result<()> {
    let machine = Machine::here(cx)?;
    let counts = count_all(cx)?;
    let committed = cx.sh.read_file(FIGURES).ok().and_then(|text| Figures::parse(&text).ok());
    print(&counts, &committed.map(|figures| figures.instructions).unwrap_or_default());
    let instructions = counts.into_iter().map(|count| (count.name, rounded(count.ours))).collect();
    cx.sh.write_file(FIGURES, Figures { machine, instructions }.text()?)?;
    Ok(())
}

/// What instructions depend on besides the source.
#[derive(Debug, PartialEq)]
struct Machine {
    target: String,
    rustc: String,
}

impl Machine {
    fn here(cx: &Context) -> Result<Machine> {
        Ok(Machine {
            target: toolchain::host(&cx.sh)?,
            rustc: cmd!(cx.sh, "rustc --version").quiet().read()?,
        })
    }
}

/// What is committed: for each path its instructions for one operation.
#[derive(Debug, PartialEq)]
struct Figures {
    machine: Machine,
    instructions: BTreeMap<String, f64>,
}

impl Figures {
    fn parse(text: &str) -> Result<Figures> {
        let json: Value = serde_json::from_str(text)?;
        let word =
            |name: &str| json[name].as_str().map(str::to_owned).with_context(|| format!("no {name:?}"));
        let instructions = json["instructions"].as_object().context("no \"instructions\"")?;
        let instructions = instructions.iter().map(|(path, figure)| {
            let figure = figure.as_f64().with_context(|| format!("{path:?} has no figure"))?;
            Ok((path.clone(), figure))
        });
        Ok(Figures {
            machine: Machine { target: word("target")?, rustc: word("rustc")? },
            instructions: instructions.collect::<Result<_>>()?,
        })
    }

    fn text(&self) -> Result<String> {
        let Figures { machine: Machine { target, rustc }, instructions } = self;
        let json = json!({ "target": target, "rustc": rustc, "instructions": instructions });
        Ok(serde_json::to_string_pretty(&json)? + "\n")
    }
}

/// The instructions of one operation.
struct Count {
    name: String,
    ours: f64,
    seed: Option<f64>,
}

/// One path in one of the two ways.
#[derive(Debug)]
struct Job {
    name: String,
    caller_only: bool,
    seed: bool,
}

fn count_all(cx: &Context) -> Result<Vec<Count>> {
    let sh = &cx.sh;
    if install::has_apt(sh) {
        install::packages(sh, PACKAGES)?;
    }
    cmd!(sh, "cargo build --locked --release -p {BENCH}").run()?;
    let program = PathBuf::from(cx.target_dir("release")).join(BENCH);
    let list = cmd!(sh, "{program} count --list").quiet().read()?;
    let jobs = jobs(&list).with_context(|| format!("not a list of paths: {list}"))?;
    let counted = count_jobs(&program, &jobs)?;

    let mut counts: Vec<Count> = Vec::new();
    for (Job { name, seed, .. }, instructions) in jobs.into_iter().zip(counted) {
        match counts.last_mut() {
            Some(last) if seed => last.seed = Some(instructions),
            _ => counts.push(Count { name, ours: instructions, seed: None }),
        }
    }
    Ok(counts)
}

/// Each path, and the seed's way of it right after.
fn jobs(list: &str) -> Result<Vec<Job>> {
    let list: Vec<Value> = serde_json::from_str(list)?;
    let mut jobs = Vec::new();
    for path in &list {
        let name = path["name"].as_str().context("a path has no name")?;
        let caller_only = path["counted"] == "caller";
        for seed in [false, true].into_iter().take(if path["seed"] == true { 2 } else { 1 }) {
            jobs.push(Job { name: name.to_owned(), caller_only, seed });
        }
    }
    ensure!(!jobs.is_empty(), "there is no path");
    Ok(jobs)
}

/// As many at a time as there are cores: instructions don't mind.
fn count_jobs(program: &Path, jobs: &[Job]) -> Result<Vec<f64>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            // Relaxed: it only hands out numbers.
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(index) else { return done };
            let way = if job.seed { ", the seed's way" } else { "" };
            done.push((index, per_operation(program, job).with_context(|| format!("{}{way}", job.name))));
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut done: Vec<(usize, Result<f64>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("counting doesn't panic")).collect()
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, counted)| counted).collect()
}

/// The difference between the two runs, over that between their operations.
fn per_operation(program: &Path, job: &Job) -> Result<f64> {
    let [few, many] = RUNS;
    let (base, all) = (fewest(program, job, few)?, fewest(program, job, many)?);
    let more = all.checked_sub(base).with_context(|| format!("{many} times take less than {few} times"))?;
    Ok(more as f64 / (many - few) as f64)
}

/// Where threads wake each other, one sometimes finds the other asleep already and sometimes not, and pays for it: the
/// fewest of some runs are the same each time.
fn fewest(program: &Path, job: &Job, operations: u64) -> Result<u64> {
    let mut fewest = callgrind(program, job, operations)?;
    for _ in 1..if job.caller_only { 1 } else { 4 } {
        fewest = fewest.min(callgrind(program, job, operations)?);
    }
    Ok(fewest)
}

fn callgrind(program: &Path, job: &Job, operations: u64) -> Result<u64> {
    let mut command = Command::new("valgrind");
    // Threads take turns in the order in which they came, and not in whatever order the kernel has.
    command.args(["--tool=callgrind", "--fair-sched=yes", "--callgrind-out-file=/dev/null"]);
    if job.caller_only {
        command.arg(format!("--toggle-collect={COUNTED}"));
    }
    command.arg(program).args(["count", &job.name, &operations.to_string()]);
    if job.seed {
        command.arg("--seed");
    }
    let output = command.output().context("valgrind does not run: `cargo xtask install`")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}:\n{said}", output.status);
    collected(&said).with_context(|| format!("callgrind told no count:\n{said}"))
}

/// What callgrind says at its end that it has counted: `==123== Collected : 4567`.
fn collected(said: &str) -> Option<u64> {
    let count = said.lines().find_map(|line| line.split_once("Collected :"))?.1;
    // More than one kind of event would be more than one number. None at all: the function wasn't found.
    count.trim().parse().ok().filter(|&count| count > 0)
}

/// A tenth is shown, and kept: more would only make differences where there are none.
fn rounded(instructions: f64) -> f64 {
    (instructions * 10.0).round() / 10.0
}

/// What may change without anybody looking: three in a hundred, and two instructions where that is less than one.
fn is_worse(now: f64, committed: f64) -> bool {
    now > committed * 1.03 + 2.0
}

/// An improvement that is not committed leaves room for what is lost later to hide in.
fn is_stale(now: f64, committed: f64) -> bool {
    now < committed * 0.9
}

/// What is wrong, a line each.
fn compare(counts: &[Count], committed: &BTreeMap<String, f64>) -> Vec<String> {
    let mut complaints = Vec::new();
    for Count { name, ours, .. } in counts {
        match committed.get(name) {
            None => complaints.push(format!("{name}: {FIGURES} has no figure")),
            Some(&figure) if is_worse(*ours, figure) => {
                complaints.push(format!("{name}: {ours:.1} instructions, and {figure} are committed"));
            }
            Some(&figure) if is_stale(*ours, figure) => {
                complaints.push(format!("{name}: {ours:.1} instructions only, and {figure} are committed"));
            }
            Some(_) => {}
        }
    }
    let gone = committed.keys().filter(|&name| counts.iter().all(|count| count.name != *name));
    complaints.extend(gone.map(|name| format!("{name}: {FIGURES} has a figure, and there is no such path")));
    complaints
}

fn print(counts: &[Count], committed: &BTreeMap<String, f64>) {
    println!("{:<46}{:>10}{:>11}{:>9}{:>10}", "instructions", "ours", "committed", "change", "seed's");
    let figure = |figure: Option<f64>| figure.map_or_else(String::new, |figure| format!("{figure:.1}"));
    for Count { name, ours, seed } in counts {
        let before = committed.get(name).copied();
        let change =
            before.map_or_else(String::new, |before| format!("{:+.1} %", (ours / before - 1.0) * 100.0));
        println!("{name:<46}{ours:>10.1}{:>11}{change:>9}{:>10}", figure(before), figure(*seed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(figures: &[(&str, f64)]) -> Vec<Count> {
        let count = |&(name, ours): &(&str, f64)| Count { name: name.to_owned(), ours, seed: None };
        figures.iter().map(count).collect()
    }

    fn committed(figures: &[(&str, f64)]) -> BTreeMap<String, f64> {
        figures.iter().map(|&(name, figure)| (name.to_owned(), figure)).collect()
    }

    #[test]
    fn callgrinds_count_is_found() {
        let said = "==7== Callgrind, a call-graph generating cache profiler\n==7== Events    : Ir\n\
                    ==7== Collected : 2955805\n==7== \n==7== I   refs:      2,955,805\n";
        assert_eq!(collected(said), Some(2_955_805));
    }

    #[test]
    fn no_count_and_a_count_of_nothing_are_none() {
        for said in ["", "valgrind: no such program", "==7== Collected : 0", "==7== Collected : 12 3"] {
            assert_eq!(collected(said), None, "{said}");
        }
    }

    #[test]
    fn a_little_more_and_somewhat_less_are_let_pass() {
        for (now, figure) in [(100.0, 100.0), (105.0, 100.0), (90.0, 100.0), (7.0, 5.0), (1030.0, 1000.0)] {
            assert_eq!(compare(&counts(&[("a", now)]), &committed(&[("a", figure)])), [""; 0], "{now}");
        }
    }

    #[test]
    fn more_and_much_less_are_not() {
        for (now, figure, says) in [
            (105.1, 100.0, "a: 105.1 instructions, and 100 are committed"),
            (7.2, 5.0, "a: 7.2 instructions, and 5 are committed"),
            (89.9, 100.0, "a: 89.9 instructions only, and 100 are committed"),
        ] {
            assert_eq!(compare(&counts(&[("a", now)]), &committed(&[("a", figure)])), [says]);
        }
    }

    #[test]
    fn paths_without_figure_and_figures_without_path_are_told() {
        let complaints =
            compare(&counts(&[("new", 1.0), ("kept", 1.0)]), &committed(&[("kept", 1.0), ("old", 1.0)]));
        assert_eq!(
            complaints,
            [
                "new: bench/instructions.json has no figure",
                "old: bench/instructions.json has a figure, and there is no such path"
            ]
        );
    }

    #[test]
    fn figures_are_read_as_they_were_written() {
        let machine = Machine { target: "x86_64".to_owned(), rustc: "rustc 1".to_owned() };
        let figures = Figures { machine, instructions: committed(&[("a", rounded(12.345)), ("b", 1.0)]) };
        let text = figures.text().unwrap();
        assert_eq!(Figures::parse(&text).unwrap(), figures);
        for bad in ["", "[]", "{}", r#"{"target": "t", "rustc": "r", "instructions": {"a": "many"}}"#] {
            Figures::parse(bad).unwrap_err();
        }
    }

    #[test]
    fn the_seeds_way_follows_its_path() {
        let list = r#"[{"name": "a", "counted": "caller", "seed": true}, {"name": "b", "counted": "process", "seed": false}]"#;
        let jobs = jobs(list).unwrap();
        let jobs: Vec<_> = jobs.iter().map(|job| (job.name.as_str(), job.caller_only, job.seed)).collect();
        assert_eq!(jobs, [("a", true, false), ("a", true, true), ("b", false, false)]);
        super::jobs("[]").unwrap_err();
    }
}
