//! What a recording costs to make and to ask for.

use crate::measure::{self, Bench, Entry, drain, in_turn, nanos, ratio, reach, step};
use gpu_events::{Device, EventPool, Result, Signal, Status, Stream, cuda, statuses};
use std::{hint::black_box, time::Instant};

/// Calls in one timing; the stream is drained in between. A few as they come between launches, and as many as a stream has
/// room for.
const CALLS: [usize; 2] = [20, 200];
const ROUNDS: usize = 2_000;
const STATUSES: usize = 1_000;
const PENDING: usize = 1_000;
const STREAMS: usize = 8;

pub(crate) fn run(bench: &Bench) -> Result<()> {
    for signal in [Signal::Cheap, Signal::Prompt] {
        let device = cuda::open(0, signal)?;
        CALLS.into_iter().try_for_each(|calls| recording(bench, &device, signal, calls))?;
        status(bench, &device, signal)?;
        polling(bench, &device, signal)?;
    }
    Ok(())
}

/// Nanoseconds of one of the calls of a round.
fn timed(calls: usize, mut call: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    for index in 0..calls {
        call(index)?;
    }
    Ok(nanos(begun) / calls as f64)
}

/// Acquires, records and drops, by the one call for the first two.
fn whole<'a>(name: &str, calls: usize, stream: &'a Stream) -> Entry<'a> {
    Entry::new(format!("ours: acquire+record+drop, {name}"), move || {
        let time = timed(calls, |_| stream.record().map(drop))?;
        drain(stream)?;
        Ok(time)
    })
}

/// The same, by two calls.
fn in_steps<'a>(name: &str, calls: usize, pool: &'a EventPool, stream: &'a Stream) -> Entry<'a> {
    Entry::new(format!("ours: the same in three steps, {name}"), move || {
        let time = timed(calls, |_| pool.acquire().record(stream))?;
        drain(stream)?;
        Ok(time)
    })
}

fn recording(bench: &Bench, device: &Device, signal: Signal, calls: usize) -> Result<()> {
    let pool = &device.pool();
    let (quiet, exposed) = (&device.create_stream()?, &device.create_stream()?);
    let on_exposed = exposed.cuda()?.raw();
    let stream = bench.stream()?;
    let mut entries = Vec::new();
    match signal {
        Signal::Cheap => {
            let one = bench.event(measure::UNTIMED)?;
            entries.push(Entry::new("raw: cuEventRecord, one event again and again", move || {
                let time = timed(calls, |_| bench.record(one, stream))?;
                bench.drain(stream)?;
                Ok(time)
            }));
            let many = bench.events(calls)?;
            let again = bench.events(calls)?;
            entries.push(Entry::new("raw: cuEventRecord, as many events as are pending", move || {
                let time = timed(calls, |index| bench.record(many[index], stream))?;
                bench.drain(stream)?;
                Ok(time)
            }));
            entries.push(Entry::new("raw: the same, on our stream whose handle was taken", move || {
                let time = timed(calls, |index| bench.record(again[index], on_exposed))?;
                bench.drain(on_exposed)?;
                Ok(time)
            }));
        }
        _ => {
            let word = bench.word()?;
            for (name, stream) in [
                ("raw: cuStreamWriteValue64", stream),
                ("raw: the same, on our stream whose handle was taken", on_exposed),
            ] {
                entries.push(Entry::new(name, move || {
                    let next = word.get() + 1;
                    let time = timed(calls, |index| bench.write(stream, word, next + index as u64))?;
                    bench.drain(stream)?;
                    Ok(time)
                }));
            }
            // As often as there are raw rows in the other mode, so that the rows below have the same numbers.
            let one = bench.event(measure::UNTIMED)?;
            entries.push(Entry::new("raw: cuEventRecord, for comparison", move || {
                let time = timed(calls, |_| bench.record(one, stream))?;
                bench.drain(stream)?;
                Ok(time)
            }));
        }
    }
    entries.push(Entry::new("raw: cuEventCreate+record+destroy", move || {
        let time = timed(calls, |_| {
            let event = bench.event(measure::UNTIMED)?;
            bench.record(event, stream)?;
            // SAFETY: nobody else has it.
            measure::check("cuEventDestroy", unsafe { (bench.api.event_destroy)(event) })
        })?;
        bench.drain(stream)?;
        Ok(time)
    }));
    entries.push(whole("handle not taken", calls, quiet));
    entries.push(whole("handle taken", calls, exposed));
    entries.push(in_steps("handle not taken", calls, pool, quiet));
    entries.push(in_steps("handle taken", calls, pool, exposed));
    for (name, stream) in [("not taken", quiet), ("taken", exposed)] {
        let kept = pool.acquire();
        entries.push(Entry::new(format!("ours: record alone, one event again, handle {name}"), move || {
            let time = timed(calls, |_| kept.record(stream))?;
            drain(stream)?;
            Ok(time)
        }));
    }
    let kept: Vec<_> = (0..calls).map(|_| pool.acquire()).collect();
    entries.push(Entry::new("ours: record alone, as many as are pending, not taken", move || {
        let time = timed(calls, |index| kept[index].record(quiet))?;
        drain(quiet)?;
        Ok(time)
    }));
    let title = format!("{signal:?}: recording, rounds of {calls}, drained in between");
    let all = in_turn(&title, "ns", ROUNDS, entries)?;
    let ours = [("handle not taken", all[4].median), ("handle taken", all[5].median)];
    match signal {
        Signal::Cheap => {
            for (name, ours) in ours {
                let goal = "≤ 1.25";
                ratio(&format!("{name} / one event again and again"), ours, all[0].median, goal);
                ratio(&format!("{name} / as many as are pending"), ours, all[1].median, goal);
                ratio(&format!("{name} / the same on our stream"), ours, all[2].median, goal);
            }
        }
        _ => {
            for (name, ours) in ours {
                ratio(&format!("{name} / cuStreamWriteValue64"), ours, all[0].median, "≤ 1.15");
                ratio(&format!("{name} / the same on our stream"), ours, all[1].median, "≤ 1.15");
            }
        }
    }
    println!(
        "  (over torch.cuda.Event: examples/torch_events.py on the same machine; goal ≥ 6 × cheap, ≥ 1.3 × prompt)"
    );
    Ok(())
}

