//! What events cost here: `gpu-events bench`, and the program `gpu-events-bench`, which has their peers as well.
//!
//! Everything is measured beside something that it can be compared with, in the same run and in turn: a pool and an
//! event built as the seed's, a mutex and a condition variable, tokio's tasks, rayon's jobs, a cache line. A row's
//! `ratio` is its time over its baseline's, so below one is faster.

mod completion;
#[cfg(all(feature = "cuda", feature = "peers"))]
mod cuda;
mod growth;
mod handover;
mod harness;
mod host;
mod instructions;
mod limits;
mod memory;
#[cfg(feature = "plots")]
mod plot;
mod pool;
mod record;
mod report;
mod seed;
pub mod soak;
mod span;
mod stats;
mod status;
mod table;
pub mod text;
mod threads;

use anyhow::{Result, ensure};
use gpu_events::{Device, Event, HostSignal, Stream};
use harness::{Group, Plan};
use indicatif::{ProgressBar, ProgressStyle};
pub use instructions::{CountArgs, count};
#[cfg(feature = "plots")]
pub use plot::{PlotArgs, plot};
use report::{Place, Report, Row, Target};
use std::fmt::Write;
pub use table::{TableArgs, table};

/// What events cost here, each figure beside what the seed's own way takes in the same run
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Device to measure
    #[arg(long, value_name = "D", default_value = "cpu")]
    device: String,

    /// Print JSON instead of tables: where it was measured, and the rows
    #[arg(long)]
    json: bool,

    /// Measure only rows that have PATTERN in their name or in their group's, whatever its case
    #[arg(long, value_name = "PATTERN", default_value = "", hide_default_value = true)]
    filter: String,

    /// How many rounds to measure, each with every variant in turn [default: 41, with --quick 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: Option<u32>,

    /// Take as few samples as will do to see that it works; the figures mean little
    #[arg(long)]
    quick: bool,

    /// Measure the memory of one kind of object in this process; for the bench's own use
    #[arg(long, hide = true)]
    probe: Option<memory::Probe>,
}

impl BenchArgs {
    fn plan(&self) -> Plan {
        let rounds = self.rounds.unwrap_or(if self.quick { 3 } else { 41 });
        Plan { rounds: rounds as usize, quick: self.quick }
    }
}

/// What is measured, and how much of it.
struct Bench {
    device: Device,
    plan: Plan,
    /// Whether their peers are measured too: asked for, and not only built, since a build of the whole workspace has them.
    #[cfg_attr(not(feature = "peers"), expect(dead_code, reason = "there are none in this build"))]
    peers: bool,
}

impl Bench {
    /// The targets were set for the CPU device; what a driver takes is the driver's.
    fn targets<const N: usize>(&self, targets: [Target; N]) -> Vec<Target> {
        if self.device.info().backend == "cpu" { targets.into() } else { Vec::new() }
    }

    fn groups(&self) -> Vec<Group<'_>> {
        vec![
            limits::group(self),
            pool::group(self),
            record::group(self),
            status::group(self),
            handover::group(self),
            completion::group(self),
            span::group(self),
            threads::group(self),
            memory::group(self),
            growth::group(self),
            #[cfg(all(feature = "cuda", feature = "peers"))]
            cuda::group(self),
        ]
    }
}

/// A stream that a gate holds back.
struct HeldStream {
    stream: Stream,
    open: HostSignal,
    _gate: Event,
}

impl HeldStream {
    fn new(device: &Device) -> gpu_events::Result<Self> {
        let stream = device.create_stream()?;
        let (gate, open) = device.host_event()?;
        stream.wait(&gate)?;
        Ok(Self { stream, open, _gate: gate })
    }

    /// Opens the gate and sees the stream through.
    fn release(self) -> gpu_events::Result<()> {
        self.open.complete();
        self.stream.synchronize()
    }
}

/// Measures, and prints.
///
/// # Errors
/// If there is no such device or no such row, or if measuring fails.
pub fn run(args: &BenchArgs) -> Result<()> {
    run_as(args, false)
}

/// As [`run`], and measures what people would use instead as well.
///
/// # Errors
/// As [`run`].
#[cfg(feature = "peers")]
pub fn run_with_peers(args: &BenchArgs) -> Result<()> {
    run_as(args, true)
}

