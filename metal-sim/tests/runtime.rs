//! The Objective-C runtime, blocks and dispatch queues.

use block2::RcBlock;
use dispatch2::{DispatchQueue, DispatchQueueAttr, DispatchQueueGlobalPriority, GlobalQueueIdentifier};
use metal_sim::{exclusive, settle, take_violations};
use objc2::rc::{Retained, Weak, autoreleasepool};
use objc2::runtime::{AnyClass, AnyObject, ClassBuilder, NSObject, NSObjectProtocol, Sel};
use objc2::{ClassType, Message, msg_send, sel};
use objc2_foundation::{NSArray, NSString};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);

/// Runs one of this file's tests in a process of its own, and gives what it says when it dies.
fn dying(test: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    assert!(!output.status.success(), "{test} was tolerated: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

struct Sent<T>(T);

// SAFETY: what the tests send is thread-safe.
unsafe impl<T> Send for Sent<T> {}

impl<T> Sent<T> {
    fn into_inner(self) -> T {
        self.0
    }
}

// --------------------------------------------------------------------------------------------------------- objects
#[test]
fn weak_references_let_go() {
    let object = NSObject::new();
    let weak = Weak::from_retained(&object);
    let other = weak.clone();
    assert!(weak.load().is_some());
    drop(object);
    assert!(weak.load().is_none() && other.load().is_none());
}

#[test]
fn weak_references_race_with_the_last_release() {
    for _ in 0..200 {
        let object = NSObject::new();
        let (weak, strong) = (Sent(Weak::from_retained(&object)), Sent(object));
        std::thread::scope(|scope| {
            scope.spawn(move || drop(weak.into_inner().load()));
            scope.spawn(move || drop(strong.into_inner()));
        });
    }
}

#[test]
fn strings_and_the_root_class() {
    autoreleasepool(|_| {
        let string = NSString::from_str("héllo");
        assert_eq!((string.to_string().as_str(), string.len(), string.length()), ("héllo", 6, 5));
        assert_eq!(NSString::from_str("").to_string(), "");
        assert_eq!(string, NSString::from_str("héllo"));
        assert_ne!(string, NSString::from_str("hello"));
        assert!(string.isKindOfClass(NSObject::class()) && !NSObject::new().isKindOfClass(NSString::class()));
        assert!(string.respondsToSelector(sel!(UTF8String)) && !string.respondsToSelector(sel!(nope)));
        assert_eq!(AnyClass::get(c"NSString"), Some(NSString::class()));
        assert!(AnyClass::get(c"NSNope").is_none());
        // SAFETY: every object has a description.
        let description: Retained<NSString> = unsafe { msg_send![&NSObject::new(), description] };
        assert!(description.to_string().starts_with("<NSObject: 0x"));
        assert_eq!(NSString::class().metaclass().metaclass(), NSObject::class().metaclass());
        // SAFETY: a class object answers its root's instance methods.
        let class: &AnyClass = unsafe { msg_send![NSString::class(), self] };
        assert_eq!(class, NSString::class());
    });
}

#[test]
fn constants_are_strings() {
    // SAFETY: it is a constant.
    let domain = unsafe { objc2_metal::MTLCommandBufferErrorDomain };
    assert_eq!(*domain, *NSString::from_str("MTLCommandBufferErrorDomain"));
    drop(domain.retain());
    assert_eq!(domain.to_string(), "MTLCommandBufferErrorDomain");
}

#[test]
fn arrays_enumerate() {
    let strings: Vec<_> = (0..40).map(|i| NSString::from_str(&i.to_string())).collect();
    let array = NSArray::from_retained_slice(&strings);
    assert_eq!(array.len(), 40);
    assert_eq!(array.objectAtIndex(7).to_string(), "7");
    assert!(array.iter().map(|s| s.to_string()).eq((0..40).map(|i| i.to_string())));
    assert!(NSArray::<NSString>::from_slice(&[]).iter().next().is_none());
}

#[test]
fn classes_are_defined_once_however_many_threads_want_them() {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for i in 0..100 {
                    assert_eq!(NSString::from_str(&i.to_string()).to_string(), i.to_string());
                }
            });
        }
    });
}

