//! Streams and events of cudarc 0.19 as they are, kept alive by their own `Arc`s. With the feature `cudarc-0_19`.
//!
//! For programs that use cudarc, or what is made of it, such as candle, whose CUDA device hands out the `CudaStream` that it
//! works on: work goes on being given to cudarc's stream, and events, waits and failure come from here. A later cudarc,
//! whose types are others, gets a module and a feature of its own. Which version of CUDA cudarc is built for, and how it is
//! linked, stays its user's choice.
//!
//! ```
//! use cudarc::driver::CudaContext;
//! use gpu_events::{Device, StreamOptions, cuda::cudarc_0_19 as adapter};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # if Device::open("cuda").is_err() { return Ok(()) }
//!
//! let device = Device::open("cuda:0")?;
//! let copies = CudaContext::new(0)?.new_stream()?;
//! let events = adapter::adopt_stream(&device, copies.clone(), &StreamOptions::new().label("copies"))?;
//!
//! let numbers = copies.clone_htod(&[1, 2, 3])?; // cudarc's work, on cudarc's stream
//! let copied = events.record()?; // our event, right behind it
//! device.create_stream()?.wait(&copied)?; // on the GPU
//! copied.synchronize()?; // or with a timeout, or awaited, or called back by
//! # drop(numbers);
//! # Ok(())
//! # }
//! ```

use super::{adopt_stream as adopt_raw, import_event as import_raw, raw_context};
use crate::{
    device::Device,
    error::{Error, ErrorKind, Result},
    event::Event,
    stream::{Stream, StreamOptions},
};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream};
use std::sync::Arc;

/// Makes a stream of ours around one of cudarc's: made by it, wrapped by it, its default stream or its per-thread one.
///
/// The `Arc` is held until the stream's last handle, event and waiter has gone. Hold the returned stream
/// ([`Stream::lock`]) while you give work to cudarc's from several threads, to keep that and the event that marks it together.
/// As for the per-thread stream, see [`cuda::adopt_stream`](super::adopt_stream).
///
/// # Errors
/// [`ErrorKind::WrongDevice`] if it is of another GPU, or not of the primary context (`CudaContext::new` has that one);
/// otherwise as [`cuda::adopt_stream`](super::adopt_stream).
pub fn adopt_stream(device: &Device, stream: Arc<CudaStream>, options: &StreamOptions) -> Result<Stream> {
    check_context(device, stream.context())?;
    let raw = stream.cu_stream().cast();
    // SAFETY: it is a stream of this context for as long as its `Arc` is held.
    unsafe { adopt_raw(device, raw, stream, options) }
}

/// Makes an event of one that cudarc recorded, for its recording of this moment; see
/// [`cuda::import_event`](super::import_event). The `Arc` is held until the last event and waiter has gone.
///
/// # Errors
/// [`ErrorKind::WrongDevice`] if it is of another GPU, or not of the primary context; otherwise as
/// [`cuda::import_event`](super::import_event).
pub fn import_event(device: &Device, event: Arc<CudaEvent>) -> Result<Event> {
    check_context(device, event.context())?;
    let raw = event.cu_event().cast();
    // SAFETY: it is an event of this context for as long as its `Arc` is held.
    unsafe { import_raw(device, raw, event) }
}

/// The other way round: a stream of ours as cudarc's, to give work to through cudarc.
///
/// ```
/// use cudarc::driver::CudaContext;
/// use gpu_events::{Device, cuda::cudarc_0_19 as adapter};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # if Device::open("cuda").is_err() { return Ok(()) }
///
/// let stream = Device::open("cuda:0")?.create_stream()?;
/// // SAFETY: the stream outlives what is made with the wrapper, which all stays on it.
/// let theirs = unsafe { adapter::wrap_stream(&stream, &CudaContext::new(0)?) }?;
/// let numbers = theirs.clone_htod(&[1, 2, 3])?;
/// stream.record()?.synchronize()?;
/// # drop(numbers);
/// # Ok(())
/// # }
/// ```
///
/// # Safety
/// - `stream`, or an event that was recorded on it, is there for as long as the wrapper and all that was made with it
///   (every `CudaSlice` holds its stream). What cudarc does on it later happens on whoever's stream it is then; and one that
///   you had adopted may be gone.
/// - cudarc does not count this stream among its context's. While that has no others (`is_in_multi_stream_mode`), cudarc
///   orders nothing between this stream and the default one: the order of what uses the same memory is yours to keep.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if it is no CUDA stream; [`ErrorKind::WrongDevice`] if `context` is not the primary context of
/// its GPU; [`ErrorKind::Forked`].
pub unsafe fn wrap_stream(stream: &Stream, context: &Arc<CudaContext>) -> Result<Arc<CudaStream>> {
    check_context(stream.device(), context)?;
    let raw = stream.cuda()?.raw();
    // SAFETY: a stream of this context; the rest is the caller's word.
    Ok(unsafe { context.wrap_borrowed_stream(raw.cast()) })
}

fn check_context(device: &Device, context: &Arc<CudaContext>) -> Result<()> {
    if raw_context(device)? != context.cu_ctx().cast() {
        let text = format!("this is no stream or event of the primary context of {}", device.name());
        return Err(Error::with_text(ErrorKind::WrongDevice, text));
    }
    Ok(())
}
