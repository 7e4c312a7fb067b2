//! The machine underneath: its name, processor time, pinning, and what other tenants took.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

/// How many cores this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The processor's name, where the system gives it.
pub(super) fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Processor, cores and system in one line.
pub(super) fn description() -> String {
    let processor = processor().unwrap_or_else(|| "unknown processor".to_owned());
    let plural = if cores() == 1 { "" } else { "s" };
    format!("{processor}, {} core{plural}, {} {}", cores(), std::env::consts::OS, std::env::consts::ARCH)
}

/// The version of NVIDIA's driver, if its tool is here and says so.
pub(super) fn nvidia_driver() -> Option<String> {
    let asked = ["--query-gpu=driver_version", "--format=csv,noheader"];
    let output = Command::new("nvidia-smi").args(asked).output().ok().filter(|it| it.status.success())?;
    // A line for each GPU, all of which share the driver.
    let version = String::from_utf8(output.stdout).ok()?.lines().next()?.trim().to_owned();
    version.starts_with(|first: char| first.is_ascii_digit()).then_some(version)
}

/// Today's date in UTC, as `2026-11-29`.
pub(super) fn today() -> Option<String> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(date(since.as_secs() / 86_400))
}

/// The date so many days after 1970-01-01. Years begin in March here, so that a leap day is a year's last.
fn date(days: u64) -> String {
    // From 0000-03-01 on, in eras of 400 years.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (400 * era + year + month / 10, (month + 2) % 12 + 1);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Processor time that all threads of this process have used; `None` where it can't be asked for.
pub(super) fn process_cpu() -> Option<Duration> {
    clock(Clock::Process)
}

/// Processor time that the calling thread has used; `None` where it can't be asked for.
pub(super) fn thread_cpu() -> Option<Duration> {
    clock(Clock::Thread)
}

enum Clock {
    Process,
    Thread,
}

#[cfg(unix)]
fn clock(which: Clock) -> Option<Duration> {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(match which {
        Clock::Process => ClockId::ProcessCPUTime,
        Clock::Thread => ClockId::ThreadCPUTime,
    });
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

#[cfg(not(unix))]
fn clock(_which: Clock) -> Option<Duration> {
    None
}

/// Binds the calling thread to the `index`th core that it may use, counted around if there are fewer, until the guard
/// goes. `None` if it can't be bound.
#[cfg(target_os = "linux")]
pub(super) fn pin_to_core(index: usize) -> Option<Pinned> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let before = sched_getaffinity(None).ok()?;
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| before.is_set(core)).collect();
    let mut only = CpuSet::new();
    only.set(*cores.get(index % cores.len().max(1))?);
    sched_setaffinity(None, &only).ok()?;
    Some(Pinned { before })
}

/// A thread's binding to a core. Dropped on that thread, it may run where it could before.
#[derive(Debug)]
#[must_use]
#[cfg(target_os = "linux")]
pub(super) struct Pinned {
    before: rustix::thread::CpuSet,
}

#[cfg(target_os = "linux")]
impl Drop for Pinned {
    fn drop(&mut self) {
        // Cores that it had a moment ago; if they are gone, the kernel has bound it anew itself.
        let _ = rustix::thread::sched_setaffinity(None, &self.before);
    }
}

/// Other systems offer hints at most.
#[cfg(not(target_os = "linux"))]
pub(super) fn pin_to_core(_index: usize) -> Option<Pinned> {
    None
}

/// There are none.
#[derive(Debug)]
#[must_use]
#[cfg(not(target_os = "linux"))]
pub(super) enum Pinned {}

/// Reads the counters of processor time, to compare with later.
#[derive(Debug)]
pub(super) struct Watch {
    since: Instant,
    ticks: Option<Ticks>,
}

/// What happened on the machine while a [`Watch`] ran, in cores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Meanwhile {
    /// Taken away by the host of this virtual machine.
    pub(super) stolen: f64,
    /// Used by other processes here.
    pub(super) others: f64,
}

impl Watch {
    pub(super) fn start() -> Self {
        Self { since: Instant::now(), ticks: Ticks::read() }
    }

