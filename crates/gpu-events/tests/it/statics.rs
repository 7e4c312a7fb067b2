//! What the compiler can be asked: threads, sizes, and the shape of the interface.

use gpu_events::{
    BackendListing, Callback, Capabilities, Clock, ClockId, Completion, Correlation, Device, DeviceId,
    DeviceInfo, Elapsed, Error, ErrorKind, Event, EventId, EventPool, EventTable, External, ExternalPending,
    HostSignal, PoolStatistics, StallReport, Status, Stream, StreamGuard, StreamId, StreamOptions, Timestamp,
    WaitOptions, WaitOutcome, backend, cpu,
};

const fn send_and_sync<T: Send + Sync + ?Sized>() {}

/// R34.
const _: () = {
    send_and_sync::<Callback>();
    send_and_sync::<Capabilities>();
    send_and_sync::<Clock>();
    send_and_sync::<Completion>();
    send_and_sync::<Correlation>();
    send_and_sync::<Device>();
    send_and_sync::<DeviceInfo>();
    send_and_sync::<Elapsed>();
    send_and_sync::<Error>();
    send_and_sync::<Event>();
    send_and_sync::<EventPool>();
    send_and_sync::<EventTable>();
    send_and_sync::<External>();
    send_and_sync::<ExternalPending>();
    send_and_sync::<HostSignal>();
    send_and_sync::<PoolStatistics>();
    send_and_sync::<StallReport>();
    send_and_sync::<Stream>();
    send_and_sync::<StreamOptions>();
    send_and_sync::<Timestamp>();
    send_and_sync::<WaitOptions>();
    send_and_sync::<BackendListing>();
    send_and_sync::<backend::StreamSeed<'static>>();
    send_and_sync::<backend::Lane>();
    send_and_sync::<cpu::CpuStream<'static>>();
};

/// The guard of a held stream stays on its thread: who holds a stream is told by thread.
#[test]
fn a_guard_is_not_sent() {
    trait Ambiguous<A> {
        fn sendable() {}
    }
    struct IfSend;
    impl<T: ?Sized> Ambiguous<()> for T {}
    impl<T: ?Sized + Send> Ambiguous<IfSend> for T {}
    // Does not compile if both impls apply.
    <StreamGuard<'_> as Ambiguous<_>>::sendable();
}

/// The traits of the seam are object safe, and need nothing of their users' types.
#[test]
fn the_seam_is_object_safe() {
    fn takes(_: Option<&dyn backend::Backend>, _: Option<&dyn backend::BackendStream>) {}
    fn takes_more(_: Option<&dyn backend::Gate>, _: Option<&dyn backend::Stamp>) {}
    takes(None, None);
    takes_more(None, None);
}

#[test]
fn what_travels_is_small() {
    let word = size_of::<usize>();
    assert_eq!(size_of::<Event>(), word);
    assert!(size_of::<Error>() <= 16 && size_of::<Result<bool, Error>>() <= 16);
    assert!(size_of::<Stream>() <= 3 * word);
    assert_eq!(size_of::<Device>(), word);
    assert_eq!((size_of::<EventId>(), size_of::<StreamId>(), size_of::<DeviceId>()), (8, 8, 8));
    assert_eq!((size_of::<Status>(), size_of::<WaitOutcome>(), size_of::<ErrorKind>()), (1, 1, 1));
    assert_eq!(size_of::<ClockId>(), 8);
    assert!(size_of::<Completion>() <= 8 * word);
}
