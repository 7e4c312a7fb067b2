//! Perfetto's protobuf format, to write, and to read what was written here.
//!
//! A file has two halves. Packets of Perfetto's are what its tools show: tracks, slices, flows. A packet of our own, under a
//! number that Perfetto does not know and skips, has the trace itself, in columns: so that nothing is lost that Perfetto has no
//! field for, and reading needs no more than that. The first packet says that the file is ours, and the last that it is whole.

use crate::{
    ClockId, ClockSample, Error, ErrorKind, Process, Result, Span, Trace, Track, TrackKind, Wait, file,
};
use prost::Message;
use std::{collections::HashMap, fs, path::Path, sync::Arc};

/// What the first packet says, and the last.
const MAGIC: &str = "gpu-events trace, version 1";
const END: &str = "gpu-events trace, end";

impl Trace {
    /// As a file of Perfetto's, for <https://ui.perfetto.dev> and the trace processor.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], as [`check`](Self::check) says.
    pub fn to_perfetto(&self) -> Result<Vec<u8>> {
        self.check()?;
        let mut bytes = Vec::new();
        put(
            &mut bytes,
            Packet { ours: Some(Ours { magic: MAGIC.to_owned(), data: None }), ..Packet::default() },
        );
        Packets::new(self).write(&mut bytes);
        let data = Some(Data::of(self));
        put(&mut bytes, Packet { ours: Some(Ours { magic: END.to_owned(), data }), ..Packet::default() });
        Ok(bytes)
    }

    /// Writes [`to_perfetto`](Self::to_perfetto) to a file, in one step.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], [`ErrorKind::Io`]; what was there before is there still.
    pub fn write_perfetto(&self, path: impl AsRef<Path>) -> Result<()> {
        file::write(path.as_ref(), &self.to_perfetto()?)
    }

    /// Reads what [`to_perfetto`](Self::to_perfetto) has written.
    ///
    /// # Errors
    /// [`ErrorKind::Empty`] for no bytes, and for a trace in which nothing happened; [`ErrorKind::Truncated`];
    /// [`ErrorKind::Foreign`] for anything else than a trace of ours; [`ErrorKind::Invalid`] if its parts don't fit together.
    pub fn from_perfetto(bytes: &[u8]) -> Result<Self> {
        if bytes.is_empty() {
            return Err(Error::new(ErrorKind::Empty, "the file is empty"));
        }
        let truncated = || {
            Error::new(ErrorKind::Truncated, "the trace ends in the middle: it was not written to its end")
        };
        let mut header = Vec::new();
        put(
            &mut header,
            Packet { ours: Some(Ours { magic: MAGIC.to_owned(), data: None }), ..Packet::default() },
        );
        if bytes.len() < header.len() && header.starts_with(bytes) {
            return Err(truncated());
        }
        if !bytes.starts_with(&header) {
            return Err(Error::new(ErrorKind::Foreign, "this is no trace that gpu-events wrote"));
        }
        let mut rest = &bytes[header.len()..];
        let mut data = None;
        while !rest.is_empty() {
            if rest.starts_with(&header) {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "there are two traces in one file: merge them instead",
                ));
            }
            let packet = take(&mut rest).ok_or_else(truncated)?;
            // Perfetto's own packets are not looked at: all of it is in ours, the last one.
            let invalid = |_| Error::new(ErrorKind::Invalid, "a packet of the trace is garbled");
            if rest.is_empty() {
                let packet = Ending::decode(packet).map_err(invalid)?;
                data = packet.ours.filter(|ours| ours.magic == END).and_then(|ours| ours.data);
            }
        }
        let trace = data.ok_or_else(truncated)?.trace()?;
        trace.check()?;
        if trace.is_empty() {
            return Err(Error::new(ErrorKind::Empty, "nothing happened in this trace"));
        }
        Ok(trace)
    }

    /// Reads a file that [`write_perfetto`](Self::write_perfetto) has written.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; as [`from_perfetto`](Self::from_perfetto), with the file's name.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|error| Error::io(path, error))?;
        Self::from_perfetto(&bytes).map_err(|error| error.of(path))
    }
}