fn status(bench: &Bench, device: &Device, signal: Signal) -> Result<()> {
    let stream = bench.stream()?;
    let known = &device.create_stream()?.record()?;
    known.synchronize()?;
    let native = bench.event(measure::UNTIMED)?;
    bench.record(native, stream)?;
    bench.drain(stream)?;
    let each = |begun: Instant| nanos(begun) / STATUSES as f64;
    let all = in_turn(
        &format!("{signal:?}: asking for a known recording, {STATUSES} times each round"),
        "ns",
        500,
        vec![
            Entry::new("raw: cuEventQuery of a reached event", || {
                let begun = Instant::now();
                for _ in 0..STATUSES {
                    black_box(bench.query(native)?);
                }
                Ok(each(begun))
            }),
            Entry::new("ours: status", || {
                let begun = Instant::now();
                for _ in 0..STATUSES {
                    black_box(known.status());
                }
                Ok(each(begun))
            }),
            Entry::new("ours: is_complete", || {
                let begun = Instant::now();
                for _ in 0..STATUSES {
                    black_box(known.is_complete()?);
                }
                Ok(each(begun))
            }),
            Entry::new("the loop alone", || {
                let begun = Instant::now();
                for _ in 0..STATUSES {
                    black_box(known);
                }
                Ok(each(begun))
            }),
        ],
    )?;
    println!("  = status: {:.2} ns (goal ≤ 2)", all[1].median);
    Ok(())
}

/// A thousand pending recordings on eight streams behind one gate, and as many raw events beside them on the very same
/// streams: the first stream alone waits for the host, the others for it.
fn polling(bench: &Bench, device: &Device, signal: Signal) -> Result<()> {
    let streams = (0..STREAMS).map(|_| device.create_stream()).collect::<Result<Vec<_>>>()?;
    let raw = streams.iter().map(|it| Ok(it.cuda()?.raw())).collect::<Result<Vec<_>>>()?;
    let first = bench.event(measure::UNTIMED)?;
    let natives = &bench.events(PENDING)?;
    let mut gate = bench.gate()?;
    let events = &step(format_args!("{signal:?}: {PENDING} recordings behind a gate"), || {
        gate.close(bench, raw[0])?;
        bench.record(first, raw[0])?;
        for stream in &raw[1..] {
            bench.wait_event(*stream, first)?;
        }
        let mut events = Vec::with_capacity(PENDING);
        for (index, native) in natives.iter().enumerate() {
            events.push(streams[index % STREAMS].record()?);
            bench.record(*native, raw[index % STREAMS])?;
        }
        Ok(events)
    })?;
    let all = in_turn(
        &format!("{signal:?}: one round over {PENDING} pending events on {STREAMS} streams"),
        "ns",
        300,
        vec![
            Entry::new("raw: cuEventQuery each", || {
                let begun = Instant::now();
                let mut reached = false;
                for native in natives {
                    reached |= bench.query(*native)?;
                }
                let time = nanos(begun);
                if reached {
                    Err(measure::failed("an event was reached behind a closed gate"))
                } else {
                    Ok(time)
                }
            }),
            Entry::new("ours: statuses of all", || {
                let begun = Instant::now();
                let all = statuses(events);
                let time = nanos(begun);
                if all.iter().all(|status| *status == Status::Pending) {
                    Ok(time)
                } else {
                    Err(measure::failed("not pending behind a closed gate"))
                }
            }),
            Entry::new("ours: status each", || {
                let begun = Instant::now();
                let mut pending = true;
                for event in events {
                    pending &= event.status() == Status::Pending;
                }
                let time = nanos(begun);
                if pending { Ok(time) } else { Err(measure::failed("not pending behind a closed gate")) }
            }),
        ],
    )?;
    ratio("cuEventQuery / statuses of all", all[0].median, all[1].median, "≥ 50");
    ratio("cuEventQuery / status each", all[0].median, all[2].median, "≥ 50");
    gate.open();
    step("after the gate", || {
        events.iter().try_for_each(reach)?;
        raw.iter().try_for_each(|stream| bench.drain(*stream))
    })
}
