//! What goes on while streams wait for the host.

use crate::measure::{Bench, Gate, Word, drain, idle, step};
use gpu_events::{Device, Result, Signal, Stream, WaitOptions, WaitStrategy, cuda};
use gpu_events_conformance::cuda::Kernels;
use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

const MOST: usize = 64;
/// How long a stream that nothing holds back may take.
const STOPPED: Duration = Duration::from_millis(100);
/// Streams that have work at once, beside gated ones.
const BUSY: usize = 16;
const ROUNDS: usize = 8;
const KERNEL: Duration = Duration::from_micros(50);
const MAPPED: usize = 32;
const MAP_ROWS: usize = 10;
const MAP_STOPPED: Duration = Duration::from_millis(20);

pub(crate) fn run(bench: &Bench) -> Result<()> {
    for signal in [Signal::Cheap, Signal::Prompt] {
        let device = cuda::open(0, signal)?;
        println!("\n{signal:?}: {:?}", device.capabilities().gates);
        free_stream(&device, signal)?;
    }
    let device = cuda::open(0, Signal::Prompt)?;
    println!(
        "\nstreams of {BUSY} that get {ROUNDS} kernels each done within {STOPPED:?}, all at once beside closed gates"
    );
    for gates in [0, 1, 2, 4, 6, 7] {
        let line = (1..=BUSY)
            .map(|busy| beside(&device, gates, busy).map(|done| format!("{done:>3}")))
            .collect::<Result<String>>()?;
        println!("  {gates} gates, 1 to {BUSY} busy streams:{line}");
    }
    map(bench)
}

/// How many of `busy` streams with work go on beside so many that wait for the host.
fn beside(device: &Device, gates: usize, busy: usize) -> Result<usize> {
    let kernels = Kernels::of(0)?;
    step(format_args!("{gates} gates beside {busy} busy streams"), || {
        let gated = (0..gates).map(|_| device.create_stream()).collect::<Result<Vec<_>>>()?;
        let streams = (0..busy).map(|_| device.create_stream()).collect::<Result<Vec<_>>>()?;
        let (gate, open) = device.host_event()?;
        gated.iter().try_for_each(|stream| stream.wait(&gate).map(drop))?;
        for _ in 0..ROUNDS {
            for stream in &streams {
                kernels.spin(stream.cuda()?.raw(), KERNEL)?;
                drop(stream.record()?);
            }
        }
        let ends = streams.iter().map(Stream::record).collect::<Result<Vec<_>>>()?;
        let options = WaitOptions::new().deadline(Instant::now() + STOPPED);
        let mut done = 0;
        for end in &ends {
            done += usize::from(end.wait_with(&options)?.is_complete());
        }
        open.complete();
        ends.iter().try_for_each(|event| event.synchronize())?;
        gated.iter().try_for_each(drain)?;
        Ok(done)
    })
}

/// Whether a kernel on a stream gets done.
fn goes_on(stream: &Stream) -> Result<bool> {
    Kernels::of(0)?.spin(stream.cuda()?.raw(), Duration::ZERO)?;
    let options = WaitOptions::new().strategy(WaitStrategy::Spin).timeout(STOPPED);
    Ok(stream.record()?.wait_with(&options)?.is_complete())
}

/// For each number of gated streams: does work on one more get done?
fn free_stream(device: &Device, signal: Signal) -> Result<()> {
    let mut outcomes = [Vec::new(), Vec::new()];
    let mut submitting = Duration::ZERO;
    for count in 1..=MOST {
        step(format_args!("{signal:?}: {count} gated streams"), || {
            let gated = (0..count).map(|_| device.create_stream()).collect::<Result<Vec<_>>>()?;
            let before = device.create_stream()?;
            // Left to the pool: behind closed gates the driver may make none.
            drop(device.create_stream()?);
            let (gate, open) = device.host_event()?;
            let begun = Instant::now();
            for stream in &gated {
                stream.wait(&gate)?;
            }
            let held = gated.iter().map(Stream::record).collect::<Result<Vec<_>>>()?;
            submitting = submitting.max(begun.elapsed());
            outcomes[0].push(goes_on(&before)?);
            let after = device.create_stream()?;
            outcomes[1].push(goes_on(&after)?);
            open.complete();
            held.iter().try_for_each(|event| event.synchronize())?;
            drain(&before)?;
            drain(&after)
        })?;
    }
    for (name, outcomes) in ["made before the gates", "made after them"].into_iter().zip(&outcomes) {
        println!("  work within {STOPPED:?} on a stream {name}: {}", runs(outcomes));
        let first = outcomes.iter().position(|went_on| !went_on).map(|index| index + 1);
        let first = first.map_or_else(|| "none".to_owned(), |count| count.to_string());
        let last = if outcomes[MOST - 1] { "it goes on" } else { "it waits for the gates" };
        println!("    first number of gates that stops it: {first}; with {MOST}: {last}");
    }
    println!("  submitting the gates and a recording behind each: at most {submitting:?}");
    println!("  with the gates open, everything got done, each time");
    Ok(())
}

/// `1-7 goes on, 8-64 stops`.
fn runs(outcomes: &[bool]) -> String {
    let mut text = String::new();
    let mut from = 0;
    for run in outcomes.chunk_by(|a, b| a == b) {
        let separator = if from == 0 { "" } else { ", " };
        let verb = if run[0] { "goes on" } else { "stops" };
        // Writing to a string does not fail.
        let _ = write!(text, "{separator}{}-{} {verb}", from + 1, from + run.len());
        from += run.len();
    }
    text
}

/// Which of 32 new streams stand still while one of them waits for the host, alone.
fn map(bench: &Bench) -> Result<()> {
    let streams: Vec<_> = step("new streams", || (0..MAPPED).map(|_| bench.stream()).collect())?;
    let words = (0..MAPPED).map(|_| bench.word()).collect::<Result<Vec<Word>>>()?;
    println!(
        "\nraw streams, one after the other: # stands still within {MAP_STOPPED:?} while the row's stream waits"
    );
    println!(
        "      {}",
        (0..MAPPED).map(|column| char::from(b'0' + (column % 10) as u8)).collect::<String>()
    );
    let mut gate: Gate = bench.gate()?;
    for row in 0..MAP_ROWS {
        let written = row as u64 + 1;
        let line = step(format_args!("stream {row} gated"), || {
            gate.close(bench, streams[row])?;
            let mut line = String::new();
            for column in 0..MAPPED {
                if column == row {
                    line.push('o');
                    continue;
                }
                bench.write(streams[column], words[column], written)?;
                let begun = Instant::now();
                while words[column].get() < written && begun.elapsed() < MAP_STOPPED {
                    idle(Duration::from_nanos(200));
                }
                line.push(if words[column].get() < written { '#' } else { '.' });
            }
            gate.open();
            streams.iter().try_for_each(|stream| bench.drain(*stream))?;
            Ok(line)
        })?;
        println!("  {row:>3} {line}");
    }
    for stream in streams {
        // SAFETY: nothing is on it, and nobody else has it.
        crate::measure::check("cuStreamDestroy", unsafe { (bench.api.stream_destroy)(stream) })?;
    }
    Ok(())
}
