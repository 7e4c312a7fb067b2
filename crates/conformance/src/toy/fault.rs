//! The ways in which a backend can be wrong.

/// One way in which the simulated device can break its contract. Each is something that a backend has done
/// somewhere, and each is noticed by at least one case: `tests/it/faults.rs` says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// Reports what was submitted as done.
    SignalsEarly,
    /// Reports the position after the one that is done as well.
    CompletesTwice,
    /// Signals a position before the work in front of it has had its effect.
    SignalsBeforeEffects,
    /// Starts its counter from zero again whenever it has run dry.
    Rewinds,
    /// Tells nobody; only who asks learns anything.
    WakesNobody,
    /// Loses every third batch on its way to the driver, and says that it went.
    LosesFlushes,
    /// Submits gathered work only when somebody asks for it.
    SitsOnWork,
    /// Says that a stream waits, and has it go on.
    IgnoresWaits,
    /// Opens a gate as soon as it is made.
    LeaksThroughGates,
    /// Never opens a gate.
    KeepsGatesShut,
    /// Holds all streams back behind any one's gate.
    GatesBlockTheDevice,
    /// Takes work that failed for work that is done.
    ForgetsFailure,
    /// Lets dependents go first and reports the failure then.
    FailsAfterRelease,
    /// Fails positions that were done before the failure.
    FailsBackwards,
    /// Fails every stream of the device with the first, and says that it does not.
    FailsEverything,
    /// Loses the device and tells nobody.
    ForgetsLoss,
    /// Says that a refused submission went.
    ForgetsRefusal,
    /// Waits for room in the queue itself, with the stream's lock held.
    BlocksWhenFull,
    /// Takes any number of recordings.
    ForgetsDepth,
    /// Runs only every other callback.
    SwallowsCallbacks,
    /// Takes the time when a recording is submitted.
    StampsSubmission,
    /// Says that it measured, and has nothing but zeros.
    StampsZero,
    /// Counts faster than it says.
    CountsFast,
    /// Turns the clock back now and then.
    TurnsBack,
    /// Places its clock on the host's by guesswork.
    MisplacesClock,
    /// Waits natively for more than the driver's counters can be apart, and so for ever.
    ExceedsValueGap,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::SignalsEarly,
        Self::CompletesTwice,
        Self::SignalsBeforeEffects,
        Self::Rewinds,
        Self::WakesNobody,
        Self::LosesFlushes,
        Self::SitsOnWork,
        Self::IgnoresWaits,
        Self::LeaksThroughGates,
        Self::KeepsGatesShut,
        Self::GatesBlockTheDevice,
        Self::ForgetsFailure,
        Self::FailsAfterRelease,
        Self::FailsBackwards,
        Self::FailsEverything,
        Self::ForgetsLoss,
        Self::ForgetsRefusal,
        Self::BlocksWhenFull,
        Self::ForgetsDepth,
        Self::SwallowsCallbacks,
        Self::StampsSubmission,
        Self::StampsZero,
        Self::CountsFast,
        Self::TurnsBack,
        Self::MisplacesClock,
        Self::ExceedsValueGap,
    ];
}
