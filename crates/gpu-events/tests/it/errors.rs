//! Errors: their texts, their sizes, and what they carry.

use crate::support::cpu;
use gpu_events::{Device, Error, ErrorKind, Result};
use std::{collections::HashSet, time::Duration};

const KINDS: [ErrorKind; 24] = [
    ErrorKind::Unrecorded,
    ErrorKind::NotSubmitted,
    ErrorKind::NotComplete,
    ErrorKind::Untimed,
    ErrorKind::NotMeasured,
    ErrorKind::ClockMismatch,
    ErrorKind::EndBeforeStart,
    ErrorKind::WrongDevice,
    ErrorKind::WouldBlock,
    ErrorKind::WouldDeadlock,
    ErrorKind::InvalidId,
    ErrorKind::Closed,
    ErrorKind::WorkFailed,
    ErrorKind::Panicked,
    ErrorKind::Abandoned,
    ErrorKind::DeviceLost,
    ErrorKind::Unsupported,
    ErrorKind::Unavailable,
    ErrorKind::FeatureDisabled,
    ErrorKind::Forked,
    ErrorKind::Capturing,
    ErrorKind::InvalidArgument,
    ErrorKind::Resources,
    ErrorKind::Driver,
];

#[test]
fn every_kind_has_a_text_of_its_own_that_fits_into_a_sentence() {
    let texts: HashSet<String> = KINDS.iter().map(|kind| Error::new(*kind).to_string()).collect();
    assert_eq!(texts.len(), KINDS.len());
    for text in texts {
        assert!(text.len() > 10 && text.len() < 100, "{text}");
        assert!(!text.ends_with('.') && text.starts_with(char::is_lowercase), "{text}");
    }
}

#[test]
fn a_detail_comes_behind_the_kind() {
    let error = Error::with_text(ErrorKind::Driver, "code 700");
    assert_eq!((error.kind(), error.detail()), (ErrorKind::Driver, Some("code 700")));
    assert_eq!(error.to_string(), "the driver reported an error: code 700");
    assert_eq!(format!("{error:?}"), "Error(Driver: the driver reported an error: code 700)");
    assert_eq!(error.lateness(), None);
    let plain = Error::from(ErrorKind::Closed);
    assert_eq!((plain.detail(), plain.to_string()), (None, "the device is closed".to_owned()));
    // It is an error like any other.
    let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(error.clone());
    assert_eq!(boxed.to_string(), error.to_string());
}

/// The culprit is named, and not every stream on the way.
#[test]
fn a_failure_that_was_passed_on_names_where_it_came_from() {
    let device = cpu();
    let labeled = |label: &str| {
        device.create_stream_with(&gpu_events::StreamOptions::new().label(label)).expect("a stream")
    };
    let (first, second, third) = (labeled("first"), labeled("second"), labeled("third"));
    let signal = crate::support::hold(&first);
    first.cpu().unwrap().enqueue(|| Err::<(), _>("disk full")).unwrap();
    let event = first.record().unwrap();
    second.wait(&event).unwrap();
    third.wait(&second.record().unwrap()).unwrap();
    let last = third.record().unwrap();
    signal.complete();
    assert_eq!(event.synchronize().unwrap_err().to_string(), "work on the stream failed: disk full");
    let error = last.synchronize().unwrap_err();
    assert_eq!(
        error.to_string(),
        "work on the stream failed: disk full (on stream \"first\", which this waited for)"
    );
    assert_eq!((error.kind(), error.detail()), (ErrorKind::WorkFailed, Some("disk full")));
}

#[test]
fn a_panic_arrives_with_its_text() {
    let device = cpu();
    let cases: [(fn(), &str); 3] = [
        (|| panic!("a literal"), "work on the stream panicked: a literal"),
        (|| panic!("formatted {}", 7), "work on the stream panicked: formatted 7"),
        (|| std::panic::panic_any(7_u8), "work on the stream panicked: a panic without a text"),
    ];
    for (work, text) in cases {
        let stream = device.create_stream().unwrap();
        stream.cpu().unwrap().enqueue(work).unwrap();
        assert_eq!(stream.synchronize().unwrap_err().to_string(), text);
    }
}

#[test]
fn end_before_start_carries_by_how_much() {
    let device = cpu();
    let stream = device.create_stream().unwrap();
    let (start, end) = (stream.record_timed().unwrap(), device.pool().acquire_timed());
    while start.completion_time().unwrap() == device.correlate().unwrap().device() {}
    end.record(&stream).unwrap();
    let forward = end.elapsed_since(&start).unwrap();
    let error = start.elapsed_since(&end).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EndBeforeStart);
    assert_eq!(error.lateness(), Some(forward.duration()));
    assert_eq!(
        error.to_string(),
        format!("the end was reached before the start, by {:?}", forward.duration())
    );
}

#[test]
fn names_that_open_nothing_say_why() {
    let of = |name: &str| Device::open(name).map(drop).unwrap_err();
    for name in
        ["", "gpu", "cpu:", "cpu:x", "cpu:+1", "cpu:-1", "cpu:1:2", "cpu: 1", "cpu:99999999999", "CPU"]
    {
        let error = of(name);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name:?}");
        assert_eq!(
            error.to_string(),
            format!(
                "invalid argument: {name:?} is no device; names are a backend and a number, like \"cpu:0\""
            )
        );
    }
    // On Apple's systems, and on the simulated one, there is a GPU.
    let absent = if cfg!(any(target_vendor = "apple", gpu_events_metal_sim)) { "metal:99" } else { "metal" };
    // A CPU may play a GPU for Vulkan, but not a hundred.
    for name in [absent, "cuda", "vulkan:99", "cuda:3"] {
        let error = of(name);
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{name}");
        assert!(!error.is_feature_disabled());
    }
    for name in ["cpu", "cpu:0", "cpu:7"] {
        assert!(Device::open(name).is_ok(), "{name}");
    }
    assert!(Error::new(ErrorKind::FeatureDisabled).is_feature_disabled());
}

#[test]
fn errors_are_small() {
    assert!(size_of::<Error>() <= 16);
    // And so cost their results nothing.
    assert_eq!(size_of::<Result<()>>(), size_of::<Error>());
    assert_eq!(size_of::<ErrorKind>(), 1);
}

/// What the documentation of `Elapsed::as_millis_f64` says.
#[test]
fn milliseconds_are_exact_for_a_hundred_and_four_days() {
    let days = Duration::from_secs(104 * 24 * 3600).as_nanos() as u64;
    assert!(days < 1 << f64::MANTISSA_DIGITS);
    let clock = cpu().clock().to_owned();
    let elapsed = clock.at(days + 1).since(&clock.at(1)).unwrap();
    let more = clock.at(days + 2).since(&clock.at(1)).unwrap();
    assert!(more.as_millis_f64() > elapsed.as_millis_f64());
}
