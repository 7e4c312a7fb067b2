//! Something for the sanitizers to find, to see that they look: `cargo run --bin planted -- tsan` or `asan`.
//!
//! It is what a client of Metal gets wrong: two command buffers write the same memory with no event between them, or
//! the host reads a buffer's contents after the buffer is gone.

use metal_sim::{Chance, control, settle};
use objc2::rc::autoreleasepool;
use objc2_foundation::NSRange;
use objc2_metal::{
    MTLBlitCommandEncoder, MTLBuffer, MTLCommandBuffer, MTLCommandEncoder, MTLCommandQueue,
    MTLCreateSystemDefaultDevice, MTLDevice, MTLResourceOptions,
};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("tsan") => autoreleasepool(|_| race()),
        Some("asan") => autoreleasepool(|_| use_after_free()),
        _ => {
            eprintln!("what to plant: tsan or asan");
            return ExitCode::FAILURE;
        }
    }
    settle(Duration::from_secs(10));
    ExitCode::SUCCESS
}

/// Two fills of the same buffer, of two queues.
fn race() {
    control().set(|knobs| knobs.overlap = Chance::Never);
    let device = MTLCreateSystemDefaultDevice().expect("the simulated device");
    let memory =
        device.newBufferWithLength_options(4096, MTLResourceOptions::StorageModeShared).expect("memory");
    let begin = control().hold_begin();
    let buffers = [1, 2].map(|value| {
        let buffer =
            device.newCommandQueue().and_then(|queue| queue.commandBuffer()).expect("a command buffer");
        let blit = buffer.blitCommandEncoder().expect("an encoder");
        blit.fillBuffer_range_value(&memory, NSRange::new(0, 4096), value);
        blit.endEncoding();
        buffer.commit();
        buffer
    });
    drop(begin);
    buffers.iter().for_each(|buffer| buffer.waitUntilCompleted());
}

/// A look at memory that was the GPU's.
fn use_after_free() {
    let device = MTLCreateSystemDefaultDevice().expect("the simulated device");
    let memory =
        device.newBufferWithLength_options(4096, MTLResourceOptions::StorageModeShared).expect("memory");
    let contents = memory.contents().cast::<u8>();
    drop(memory);
    // SAFETY: none. That is what is planted.
    println!("{}", unsafe { contents.read_volatile() });
}
