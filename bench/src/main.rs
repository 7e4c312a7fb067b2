//! `gpu-events-bench`: what events cost, beside their peers and beside what the machine allows.

use clap::Parser;
#[cfg(feature = "plots")]
use gpu_events_bench::PlotArgs;
use gpu_events_bench::{BenchArgs, CountArgs, TableArgs, soak, soak::SoakArgs};

/// Measures events beside their peers and beside what the machine allows, in one run
#[derive(Debug, Parser)]
#[command(name = "gpu-events-bench", version)]
enum Cli {
    /// Measure, and print tables or JSON
    Run(BenchArgs),
    /// Do one operation as often as told, for callgrind to count its instructions
    Count(CountArgs),
    /// Draw what `run --json` has printed
    #[cfg(feature = "plots")]
    Plot(PlotArgs),
    /// Fill docs/performance.md with what `run --json` and `peers.py --json` have measured
    Table(TableArgs),
    /// Use events in every way for an hour, and see whether memory and latencies stay as they are
    Soak(SoakArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse() {
        Cli::Run(args) => gpu_events_bench::run_with_peers(&args),
        Cli::Count(args) => gpu_events_bench::count(&args),
        #[cfg(feature = "plots")]
        Cli::Plot(args) => gpu_events_bench::plot(&args),
        Cli::Table(args) => gpu_events_bench::table(&args),
        Cli::Soak(args) => soak::run(&args),
    }
}