#[test]
fn autoreleases_without_a_pool_are_counted() {
    let mut alone = exclusive();
    alone.allow_unpooled();
    let unpooled = || metal_sim::counters().unpooled_autoreleases - alone.before().unpooled_autoreleases;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = Retained::autorelease_ptr(NSObject::new());
            assert_eq!(unpooled(), 1);
            autoreleasepool(|_| autoreleasepool(|_| Retained::autorelease_ptr(NSObject::new())));
            assert_eq!(unpooled(), 1);
        });
    });
}

#[test]
fn over_releases_and_late_retains_are_noticed() {
    let mut alone = exclusive();
    alone.allow_violations();
    let object = NSObject::new();
    let raw = Retained::as_ptr(&object).cast_mut().cast::<AnyObject>();
    drop(object);
    // SAFETY: none, but that the dead keep their headers.
    unsafe {
        objc2::ffi::objc_retain(raw);
        objc2::ffi::objc_release(raw);
        objc2::ffi::objc_release(raw);
    }
    let expected = ["retain", "release", "release"].map(|what| format!("{what} of a deallocated NSObject"));
    assert_eq!(take_violations(), expected);
}

// ----------------------------------------------------------------------------------------------- what ends a process
#[test]
fn a_message_to_the_dead_ends_the_process() {
    let said = dying("die_by_a_message_to_the_dead");
    assert!(said.contains("message hash to a deallocated NSObject"), "{said}");
}

#[test]
#[ignore = "it dies"]
fn die_by_a_message_to_the_dead() {
    let object = NSObject::new();
    let raw = Retained::as_ptr(&object);
    drop(object);
    // SAFETY: none, but that the dead keep their headers.
    let _: usize = unsafe { msg_send![raw, hash] };
}

#[test]
fn an_over_release_ends_the_process() {
    let said = dying("die_by_an_over_release");
    assert!(said.contains("release of a deallocated NSString"), "{said}");
}

#[test]
#[ignore = "it dies"]
fn die_by_an_over_release() {
    let string = NSString::from_str("x");
    let raw = Retained::as_ptr(&string).cast_mut();
    drop(string);
    // SAFETY: none, but that the dead keep their headers.
    unsafe { objc2::ffi::objc_release(raw.cast()) };
}

#[test]
fn a_panic_in_a_block_ends_the_process() {
    let said = dying("die_by_a_panic_in_a_block");
    assert!(said.contains("a panic left a block or function that was run by a dispatch queue"), "{said}");
}

#[test]
#[ignore = "it dies"]
fn die_by_a_panic_in_a_block() {
    let block = RcBlock::new(|| panic!("planted"));
    // SAFETY: the block may be called on any thread.
    unsafe { DispatchQueue::new("test", None).exec_async_with_block(RcBlock::as_ptr(&block)) };
    settle(LONG);
}

#[test]
fn a_deadlock_on_ones_own_queue_ends_the_process() {
    let said = dying("die_by_waiting_for_ones_own_queue");
    assert!(said.contains("dispatch_sync on the queue that this thread runs a job of"), "{said}");
}

#[test]
#[ignore = "it dies"]
fn die_by_waiting_for_ones_own_queue() {
    let queue = DispatchQueue::new("test", None);
    queue.exec_sync(|| queue.exec_sync(|| ()));
}

#[test]
fn a_popped_pool_must_be_open() {
    let mut alone = exclusive();
    alone.allow_violations();
    // SAFETY: none is needed here: this pool was never pushed.
    unsafe { objc2::ffi::objc_autoreleasePoolPop(std::ptr::without_provenance_mut(77)) };
    assert_eq!(take_violations(), ["an autorelease pool is popped that is not open on this thread"]);
}

// ------------------------------------------------------------------------------------------------- objc2's own checks
#[test]
#[should_panic(expected = "method not found")]
fn an_unknown_selector_is_noticed() {
    // SAFETY: none: there is no such method.
    let _: () = unsafe { msg_send![&NSObject::new(), frobnicate] };
}

#[test]
#[should_panic(expected = "nil")]
fn a_message_to_nil_is_noticed() {
    // SAFETY: `hash` may be sent to nil.
    let _: usize = unsafe { msg_send![std::ptr::null::<NSObject>(), hash] };
}

