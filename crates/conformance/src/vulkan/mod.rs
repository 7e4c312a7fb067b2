//! Vulkan devices as subjects: the system's as the backend opens them, and VkDevices of a user's, which stand behind a
//! [`layer`] that watches and can refuse.

pub mod layer;
mod memory;

use self::layer::Layered;
use crate::{Adopted, Case, Cells, Expectation, Stop, Subject, Verdict};
use ash::vk::{self, Handle};
use gpu_events::{
    Device, Error, ErrorKind, Result, Stream, StreamOptions,
    vulkan::{self, ExistingQueue, RawParts},
};
pub use memory::{Commands, Gpu, VulkanCells};
use std::{
    any::Any,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Who made the VkDevice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    Backend,
    User,
}

/// A Vulkan device under test, whose VkDevice the backend makes, or a user.
#[derive(Clone, Debug)]
pub struct VulkanSubject {
    ordinal: u32,
    maker: Maker,
    stock: Arc<Mutex<Stock>>,
}

/// VkDevices that go from one case to the next. To make one takes long, and validation layers of 2023 want nobody else to be
/// in the driver meanwhile, so they are made before there is anything else.
#[derive(Debug, Default)]
struct Stock {
    /// Keeps the system's.
    system: Option<Arc<Gpu>>,
    /// A user's, which can refuse and be lost.
    layered: Vec<Arc<Layered>>,
}

impl Stock {
    /// That many, none of them lost.
    fn fill(&mut self, ordinal: u32, count: usize) -> Result<()> {
        self.layered.retain(|layered| !layered.watch().is_lost());
        while self.layered.len() < count {
            self.layered.push(Layered::make(ordinal)?);
        }
        Ok(())
    }
}

impl VulkanSubject {
    /// The system's device with this number.
    pub fn new(ordinal: u32) -> Self {
        Self { ordinal, maker: Maker::Backend, stock: Arc::default() }
    }

    /// VkDevices on it as a user makes them. They can be told to refuse, and to be lost.
    pub fn users(ordinal: u32) -> Self {
        Self { ordinal, maker: Maker::User, stock: Arc::default() }
    }

    fn stock(&self) -> Result<MutexGuard<'_, Stock>> {
        let mut stock = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
        if stock.layered.is_empty() {
            // One to be lost, two that remain.
            stock.fill(self.ordinal, if self.maker == Maker::User { 3 } else { 1 })?;
        }
        Ok(stock)
    }

    fn open_system(&self, ordinal: u32) -> Result<Device> {
        let mut stock = self.stock()?;
        let device = Device::open(&format!("vulkan:{ordinal}"))?;
        if ordinal == self.ordinal {
            stock.system = Some(Gpu::of(&device)?);
        }
        Ok(device)
    }

    /// A user's VkDevice, opened afresh: the first, the second, …
    fn open_layered(&self, which: usize) -> Result<Device> {
        let mut stock = self.stock()?;
        stock.fill(self.ordinal, which + 1)?;
        stock.layered[which].open()
    }
}

impl Subject for VulkanSubject {
    fn name(&self) -> String {
        let maker = if self.maker == Maker::User { " (a user's VkDevice)" } else { "" };
        format!("vulkan:{}{maker}", self.ordinal)
    }

    fn open(&self) -> Verdict<Device> {
        let device = match self.maker {
            Maker::Backend => self.open_system(self.ordinal)?,
            Maker::User => self.open_layered(0)?,
        };
        // Found out before anybody asks for work of some length: it takes a while.
        fill_time(&device)?;
        Ok(device)
    }

    fn open_second(&self, first: &Device) -> Verdict<Device> {
        match self.maker {
            // Between two VkDevices nothing goes by itself, though one GPU be behind both.
            Maker::User => {
                let stock = self.stock()?;
                let is_first =
                    Layered::of(first).is_some_and(|layered| Arc::ptr_eq(&layered, &stock.layered[0]));
                drop(stock);
                Ok(self.open_layered(usize::from(is_first))?)
            }
            Maker::Backend => {
                let own = format!("vulkan:{}", self.ordinal);
                let other = if first.name() == own { self.ordinal + 1 } else { self.ordinal };
                match self.open_system(other) {
                    Err(error) if error.kind() == ErrorKind::Unavailable => {
                        Err(Stop::skip("there is only one GPU"))
                    }
                    opened => Ok(opened?),
                }
            }
        }
    }

    fn cells(&self, device: &Device, count: usize) -> Verdict<Arc<dyn Cells>> {
        Ok(Arc::new(Gpu::of(device)?.cells(count)?))
    }

    fn busy(&self, stream: &Stream, time: Duration) -> Verdict {
        // The GPU may be faster than it was when it was measured.
        let fills = (3 * time).div_duration_f64(fill_time(stream.device())?).ceil();
        let gpu = Gpu::of(stream.device())?;
        Ok(gpu.fill(stream, &gpu.field()?, fills as u32)?)
    }

    fn expectation(&self, case: &Case) -> Expectation {
        // Seen on an H100: the last of the child is the kernel's, which takes the driver's share of it apart.
        let slow = self.maker == Maker::User && case.id == 91;
        let name = format!("vulkan:{}", self.ordinal);
        if slow && Device::list().iter().any(|device| device.name == name && !device.emulated) {
            return Expectation::Skip(
                "a fork's child takes up to a minute to end where several VkDevices are open".to_owned(),
            );
        }
        Expectation::Pass
    }

