//! A stream as its CUDA users see it.

use super::{
    driver::{RawContext, RawStream},
    queue::Queue,
};
use crate::{
    error::{ErrorKind, Result},
    lane::Lane,
};
use std::{fmt, sync::Arc};

/// A CUDA stream, to give work to; see [`Stream::cuda`](crate::Stream::cuda) and
/// [`StreamGuard::cuda`](crate::StreamGuard::cuda).
pub struct CudaStream<'a> {
    queue: &'a Queue,
}

impl<'a> CudaStream<'a> {
    pub(crate) fn new(lane: &'a Arc<Lane>) -> Result<Self> {
        Ok(Self { queue: lane.downcast().ok_or(ErrorKind::Unsupported)? })
    }

    /// The `CUstream`, for launches and copies of your own: it is a stream like any other, good for as long as this stream or
    /// one of its events lives. Hold the stream ([`Stream::lock`](crate::Stream::lock)) to keep work and the event that
    /// marks it together.
    ///
    /// From here on each recording first asks the driver whether the stream is being captured, which costs some 20 ns.
    pub fn raw(&self) -> RawStream {
        self.queue.expose()
    }

    /// The `CUcontext` that it is of: the GPU's primary one.
    pub fn raw_context(&self) -> RawContext {
        self.queue.gpu().context
    }
}

impl fmt::Debug for CudaStream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CudaStream").field(self.queue).finish()
    }
}
