//! The kernels of `kernels/conformance.cu`, on a real GPU.

use super::Made;
use cudarc::driver::sys;
use gpu_events::{
    Device, Error, ErrorKind, Result, Signal,
    cuda::{self, RawContext, RawStream},
};
use std::{
    ffi::{CStr, CString, c_void},
    ptr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

const PTX: &str = include_str!("../../kernels/conformance.ptx");

/// The kernels, loaded into a GPU's primary context, and what else a test needs of the driver.
#[derive(Debug)]
pub struct Kernels {
    context: RawContext,
    set: sys::CUfunction,
    copy: sys::CUfunction,
    spin: sys::CUfunction,
    timed: sys::CUfunction,
    until: sys::CUfunction,
    trap: sys::CUfunction,
    illegal: sys::CUfunction,
    /// Pinned memory to give out, since to allocate some waits for what is on the GPU.
    arena: Mutex<(*mut u64, usize)>,
}

/// What a process of tests needs of it.
const ARENA: usize = 8 << 20;

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Kernels {}
// SAFETY: as for `Send`.
unsafe impl Sync for Kernels {}

fn check(call: &str, result: sys::CUresult) -> Result<()> {
    match result {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        other => Err(Error::with_text(ErrorKind::Driver, format!("{call}: {other:?}"))),
    }
}

/// How many GPUs the driver has. A device is open.
pub(super) fn count() -> Result<u32> {
    let mut count = 0;
    // SAFETY: the driver was loaded with the first device; the call writes to `count` alone.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) })?;
    Ok(count.max(0).unsigned_abs())
}

/// The thread has the context until this goes.
struct Current;

impl Drop for Current {
    fn drop(&mut self) {
        let mut popped = ptr::null_mut();
        // SAFETY: pops what was pushed.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&mut popped) };
    }
}

impl Kernels {
    /// The kernels on the GPU with this number.
    ///
    /// # Errors
    /// What the driver refused.
    pub fn of(ordinal: u32) -> Result<&'static Self> {
        static MADE: Made<Kernels> = Mutex::new(Vec::new());
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, kernels)) = made.iter().find(|(number, _)| *number == ordinal) {
            return Ok(kernels);
        }
        let kernels: &'static Self = Box::leak(Box::new(Self::load(&cuda::open(ordinal, Signal::Cheap)?)?));
        made.push((ordinal, kernels));
        Ok(kernels)
    }

    fn load(device: &Device) -> Result<Self> {
        let context = cuda::raw_context(device)?;
        let _current = Self::enter(context)?;
        let ptx = CString::new(PTX)
            .map_err(|error| Error::with_text(ErrorKind::InvalidArgument, error.to_string()))?;
        let mut module = ptr::null_mut();
        // SAFETY: a text that ends in a zero; the call writes to `module` alone.
        check("cuModuleLoadData", unsafe {
            sys::cuModuleLoadData(&mut module, ptx.as_ptr().cast::<c_void>())
        })?;
        let function = |name: &CStr| -> Result<sys::CUfunction> {
            let mut function = ptr::null_mut();
            // SAFETY: the module was loaded; the call writes to `function` alone.
            let found = unsafe { sys::cuModuleGetFunction(&mut function, module, name.as_ptr()) };
            check("cuModuleGetFunction", found).map(|()| function)
        };
        let kernels = Self {
            context,
            set: function(c"set")?,
            copy: function(c"copy")?,
            spin: function(c"spin")?,
            timed: function(c"timed")?,
            until: function(c"until")?,
            trap: function(c"trap")?,
            illegal: function(c"illegal")?,
            arena: Mutex::new((Self::allocate()?, ARENA / 8)),
        };
        // Once each, since a kernel may be loaded only when it is first launched, which waits for everything on the GPU.
        let stream = kernels.make_stream()?;
        let cells: *mut u32 = kernels.shared_memory(64)?.cast();
        kernels.set(stream, cells, 1)?;
        kernels.copy(stream, cells, cells.wrapping_add(1))?;
        kernels.spin(stream, Duration::ZERO)?;
        kernels.timed(stream, Duration::ZERO, cells.wrapping_add(2).cast())?;
        kernels.until(stream, cells)?;
        // SAFETY: the stream was made just now.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(stream.cast()) })?;
        Ok(kernels)
    }

    fn enter(context: RawContext) -> Result<Current> {
        // SAFETY: the context is the primary one, which the device keeps.
        check("cuCtxPushCurrent", unsafe { sys::cuCtxPushCurrent_v2(context.cast()) })?;
        Ok(Current)
    }

    fn launch(
        &self,
        function: sys::CUfunction,
        stream: RawStream,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        let _current = Self::enter(self.context)?;
        // SAFETY: one thread; the arguments are as many and as wide as the kernel's.
        check("cuLaunchKernel", unsafe {
            sys::cuLaunchKernel(
                function,
                1,
                1,
                1,
                1,
                1,
                1,
                0,
                stream.cast(),
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        })
    }

    fn allocate() -> Result<*mut u64> {
        let mut memory = ptr::null_mut();
        // SAFETY: the call writes to `memory` alone. Portable and mapped.
        check("cuMemHostAlloc", unsafe { sys::cuMemHostAlloc(&mut memory, ARENA, 3) })?;
        // SAFETY: that much is there, and nobody knows of it yet.
        unsafe { ptr::write_bytes(memory.cast::<u8>(), 0, ARENA) };
        Ok(memory.cast())
    }

    /// Pinned memory, zeroed, never given back.
    ///
    /// # Errors
    /// [`ErrorKind::Resources`] if there is no more of it.
    pub fn shared_memory(&self, size: usize) -> Result<*mut u64> {
        let mut arena = self.arena.lock().unwrap_or_else(PoisonError::into_inner);
        let words = size.div_ceil(8);
        let (next, left) = *arena;
        let left = left.checked_sub(words).ok_or(ErrorKind::Resources)?;
        *arena = (next.wrapping_add(words), left);
        Ok(next)
    }

    /// A stream as another library would make it.
    ///
    /// # Errors
    /// What the driver refused.
    pub fn make_stream(&self) -> Result<RawStream> {
        let _current = Self::enter(self.context)?;
        let mut stream = ptr::null_mut();
        // SAFETY: the call writes to `stream` alone. Non-blocking.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut stream, 1) })?;
        Ok(stream.cast())
    }

    /// Stores a value.
    ///
    /// # Errors
    /// What the driver refused.
    pub fn set(&self, stream: RawStream, cell: *mut u32, value: u32) -> Result<()> {
        let (mut cell, mut value) = (cell, value);
        self.launch(self.set, stream, &mut [(&raw mut cell).cast(), (&raw mut value).cast()])
    }

    /// Copies a value.
    ///
    /// # Errors
    /// What the driver refused.
    pub fn copy(&self, stream: RawStream, from: *mut u32, to: *mut u32) -> Result<()> {
        let (mut from, mut to) = (from, to);
        self.launch(self.copy, stream, &mut [(&raw mut from).cast(), (&raw mut to).cast()])
    }

    /// Takes at least so long.
    ///
    /// # Errors
    /// What the driver refused.
    pub fn spin(&self, stream: RawStream, time: Duration) -> Result<()> {
        let mut nanos = time.as_nanos() as u64;
        self.launch(self.spin, stream, &mut [(&raw mut nanos).cast()])
    }

    /// As [`spin`](Self::spin), and stores when it began and ended, by the GPU's clock.
    ///
    /// # Errors
    /// What the driver refused.
    pub fn timed(&self, stream: RawStream, time: Duration, times: *mut u64) -> Result<()> {
        let (mut nanos, mut times) = (time.as_nanos() as u64, times);
        self.launch(self.timed, stream, &mut [(&raw mut nanos).cast(), (&raw mut times).cast()])
    }

    /// Goes on once `flag` is not zero.
    ///
    /// # Errors
    /// What the driver refused.
    pub fn until(&self, stream: RawStream, flag: *mut u32) -> Result<()> {
        let mut flag = flag;
        self.launch(self.until, stream, &mut [(&raw mut flag).cast()])
    }

    /// Breaks the context by a trap.
    ///
    /// # Errors
    /// What the driver refused.
    pub fn trap(&self, stream: RawStream) -> Result<()> {
        self.launch(self.trap, stream, &mut [])
    }

    /// Breaks the context by writing where nothing is.
    ///
    /// # Errors
    /// What the driver refused.
    pub fn illegal(&self, stream: RawStream) -> Result<()> {
        let mut nowhere = 0x10_u64;
        self.launch(self.illegal, stream, &mut [(&raw mut nowhere).cast()])
    }
}
