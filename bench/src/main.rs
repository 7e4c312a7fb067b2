//! `gpu-events-bench`: what events cost, beside their peers and beside what the machine allows.

use clap::Parser;
use gpu_events_bench::BenchArgs;

/// Measures events beside their peers and beside what the machine allows, in one run
#[derive(Debug, Parser)]
#[command(name = "gpu-events-bench", version)]
enum Cli {
    /// Measure, and print tables or JSON
    Run(BenchArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse() {
        Cli::Run(args) => gpu_events_bench::run(&args),
    }
}