/// Appends a packet as the file has it: field 1 of the whole.
fn put(bytes: &mut Vec<u8>, packet: Packet) {
    prost::encoding::message::encode(1, &packet, bytes);
}

/// Takes a packet off the front; `None` if it is not all there.
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut after = *rest;
    let tag = prost::encoding::decode_varint(&mut after).ok()?;
    if tag != 1 << 3 | 2 {
        return None;
    }
    let length = usize::try_from(prost::encoding::decode_varint(&mut after).ok()?).ok()?;
    let packet = after.get(..length)?;
    *rest = &after[length..];
    Some(packet)
}

/// Perfetto's packets, of a trace.
struct Packets<'a> {
    trace: &'a Trace,
    /// What has to be added to have no time below zero.
    shift: i64,
    /// The flows that begin in each span, and those that end.
    from: HashMap<usize, Vec<u64>>,
    to: HashMap<usize, Vec<u64>>,
}

// Identities of tracks: whatever is not zero, and no other's. Process, device and track have ranges of their own.
fn process_uuid(process: usize) -> u64 {
    1 << 32 | process as u64
}

fn device_uuid(device: usize) -> u64 {
    2 << 32 | device as u64
}

fn track_uuid(track: usize) -> u64 {
    3 << 32 | track as u64
}

fn waits_uuid(track: usize) -> u64 {
    4 << 32 | track as u64
}

impl<'a> Packets<'a> {
    fn new(trace: &'a Trace) -> Self {
        let (mut from, mut to) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for (flow, wait) in (1..).zip(&trace.waits) {
            if let (Some(source), Some(before)) = (wait.source, wait.before) {
                from.entry(source).or_default().push(flow);
                to.entry(before).or_default().push(flow);
            }
        }
        Self { trace, shift: trace.shift(), from, to }
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        for (index, process) in self.trace.processes.iter().enumerate() {
            let descriptor = ProcessDescriptor { pid: process.pid as i32, name: process.name.clone() };
            let uuid = process_uuid(index);
            self.describe(bytes, Descriptor { uuid, process: Some(descriptor), ..Descriptor::default() });
        }
        let mut devices: HashMap<(usize, &str), usize> = HashMap::new();
        for (index, track) in self.trace.tracks.iter().enumerate() {
            let parent = if track.device.is_empty() {
                process_uuid(track.process)
            } else {
                let next = devices.len();
                let device = *devices.entry((track.process, &track.device)).or_insert_with(|| {
                    let (name, parent) = (track.device.clone(), process_uuid(track.process));
                    self.describe(bytes, Descriptor { name, parent, ..Descriptor::new(device_uuid(next)) });
                    next
                });
                device_uuid(device)
            };
            // A stream's waits are right below it.
            let rank = index as i32 * 2;
            let name = track.name.clone();
            self.describe(bytes, Descriptor { name, parent, rank, ..Descriptor::new(track_uuid(index)) });
        }
        let mut by_track = vec![Vec::new(); self.trace.tracks.len()];
        for (index, span) in self.trace.spans.iter().enumerate() {
            by_track[span.track].push(index);
        }
        for spans in by_track {
            self.slices(bytes, spans);
        }
        let mut waits = vec![Vec::new(); self.trace.tracks.len()];
        for (index, wait) in self.trace.waits.iter().enumerate() {
            waits[wait.track].push(index);
        }
        for (track, waits) in waits.into_iter().enumerate() {
            self.waits(bytes, track, waits, &devices);
        }
    }

    fn describe(&self, bytes: &mut Vec<u8>, descriptor: Descriptor) {
        put(bytes, Packet { descriptor: Some(descriptor), sequence: 1, ..Packet::default() });
    }

    fn event(&self, bytes: &mut Vec<u8>, at: i64, event: Event) {
        // Not below zero, by the shift; what does not fit is where the axis ends.
        let at = at.saturating_add(self.shift) as u64;
        put(bytes, Packet { timestamp: Some(at), event: Some(event), sequence: 1, ..Packet::default() });
    }