    /// `None` where the system keeps no such counters.
    pub(super) fn read(&self) -> Option<Meanwhile> {
        let per_second = ticks_per_second()? * self.since.elapsed().as_secs_f64();
        let (before, after) = (self.ticks?, Ticks::read()?);
        let cores = |ticks: u64| ticks as f64 / per_second;
        let busy = after.busy.saturating_sub(before.busy);
        let own = after.own.saturating_sub(before.own);
        Some(Meanwhile {
            stolen: cores(after.stolen.saturating_sub(before.stolen)),
            others: cores(busy.saturating_sub(own)),
        })
    }
}

/// Counters in the system's clock ticks.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ticks {
    /// Used by all processes of this machine.
    busy: u64,
    stolen: u64,
    /// Used by this process and those that it started.
    own: u64,
}

impl Ticks {
    fn read() -> Option<Self> {
        let machine = fs::read_to_string("/proc/stat").ok()?;
        let process = fs::read_to_string("/proc/self/stat").ok()?;
        Self::parse(&machine, &process)
    }

    /// From `/proc/stat` and `/proc/self/stat`, as proc(5) has them.
    fn parse(machine: &str, process: &str) -> Option<Self> {
        let all = machine.lines().next()?.strip_prefix("cpu ")?;
        let all: Vec<u64> = all.split_whitespace().map_while(|field| field.parse().ok()).collect();
        let &[user, nice, system, _idle, _iowait, irq, softirq, stolen, ..] = all.as_slice() else {
            return None;
        };
        // The second field is the program's name in brackets, and may itself hold brackets and spaces.
        let fields: Vec<&str> = process.rsplit_once(')')?.1.split_whitespace().collect();
        let own = fields.get(11..15)?.iter().map(|field| field.parse::<u64>().unwrap_or(0)).sum();
        Some(Self { busy: user + nice + system + irq + softirq, stolen, own })
    }
}

#[cfg(unix)]
fn ticks_per_second() -> Option<f64> {
    Some(rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(not(unix))]
fn ticks_per_second() -> Option<f64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_as_proc_has_them() {
        let machine = "cpu  100 1 20 5000 7 2 3 40 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        let process = "42 (a (b) c) R 1 1 1 0 -1 0 0 0 0 0 11 12 13 14 20 0 1 0 5 0 0\n";
        let ticks = Ticks::parse(machine, process).unwrap();
        assert_eq!(ticks, Ticks { busy: 126, stolen: 40, own: 50 });
    }

    #[test]
    fn counters_of_another_shape_are_none() {
        assert_eq!(Ticks::parse("", ""), None);
        assert_eq!(Ticks::parse("cpu  1 2 3\n", "1 (x) R 1"), None);
        assert_eq!(Ticks::parse("cpu  1 2 3 4 5 6 7 8\n", "1 (x) R 1"), None);
    }

    #[test]
    fn days_have_dates() {
        let dates = [0, 58, 59, 789, 790, 11_016, 11_017, 20_786, 47_540, 47_541].map(date);
        assert_eq!(
            dates,
            [
                "1970-01-01",
                "1970-02-28",
                "1970-03-01",
                "1972-02-29",
                "1972-03-01",
                "2000-02-29",
                "2000-03-01",
                "2026-11-29",
                "2100-02-28",
                "2100-03-01"
            ]
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_pinned_thread_is_let_go_again() {
        use rustix::thread::sched_getaffinity;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let before = sched_getaffinity(None).unwrap();
                let pinned = pin_to_core(cores() + 1).unwrap();
                assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
                drop(pinned);
                assert_eq!(sched_getaffinity(None).unwrap(), before);
            });
        });
    }

    #[test]
    #[cfg(unix)]
    fn processor_time_grows_with_work() {
        let (process, thread) = (process_cpu().unwrap(), thread_cpu().unwrap());
        let mut sum = 0_u64;
        while thread_cpu().unwrap() < thread + Duration::from_millis(2) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(process_cpu().unwrap() >= process + Duration::from_millis(2));
    }
}
