//! Metal devices as subjects.

use crate::{Adopted, Cells, Stop, Subject, Verdict};
use gpu_events::{Device, Error, ErrorKind, Result, Stream, StreamOptions, metal};
use objc2::{
    rc::{Retained, Weak, autoreleasepool},
    runtime::ProtocolObject,
};
use objc2_metal::{
    MTLBlitCommandEncoder, MTLBuffer, MTLCommandBuffer, MTLCommandEncoder, MTLDevice, MTLEvent,
    MTLResourceOptions, MTLSharedEvent,
};
use std::{
    fmt,
    ptr::NonNull,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

type Buffer = ProtocolObject<dyn MTLBuffer>;

/// A Metal device under test: what can be had from any GPU, without harm to the screen that it may drive.
#[derive(Clone, Debug)]
pub struct MetalSubject {
    device: String,
}

impl MetalSubject {
    /// The Metal device of this name, such as `metal` or `metal:1`.
    pub fn new(device: impl Into<String>) -> Self {
        Self { device: device.into() }
    }
}

impl Default for MetalSubject {
    fn default() -> Self {
        Self::new("metal")
    }
}

impl Subject for MetalSubject {
    fn name(&self) -> String {
        self.device.clone()
    }

    fn open(&self) -> Verdict<Device> {
        Ok(Device::open(&self.device)?)
    }

    fn open_second(&self, first: &Device) -> Verdict<Device> {
        let other = if first.name() == "metal:1" { "metal:0" } else { "metal:1" };
        Device::open(other).map_err(|_| Stop::skip("there is only one GPU"))
    }

    fn cells(&self, device: &Device, count: usize) -> Verdict<Arc<dyn Cells>> {
        Ok(Arc::new(MetalCells::new(device, count)?))
    }

    /// Without a kernel whose speed nobody knows: the GPU says that it has come here, and waits for a time that begins
    /// then.
    fn busy(&self, stream: &Stream, time: Duration) -> Verdict {
        let gpu = metal::raw_device(stream.device())?;
        let event = autoreleasepool(|_| gpu.newSharedEvent()).ok_or_else(|| no("shared event"))?;
        stream.metal()?.encode(|commands| {
            let event: &ProtocolObject<dyn MTLEvent> = ProtocolObject::from_ref(&*event);
            commands.encodeSignalEvent_value(event, 1);
            commands.encodeWaitForEvent_value(event, 2);
        })?;
        let timer = move || {
            while !autoreleasepool(|_| event.waitUntilSignaledValue_timeoutMS(1, 1_000)) {}
            // Nobody sends: it is a way to let the time pass.
            let (_nobody, nothing) = mpsc::channel::<()>();
            let _ = nothing.recv_timeout(time);
            autoreleasepool(|_| event.setSignaledValue(2));
        };
        match thread::Builder::new().spawn(timer) {
            Ok(_) => Ok(()),
            Err(error) => Err(Stop::fail(format_args!("no thread: {error}"))),
        }
    }

    fn fail(&self, _stream: &Stream) -> Verdict {
        Err(Stop::skip(
            "work that fails for certain hangs the GPU, and the screen with it, until Metal ends it",
        ))
    }

    fn panic(&self, _stream: &Stream, _text: &'static str) -> Verdict {
        Err(Stop::skip("a GPU's work cannot panic"))
    }

    fn refuse_submission(&self, _stream: &Stream) -> Verdict {
        Err(Stop::skip("Metal's commit has no way to refuse"))
    }

    fn lose(&self, _device: &Device) -> Verdict {
        Err(Stop::skip("a GPU cannot be removed on demand"))
    }

    fn adopt(&self, device: &Device, adopter: &Device) -> Verdict<Result<Adopted>> {
        let gpu = metal::raw_device(device)?;
        autoreleasepool(|_| {
            let queue = gpu.newCommandQueue().ok_or_else(|| no("command queue"))?;
            let weak = Watch(Weak::from_retained(&queue));
            let is_alive = Box::new(move || weak.is_alive());
            Ok(metal::adopt_queue(adopter, queue, &StreamOptions::new())
                .map(|stream| Adopted { stream, is_alive }))
        })
    }

    fn value_gap(&self, _device: &Device) -> Verdict<u64> {
        Err(Stop::skip("Metal states no limit to the distance between a shared event's values"))
    }
}

/// Whether an object is still there.
struct Watch<T: ?Sized>(Weak<T>);

// SAFETY: Metal's queues may be retained and released on any thread, and a weak reference does no more.
unsafe impl<T: ?Sized> Send for Watch<T> {}

impl<T: objc2::Message> Watch<T> {
    fn is_alive(&self) -> bool {
        autoreleasepool(|_| self.0.load().is_some())
    }
}

fn no(what: &str) -> Error {
    Error::with_text(ErrorKind::Resources, format!("Metal gave no {what}"))
}

/// A buffer that host and GPU share.
struct MetalCells {
    gpu: Retained<ProtocolObject<dyn MTLDevice>>,
    buffer: Retained<Buffer>,
    count: usize,
    /// The values on their way, to be kept no longer than the cells are.
    values: Mutex<Vec<(u32, Shareable)>>,
}

#[derive(Clone)]
struct Shareable(Retained<Buffer>);

// SAFETY: Metal's resources may be used from any thread, and what is in them is only reached through atomics.
unsafe impl Send for Shareable {}

// SAFETY: as above, for the buffer itself; everything else is `Send` and `Sync` by itself.
unsafe impl Send for MetalCells {}

// SAFETY: as for `Send`.
unsafe impl Sync for MetalCells {}

const CELL: usize = size_of::<u32>();

impl MetalCells {
    fn new(device: &Device, count: usize) -> Result<Self> {
        let gpu = metal::raw_device(device)?;
        let length = count.max(1) * CELL;
        // Metal's buffers come zeroed.
        let buffer = autoreleasepool(|_| {
            gpu.newBufferWithLength_options(length, MTLResourceOptions::StorageModeShared)
        });
        let buffer = buffer.ok_or_else(|| no("buffer"))?;
        Ok(Self { gpu, buffer, count, values: Mutex::default() })
    }

    /// A buffer with this value in it.
    fn value(&self, value: u32) -> Result<Shareable> {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = values.iter().find(|(known, _)| *known == value) {
            return Ok(known.clone());
        }
        let made = autoreleasepool(|_| {
            let bytes = NonNull::from(&value).cast();
            // SAFETY: that many bytes are there, and they are copied.
            unsafe {
                self.gpu.newBufferWithBytes_length_options(bytes, CELL, MTLResourceOptions::StorageModeShared)
            }
        });
        let made = Shareable(made.ok_or_else(|| no("buffer"))?);
        values.push((value, made.clone()));
        Ok(made)
    }

    fn blit(&self, stream: &Stream, from: &Buffer, at: usize, to: usize) -> Result<()> {
        assert!(to < self.count, "there is no such cell");
        stream.metal()?.encode(|commands| {
            let blit = commands.blitCommandEncoder().ok_or_else(|| no("blit encoder"))?;
            // SAFETY: both ranges lie within their buffers.
            unsafe {
                blit.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(
                    from,
                    at * CELL,
                    &self.buffer,
                    to * CELL,
                    CELL,
                );
            }
            blit.endEncoding();
            Ok(())
        })?
    }
}

impl Cells for MetalCells {
    fn write(&self, stream: &Stream, cell: usize, value: u32) -> Result<()> {
        let value = self.value(value)?;
        self.blit(stream, &value.0, 0, cell)
    }

    fn copy(&self, stream: &Stream, from: usize, to: usize) -> Result<()> {
        assert!(from < self.count, "there is no such cell");
        self.blit(stream, &self.buffer, from, to)
    }

    fn read(&self, cell: usize) -> u32 {
        assert!(cell < self.count, "there is no such cell");
        let contents = autoreleasepool(|_| self.buffer.contents()).cast::<u32>();
        // SAFETY: the cell is within the buffer.
        let cell = unsafe { contents.add(cell) };
        // SAFETY: the memory is there for as long as the buffer, aligned, and the host only ever reads it, like this.
        let cell = unsafe { AtomicU32::from_ptr(cell.as_ptr()) };
        // Relaxed: that a value is seen must come from the event that ordered it (R8), not from the cell.
        cell.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for MetalCells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetalCells").field("count", &self.count).finish_non_exhaustive()
    }
}