    /// A track's spans: ends before what begins at the same time, and outer before inner.
    fn slices(&self, bytes: &mut Vec<u8>, mut spans: Vec<usize>) {
        let spans_of = &self.trace.spans;
        spans.sort_by_key(|&span| (spans_of[span].start, std::cmp::Reverse(spans_of[span].end), span));
        let mut open: Vec<usize> = Vec::new();
        let end = |bytes: &mut Vec<u8>, span: usize| {
            let track = track_uuid(spans_of[span].track);
            self.event(
                bytes,
                spans_of[span].end,
                Event { kind: Kind::End as i32, track, ..Event::default() },
            );
        };
        for index in spans {
            let span = &spans_of[index];
            while let Some(last) = open.pop_if(|last| spans_of[*last].end <= span.start) {
                end(bytes, last);
            }
            let mut notes = vec![
                Note::of_number("submitted", span.submitted.saturating_add(self.shift)),
                Note::of_number("uncertainty_ns", self.trace.uncertainty(span.track) as i64),
            ];
            notes.extend(span.error.as_ref().map(|error| Note::of_text("error", error)));
            let flows = |of: &HashMap<usize, Vec<u64>>| of.get(&index).cloned().unwrap_or_default();
            let event = Event {
                kind: Kind::Begin as i32,
                track: track_uuid(span.track),
                name: span.name.to_string(),
                categories: vec!["span".to_owned()],
                notes,
                flows: flows(&self.from),
                ending_flows: flows(&self.to),
            };
            self.event(bytes, span.start, event);
            open.push(index);
        }
        open.into_iter().rev().for_each(|span| end(bytes, span));
    }

    /// What held a stream back, on a track beside it.
    fn waits(
        &self,
        bytes: &mut Vec<u8>,
        track: usize,
        mut waits: Vec<usize>,
        devices: &HashMap<(usize, &str), usize>,
    ) {
        let of = &self.trace.waits;
        waits.retain(|&wait| of[wait].held() > 0);
        waits.sort_by_key(|&wait| (of[wait].reached, wait));
        let mut through = i64::MIN;
        for (number, wait) in waits.into_iter().map(|wait| &of[wait]).enumerate() {
            let uuid = waits_uuid(track);
            if number == 0 {
                let its = &self.trace.tracks[track];
                let device = devices.get(&(its.process, &*its.device));
                let parent = device.map_or_else(|| process_uuid(its.process), |device| device_uuid(*device));
                let (name, rank) = (format!("{}: waits", its.name), track as i32 * 2 + 1);
                self.describe(bytes, Descriptor { name, parent, rank, ..Descriptor::new(uuid) });
            }
            let from = wait.reached.max(through);
            if from >= wait.released {
                continue;
            }
            through = wait.released;
            let event = Event {
                kind: Kind::Begin as i32,
                track: uuid,
                name: wait.event.to_string(),
                categories: vec!["wait".to_owned()],
                notes: vec![Note::of_number("submitted", wait.submitted.saturating_add(self.shift))],
                ..Event::default()
            };
            self.event(bytes, from, event);
            self.event(
                bytes,
                wait.released,
                Event { kind: Kind::End as i32, track: uuid, ..Event::default() },
            );
        }
    }
}

// Those of Perfetto's messages that are used here, and of their fields those (protos/perfetto/trace).

#[derive(Clone, PartialEq, Message)]
struct Packet {
    #[prost(uint64, optional, tag = "8")]
    timestamp: Option<u64>,
    #[prost(uint32, tag = "10")]
    sequence: u32,
    #[prost(message, optional, tag = "11")]
    event: Option<Event>,
    #[prost(message, optional, tag = "60")]
    descriptor: Option<Descriptor>,
    #[prost(message, optional, tag = "71826")]
    ours: Option<Ours>,
}

/// A packet of which only ours is of interest.
#[derive(Clone, PartialEq, Message)]
struct Ending {
    #[prost(message, optional, tag = "71826")]
    ours: Option<Ours>,
}

