//! Streams of other libraries', taken as they are (R35).
//!
//! A `CUstream` comes as a number, by one of four protocols, from an object that may own it. It is adopted with that object as
//! its keep-alive, and remembered, since PyTorch makes a new object for the same stream each time that one asks.

use crate::{
    device,
    errors::{Failure, Result},
    gate::Kept,
    stream::{Handle, Stream},
};
use gpu_events::{DeviceId, ErrorKind, StreamOptions, check_fork, cuda};
use pyo3::{exceptions::PyTypeError, prelude::*};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
};

/// How many adopted streams are remembered. PyTorch has 32 of each priority for a GPU.
const REMEMBERED: usize = 128;

/// The legacy default stream, by its two names, and the per-thread one: each GPU has them, under the same numbers.
const LAST_OF_EVERY_GPU: usize = 2;

/// A stream that a method was given.
pub(crate) enum Taken<'py> {
    Ours(Bound<'py, Stream>),
    Adopted(Handle),
}

impl Taken<'_> {
    #[inline]
    pub(crate) fn handle(&self) -> &Handle {
        match self {
            Self::Ours(stream) => &stream.get().handle,
            Self::Adopted(handle) => handle,
        }
    }
}

/// The stream that `object` is, or stands for. `near` is the device that it is probably on.
#[inline]
pub(crate) fn take<'py>(object: &Bound<'py, PyAny>, near: Option<&gpu_events::Device>) -> Result<Taken<'py>> {
    match object.cast::<Stream>() {
        Ok(stream) => Ok(Taken::Ours(stream.clone())),
        Err(_) => adopt(object, near).map(Taken::Adopted),
    }
}

fn adopt(object: &Bound<'_, PyAny>, near: Option<&gpu_events::Device>) -> Result<Handle> {
    check_fork()?;
    let py = object.py();
    let raw = raw_handle(object)?;
    let mut key = Key { raw, device: None, thread: None };
    let device = if raw <= LAST_OF_EVERY_GPU {
        let device = device_of_default_stream(object, near)?;
        key.device = Some(device.id());
        // Another stream on every thread, and positions of one timeline have to be of one.
        if raw == cuda::PER_THREAD_STREAM.addr() {
            key.thread = Some(thread::current().id());
        }
        Some(device)
    } else {
        None
    };
    let mut kept = object.clone().unbind();
    if let Some(handle) = remembered().find(&key, &mut kept) {
        return Ok(handle);
    }
    let device = match device {
        Some(device) => Some(device),
        None => ordinal(object).map(|ordinal| device::open(py, &format!("cuda:{ordinal}"))).transpose()?,
    };
    let handle = match device {
        // What an object says of its GPU may be the one that was current when it was made. The driver knows better, but where
        // each GPU has such a stream.
        Some(device) => match adopt_on(object, raw, &device) {
            Err(failure) if is_wrong_device(&failure) && key.device.is_none() => {
                adopt_anywhere(object, raw, near)?
            }
            outcome => outcome?,
        },
        None => adopt_anywhere(object, raw, near)?,
    };
    let (handle, forgotten) = remembered().remember(key, handle, object);
    drop(forgotten);
    Ok(handle)
}

fn is_wrong_device(failure: &Failure) -> bool {
    matches!(failure, Failure::Core(error) if error.kind() == ErrorKind::WrongDevice)
}

/// PyTorch's current stream, which is meant where no stream is named, as far as PyTorch has begun to use GPUs.
pub(crate) fn current_of_torch<'py>(
    py: Python<'py>,
    device: Option<&gpu_events::Device>,
) -> Result<Option<Taken<'py>>> {
    let ordinal = match device.map(|device| device.name().split_once(':')) {
        None => None,
        Some(Some(("cuda", ordinal))) => ordinal.parse::<u32>().ok(),
        Some(_) => return Ok(None),
    };
    let Some(torch) = loaded(py, "torch")? else { return Ok(None) };
    // Half imported, or not it at all.
    let Some(cuda) = torch.getattr_opt("cuda")? else { return Ok(None) };
    let Some(is_initialized) = cuda.getattr_opt("is_initialized")? else { return Ok(None) };
    if !is_initialized.call0()?.is_truthy()? {
        return Ok(None);
    }
    take(&cuda.call_method1("current_stream", (ordinal,))?, device).map(Some)
}

