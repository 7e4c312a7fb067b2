//! The binary `gpu-events`, on a GPU that is simulated: `cargo run --bin gpu-events -- pipeline --device metal FILE`.
//!
//! The same program, but that what it must not do ends it with an error: leaving temporaries where no autorelease pool
//! is, or Metal's objects when it is done. For tests, the environment makes the GPU fail: `METAL_SIM_NIL=Buffer:3` has
//! the third new buffer be nil, `METAL_SIM_FAIL=3` the first command buffer end in Metal's error 3, and
//! `METAL_SIM_ZERO_TIMES=1` all its times be zero.

use metal_sim::kernels::{self, Bindings, Grid};
use metal_sim::{Nil, control};
use sha2::{Digest, Sha256};
use std::process::ExitCode;
use std::time::Duration;

const BLOCK: usize = 4096;

fn main() -> ExitCode {
    kernels::register("sha256_blocks", sha256_blocks);
    if let Err(variable) = arrange_failures() {
        eprintln!("metal-sim: what {variable} says makes no sense");
        return ExitCode::FAILURE;
    }
    let outcome = gpu_events_cli::main();
    let unpooled = metal_sim::counters().unpooled_autoreleases;
    if unpooled > 0 {
        eprintln!("metal-sim: {unpooled} autoreleases without a pool");
        return ExitCode::FAILURE;
    }
    // After a failure some of it is leaked, rather than freed under a GPU that may still use it; and `doctor` keeps an
    // event to the end on purpose.
    let is_doctor = std::env::args().nth(1).is_some_and(|command| command == "doctor");
    if outcome == ExitCode::SUCCESS && !is_doctor {
        let idle = metal_sim::settle(Duration::from_secs(10));
        let live = metal_sim::counters().live;
        let left = live.buffers + live.command_buffers + live.encoders + live.pipelines + live.libraries;
        if !idle || left > 0 {
            eprintln!(
                "metal-sim: this is left, and the GPU is {}: {live:?}",
                if idle { "idle" } else { "at work" }
            );
            return ExitCode::FAILURE;
        }
    }
    outcome
}

/// What the kernel of this name in `crates/cli/src/pipeline/sha256.metal` does.
fn sha256_blocks(grid: &Grid, arguments: &mut Bindings<'_>) {
    let length = arguments.read::<u32>(2, 0) as usize;
    for thread in 0..grid.count() {
        let first = thread * BLOCK;
        if first >= length {
            continue;
        }
        let mut block = [0; BLOCK];
        for (at, byte) in (first..length).zip(&mut block) {
            *byte = arguments.read(0, at);
        }
        for (i, byte) in Sha256::digest(block).into_iter().enumerate() {
            arguments.write(1, thread * 32 + i, byte);
        }
    }
}

/// The name of the variable that makes no sense, if one doesn't.
fn arrange_failures() -> Result<(), &'static str> {
    const KINDS: [Nil; 10] = [
        Nil::Device,
        Nil::CommandQueue,
        Nil::SharedEvent,
        Nil::Buffer,
        Nil::Library,
        Nil::Function,
        Nil::Pipeline,
        Nil::CommandBuffer,
        Nil::BlitEncoder,
        Nil::ComputeEncoder,
    ];
    let (nil, fail, zero_times) = ("METAL_SIM_NIL", "METAL_SIM_FAIL", "METAL_SIM_ZERO_TIMES");
    if let Ok(text) = std::env::var(nil) {
        let (name, n) = text.split_once(':').ok_or(nil)?;
        let kind = KINDS.into_iter().find(|kind| format!("{kind:?}") == name).ok_or(nil)?;
        control().nil_at(kind, n.parse().map_err(|_| nil)?);
    }
    if let Ok(code) = std::env::var(fail) {
        control().fail_next(code.parse().map_err(|_| fail)?);
    }
    if std::env::var_os(zero_times).is_some() {
        control().set(|knobs| knobs.zero_times = true);
    }
    Ok(())
}