/// A simulated method with an encoding that is not the binding's is noticed as soon as a binding calls it.
#[test]
#[should_panic(expected = "invalid message send")]
fn a_wrong_encoding_is_noticed() {
    extern "C-unwind" fn registry_id(_: &AnyObject, _: Sel) -> f32 {
        0.0
    }
    let mut builder = ClassBuilder::new(c"WrongDevice", NSObject::class()).unwrap();
    // SAFETY: none: this is wrong on purpose.
    unsafe {
        builder.add_method(sel!(registryID), registry_id as extern "C-unwind" fn(_, _) -> _);
    }
    let class = builder.register();
    // SAFETY: every class has `new`.
    let device: Retained<AnyObject> = unsafe { msg_send![class, new] };
    // SAFETY: none, as above.
    let device: Retained<objc2::runtime::ProtocolObject<dyn objc2_metal::MTLDevice>> =
        unsafe { Retained::cast_unchecked(device) };
    objc2_metal::MTLDevice::registryID(&*device);
}

#[test]
#[should_panic(expected = "defined invalid method")]
fn a_wrong_override_is_noticed() {
    extern "C-unwind" fn hash(_: &AnyObject, _: Sel) -> f32 {
        0.0
    }
    let mut builder = ClassBuilder::new(c"WrongHash", NSObject::class()).unwrap();
    // SAFETY: none: this is wrong on purpose.
    unsafe {
        builder.add_method(sel!(hash), hash as extern "C-unwind" fn(_, _) -> _);
    }
}

// --------------------------------------------------------------------------------------------------- blocks and queues
#[test]
fn blocks_are_counted() {
    let alone = exclusive();
    let live = || metal_sim::counters().live.blocks - alone.before().live.blocks;
    let block = RcBlock::new(|| ());
    assert_eq!(live(), 1);
    let copy = block.clone();
    drop(block);
    assert_eq!(live(), 1);
    copy.call(());
    drop(copy);
    assert_eq!(live(), 0);
}

#[test]
fn a_serial_queue_keeps_order() {
    let queue = DispatchQueue::new("serial", DispatchQueueAttr::SERIAL);
    let (tx, rx) = mpsc::channel();
    for i in 0..10_000 {
        let tx = tx.clone();
        queue.exec_async(move || tx.send(i).unwrap());
    }
    queue.exec_sync(|| ()); // in its turn: after all of them
    assert!(rx.try_iter().eq(0..10_000));
}

#[test]
fn ten_thousand_queues_need_few_threads() {
    let count = Arc::new(AtomicUsize::new(0));
    let queues: Vec<_> = (0..10_000).map(|_| DispatchQueue::new("one of many", None)).collect();
    for queue in &queues {
        let count = count.clone();
        queue.exec_async(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
    }
    queues.iter().for_each(|queue| queue.exec_sync(|| ()));
    assert_eq!(count.load(Ordering::Relaxed), 10_000);
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
    assert!(threads < 200, "{threads} threads");
}

#[test]
fn turns_of_waiting_threads_and_jobs_exclude_each_other() {
    let queue = DispatchQueue::new("serial", None);
    let (inside, runs) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let alone = || {
        assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
        runs.fetch_add(1, Ordering::Relaxed);
        assert_eq!(inside.fetch_sub(1, Ordering::Relaxed), 1);
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..250).for_each(|_| queue.exec_sync(alone)));
        }
    });
    assert_eq!(runs.load(Ordering::Relaxed), 1000);
}

#[test]
fn jobs_of_a_concurrent_queue_overlap() {
    let normal = GlobalQueueIdentifier::Priority(DispatchQueueGlobalPriority::Default);
    for queue in [
        DispatchQueue::new("concurrent", DispatchQueueAttr::concurrent()),
        DispatchQueue::global_queue(normal),
    ] {
        // Each waits for the other.
        let ((to_one, one), (to_two, two)) = (mpsc::channel(), mpsc::channel());
        let (done, all) = mpsc::channel();
        let also_done = done.clone();
        queue.exec_async(move || {
            to_two.send(()).unwrap();
            one.recv().unwrap();
            done.send(()).unwrap();
        });
        queue.exec_async(move || {
            to_one.send(()).unwrap();
            two.recv().unwrap();
            also_done.send(()).unwrap();
        });
        all.recv_timeout(LONG).unwrap();
        all.recv_timeout(LONG).unwrap();
    }
}
