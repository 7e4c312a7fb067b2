//! The GPU's part, through CUDA's driver: copies to and from pinned memory, and a kernel. Nothing here orders anything.

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use cudarc::driver::sys;
use gpu_events::cuda::{self, RawContext, RawStream};
use gpu_events::{Device, Stream};

use super::gpu::{Gpu, Shared};
use crate::fsverity::BLOCK;

/// Made of kernels/sha256.cu, which says how.
const PTX: &str = concat!(include_str!("../../kernels/sha256.ptx"), "\0");

/// A chunk takes six recordings, of which a stream takes 256, and at most a dozen entries of the driver's queue, which
/// blocks whoever calls beyond some 1,020 and does not notice Ctrl-C: half of that, since streams share it.
const CHUNKS_AHEAD: usize = 40;

/// A warp: as small as groups get, so that the blocks spread over the whole GPU.
const IN_GROUP: u32 = 32;

pub(super) struct CudaGpu {
    kernel: Kernel,
}

impl CudaGpu {
    pub(super) fn new(device: &Device) -> anyhow::Result<Self> {
        Ok(Self { kernel: Kernel::of(device)? })
    }
}

impl Gpu for CudaGpu {
    type Shared = Pinned;
    type Own = Memory;

    fn shared(&self, bytes: usize) -> anyhow::Result<Pinned> {
        let context = self.kernel.context;
        let mut memory = ptr::null_mut();
        // SAFETY: the call writes to `memory` alone.
        context.call("cuMemHostAlloc", || unsafe { sys::cuMemHostAlloc(&mut memory, bytes, 0) })?;
        let memory = NonNull::new(memory.cast::<u8>()).context("CUDA gave no pinned memory")?;
        // SAFETY: that much is there, and nobody knows of it yet.
        unsafe { memory.write_bytes(0, bytes) };
        Ok(Pinned { context, memory })
    }

    fn own(&self, bytes: usize) -> anyhow::Result<Memory> {
        let context = self.kernel.context;
        let mut memory = 0;
        // SAFETY: the call writes to `memory` alone.
        context.call("cuMemAlloc", || unsafe { sys::cuMemAlloc_v2(&mut memory, bytes) })?;
        Ok(Memory { context, memory })
    }

    fn upload(&self, stream: &Stream, from: &Pinned, to: &Memory, len: usize) -> gpu_events::Result<()> {
        let from = from.memory.as_ptr().cast();
        self.submit(stream, "cuMemcpyHtoDAsync", |stream| {
            // SAFETY: both have as many bytes, and stay until the GPU is through with them; events keep whoever else uses
            // them away.
            unsafe { sys::cuMemcpyHtoDAsync_v2(to.memory, from, len, stream.cast()) }
        })
    }

    fn hash(&self, stream: &Stream, data: &Memory, hashes: &Memory, len: usize) -> gpu_events::Result<()> {
        // All buffers together are less than 4 GiB.
        let len = len as u32;
        self.submit(stream, "cuLaunchKernel", |stream| {
            // SAFETY: the first has so many bytes, rounded up to whole blocks, and the second 32 for each of them; they
            // stay until the GPU is through with them, and events keep whoever else uses them away.
            unsafe { self.kernel.launch(stream, data.memory, hashes.memory, len) }
        })
    }

    fn download(&self, stream: &Stream, from: &Memory, to: &Pinned, len: usize) -> gpu_events::Result<()> {
        let to = to.memory.as_ptr().cast();
        self.submit(stream, "cuMemcpyDtoHAsync", |stream| {
            // SAFETY: as for the upload.
            unsafe { sys::cuMemcpyDtoHAsync_v2(to, from.memory, len, stream.cast()) }
        })
    }

    fn ahead(&self, _stages_on_stream: usize) -> usize {
        CHUNKS_AHEAD
    }

    fn work_retains_memory(&self) -> bool {
        false
    }
}

impl CudaGpu {
    fn submit(
        &self,
        stream: &Stream,
        name: &str,
        call: impl FnOnce(RawStream) -> sys::CUresult,
    ) -> gpu_events::Result<()> {
        let mut held = stream.lock()?;
        let raw = held.cuda()?.raw();
        self.kernel.context.call(name, || call(raw))
    }
}

/// The GPU's primary context, which stays to the end of the process.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Context(RawContext);

