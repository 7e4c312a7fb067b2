//! `gpu-events trace`: traces shown, put on one axis, and the clocks that this takes.

use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use gpu_events::trace::{self, ClockSample, Trace, Tracer, exchange};

use crate::{output, units};

/// How often a clock is read for one sample, of which the closest is taken.
const ROUNDS: usize = 32;

/// How long another machine may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Show traces, and put those of several processes and machines on one axis
#[derive(Debug, clap::Args)]
pub(crate) struct TraceArgs {
    #[command(subcommand)]
    command: TraceCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TraceCommand {
    /// Put traces on one axis, and say how sure it is
    ///
    /// Processes of one Linux machine share a clock. Of others, one has to have read the other's beside its own: see `trace
    /// clock`.
    Merge {
        /// Traces that gpu-events wrote (.pftrace)
        #[arg(required = true, num_args = 2.., value_name = "TRACE")]
        traces: Vec<PathBuf>,

        /// Where to: for Perfetto (.pftrace), for Chrome (.json) or as HTML (.html)
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },

    /// Print a trace as text: who was at work, who waited for what, and what the whole took so long for
    Show {
        /// A trace that gpu-events wrote (.pftrace)
        trace: PathBuf,

        /// How many characters wide
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(40..=400))]
        width: Option<u16>,
    },

    /// Write a trace in another format
    Convert {
        /// A trace that gpu-events wrote (.pftrace)
        trace: PathBuf,

        /// Where to: for Perfetto (.pftrace), for Chrome (.json) or as HTML (.html)
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },

    /// Let others read this machine's clock, until it is stopped, for traces to be merged: `pipeline --clock ADDRESS` asks it
    Clock {
        /// Where to listen, such as 0.0.0.0:4300
        #[arg(value_name = "ADDRESS")]
        address: String,
    },
}

pub(crate) fn run(args: &TraceArgs) -> anyhow::Result<()> {
    match &args.command {
        TraceCommand::Merge { traces, output } => {
            Trace::check_output(output)?;
            let merged = trace::merge(traces.iter().map(Trace::open).collect::<Result<_, _>>()?)?;
            merged.save(output)?;
            output::print(sureness(&merged))
        }
        TraceCommand::Show { trace, width } => {
            let width = width.map_or_else(|| usize::from(console::Term::stdout().size().1), usize::from);
            output::print(Trace::open(trace)?.to_text(width.clamp(40, 400)))
        }
        TraceCommand::Convert { trace, output } => {
            Trace::check_output(output)?;
            Ok(Trace::open(trace)?.save(output)?)
        }
        TraceCommand::Clock { address } => serve(address),
    }
}

/// How sure it is where each process is.
fn sureness(trace: &Trace) -> String {
    let mut text = String::new();
    for process in &trace.processes {
        let time = units::time(Duration::from_nanos(process.uncertainty));
        text.push_str(&format!("{} ({}): within {time}\n", process.name, process.pid));
    }
    text
}

/// Reads another machine's clock beside this one's.
pub(crate) fn sample(address: &str) -> anyhow::Result<ClockSample> {
    let read = || -> anyhow::Result<ClockSample> {
        let address = address.to_socket_addrs()?.next().context("no such machine")?;
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let clock = Tracer::off();
        Ok(exchange::sample(stream, clock.clock_id(), || clock.now(), ROUNDS)?)
    };
    read().with_context(|| format!("the clock at {address}"))
}

fn serve(address: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).with_context(|| address.to_owned())?;
    output::print(format!("the clock of this machine is at {}\n", listener.local_addr()?))?;
    for stream in listener.incoming() {
        // Whoever asks and goes is no reason to stop.
        let Ok(stream) = stream else { continue };
        let answer = move || -> anyhow::Result<()> {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let clock = Tracer::off();
            Ok(exchange::serve(stream, clock.clock_id(), || clock.now())?)
        };
        thread::spawn(answer);
    }
    Ok(())
}
