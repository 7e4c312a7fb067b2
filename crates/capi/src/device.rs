//! Devices, and pools of their events.

use crate::{
    handles::{DEVICES, DeviceHandle, EVENTS, POOLS, PoolHandle},
    pointers::{Out, put_text, text},
    status::{Failure, Status, done},
};
use gpu_events::{Device, DeviceInfo as Info, EventPool, Gates};
use std::ffi::c_char;

/// How a stream waits for something that the host has to relay.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateKind {
    /// It can't.
    None = 0,
    /// Held-back work stays in this library's own queue: any number.
    Owned = 1,
    /// The driver waits for the host, in one of the few queues that streams share: `gate_limit` says with how many such
    /// streams others were seen to go on.
    Driver = 2,
}

/// What a device is and can do.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DeviceInfo {
    /// The name that `gpuev_device_open` takes: "cpu:0".
    pub name: [c_char; 32],
    /// The backend that drives it: "cpu".
    pub backend: [c_char; 16],
    /// What the hardware or its driver calls it. Cut off if it is longer.
    pub description: [c_char; 128],
    /// What its times are read from. Cut off if it is longer.
    pub clock: [c_char; 64],
    /// The smallest difference that a reading of the clock can show, in nanoseconds.
    pub clock_resolution_ns: u64,
    /// How many incomplete recordings a stream takes; 0: no limit.
    pub queue_depth: u64,
    /// The most recordings that are gathered before they are submitted; 0: each goes at once.
    pub batch_bound: u64,
    /// How its streams wait for what the host has to relay.
    pub gates: GateKind,
    /// See `GPUEV_GATE_KIND_DRIVER`.
    pub gate_limit: u32,
    /// Recordings can be timed.
    pub timed: bool,
    /// It is a GPU in name alone, and the CPU does its work.
    pub emulated: bool,
    /// A failure takes only the stream with it, and not the whole device.
    pub failure_is_per_stream: bool,
}

impl DeviceInfo {
    fn of(info: &Info) -> Self {
        let capabilities = &info.capabilities;
        let (gates, gate_limit) = match capabilities.gates {
            Gates::Owned => (GateKind::Owned, 0),
            Gates::Driver { limit } => (GateKind::Driver, limit),
            _ => (GateKind::None, 0),
        };
        Self {
            name: fixed(&info.name),
            backend: fixed(info.backend),
            description: fixed(&info.description),
            clock: fixed(info.clock.source()),
            clock_resolution_ns: nanos(info.clock.resolution()),
            queue_depth: capabilities.queue_depth.unwrap_or(0),
            batch_bound: capabilities.batch_bound.unwrap_or(0),
            gates,
            gate_limit,
            timed: capabilities.timed,
            emulated: info.emulated,
            failure_is_per_stream: capabilities.failure_is_per_stream,
        }
    }
}

/// A text in so many bytes, the last of which is a NUL.
fn fixed<const N: usize>(text: &str) -> [c_char; N] {
    let mut bytes = [0; N];
    let mut end = text.len().min(N - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (to, from) in bytes.iter_mut().zip(&text.as_bytes()[..end]) {
        *to = *from as c_char;
    }
    bytes
}

pub(crate) fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Lists the devices that can be opened here, GPUs first: as many as `capacity` says go into `infos`, and how many there are
/// into `count`. With a capacity of 0 it only counts.
///
/// # Safety
/// `infos` is good for writing `capacity` of them, and may be null if that is 0; `count` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_device_list(
    infos: *mut DeviceInfo,
    capacity: usize,
    count: *mut usize,
) -> Status {
    done(|| {
        // SAFETY: as promised.
        let count = unsafe { Out::new(count, "count") }?;
        if infos.is_null() && capacity > 0 {
            return Err(Failure::null("infos"));
        }
        let devices = Device::list();
        for (index, device) in devices.iter().take(capacity).enumerate() {
            // SAFETY: less than `capacity`.
            let to = unsafe { infos.add(index) };
            // SAFETY: good for writing, as promised.
            unsafe { to.write(DeviceInfo::of(device)) };
        }
        count.put(devices.len());
        Ok(())
    })
}

/// Opens a device by its name: a backend, and the number of one of its devices (0 if it is left out), as in "cpu", "cuda:1",
/// "vulkan:0", "metal". Every call opens anew, and every handle is to be released.
///
/// Errors: `INVALID_ARGUMENT` if that is no name of a device, `FEATURE_DISABLED`, `UNAVAILABLE`.
///
/// # Safety
/// `name` is a string; `device` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_device_open(name: *const c_char, device: *mut DeviceHandle) -> Status {
    done(|| {
        // SAFETY: as promised.
        let device = unsafe { Out::new(device, "device") }?;
        // SAFETY: as promised.
        let name = unsafe { text(name, "name") }?;
        device.put(DEVICES.enter(Device::open(&name)?));
        Ok(())
    })
}

