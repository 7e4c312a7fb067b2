//! Upload, compute and download on a GPU: three streams, three buffers, and events alone to keep them in order.
//! `cargo run --release -p gpu-events --example metal_overlap`

#[cfg(not(any(target_vendor = "apple", gpu_events_metal_sim)))]
pub(crate) fn main() {
    println!("There is no Metal here: it is on Apple's systems alone.");
}

#[cfg(any(target_vendor = "apple", gpu_events_metal_sim))]
pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    // For the temporaries that Metal's methods leave behind. Programs that run for long have a pool for each turn.
    objc2::rc::autoreleasepool(|_| on_gpu::overlap())
}

#[cfg(any(target_vendor = "apple", gpu_events_metal_sim))]
mod on_gpu {
    use gpu_events::{Device, Event, Stream, metal};
    use objc2::{rc::Retained, runtime::ProtocolObject};
    use objc2_foundation::NSString;
    use objc2_metal::{MTLResourceOptions as Options, *};

    const CHUNKS: usize = 24;
    const SLOTS: usize = 3;
    const NUMBERS: usize = 64 * 1024;
    const BYTES: usize = NUMBERS * size_of::<u32>();
    const KERNEL: &str = "#include <metal_stdlib>
        using namespace metal;
        kernel void add_one(device uint *numbers [[buffer(0)]], uint i [[thread_position_in_grid]]) {
            numbers[i] += 1;
        }";
    type Buffer = Retained<ProtocolObject<dyn MTLBuffer>>;

    pub(crate) fn overlap() -> Result<(), Box<dyn std::error::Error>> {
        let device = Device::open("metal")?;
        let gpu = metal::raw_device(&device)?;
        let library = gpu.newLibraryWithSource_options_error(&NSString::from_str(KERNEL), None)?;
        let add_one = library.newFunctionWithName(&NSString::from_str("add_one")).ok_or("no add_one")?;
        let add_one = gpu.newComputePipelineStateWithFunction_error(&add_one)?;
        // With its own tracking off, Metal keeps nothing in order by itself. The events below do.
        let untracked = Options::HazardTrackingModeUntracked;
        let buffer = |kind| gpu.newBufferWithLength_options(BYTES, kind | untracked).ok_or("no memory");
        // What the host writes, what the GPU works on, and what the host reads.
        let (shared, private) = (Options::StorageModeShared, Options::StorageModePrivate);
        let slot = |_| Ok::<_, &str>([buffer(shared)?, buffer(private)?, buffer(shared)?]);
        let slots = (0..SLOTS).map(slot).collect::<Result<Vec<_>, _>>()?;

        let [upload, compute, download] = [0; 3].map(|_| device.create_stream());
        let (upload, compute, download) = (upload?, compute?, download?);
        let start = upload.record_timed()?;
        let mut downloaded: Vec<Event> = Vec::new();
        for chunk in 0..CHUNKS + SLOTS {
            let [input, numbers, output] = &slots[chunk % SLOTS];
            if let Some(before) = chunk.checked_sub(SLOTS) {
                // The one place where the host waits: for the chunk that had this slot before. Two more are under way.
                downloaded[before].synchronize()?;
                // SAFETY: the download is complete, and nothing was submitted since that writes there.
                let result = unsafe { &*contents(output) };
                assert!(result.iter().all(|&number| number as usize == before + 1), "chunk {before}");
            }
            let Some(number) = (chunk < CHUNKS).then_some(chunk as u32) else { continue };
            // SAFETY: the upload that last read this came before the download that the host has waited for.
            unsafe { &mut *contents(input) }.fill(number);
            copy(&upload, input, numbers)?;
            compute.wait(&upload.record()?)?; // on the GPU, as all that follows: the host goes on at once
            compute.metal()?.encode(|commands| {
                let encoder = commands.computeCommandEncoder().expect("a compute encoder");
                encoder.setComputePipelineState(&add_one);
                // SAFETY: what the kernel takes, and as long as the grid below.
                unsafe { encoder.setBuffer_offset_atIndex(Some(numbers), 0, 0) };
                let line = |width| MTLSize { width, height: 1, depth: 1 };
                encoder.dispatchThreadgroups_threadsPerThreadgroup(line(NUMBERS / 64), line(64));
                encoder.endEncoding();
            })?;
            download.wait(&compute.record()?)?;
            copy(&download, numbers, output)?;
            downloaded.push(download.record_timed()?);
        }
        // Not every driver has a time for a buffer with no work in it, such as the start's.
        let took = downloaded[CHUNKS - 1].elapsed_since(&start);
        let took = took.map_or_else(|error| error.to_string(), |took| took.to_string());
        println!("{CHUNKS} chunks of {BYTES} bytes went up, through the GPU and down: {took}.");
        Ok(())
    }

    fn copy(stream: &Stream, from: &Buffer, to: &Buffer) -> gpu_events::Result<()> {
        stream.metal()?.encode(|commands| {
            let blit = commands.blitCommandEncoder().expect("a blit encoder");
            // SAFETY: both have so many bytes; the command buffer retains them.
            unsafe {
                blit.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(from, 0, to, 0, BYTES)
            };
            blit.endEncoding();
        })
    }

    /// What the host sees of a shared buffer.
    fn contents(buffer: &Buffer) -> *mut [u32] {
        std::ptr::slice_from_raw_parts_mut(buffer.contents().as_ptr().cast(), NUMBERS)
    }
}
