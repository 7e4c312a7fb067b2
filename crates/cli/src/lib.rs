//! The binary `gpu-events` as a library: what it does is here, so that a program with another Metal linked in, as the
//! simulated one, can be the very same.
//!
//! It shows what events do on the devices of this machine: `pipeline` is a job whose order is made by events alone;
//! `devices` says what is here and what it can do; `doctor` runs the conformance suite on it; `bench` says what events
//! cost on it; `trace` shows and merges what was traced.

mod devices;
mod doctor;
mod fsverity;
mod output;
mod pipeline;
mod trace;
mod units;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

/// Events for GPU work: a pipeline ordered by them, what devices offer, whether they keep the contract, and what
/// it costs.
#[derive(Debug, Parser)]
#[command(name = "gpu-events", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Pipeline(pipeline::PipelineArgs),
    Devices(devices::DevicesArgs),
    Doctor(doctor::DoctorArgs),
    Bench(gpu_events_bench::BenchArgs),
    Trace(trace::TraceArgs),
}

/// What clap itself uses: told apart from work that failed.
const USAGE: u8 = 2;

/// The program: takes the process's arguments, and writes to its standard output and error.
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => exit_code(run(&cli.command)),
        Err(error) => usage(&error),
    }
}

fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Pipeline(args) => pipeline::run(args)?,
        Command::Devices(args) => devices::run(args)?,
        Command::Doctor(args) => return doctor::run(args),
        Command::Bench(args) => gpu_events_bench::run(args)?,
        Command::Trace(args) => trace::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn exit_code(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        complain(&format!("{error:#}"));
        let interrupted = error.is::<pipeline::Interrupted>();
        if interrupted { ExitCode::from(pipeline::INTERRUPTED_EXIT_CODE) } else { ExitCode::FAILURE }
    })
}

/// Help and the version as clap prints them; what is wrong with the arguments in one line.
fn usage(error: &clap::Error) -> ExitCode {
    let text = error.render();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = if console::colors_enabled() { text.ansi().to_string() } else { text.to_string() };
            exit_code(output::print(text).map(|()| ExitCode::SUCCESS))
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            complain("a command is needed: pipeline, devices, doctor, bench or trace (see --help)");
            ExitCode::from(USAGE)
        }
        _ => {
            // clap says what is wrong in its first paragraph, and goes on with usage and hints.
            let text = text.to_string();
            let what = text.split("\n\n").next().unwrap_or(&text);
            let words = what.trim_start_matches("error: ").split_whitespace();
            complain(&words.collect::<Vec<_>>().join(" "));
            ExitCode::from(USAGE)
        }
    }
}

/// One line on standard error, whatever the file's name or the system's message has in it.
fn complain(what: &str) {
    let line: String = what
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect();
    eprintln!("gpu-events: {line}");
}