/// The device that the process shares: the first that `gpuev_device_list` names and that is no GPU in name alone. It is
/// opened once; each call gives another handle to it, to be released.
///
/// # Safety
/// `device` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_device_get_default(device: *mut DeviceHandle) -> Status {
    done(|| {
        // SAFETY: as promised.
        let device = unsafe { Out::new(device, "device") }?;
        device.put(DEVICES.enter(Device::default()?));
        Ok(())
    })
}

/// Gives a handle back. Streams, pools and events keep what they need of the device.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_device_release(device: DeviceHandle) -> Status {
    done(|| DEVICES.remove(device).map(drop))
}

/// Ends the device for all its handles: pending recordings fail with `CLOSED`, so that everyone who waits is told; callbacks
/// are called with that status; work that was not submitted is dropped, and what the driver still uses is leaked rather than
/// freed under it. Doing it again does nothing. The handle is still to be released.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_device_close(device: DeviceHandle) -> Status {
    done(|| {
        DEVICES.get(device)?.close();
        Ok(())
    })
}

/// The device's number, which is the same by all handles to it, and no other opened device's in this process.
///
/// # Safety
/// `id` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_device_get_id(device: DeviceHandle, id: *mut u64) -> Status {
    done(|| {
        // SAFETY: as promised.
        let id = unsafe { Out::new(id, "id") }?;
        id.put(DEVICES.get(device)?.id().get());
        Ok(())
    })
}

/// What the device is and can do.
///
/// # Safety
/// `info` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_device_get_info(device: DeviceHandle, info: *mut DeviceInfo) -> Status {
    done(|| {
        // SAFETY: as promised.
        let info = unsafe { Out::new(info, "info") }?;
        info.put(DeviceInfo::of(DEVICES.get(device)?.info()));
        Ok(())
    })
}

/// Who on the device waits for what, since when, and which end of the chain hasn't moved: a text of some lines, as much of
/// it as there is room for. `length` is how long the whole text is, without its NUL; pass a null `buffer` to ask for that.
///
/// # Safety
/// `buffer` is null, or good for writing `capacity` bytes; `length` is null, or good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_device_stall_report(
    device: DeviceHandle,
    buffer: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> Status {
    done(|| {
        let report = DEVICES.get(device)?.stall_report().to_string();
        // SAFETY: as promised.
        unsafe { put_text(&report, buffer, capacity, length) }
    })
}

/// What a pool has been up to. Exact when no other thread is using it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PoolStatistics {
    /// Event objects that were made.
    pub created: u64,
    /// Events that were handed out.
    pub acquired: u64,
    /// Events that are out.
    pub live: u64,
    /// Objects that are kept to be handed out again.
    pub idle: u64,
    /// The most that are kept.
    pub bound: u64,
}

/// A pool of the device's events that keeps at most `max_idle` of them for reuse; 0 is the default bound, 4,096. It never
/// limits how many are out.
///
/// # Safety
/// `pool` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_pool_create(
    device: DeviceHandle,
    max_idle: usize,
    pool: *mut PoolHandle,
) -> Status {
    done(|| {
        // SAFETY: as promised.
        let pool = unsafe { Out::new(pool, "pool") }?;
        let max_idle = if max_idle == 0 { EventPool::DEFAULT_BOUND } else { max_idle };
        pool.put(POOLS.enter(EventPool::bounded(&DEVICES.get(device)?, max_idle)));
        Ok(())
    })
}

/// The pool of the process's default device, which lives as long as the process. Each call gives another handle to it, to be
/// released.
///
/// # Safety
/// `pool` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_pool_get_shared(pool: *mut PoolHandle) -> Status {
    done(|| {
        // SAFETY: as promised.
        let pool = unsafe { Out::new(pool, "pool") }?;
        pool.put(POOLS.enter(EventPool::shared()?));
        Ok(())
    })
}

/// Gives a handle back. Events that are out stay good.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_pool_release(pool: PoolHandle) -> Status {
    done(|| POOLS.remove(pool).map(drop))
}

/// Frees what the pool keeps for reuse. Events that are out are not touched. What other threads keep for themselves, 64
/// events at most for each, they free when they next use the pool.
#[unsafe(no_mangle)]
pub extern "C" fn gpuev_pool_empty_cache(pool: PoolHandle) -> Status {
    done(|| {
        POOLS.get(pool)?.empty_cache();
        Ok(())
    })
}

/// What the pool has been up to.
///
/// # Safety
/// `statistics` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_pool_get_statistics(
    pool: PoolHandle,
    statistics: *mut PoolStatistics,
) -> Status {
    done(|| {
        // SAFETY: as promised.
        let out = unsafe { Out::new(statistics, "statistics") }?;
        let statistics = POOLS.get(pool)?.statistics();
        out.put(PoolStatistics {
            created: statistics.created,
            acquired: statistics.acquired,
            live: statistics.live,
            idle: statistics.idle,
            bound: statistics.bound,
        });
        Ok(())
    })
}

/// How many events are held by number, in the whole process: to find those that nobody released.
///
/// # Safety
/// `count` is good for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gpuev_event_count(count: *mut usize) -> Status {
    done(|| {
        // SAFETY: as promised.
        let count = unsafe { Out::new(count, "count") }?;
        count.put(EVENTS.len()?);
        Ok(())
    })
}
