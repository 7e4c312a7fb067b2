//! What is measured on a GPU, each figure beside the raw driver's, taken in turn with it in the same run:
//!
//! - `costs`: recording, status, polling, beside `cuEventRecord`, `cuStreamWriteValue64` and `cuEventQuery`
//! - `gates`: what goes on while streams wait for the host, and which streams share a connection
//! - `waits`: from opening a gate to the host knowing what was behind it
//! - `latency`: from a kernel's end to a callback or a task, with nobody asking
//! - `clock`: times beside the kernels' own `%globaltimer`; `clock --minutes 10 [--paused]`
//!
//! `examples/torch_events.py` has PyTorch's figures.

#[cfg(all(feature = "cuda", unix))]
mod clock;
#[cfg(all(feature = "cuda", unix))]
mod costs;
#[cfg(all(feature = "cuda", unix))]
mod gates;
#[cfg(all(feature = "cuda", unix))]
mod latency;
#[cfg(all(feature = "cuda", unix))]
mod measure;
#[cfg(all(feature = "cuda", unix))]
#[path = "../measuring/mod.rs"]
mod measuring;
#[cfg(all(feature = "cuda", unix))]
mod waits;

#[cfg(all(feature = "cuda", unix))]
fn run(arguments: &[&str]) -> gpu_events::Result<()> {
    let usage = || {
        gpu_events::Error::with_text(
            gpu_events::ErrorKind::InvalidArgument,
            "costs | gates | waits | latency | clock [--minutes N [--paused]]",
        )
    };
    match arguments {
        ["costs"] => costs::run(&measure::Bench::new()?),
        ["gates"] => gates::run(&measure::Bench::new()?),
        ["waits"] => waits::run(&measure::Bench::new()?),
        ["latency"] => latency::run(&measure::Bench::new()?),
        ["clock"] => clock::run(&measure::Bench::new()?),
        ["clock", "--minutes", minutes, rest @ ..] => {
            let minutes = minutes.parse::<f64>().ok().filter(|it| (0.0..=600.0).contains(it));
            let paused = match rest {
                [] => false,
                ["--paused"] => true,
                _ => return Err(usage()),
            };
            clock::long(&measure::Bench::new()?, minutes.ok_or_else(usage)?, paused)
        }
        _ => Err(usage()),
    }
}

#[cfg(all(feature = "cuda", unix))]
fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            // With a gate left closed, the driver would wait for it at the end of the process.
            measure::open_all();
            eprintln!("FAILED: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(not(all(feature = "cuda", unix)))]
fn main() -> std::process::ExitCode {
    eprintln!("built without CUDA, or for a system that has no clocks of a thread's CPU time here");
    std::process::ExitCode::FAILURE
}