/// A library, if the program has imported it.
fn loaded<'py>(py: Python<'py>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    let modules = py.import("sys")?.getattr("modules")?;
    let module = modules.call_method1("get", (name,))?;
    Ok((!module.is_none()).then_some(module))
}

fn adopt_on(object: &Bound<'_, PyAny>, raw: usize, device: &gpu_events::Device) -> Result<Handle> {
    let keep_alive = Arc::new(Alive { _object: Mutex::new(Kept::new(object.clone().unbind())) });
    let adopted = object.py().detach(|| {
        let stream = std::ptr::with_exposed_provenance_mut(raw);
        // SAFETY: by the protocol it is a `CUstream`, and stays one for as long as the object lives, which is kept.
        unsafe { cuda::adopt_stream(device, stream, keep_alive, &StreamOptions::new()) }
    })?;
    Ok(Handle::new(adopted))
}

/// Asks one GPU after the other whether the stream is its own.
fn adopt_anywhere(
    object: &Bound<'_, PyAny>,
    raw: usize,
    near: Option<&gpu_events::Device>,
) -> Result<Handle> {
    let py = object.py();
    let near = near.filter(|device| device.info().backend == "cuda");
    if let Some(device) = near {
        match adopt_on(object, raw, device) {
            Err(failure) if is_wrong_device(&failure) => {}
            outcome => return outcome,
        }
    }
    for ordinal in 0.. {
        let device = match device::open(py, &format!("cuda:{ordinal}")) {
            Ok(device) => device,
            // The first says why there is none at all.
            Err(failure) if ordinal == 0 => return Err(failure),
            Err(_) => break,
        };
        match adopt_on(object, raw, &device) {
            Err(failure) if is_wrong_device(&failure) => {}
            outcome => return outcome,
        }
    }
    Err(ErrorKind::WrongDevice.into())
}

fn device_of_default_stream(
    object: &Bound<'_, PyAny>,
    near: Option<&gpu_events::Device>,
) -> Result<gpu_events::Device> {
    if let Some(ordinal) = ordinal(object).or_else(|| current_of_its_library(object)) {
        return device::open(object.py(), &format!("cuda:{ordinal}"));
    }
    match near.filter(|device| device.info().backend == "cuda") {
        Some(device) => Ok(device.clone()),
        None => device::open(object.py(), "cuda:0"),
    }
}

/// The number of the GPU, where the object says it: PyTorch's, CuPy's and cuda.core's do, each in its own way.
fn ordinal(object: &Bound<'_, PyAny>) -> Option<u32> {
    let number = |of: &Bound<'_, PyAny>, name: &str| of.getattr(name).ok()?.extract::<u32>().ok();
    let device = || object.getattr("device").ok();
    number(object, "device_index").or_else(|| number(object, "device_id")).or_else(|| {
        let device = device()?;
        number(&device, "device_id").or_else(|| number(&device, "index"))
    })
}

/// The GPU that is current to the library that an object is of: CuPy's and Numba's default streams are of whichever that is.
fn current_of_its_library(object: &Bound<'_, PyAny>) -> Option<u32> {
    let module: String = object.get_type().getattr("__module__").ok()?.extract().ok()?;
    let name = module.split('.').next()?;
    let cuda = loaded(object.py(), name).ok()??.getattr("cuda").ok()?;
    match name {
        "cupy" => cuda.getattr("runtime").ok()?.call_method0("getDevice").ok()?.extract().ok(),
        "numba" => cuda.call_method0("get_current_device").ok()?.getattr("id").ok()?.extract().ok(),
        _ => None,
    }
}