#[derive(Clone, PartialEq, Message)]
struct Descriptor {
    #[prost(uint64, tag = "1")]
    uuid: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, optional, tag = "3")]
    process: Option<ProcessDescriptor>,
    #[prost(uint64, tag = "5")]
    parent: u64,
    /// How its children are ordered: 3, by their rank.
    #[prost(int32, tag = "11")]
    child_ordering: i32,
    #[prost(int32, tag = "12")]
    rank: i32,
    /// Two streams of one name are two: 2.
    #[prost(int32, tag = "15")]
    merging: i32,
}

impl Descriptor {
    fn new(uuid: u64) -> Self {
        Self { uuid, child_ordering: 3, merging: 2, ..Self::default() }
    }
}

#[derive(Clone, PartialEq, Message)]
struct ProcessDescriptor {
    #[prost(int32, tag = "1")]
    pid: i32,
    #[prost(string, tag = "6")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(message, repeated, tag = "4")]
    notes: Vec<Note>,
    #[prost(int32, tag = "9")]
    kind: i32,
    #[prost(uint64, tag = "11")]
    track: u64,
    #[prost(string, repeated, tag = "22")]
    categories: Vec<String>,
    #[prost(string, tag = "23")]
    name: String,
    #[prost(fixed64, repeated, packed = "false", tag = "47")]
    flows: Vec<u64>,
    #[prost(fixed64, repeated, packed = "false", tag = "48")]
    ending_flows: Vec<u64>,
}

#[derive(Clone, Copy)]
enum Kind {
    Begin = 1,
    End = 2,
}

/// A debug annotation.
#[derive(Clone, PartialEq, Message)]
struct Note {
    #[prost(int64, optional, tag = "4")]
    number: Option<i64>,
    #[prost(string, optional, tag = "6")]
    text: Option<String>,
    #[prost(string, tag = "10")]
    name: String,
}

impl Note {
    fn of_number(name: &str, number: i64) -> Self {
        Self { name: name.to_owned(), number: Some(number), text: None }
    }

    fn of_text(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), number: None, text: Some(text.to_owned()) }
    }
}

/// Our own packet.
#[derive(Clone, PartialEq, Message)]
struct Ours {
    #[prost(string, tag = "1")]
    magic: String,
    #[prost(message, optional, tag = "2")]
    data: Option<Data>,
}

/// The trace, in columns.
#[derive(Clone, PartialEq, Message)]
struct Data {
    #[prost(string, repeated, tag = "1")]
    strings: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    processes: Vec<ProcessData>,
    #[prost(message, repeated, tag = "3")]
    tracks: Vec<TrackData>,
    #[prost(message, optional, tag = "4")]
    spans: Option<SpanData>,
    #[prost(message, optional, tag = "5")]
    waits: Option<WaitData>,
    #[prost(message, repeated, tag = "6")]
    samples: Vec<SampleData>,
}

#[derive(Clone, PartialEq, Message)]
struct ProcessData {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    pid: u32,
    #[prost(bytes = "vec", tag = "3")]
    clock: Vec<u8>,
    #[prost(uint64, tag = "4")]
    uncertainty: u64,
    #[prost(uint64, tag = "5")]
    anchor: u64,
    #[prost(uint64, tag = "6")]
    dropped: u64,
}

#[derive(Clone, PartialEq, Message)]
struct TrackData {
    #[prost(uint64, tag = "1")]
    process: u64,
    #[prost(bool, tag = "2")]
    is_thread: bool,
    #[prost(string, tag = "3")]
    device: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(uint64, tag = "5")]
    id: u64,
    #[prost(uint64, tag = "6")]
    uncertainty: u64,
    #[prost(string, tag = "7")]
    clock: String,
}

