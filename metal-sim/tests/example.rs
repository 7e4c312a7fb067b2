//! The library's example for Metal, with a stand-in for its kernel.

#[path = "../../crates/gpu-events/examples/metal_overlap.rs"]
mod metal_overlap;

use metal_sim::kernels::{self, Bindings, Grid};

#[test]
fn metal_overlap_runs() {
    let _alone = metal_sim::exclusive();
    kernels::register("add_one", |grid: &Grid, arguments: &mut Bindings<'_>| {
        for thread in 0..grid.count() {
            let number: u32 = arguments.read(0, thread);
            arguments.write(0, thread, number + 1);
        }
    });
    metal_overlap::main().expect("every number is one larger");
}