/// The `CUstream` of an object, by the first protocol that it has.
fn raw_handle(object: &Bound<'_, PyAny>) -> Result<usize> {
    if let Some(protocol) = object.getattr_opt("__cuda_stream__")? {
        // A method by the protocol; a property in early versions of cuda.core.
        let answer = if protocol.is_callable() { protocol.call0()? } else { protocol };
        let (version, handle): (u64, Bound<'_, PyAny>) = answer.extract()?;
        if version != 0 {
            return Err(Failure::argument(format!(
                "__cuda_stream__ of version {version}, and only 0 is known"
            )));
        }
        return Ok(number(&handle)?);
    }
    for name in ["cuda_stream", "ptr", "handle"] {
        if let Some(handle) = object.getattr_opt(name)? {
            return Ok(number(&handle)?);
        }
    }
    Err(Failure::Python(PyTypeError::new_err(format!(
        "expected a gpu_events.Stream, or a CUDA stream (an object with __cuda_stream__, cuda_stream, ptr or handle), not {}",
        object.get_type().fully_qualified_name()?
    ))))
}

/// A handle as a number, as something that `int` takes, or as a ctypes.c_void_p, whose value is None for null.
fn number(handle: &Bound<'_, PyAny>) -> PyResult<usize> {
    if let Some(value) = handle.getattr_opt("value")? {
        return Ok(value.extract::<Option<usize>>()?.unwrap_or(0));
    }
    handle.extract().or_else(|refused| match handle.getattr_opt("__int__")? {
        Some(int) => int.call0()?.extract(),
        None => Err(refused),
    })
}

/// Keeps the object of a stream.
struct Alive {
    /// Never locked: it makes the whole shareable.
    _object: Mutex<Kept<Py<PyAny>>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    raw: usize,
    /// For handles that every GPU has.
    device: Option<DeviceId>,
    /// For the one that every thread has.
    thread: Option<ThreadId>,
}

struct Entry {
    handle: Handle,
    /// The object that the stream came with last: while it lives the handle is not another stream's.
    object: Py<PyAny>,
    used: u64,
}

/// Adopted streams, those used last.
#[derive(Default)]
struct Remembered {
    entries: HashMap<Key, Entry>,
    clock: u64,
}

/// Only after `check_fork`: in a child, the lock may be held by a thread that is not there. What comes out of it is dropped once
/// it is given back, since an object's destructor may do anything.
fn remembered() -> MutexGuard<'static, Remembered> {
    static REMEMBERED: std::sync::LazyLock<Mutex<Remembered>> = std::sync::LazyLock::new(Mutex::default);
    REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Remembered {
    /// The adopted stream, if its device is open still. `object` is kept from now on, and the one before it given back in its
    /// place.
    fn find(&mut self, key: &Key, object: &mut Py<PyAny>) -> Option<Handle> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        if entry.handle.stream.device().is_closed() {
            return None;
        }
        entry.used = self.clock;
        std::mem::swap(&mut entry.object, object);
        Some(entry.handle.clone())
    }

    /// Keeps a stream, unless another thread was first: then that one's is the one. Gives back what has to go for it.
    fn remember(
        &mut self,
        key: Key,
        handle: Handle,
        object: &Bound<'_, PyAny>,
    ) -> (Handle, [Option<Entry>; 2]) {
        if let Some(first) = self.entries.get_mut(&key)
            && !first.handle.stream.device().is_closed()
        {
            first.used = self.clock;
            let late = Entry { handle, object: object.clone().unbind(), used: self.clock };
            return (first.handle.clone(), [Some(late), None]);
        }
        let oldest = if self.entries.len() < REMEMBERED {
            None
        } else {
            self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone())
        };
        let forgotten = oldest.and_then(|key| self.entries.remove(&key));
        let entry = Entry { handle: handle.clone(), object: object.clone().unbind(), used: self.clock };
        (handle, [forgotten, self.entries.insert(key, entry)])
    }
}