// SAFETY: contexts belong to no thread; each makes the one current that it wants.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Makes a call with this context the thread's.
    fn call(self, name: &str, call: impl FnOnce() -> sys::CUresult) -> gpu_events::Result<()> {
        // SAFETY: the context is one, and stays.
        check("cuCtxPushCurrent", unsafe { sys::cuCtxPushCurrent_v2(self.0.cast()) })?;
        let code = call();
        let mut popped = ptr::null_mut();
        // SAFETY: pops what was pushed.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&mut popped) };
        check(name, code)
    }
}

fn check(call: &str, code: sys::CUresult) -> gpu_events::Result<()> {
    if code == sys::CUresult::CUDA_SUCCESS { Ok(()) } else { Err(cuda::error_of(call, code as u32)?) }
}

/// The kernel in a context. It is never unloaded, since it may be at work yet when nobody can tell.
#[derive(Clone, Copy)]
struct Kernel {
    context: Context,
    function: sys::CUfunction,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Kernel {}

impl Kernel {
    fn of(device: &Device) -> anyhow::Result<Self> {
        static LOADED: Mutex<Vec<Kernel>> = Mutex::new(Vec::new());
        let context = Context(cuda::raw_context(device)?);
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = loaded.iter().find(|kernel| kernel.context == context) {
            return Ok(*kernel);
        }
        let kernel = Self::load(context).context("CUDA does not load the kernel")?;
        kernel.warm_up(device).context("CUDA does not run the kernel")?;
        loaded.push(kernel);
        Ok(kernel)
    }

    fn load(context: Context) -> gpu_events::Result<Self> {
        let mut module = ptr::null_mut();
        context.call("cuModuleLoadData", || {
            // SAFETY: a text that ends in a zero; the call writes to `module` alone.
            unsafe { sys::cuModuleLoadData(&mut module, PTX.as_ptr().cast()) }
        })?;
        let mut function = ptr::null_mut();
        context.call("cuModuleGetFunction", || {
            // SAFETY: the module was loaded; the call writes to `function` alone.
            unsafe { sys::cuModuleGetFunction(&mut function, module, c"sha256_blocks".as_ptr()) }
        })?;
        Ok(Self { context, function })
    }

    /// Launches it once, over nothing: the driver may load a kernel only then, which waits for all that is on the GPU.
    fn warm_up(self, device: &Device) -> gpu_events::Result<()> {
        let stream = device.create_stream()?;
        let raw = stream.cuda()?.raw();
        // SAFETY: of no bytes it reads and writes nothing.
        self.context.call("cuLaunchKernel", || unsafe { self.launch(raw, 0, 0, 0) })?;
        stream.record()?.synchronize()
    }

    /// # Safety
    /// The context is current, and the stream one of it. `data` is `len` bytes, rounded up to whole blocks; `hashes` is 32
    /// for each of them; and nobody else uses them until the work is done.
    unsafe fn launch(
        self,
        stream: RawStream,
        mut data: sys::CUdeviceptr,
        mut hashes: sys::CUdeviceptr,
        mut len: u32,
    ) -> sys::CUresult {
        // The last group may go beyond the blocks, which the kernel sees to.
        let groups = len.div_ceil(BLOCK as u32).div_ceil(IN_GROUP).max(1);
        let mut arguments: [*mut c_void; 3] =
            [(&raw mut data).cast(), (&raw mut hashes).cast(), (&raw mut len).cast()];
        // SAFETY: the arguments are as many and as wide as the kernel's, and copied here; the rest the caller promises.
        unsafe {
            sys::cuLaunchKernel(
                self.function,
                groups,
                1,
                1,
                IN_GROUP,
                1,
                1,
                0,
                stream.cast(),
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        }
    }
}

/// Memory of the host's that the GPU copies from and to by itself.
pub(super) struct Pinned {
    context: Context,
    memory: NonNull<u8>,
}

// SAFETY: what is in it is looked at through `bytes` alone.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

impl Shared for Pinned {
    unsafe fn bytes(&self, len: usize) -> &mut [u8] {
        // SAFETY: the caller's promise. Zeros were written there when it was allocated.
        unsafe { slice::from_raw_parts_mut(self.memory.as_ptr(), len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Refused, it would be lost, and there is nobody to tell. SAFETY: it was allocated so, and nobody uses it any more.
        let _ =
            self.context.call("cuMemFreeHost", || unsafe { sys::cuMemFreeHost(self.memory.as_ptr().cast()) });
    }
}

/// Memory of the GPU's.
pub(super) struct Memory {
    context: Context,
    memory: sys::CUdeviceptr,
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: as for pinned memory.
        let _ = self.context.call("cuMemFree", || unsafe { sys::cuMemFree_v2(self.memory) });
    }
}