fn run_as(args: &BenchArgs, peers: bool) -> Result<()> {
    let bench = Bench { device: Device::open(&args.device)?, plan: args.plan(), peers };
    if let Some(probe) = args.probe {
        return probe.run(&bench);
    }

    let mut groups = bench.groups();
    for group in &mut groups {
        group.filter(&args.filter);
    }
    groups.retain(|group| group.names().next().is_some());
    ensure!(!groups.is_empty(), "no row and no group has {:?} in its name", args.filter);
    measure(&bench, groups, args.json)
}

fn measure(bench: &Bench, groups: Vec<Group<'_>>, json: bool) -> Result<()> {
    let progress = ProgressBar::new(groups.iter().map(|group| group.steps(&bench.plan)).sum());
    progress.set_style(ProgressStyle::with_template("{percent:>3} %, {eta} to go  {wide_msg}")?);
    let mut rows: Vec<Row> = Vec::new();
    let watch = host::Watch::start();
    for group in groups {
        let title = group.title;
        let measured = group.measure(&bench.plan, &progress)?;
        if !json {
            progress.suspend(|| text::print(report::table(title, &measured)))?;
        }
        rows.extend(measured);
    }
    progress.finish_and_clear();
    if json {
        text::print_json(&Report { place: Place::here(&bench.device), rows })
    } else {
        text::print(closing(bench, &rows, &watch)?)
    }
}

/// From how much of a core on, used by others, figures are no more than upper bounds.
const NOISE: f64 = 0.2;

/// What one has to know about all the figures.
fn closing(bench: &Bench, rows: &[Row], watch: &host::Watch) -> Result<String> {
    let mut text = report::targets(rows);
    writeln!(text, "device   {}: {}", bench.device.name(), bench.device.info().description)?;
    writeln!(text, "machine  {}", host::description())?;
    match watch.read() {
        Some(host::Meanwhile { stolen, others }) => {
            let rest = if stolen + others > NOISE { ": better measured again, when it is quiet" } else { "" };
            writeln!(
                text,
                "meanwhile the host took away {stolen:.2} of a core, and other processes here used {others:.2}{rest}"
            )?;
        }
        None => writeln!(text, "what others took of the machine meanwhile can't be told here")?,
    }
    let command: Vec<String> = std::env::args().collect();
    writeln!(text, "command  {}", command.join(" "))?;
    if bench.plan.quick {
        writeln!(text, "These were few samples: the figures mean little.")?;
    }
    if cfg!(debug_assertions) {
        writeln!(text, "This is a debug build: its figures say nothing about a release build's.")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::collections::HashSet;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn parse(arguments: &[&str]) -> Result<BenchArgs, clap::Error> {
        Cli::try_parse_from([&["bench"], arguments].concat()).map(|cli| cli.args)
    }

    #[test]
    fn arguments_have_defaults() {
        let args = parse(&[]).unwrap();
        assert_eq!((args.device.as_str(), args.json, args.filter.as_str()), ("cpu", false, ""));
        assert_eq!((args.plan().rounds, args.plan().quick), (41, false));
        let args = parse(&["--quick"]).unwrap();
        assert_eq!((args.plan().rounds, args.plan().quick), (3, true));
        assert_eq!(parse(&["--quick", "--rounds", "7"]).unwrap().plan().rounds, 7);
    }

    #[test]
    fn no_rounds_and_unknown_probes_are_refused() {
        for bad in [&["--rounds", "0"], &["--rounds", "-1"], &["--rounds", "many"], &["--probe", "nothing"]] {
            parse(bad).unwrap_err();
        }
    }

    #[test]
    fn unknown_devices_and_filters_are_errors() {
        run(&parse(&["--device", "no such device"]).unwrap()).unwrap_err();
        let error = run(&parse(&["--filter", "no such row"]).unwrap()).unwrap_err();
        assert!(error.to_string().contains("no such row"), "{error}");
    }

    #[test]
    fn row_names_are_unique() {
        let bench = Bench {
            device: Device::open("cpu").unwrap(),
            plan: Plan { rounds: 1, quick: true },
            peers: true,
        };
        let groups = bench.groups();
        let mut seen = HashSet::new();
        for name in groups.iter().flat_map(Group::names) {
            assert!(seen.insert(name), "{name} is there twice");
        }
    }
}
