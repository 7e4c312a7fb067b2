//! What tests control and ask.

use crate::activity::{wait_idle, wait_until};
use crate::metal::{gpu, ids};
use crate::violation::{set_aborting, take_violations};
use crate::{random, runtime};
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLCommandBuffer, MTLCommandQueue, MTLDevice};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often something happens that Apple's documentation leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chance {
    /// It never does.
    Never,
    /// It does at random.
    Sometimes,
    /// It always does.
    Always,
}

/// How the simulated GPU behaves where it may behave in more than one way. Change them with [`Control::set`].
///
/// The default is what is hardest on a client.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Knobs {
    /// Whether a command buffer begins while an earlier one of its queue still runs. Default: sometimes.
    pub overlap: Chance,
    /// Whether a command buffer that waits for an event keeps later ones of its queue from beginning. Default:
    /// sometimes.
    pub waits_hold_queue: Chance,
    /// Whether command buffers that could run are taken in random order, a few commands at a time. Otherwise the
    /// oldest runs as far as it gets. Default: true.
    pub shuffle: bool,
    /// The longest that blocks run late, and that a buffer completes after its last command. Mostly it takes much
    /// less. Default: 2 ms.
    pub lateness: Duration,
    /// How long each command takes on the GPU. Default: zero.
    pub command_time: Duration,
    /// How long a command buffer waits for an event before it ends in `MTLCommandBufferErrorTimeout`. Default: 30 s.
    pub wait_timeout: Duration,
    /// Whether `setSignaledValue:` runs listeners' blocks. Default: false.
    pub host_signals_notify: bool,
    /// Whether `GPUStartTime`, `GPUEndTime` and their kernel twins stay 0. Default: false.
    pub zero_times: bool,
    /// Seconds to add to `GPUStartTime`. Default: 0.
    pub start_shift: f64,
    /// Seconds to add to `GPUEndTime`. Default: 0.
    pub end_shift: f64,
}

impl Knobs {
    const DEFAULT: Self = Self {
        overlap: Chance::Sometimes,
        waits_hold_queue: Chance::Sometimes,
        shuffle: true,
        lateness: Duration::from_millis(2),
        command_time: Duration::ZERO,
        wait_timeout: Duration::from_secs(30),
        host_signals_notify: false,
        zero_times: false,
        start_shift: 0.0,
        end_shift: 0.0,
    };

    /// Turns off all that is random, late or out of order: for a test about something else.
    #[must_use]
    pub fn tame(self) -> Self {
        Self {
            overlap: Chance::Never,
            waits_hold_queue: Chance::Always,
            shuffle: false,
            lateness: Duration::ZERO,
            host_signals_notify: true,
            ..self
        }
    }
}