    fn fail(&self, _stream: &Stream) -> Verdict {
        Err(Stop::skip("work that fails for certain hangs the GPU, or ends it for every program"))
    }

    fn panic(&self, _stream: &Stream, _text: &'static str) -> Verdict {
        Err(Stop::skip("a GPU's work cannot panic"))
    }

    fn open_refusing(&self) -> Verdict<Device> {
        Ok(self.open_layered(0)?)
    }

    fn refuse_submission(&self, stream: &Stream) -> Verdict {
        let layered = Layered::of(stream.device()).ok_or_else(layer::not_layered)?;
        layered.watch().refuse_next(stream.vulkan()?.raw_queue());
        // Something to submit: a recording alone takes no submission where nothing is on its way.
        let gpu = Gpu::of(stream.device())?;
        Ok(gpu.fill(stream, &gpu.field()?, 1)?)
    }

    fn lose(&self, device: &Device) -> Verdict {
        match Layered::of(device) {
            Some(layered) => {
                layered.watch().lose();
                Ok(())
            }
            None => {
                Err(Stop::skip("a GPU cannot be lost on demand; a user's VkDevice is, by a layer in front"))
            }
        }
    }

    fn adopt(&self, device: &Device, adopter: &Device) -> Verdict<Result<Adopted>> {
        if vulkan::raw_parts(device)?.device != vulkan::raw_parts(adopter)?.device {
            return Err(Stop::skip(
                "no call tells whose a VkQueue is: that is the adopting caller's to know",
            ));
        }
        let keep_alive: Arc<dyn Any + Send + Sync> = Arc::new(());
        let weak = Arc::downgrade(&keep_alive);
        let adopted = match Layered::of(device) {
            Some(layered) => layered.adopt(adopter, keep_alive, &StreamOptions::new()),
            None => {
                let stream = device.create_stream()?;
                let ours = stream.vulkan()?;
                // The backend knows its own queues, and their locks.
                let queue =
                    ExistingQueue::new(ours.raw_queue(), ours.queue_family(), Arc::new(|call| call()));
                // SAFETY: the queue lives as long as its device, which the stream keeps, and nobody else submits to it.
                unsafe { vulkan::adopt_queue(adopter, queue, keep_alive, &StreamOptions::new()) }
            }
        };
        Ok(adopted.map(|stream| Adopted { stream, is_alive: Box::new(move || weak.strong_count() > 0) }))
    }

    fn value_gap(&self, device: &Device) -> Verdict<u64> {
        let parts = vulkan::raw_parts(device)?;
        let mut timelines = vk::PhysicalDeviceTimelineSemaphoreProperties::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut timelines);
        let physical = vk::PhysicalDevice::from_raw(parts.physical_device.0);
        // SAFETY: the device keeps its instance.
        unsafe { instance_of(&parts).get_physical_device_properties2(physical, &mut properties) };
        Ok(timelines.max_timeline_semaphore_value_difference)
    }
}

/// The functions of the instance that a device is of.
fn instance_of(parts: &RawParts) -> ash::Instance {
    let get_instance_proc_addr = layer::ash_loader(parts.get_instance_proc_addr);
    let loader = ash::StaticFn { get_instance_proc_addr };
    let instance = vk::Instance::from_raw(parts.instance.0);
    // SAFETY: the device keeps its instance, and the loader is the instance's.
    unsafe { ash::Instance::load(&loader, instance) }
}

#[cold]
fn refused(call: &str, code: vk::Result) -> Error {
    let kind = match code {
        vk::Result::ERROR_DEVICE_LOST => ErrorKind::DeviceLost,
        vk::Result::ERROR_OUT_OF_HOST_MEMORY | vk::Result::ERROR_OUT_OF_DEVICE_MEMORY => ErrorKind::Resources,
        _ => ErrorKind::Driver,
    };
    Error::with_text(kind, format!("{call}: {code}"))
}

/// How long one fill of [`Gpu::fill`] takes at the least, once for each GPU.
fn fill_time(device: &Device) -> Result<Duration> {
    const ROUND: Duration = Duration::from_millis(2);
    static KNOWN: Mutex<Vec<(String, Duration)>> = Mutex::new(Vec::new());
    let name = &device.info().description;
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, time)) = known.iter().find(|(known, _)| known == name) {
        return Ok(*time);
    }
    let (gpu, stream) = (Gpu::of(device)?, device.create_stream()?);
    let field = gpu.field()?;
    let round = |fills: u32| -> Result<Duration> {
        let begun = Instant::now();
        gpu.fill(&stream, &field, fills)?;
        stream.record()?.synchronize()?;
        Ok(begun.elapsed())
    };
    // The first one may be what has the memory made.
    round(1)?;
    // So many that the way to the GPU and back counts little.
    let mut fills = 1;
    while round(fills)? < ROUND {
        fills *= 2;
    }
    // The best of many short ones: whatever else the machine is busy with, one of them is left alone; and a GPU that was idle
    // takes a while until it is as fast as it gets.
    const LONG: Duration = Duration::from_millis(400);
    let mut best = Duration::MAX;
    let begun = Instant::now();
    while begun.elapsed() < LONG {
        best = best.min(round(fills)?);
    }
    let time = best / fills;
    known.push((name.clone(), time));
    Ok(time)
}
