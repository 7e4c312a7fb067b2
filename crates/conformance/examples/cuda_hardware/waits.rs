//! From opening a gate to the host knowing that what was behind it is complete.

use crate::measure::{self, Bench, Entry, idle, in_turn, nanos, ratio};
use gpu_events::{Result, Signal, WaitOptions, WaitStrategy, cuda};
use std::{
    hint,
    time::{Duration, Instant},
};

const ROUNDS: usize = 2_000;
/// Until the stream has got to the gate.
const ARRIVAL: Duration = Duration::from_micros(30);

pub(crate) fn run(bench: &Bench) -> Result<()> {
    for signal in [Signal::Cheap, Signal::Prompt] {
        of_mode(bench, signal)?;
    }
    Ok(())
}

/// Everybody on the very same stream, with the gate opened by the thread that then waits.
fn of_mode(bench: &Bench, signal: Signal) -> Result<()> {
    let device = cuda::open(0, signal)?;
    let stream = &device.create_stream()?;
    let pool = &device.pool();
    let raw = stream.cuda()?.raw();
    let gate = &std::cell::RefCell::new(bench.gate()?);
    let behind = move |submit: &mut dyn FnMut() -> Result<()>, wait: &mut dyn FnMut() -> Result<()>| {
        let mut gate = gate.borrow_mut();
        gate.close(bench, raw)?;
        submit()?;
        idle(ARRIVAL);
        let opened = Instant::now();
        gate.open();
        wait()?;
        let time = nanos(opened) / 1e3;
        bench.drain(raw)?;
        Ok(time)
    };
    let plain = bench.event(measure::UNTIMED)?;
    let blocking = bench.event(measure::BLOCKING)?;
    let word = bench.word()?;
    let ours = |name: &str, strategy| {
        let options = WaitOptions::new().strategy(strategy);
        let event = pool.acquire();
        Entry::new(format!("ours: {name}"), move || {
            behind(&mut || event.record(stream), &mut || event.wait_with(&options).map(drop))
        })
    };
    let entries = vec![
        Entry::new("raw: cuEventQuery in a loop", move || {
            behind(&mut || bench.record(plain, raw), &mut || {
                while !bench.query(plain)? {
                    hint::spin_loop();
                }
                Ok(())
            })
        }),
        Entry::new("raw: cuStreamWriteValue64, a loop on the word", move || {
            let next = word.get() + 1;
            behind(&mut || bench.write(raw, word, next), &mut || {
                while word.get() < next {
                    hint::spin_loop();
                }
                Ok(())
            })
        }),
        ours("Spin", WaitStrategy::Spin),
        ours("SpinThenPark(100 µs)", WaitStrategy::SpinThenPark(Duration::from_micros(100))),
        ours("Park", WaitStrategy::Park),
        Entry::new("raw: cuEventSynchronize, which spins", move || {
            behind(&mut || bench.record(plain, raw), &mut || bench.synchronize(plain))
        }),
        Entry::new("raw: cuEventSynchronize with the blocking flag", move || {
            behind(&mut || bench.record(blocking, raw), &mut || bench.synchronize(blocking))
        }),
    ];
    let title = format!("{signal:?}: from opening a gate to knowing");
    let all = in_turn(&title, "µs", ROUNDS, entries)?;
    match signal {
        Signal::Cheap => ratio("Spin / cuEventQuery in a loop", all[2].median, all[0].median, "≤ 1.1"),
        _ => ratio("Spin / a loop on the word", all[2].median, all[1].median, "≤ 1.2"),
    }
    ratio("Park / cuEventSynchronize, blocking", all[4].median, all[6].median, "none");
    Ok(())
}