impl Default for Knobs {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Calls that can be told to return nil: [`Control::nil_at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Nil {
    /// `MTLCreateSystemDefaultDevice`.
    Device,
    /// `newCommandQueue` and `newCommandQueueWithMaxCommandBufferCount:`.
    CommandQueue,
    /// `newSharedEvent` and `newSharedEventWithHandle:`.
    SharedEvent,
    /// `newEvent`.
    Event,
    /// `newBufferWith…`.
    Buffer,
    /// `newLibraryWithSource:options:error:`, which then gives an error.
    Library,
    /// `newFunctionWithName:`.
    Function,
    /// `newComputePipelineStateWithFunction:error:`, which then gives an error.
    Pipeline,
    /// `commandBuffer` and `commandBufferWithUnretainedReferences`.
    CommandBuffer,
    /// `blitCommandEncoder`.
    BlitEncoder,
    /// `computeCommandEncoder`.
    ComputeEncoder,
}

/// For each kind: 0 for never, otherwise which call from now gives nil; `usize::MAX` for all of them.
static NIL: [AtomicUsize; 11] = [const { AtomicUsize::new(0) }; 11];

/// Whether this call is to return nil.
pub(crate) fn gives_nil(kind: Nil) -> bool {
    let next = |n: usize| match n {
        0 => None,
        usize::MAX => Some(usize::MAX),
        n => Some(n - 1),
    };
    // Relaxed, here and for all that is counted: nothing is read because of it.
    let before = NIL[kind as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    matches!(before, Ok(1 | usize::MAX))
}

/// Which command buffers a failure or a hold concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    All,
    Queue(u64),
    Label(String),
}

impl Scope {
    fn holds_for(&self, queue: u64, label: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Queue(id) => *id == queue,
            Self::Label(l) => label == Some(l),
        }
    }
}

#[derive(Debug)]
struct Failure {
    scope: Scope,
    code: usize,
    after: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Begin,
    End,
    Handlers,
    Listeners,
}

#[derive(Debug)]
struct Held {
    id: u64,
    stage: Stage,
    scope: Scope,
}

/// What the scheduler asks: everything that is set at the moment.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) knobs: Knobs,
    failures: Vec<Failure>,
    held: Vec<Held>,
    next_hold: u64,
}

impl Settings {
    /// The failure that the next buffer to begin is to meet: its code, and how many commands run before it.
    pub(crate) fn take_failure(&mut self, queue: u64, label: Option<&str>) -> Option<(usize, usize)> {
        let at = self.failures.iter().position(|f| f.scope.holds_for(queue, label))?;
        let failure = self.failures.remove(at);
        Some((failure.code, failure.after))
    }

    pub(crate) fn is_held(&self, stage: Stage, queue: u64, label: Option<&str>) -> bool {
        self.held.iter().any(|h| h.stage == stage && h.scope.holds_for(queue, label))
    }
}

static SETTINGS: Mutex<Settings> =
    Mutex::new(Settings { knobs: Knobs::DEFAULT, failures: Vec::new(), held: Vec::new(), next_hold: 0 });

/// A copy of the one knob that a host's call asks for: taking the settings' lock there would order threads.
static HOST_SIGNALS_NOTIFY: AtomicBool = AtomicBool::new(Knobs::DEFAULT.host_signals_notify);

pub(crate) fn host_signals_notify() -> bool {
    HOST_SIGNALS_NOTIFY.load(Ordering::Relaxed)
}

pub(crate) fn settings() -> MutexGuard<'static, Settings> {
    SETTINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds something back until it is dropped.
#[must_use = "a hold ends when it is dropped"]
#[derive(Debug)]
pub struct Hold(Vec<u64>);

impl Drop for Hold {
    fn drop(&mut self) {
        settings().held.retain(|h| !self.0.contains(&h.id));
        gpu::poke();
    }
}

/// The simulation's controls. All of it is global; see [`exclusive`] for tests that share a process.
#[derive(Clone, Copy, Debug)]
pub struct Control(());

/// The simulation's controls.
#[must_use]
pub fn control() -> Control {
    Control(())
}

impl Control {
    /// Changes knobs. What already runs goes by the new ones from its next step on.
    pub fn set(self, change: impl FnOnce(&mut Knobs)) {
        let mut settings = settings();
        change(&mut settings.knobs);
        HOST_SIGNALS_NOTIFY.store(settings.knobs.host_signals_notify, Ordering::Relaxed);
        drop(settings);
        gpu::poke();
    }

    /// The knobs as they are set.
    #[must_use]
    pub fn knobs(self) -> Knobs {
        settings().knobs.clone()
    }

    /// Sets everything back as it was when the process began: knobs, nils, failures, and violations abort again.
    /// Holds end with their guards, and lost devices stay lost.
    pub fn reset(self) {
        let mut settings = settings();
        settings.failures.clear();
        drop(settings);
        NIL.iter().for_each(|nil| nil.store(0, Ordering::Relaxed));
        self.set(|knobs| *knobs = Knobs::default());
        set_aborting(true);
    }

    /// Records violations from now on, instead of ending the process: read them with
    /// [`violations`](crate::violations).
    pub fn collect_violations(self) {
        set_aborting(false);
    }

    /// Makes the `n`-th such call from now give nil, once; 1 is the next. 0 takes it back.
    pub fn nil_at(self, kind: Nil, n: usize) {
        NIL[kind as usize].store(n, Ordering::Relaxed);
    }

    /// Makes all such calls give nil.
    pub fn nil_always(self, kind: Nil) {
        NIL[kind as usize].store(usize::MAX, Ordering::Relaxed);
    }

    fn fail(self, scope: Scope, code: usize, after: usize) {
        settings().failures.push(Failure { scope, code, after });
    }

    /// Makes the next command buffer that begins end in this `MTLCommandBufferError`, before its first command.
    pub fn fail_next(self, code: usize) {
        self.fail(Scope::All, code, 0);
    }

    /// As [`fail_next`](Self::fail_next), after some commands (waits and signals count).
    pub fn fail_next_after(self, code: usize, commands: usize) {
        self.fail(Scope::All, code, commands);
    }

    /// As [`fail_next`](Self::fail_next), for the next one of a queue.
    pub fn fail_next_on(self, queue: &ProtocolObject<dyn MTLCommandQueue>, code: usize) {
        self.fail(Scope::Queue(ids::queue(queue)), code, 0);
    }

    /// As [`fail_next`](Self::fail_next), for the next one with a label.
    pub fn fail_label(self, label: &str, code: usize) {
        self.fail(Scope::Label(label.into()), code, 0);
    }

    /// Ends a command buffer in this `MTLCommandBufferError`, wherever it is: not begun, running or waiting for an
    /// event. One that has run its last command may complete nevertheless.
    pub fn kill(self, buffer: &ProtocolObject<dyn MTLCommandBuffer>, code: usize) {
        gpu::kill(ids::buffer(buffer), code);
    }

    /// Loses a device: all its command buffers, also later ones, end in `MTLCommandBufferErrorDeviceRemoved` (11).
    pub fn lose_device(self, device: &ProtocolObject<dyn MTLDevice>) {
        ids::lose(device);
    }

    fn hold(self, stages: &[Stage], scope: Scope) -> Hold {
        let mut settings = settings();
        let ids = stages.iter().map(|&stage| {
            settings.next_hold += 1;
            let id = settings.next_hold;
            settings.held.push(Held { id, stage, scope: scope.clone() });
            id
        });
        Hold(ids.collect())
    }

    /// Lets no command buffer begin.
    pub fn hold_begin(self) -> Hold {
        self.hold(&[Stage::Begin], Scope::All)
    }

    /// Lets no command buffer of a queue begin.
    pub fn hold_begin_on(self, queue: &ProtocolObject<dyn MTLCommandQueue>) -> Hold {
        self.hold(&[Stage::Begin], Scope::Queue(ids::queue(queue)))
    }

    /// Lets no command buffer with this label begin.
    pub fn hold_begin_of(self, label: &str) -> Hold {
        self.hold(&[Stage::Begin], Scope::Label(label.into()))
    }

    /// Lets no command buffer complete: their commands run, but they keep their place and their status.
    pub fn hold_end(self) -> Hold {
        self.hold(&[Stage::End], Scope::All)
    }

    /// Lets no command buffer of a queue complete.
    pub fn hold_end_on(self, queue: &ProtocolObject<dyn MTLCommandQueue>) -> Hold {
        self.hold(&[Stage::End], Scope::Queue(ids::queue(queue)))
    }

    /// Lets no command buffer with this label complete.
    pub fn hold_end_of(self, label: &str) -> Hold {
        self.hold(&[Stage::End], Scope::Label(label.into()))
    }

    /// Runs neither handlers nor listeners' blocks. Those that run already are not stopped.
    pub fn hold_news(self) -> Hold {
        self.hold(&[Stage::Handlers, Stage::Listeners], Scope::All)
    }

    /// Runs no handlers, neither scheduled nor completed ones.
    pub fn hold_handlers(self) -> Hold {
        self.hold(&[Stage::Handlers], Scope::All)
    }

    /// Runs no listeners' blocks.
    pub fn hold_listeners(self) -> Hold {
        self.hold(&[Stage::Listeners], Scope::All)
    }
}

// -------------------------------------------------------------------------------------------------------- counters
pub(crate) static COUNTS: Counts = Counts {
    commits: AtomicUsize::new(0),
    command_buffers: AtomicUsize::new(0),
    shared_events: AtomicUsize::new(0),
    listeners_registered: AtomicUsize::new(0),
    signaled_value_reads: AtomicUsize::new(0),
    host_writes: AtomicUsize::new(0),
    blocked_creations: AtomicUsize::new(0),
    blocks_run: AtomicUsize::new(0),
};

pub(crate) struct Counts {
    pub(crate) commits: AtomicUsize,
    pub(crate) command_buffers: AtomicUsize,
    pub(crate) shared_events: AtomicUsize,
    pub(crate) listeners_registered: AtomicUsize,
    pub(crate) signaled_value_reads: AtomicUsize,
    pub(crate) host_writes: AtomicUsize,
    pub(crate) blocked_creations: AtomicUsize,
    pub(crate) blocks_run: AtomicUsize,
}

pub(crate) fn count(what: &AtomicUsize) {
    what.fetch_add(1, Ordering::Relaxed);
}

/// How often things happened since the process began, and what is alive now. Global; tests compare two of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Calls of `commit`.
    pub commits: usize,
    /// Command buffers created.
    pub command_buffers: usize,
    /// Shared events created.
    pub shared_events: usize,
    /// Calls of `notifyListener:atValue:block:`.
    pub listeners_registered: usize,
    /// Calls of `signaledValue`.
    pub signaled_value_reads: usize,
    /// Calls of `setSignaledValue:`.
    pub host_writes: usize,
    /// Calls of `commandBuffer` that had to wait for a place in the queue.
    pub blocked_creations: usize,
    /// Handlers and listeners' blocks run.
    pub blocks_run: usize,
    /// Objects autoreleased with no pool in place: each leaks until its thread ends.
    pub unpooled_autoreleases: usize,
    /// What is alive.
    pub live: Live,
}

/// Objects that are alive, by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Live {
    /// `MTLDevice`.
    pub devices: usize,
    /// `MTLCommandQueue`.
    pub queues: usize,
    /// `MTLCommandBuffer`.
    pub command_buffers: usize,
    /// `MTLEvent` and `MTLSharedEvent`.
    pub events: usize,
    /// `MTLSharedEventListener`, but for the shared one.
    pub listeners: usize,
    /// `MTLBlitCommandEncoder` and `MTLComputeCommandEncoder`.
    pub encoders: usize,
    /// `MTLBuffer`.
    pub buffers: usize,
    /// `MTLComputePipelineState`.
    pub pipelines: usize,
    /// `MTLLibrary` and `MTLFunction`.
    pub libraries: usize,
    /// Blocks on the heap.
    pub blocks: usize,
}

impl Live {
    /// Whether there is more of anything than before. (There may be less: what an earlier test left may go late.)
    fn exceeds(&self, before: &Self) -> bool {
        let all = |live: &Self| {
            let Self { devices, queues, command_buffers, events, listeners, .. } = *live;
            let Self { encoders, buffers, pipelines, libraries, blocks, .. } = *live;
            [
                devices,
                queues,
                command_buffers,
                events,
                listeners,
                encoders,
                buffers,
                pipelines,
                libraries,
                blocks,
            ]
        };
        all(self).iter().zip(all(before)).any(|(now, before)| *now > before)
    }
}

/// Counts what happened so far and what is alive.
#[must_use]
pub fn counters() -> Counters {
    let get = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    Counters {
        commits: get(&COUNTS.commits),
        command_buffers: get(&COUNTS.command_buffers),
        shared_events: get(&COUNTS.shared_events),
        listeners_registered: get(&COUNTS.listeners_registered),
        signaled_value_reads: get(&COUNTS.signaled_value_reads),
        host_writes: get(&COUNTS.host_writes),
        blocked_creations: get(&COUNTS.blocked_creations),
        blocks_run: get(&COUNTS.blocks_run),
        unpooled_autoreleases: runtime::unpooled_autoreleases(),
        live: live(),
    }
}

fn live() -> Live {
    let of = |names: &[&std::ffi::CStr]| names.iter().map(|name| runtime::live_by_name(name)).sum::<usize>();
    Live {
        devices: of(&[c"SimMTLDevice"]),
        queues: of(&[c"SimMTLCommandQueue"]),
        command_buffers: of(&[c"SimMTLCommandBuffer"]),
        events: of(&[c"SimMTLEvent", c"SimMTLSharedEvent"]),
        listeners: of(&[c"MTLSharedEventListener"]) - ids::shared_listeners(),
        encoders: of(&[c"SimMTLBlitCommandEncoder", c"SimMTLComputeCommandEncoder"]),
        buffers: of(&[c"SimMTLBuffer"]),
        pipelines: of(&[c"SimMTLComputePipelineState"]),
        libraries: of(&[c"SimMTLLibrary", c"SimMTLFunction"]),
        blocks: runtime::live_blocks(),
    }
}

/// Waits until the GPU and all dispatch queues are idle: nothing committed, no handler or block to run. Says whether
/// it came to that in time.
pub fn settle(timeout: Duration) -> bool {
    wait_idle(timeout)
}

/// The simulation for one test alone: see [`exclusive`].
#[derive(Debug)]
pub struct Exclusive {
    before: Counters,
    unpooled: bool,
    violations: bool,
    leaks: bool,
    patience: Duration,
    _lock: MutexGuard<'static, ()>,
}

/// Takes the simulation for one test: others that ask for it wait. Everything is reset; and when the result is
/// dropped, it waits for the GPU to become idle, and panics if there were violations, leaks or autoreleases without a
/// pool.
///
/// Bind it before anything else, so that everything else is gone when it is dropped.
#[must_use = "what it checks, it checks when it is dropped"]
pub fn exclusive() -> Exclusive {
    static LOCK: LazyLock<Mutex<()>> = LazyLock::new(Mutex::default);
    let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    // What a failed test left behind shouldn't fail this one.
    settle(Duration::from_secs(5));
    control().reset();
    drop(take_violations());
    // For when the test fails: otherwise its output isn't shown.
    eprintln!("METAL_SIM_SEED={}", random::seed());
    Exclusive {
        before: counters(),
        unpooled: false,
        violations: false,
        leaks: false,
        patience: Duration::from_secs(10),
        _lock: lock,
    }
}

impl Exclusive {
    /// What was counted when it began.
    #[must_use]
    pub fn before(&self) -> &Counters {
        &self.before
    }

    /// Allows autoreleases without a pool.
    pub fn allow_unpooled(&mut self) {
        self.unpooled = true;
    }

    /// Collects violations, and leaves them to the test: see [`Control::collect_violations`].
    pub fn allow_violations(&mut self) {
        self.violations = true;
        control().collect_violations();
    }

    /// How long it waits in the end for threads of the client's to let go of what they have. At first 10 s.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Allows objects to be alive in the end.
    pub fn allow_leaks(&mut self) {
        self.leaks = true;
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        let idle = settle(Duration::from_secs(20));
        if !self.leaks && !std::thread::panicking() {
            // Threads of the client's own may be about to end, and hold things until then.
            wait_until(self.patience, || !live().exceeds(&self.before.live));
        }
        let (violations, after) = (take_violations(), counters());
        control().reset();
        if std::thread::panicking() {
            return;
        }
        assert!(self.violations || violations.is_empty(), "violations: {violations:#?}");
        assert!(self.leaks || idle, "the simulated GPU is not idle");
        assert!(
            self.leaks || !after.live.exceeds(&self.before.live),
            "leaks: {:#?}, before {:#?}",
            after.live,
            self.before.live
        );
        let unpooled = after.unpooled_autoreleases - self.before.unpooled_autoreleases;
        assert!(self.unpooled || unpooled == 0, "{unpooled} autoreleases without a pool");
    }
}
