//! Compute passes of wgpu's, and what they come to.

use crate::{Result, Shared};
use wgpu::BufferUsages as Usages;

/// How many numbers there are.
const NUMBERS: u32 = 64 * 1024;

/// How many steps a pass does for each number.
const STEPS: u32 = 256;

const KERNEL: &str = "
    @group(0) @binding(0) var<storage, read_write> numbers: array<u32>;
    override steps: u32;

    @compute @workgroup_size(64)
    fn advance(@builtin(global_invocation_id) id: vec3<u32>) {
        var number = numbers[id.x];
        for (var i = 0u; i < steps; i++) {
            number = number * 1664525u + 1013904223u;
        }
        numbers[id.x] = number;
    }";

/// Numbers on the GPU, the passes that advance each of them, and a buffer to read them from.
#[derive(Debug)]
pub struct Passes {
    numbers: wgpu::Buffer,
    output: wgpu::Buffer,
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
}

impl Passes {
    /// Numbers that are all zero.
    pub fn new(shared: &Shared) -> Self {
        let device = &shared.wgpu;
        let buffer = |label, usage| {
            let size = u64::from(NUMBERS) * 4;
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage,
                mapped_at_creation: false,
            })
        };
        let numbers = buffer("numbers", Usages::STORAGE | Usages::COPY_SRC);
        let output = buffer("output", Usages::MAP_READ | Usages::COPY_DST);
        let kernel = wgpu::ShaderSource::Wgsl(KERNEL.into());
        let module = device
            .create_shader_module(wgpu::ShaderModuleDescriptor { label: Some("advance"), source: kernel });
        let constants = [("steps", f64::from(STEPS))];
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("advance"),
            layout: None,
            module: &module,
            entry_point: Some("advance"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                ..Default::default()
            },
            cache: None,
        });
        let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("numbers"),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: numbers.as_entire_binding() }],
        });
        Self { numbers, output, pipeline, bindings }
    }

    /// A pass, and a copy of what it leaves, for [`Self::read`].
    pub fn encode(&self, shared: &Shared) -> wgpu::CommandBuffer {
        let mut encoder = shared.wgpu.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, &self.bindings, &[]);
            pass.dispatch_workgroups(NUMBERS / 64, 1, 1);
        }
        encoder.copy_buffer_to_buffer(&self.numbers, 0, &self.output, 0, self.output.size());
        encoder.finish()
    }

    /// What the last pass has left. Waits for nothing: that the pass is done is for an event to say.
    ///
    /// # Errors
    /// If it is not done.
    pub fn read(&self, shared: &Shared) -> Result<Vec<u32>> {
        shared.read(&self.output)
    }

    /// What each number is after so many passes.
    pub fn expected(passes: u32) -> u32 {
        (0..passes * STEPS)
            .fold(0, |number: u32, _| number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223))
    }
}