#[derive(Clone, PartialEq, Message)]
struct SpanData {
    #[prost(uint64, repeated, tag = "1")]
    track: Vec<u64>,
    /// Places among the strings.
    #[prost(uint64, repeated, tag = "2")]
    name: Vec<u64>,
    /// From the start of the span before.
    #[prost(sint64, repeated, tag = "3")]
    start: Vec<i64>,
    /// From the start.
    #[prost(sint64, repeated, tag = "4")]
    end: Vec<i64>,
    /// Likewise.
    #[prost(sint64, repeated, tag = "5")]
    submitted: Vec<i64>,
    /// None, or one more than the place among the strings. Likewise below.
    #[prost(uint64, repeated, tag = "6")]
    error: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct WaitData {
    #[prost(uint64, repeated, tag = "1")]
    track: Vec<u64>,
    #[prost(uint64, repeated, tag = "2")]
    event: Vec<u64>,
    /// From that of the wait before.
    #[prost(sint64, repeated, tag = "3")]
    reached: Vec<i64>,
    /// From when it was reached.
    #[prost(sint64, repeated, tag = "4")]
    submitted: Vec<i64>,
    /// Likewise.
    #[prost(sint64, repeated, tag = "5")]
    released: Vec<i64>,
    #[prost(uint64, repeated, tag = "6")]
    source: Vec<u64>,
    #[prost(uint64, repeated, tag = "7")]
    source_track: Vec<u64>,
    #[prost(uint64, repeated, tag = "8")]
    before: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct SampleData {
    #[prost(bytes = "vec", tag = "1")]
    clock: Vec<u8>,
    #[prost(sint64, tag = "2")]
    reading: i64,
    #[prost(bytes = "vec", tag = "3")]
    other: Vec<u8>,
    #[prost(sint64, tag = "4")]
    other_reading: i64,
    #[prost(uint64, tag = "5")]
    uncertainty: u64,
}

/// Each text once.
#[derive(Default)]
struct Strings {
    places: HashMap<Arc<str>, u64>,
    strings: Vec<String>,
}

impl Strings {
    fn place(&mut self, text: &Arc<str>) -> u64 {
        *self.places.entry(text.clone()).or_insert_with(|| {
            self.strings.push(text.to_string());
            self.strings.len() as u64 - 1
        })
    }
}

fn one_more(place: Option<usize>) -> u64 {
    place.map_or(0, |place| place as u64 + 1)
}

impl Data {
    fn of(trace: &Trace) -> Self {
        let mut strings = Strings::default();
        let mut spans = SpanData::default();
        let mut before = 0;
        for span in &trace.spans {
            spans.track.push(span.track as u64);
            spans.name.push(strings.place(&span.name));
            spans.start.push(span.start.wrapping_sub(before));
            spans.end.push(span.end.wrapping_sub(span.start));
            spans.submitted.push(span.submitted.wrapping_sub(span.start));
            spans.error.push(span.error.as_ref().map_or(0, |error| strings.place(error) + 1));
            before = span.start;
        }
        let mut waits = WaitData::default();
        let mut before = 0;
        for wait in &trace.waits {
            waits.track.push(wait.track as u64);
            waits.event.push(strings.place(&wait.event));
            waits.reached.push(wait.reached.wrapping_sub(before));
            waits.submitted.push(wait.submitted.wrapping_sub(wait.reached));
            waits.released.push(wait.released.wrapping_sub(wait.reached));
            waits.source.push(one_more(wait.source));
            waits.source_track.push(one_more(wait.source_track));
            waits.before.push(one_more(wait.before));
            before = wait.reached;
        }
        let processes = trace.processes.iter().map(|process| ProcessData {
            name: process.name.clone(),
            pid: process.pid,
            clock: process.clock.0.to_be_bytes().into(),
            uncertainty: process.uncertainty,
            anchor: process.anchor,
            dropped: process.dropped,
        });
        let tracks = trace.tracks.iter().map(|track| TrackData {
            process: track.process as u64,
            is_thread: track.kind == TrackKind::Thread,
            device: track.device.clone(),
            name: track.name.clone(),
            id: track.id,
            uncertainty: track.uncertainty,
            clock: track.clock.clone(),
        });
        let samples = trace.samples.iter().map(|sample| SampleData {
            clock: sample.clock.0.to_be_bytes().into(),
            reading: sample.reading,
            other: sample.other.0.to_be_bytes().into(),
            other_reading: sample.other_reading,
            uncertainty: sample.uncertainty,
        });
        Self {
            processes: processes.collect(),
            tracks: tracks.collect(),
            spans: Some(spans),
            waits: Some(waits),
            samples: samples.collect(),
            strings: strings.strings,
        }
    }

    /// The trace; whether its parts fit together is for [`Trace::check`], as far as a trace can be made at all.
    fn trace(self) -> Result<Trace> {
        let invalid = || Error::new(ErrorKind::Invalid, "the trace's columns don't fit together");
        let clock = |bytes: &[u8]| {
            bytes.try_into().map(|bytes| ClockId(u128::from_be_bytes(bytes))).map_err(|_| invalid())
        };
        let strings: Vec<Arc<str>> = self.strings.iter().map(|text| text.as_str().into()).collect();
        let string = |place: u64| {
            usize::try_from(place).ok().and_then(|place| strings.get(place).cloned()).ok_or_else(invalid)
        };
        let place = |place: u64| usize::try_from(place).map_err(|_| invalid());
        let one_less = |at: u64| at.checked_sub(1).map(place).transpose();

        let processes = self.processes.into_iter().map(|it| -> Result<Process> {
            let ProcessData { name, pid, clock: id, uncertainty, anchor, dropped } = it;
            Ok(Process { name, pid, clock: clock(&id)?, uncertainty, anchor, dropped })
        });
        let tracks = self.tracks.into_iter().map(|it| -> Result<Track> {
            let TrackData { process, is_thread, device, name, id, uncertainty, clock } = it;
            let kind = if is_thread { TrackKind::Thread } else { TrackKind::Stream };
            Ok(Track { process: place(process)?, kind, device, name, id, uncertainty, clock })
        });
        let samples = self.samples.into_iter().map(|it| -> Result<ClockSample> {
            Ok(ClockSample {
                clock: clock(&it.clock)?,
                reading: it.reading,
                other: clock(&it.other)?,
                other_reading: it.other_reading,
                uncertainty: it.uncertainty,
            })
        });
        let mut trace = Trace {
            processes: processes.collect::<Result<_>>()?,
            tracks: tracks.collect::<Result<_>>()?,
            samples: samples.collect::<Result<_>>()?,
            ..Trace::default()
        };

        let columns = self.spans.unwrap_or_default();
        let count = columns.track.len();
        let lengths = [
            columns.name.len(),
            columns.start.len(),
            columns.end.len(),
            columns.submitted.len(),
            columns.error.len(),
        ];
        if lengths.iter().any(|length| *length != count) {
            return Err(invalid());
        }
        let mut before = 0_i64;
        for row in 0..count {
            let start = before.wrapping_add(columns.start[row]);
            trace.spans.push(Span {
                track: place(columns.track[row])?,
                name: string(columns.name[row])?,
                start,
                end: start.wrapping_add(columns.end[row]),
                submitted: start.wrapping_add(columns.submitted[row]),
                error: columns.error[row].checked_sub(1).map(string).transpose()?,
            });
            before = start;
        }

        let columns = self.waits.unwrap_or_default();
        let count = columns.track.len();
        let lengths = [
            columns.event.len(),
            columns.reached.len(),
            columns.submitted.len(),
            columns.released.len(),
            columns.source.len(),
            columns.source_track.len(),
            columns.before.len(),
        ];
        if lengths.iter().any(|length| *length != count) {
            return Err(invalid());
        }
        let mut before = 0_i64;
        for row in 0..count {
            let reached = before.wrapping_add(columns.reached[row]);
            trace.waits.push(Wait {
                track: place(columns.track[row])?,
                event: string(columns.event[row])?,
                submitted: reached.wrapping_add(columns.submitted[row]),
                reached,
                released: reached.wrapping_add(columns.released[row]),
                source: one_less(columns.source[row])?,
                source_track: one_less(columns.source_track[row])?,
                before: one_less(columns.before[row])?,
            });
            before = reached;
        }
        Ok(trace)
    }
}
