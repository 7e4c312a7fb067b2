//! What is measured on a Vulkan device, each figure beside raw Vulkan's, taken in turn with it in the same run:
//!
//! - `costs`: recording, asking, waiting and submitting, beside `vkQueueSubmit` and `vkGetSemaphoreCounterValue`
//! - `pieces`: a thousand pieces of work, recorded behind and not
//! - `waits`: from submitting work to a thread, a callback or a task knowing that it is done
//! - `idle`: CPU time while everything is pending
//! - `polls`: asking for a thousand pending events
//! - `handover`: from stream to stream, and from device to device
//! - `time`: times of events beside the host's clock
//!
//! With no argument, all of them. Prints Markdown.

#[cfg(all(feature = "vulkan", target_os = "linux"))]
mod bench;
#[cfg(all(feature = "vulkan", target_os = "linux"))]
mod costs;
#[cfg(all(feature = "vulkan", target_os = "linux"))]
mod handover;
#[cfg(all(feature = "vulkan", target_os = "linux"))]
mod idle;
#[cfg(all(feature = "vulkan", target_os = "linux"))]
#[path = "../measuring/mod.rs"]
mod measuring;
#[cfg(all(feature = "vulkan", target_os = "linux"))]
mod pieces;
#[cfg(all(feature = "vulkan", target_os = "linux"))]
mod report;
#[cfg(all(feature = "vulkan", target_os = "linux"))]
mod time;
#[cfg(all(feature = "vulkan", target_os = "linux"))]
mod waits;

#[cfg(all(feature = "vulkan", target_os = "linux"))]
fn run(arguments: &[String]) -> gpu_events::Result<()> {
    type Part = fn(&bench::Bench) -> gpu_events::Result<()>;
    let parts: [(&str, Part); 7] = [
        ("costs", costs::run),
        ("pieces", pieces::run),
        ("waits", waits::run),
        ("idle", idle::run),
        ("polls", costs::polls),
        ("handover", handover::run),
        ("time", time::run),
    ];
    let known = |name: &String| parts.iter().any(|part| part.0 == name);
    if !arguments.iter().all(known) {
        let usage = "any of costs | pieces | waits | idle | polls | handover | time";
        return Err(gpu_events::Error::with_text(gpu_events::ErrorKind::InvalidArgument, usage));
    }
    measuring::watch(|| ())?;
    let bench = bench::Bench::new()?;
    for (name, part) in parts {
        if arguments.is_empty() || arguments.iter().any(|argument| argument == name) {
            let begun = std::time::Instant::now();
            println!("\n## {name}");
            part(&bench)?;
            eprintln!("{name}: {:.1} s", begun.elapsed().as_secs_f64());
        }
    }
    Ok(())
}

#[cfg(all(feature = "vulkan", target_os = "linux"))]
fn main() -> std::process::ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FAILED: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(not(all(feature = "vulkan", target_os = "linux")))]
fn main() -> std::process::ExitCode {
    eprintln!("built without Vulkan, or for a system where threads' CPU times are not read here");
    std::process::ExitCode::FAILURE
}
