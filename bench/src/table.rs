//! The tables of docs/performance.md: `gpu-events-bench table`.
//!
//! Which rows a table shows, and the goals beside them, is said here; the figures are those that have been measured. On
//! the page a region goes from `<!-- table: NAME -->` to `<!-- end -->`, and all that is in it is written from here.

use super::growth::{self, EVENTS, FLAT, STREAMS};
use super::report::{Report, Row, Verdict};
use super::text;
use super::threads::{SCALES, THREADS};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

/// Fills the page with what has been measured
#[derive(Debug, clap::Args)]
pub struct TableArgs {
    /// What `gpu-events-bench run --json` has printed for the CPU and for a GPU, and `peers.py --json` has written, in
    /// any order
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The page
    #[arg(long, value_name = "FILE", default_value = "docs/performance.md")]
    page: PathBuf,

    /// Change nothing, and fail if the page says something else
    #[arg(long)]
    check: bool,
}

/// Fills the regions of the page, or only compares them.
///
/// # Errors
/// If a file can't be read or lacks a row, if the page's regions are not those that there are, or if they differ and
/// are only to be compared.
pub fn table(args: &TableArgs) -> Result<()> {
    let regions = Figures::read(&args.files)?.regions()?;
    let shown = args.page.display();
    let page = fs::read_to_string(&args.page).with_context(|| format!("reading {shown}"))?;
    let filled = fill(&page, &regions).with_context(|| format!("filling {shown}"))?;
    if !args.check {
        return fs::write(&args.page, filled).with_context(|| format!("writing {shown}"));
    }
    let differing = difference(&page, &filled);
    ensure!(page == filled, "{shown} says (-) something else than the files (+):\n{differing}");
    Ok(())
}

const START: &str = "<!-- table: ";
const END: &str = "<!-- end -->";

/// The page with each region's text in its place.
fn fill(page: &str, regions: &[(&str, String)]) -> Result<String> {
    let mut page = page.to_owned();
    for (name, text) in regions {
        let start = format!("{START}{name} -->\n");
        let (before, rest) = page.split_once(&start).with_context(|| format!("there is no region {name}"))?;
        let (old, after) = rest.split_once(END).with_context(|| format!("the region {name} has no end"))?;
        ensure!(!old.contains(START), "the region {name} has no end of its own");
        page = format!("{before}{start}{text}{END}{after}");
    }
    let all = page.matches(START).count();
    ensure!(all == regions.len(), "it has {all} regions, and there are {}", regions.len());
    Ok(page)
}

/// The lines that only one of the two has, as of a diff.
fn difference(old: &str, new: &str) -> String {
    let only_in = |one: &str, other: &str, mark: char| {
        let other: BTreeSet<&str> = other.lines().collect();
        let lines = one.lines().filter(|line| !other.contains(line));
        lines.map(|line| format!("{mark} {line}\n")).collect::<String>()
    };
    only_in(old, new, '-') + &only_in(new, old, '+')
}

/// All that the page is filled from.
struct Figures {
    cpu: Report,
    gpu: Report,
    python: Python,
}

/// What `peers.py --json` writes.
#[derive(Deserialize)]
struct Python {
    #[serde(rename = "where")]
    place: String,
    figures: Operations,
}

#[derive(Deserialize)]
struct Operations {
    #[serde(rename = "beside a loop")]
    beside_a_loop: BTreeMap<String, f64>,
    /// Of each operation and library the 10th percentile, the median and the 90th.
    #[serde(flatten)]
    taken: BTreeMap<String, BTreeMap<String, [f64; 3]>>,
}

impl Figures {
    fn read(files: &[PathBuf]) -> Result<Self> {
        let (mut cpu, mut gpu, mut python) = (None, None, None);
        for file in files {
            let shown = file.display();
            let json = fs::read_to_string(file).with_context(|| format!("reading {shown}"))?;
            let neither =
                || format!("{shown} is neither what `run --json` prints nor what `peers.py --json` writes");
            let value: Value = serde_json::from_str(&json).with_context(neither)?;
            let known = if value.get("figures").is_some() {
                python.replace(serde_json::from_value(value).with_context(neither)?).is_some()
            } else {
                let report: Report = serde_json::from_value(value).with_context(neither)?;
                let of = if report.place.gpu.is_some() { &mut gpu } else { &mut cpu };
                of.replace(report).is_some()
            };
            ensure!(!known, "{shown} is the second of its kind");
        }
        Ok(Self {
            cpu: cpu.context("none of the files is of the CPU")?,
            gpu: gpu.context("none of the files is of a CUDA device")?,
            python: python.context("none of the files is of Python")?,
        })
    }

    fn regions(&self) -> Result<Vec<(&'static str, String)>> {
        Ok(vec![
            ("where", self.place()),
            ("threads", threads(&self.cpu)?),
            ("peers", peers(&self.cpu)?),
            ("growth", growth(&self.cpu)?),
            ("gpu", gpu(&self.gpu)?),
            ("python", self.python.table()?),
            ("await", self.python.awaiting()?),
            ("goals", goals(&self.cpu)),
        ])
    }

    fn place(&self) -> String {
        let (cpu, gpu) = (self.cpu.place.line(), self.gpu.place.line());
        format!("- CPU: {cpu}\n- GPU: {gpu}\n- Python: {}\n", self.python.place)
    }
}

/// What has been measured of one variant.
#[derive(Clone, Copy, Debug)]
struct Figure {
    /// In nanoseconds or bytes.
    value: f64,
    /// Width of the middle 80 % over the median.
    spread: f64,
}

/// From which spread on a third digit would mean nothing.
const WIDE: f64 = 0.3;

impl Figure {
    fn show(self) -> String {
        self.show_in(1.0)
    }

    fn show_in(self, unit: f64) -> String {
        text::significant(self.value / unit, if self.spread > WIDE { 2 } else { 3 })
    }
}

impl Report {
    fn row(&self, name: &str) -> Result<&Row> {
        self.rows.iter().find(|row| row.name == name).with_context(|| format!("there is no row {name:?}"))
    }

    /// An operation's row at each size.
    fn sizes(&self, operation: &str, sizes: &[usize], things: &str) -> Result<Vec<&Row>> {
        sizes.iter().map(|count| self.row(&format!("{operation} {}", growth::many(*count, things)))).collect()
    }
}

impl Row {
    fn ours(&self) -> Figure {
        self.figure(self.ns, self.bytes)
    }

    /// Its own spread is not in the file; the two were measured in turn.
    fn beside(&self) -> Figure {
        self.figure(self.baseline_ns, self.baseline_bytes)
    }

    fn figure(&self, ns: f64, bytes: Option<f64>) -> Figure {
        // Bytes are counted.
        bytes.map_or(Figure { value: ns, spread: self.spread }, |value| Figure { value, spread: 0.0 })
    }
}

/// Of what a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Ours,
    Peer,
    Limit,
}
use Of::{Limit, Ours, Peer};

impl Of {
    /// What follows a name.
    fn remark(self) -> &'static str {
        if self == Limit { " (limit)" } else { "" }
    }
}

/// A cell in bold, if a peer is ahead there.
fn peer(cell: String, ahead: bool) -> String {
    if ahead { format!("**{cell}**") } else { cell }
}

/// A cell that is held to a goal: bold if it is met.
fn goal(cell: &str, goal: &str, met: bool) -> String {
    if met { format!("**{cell}** (goal {goal})") } else { format!("{cell} (goal {goal}: missed)") }
}

/// Two digits, and two decimals where it is a close thing.
fn ratio(ratio: f64) -> String {
    let decimals = match ratio {
        9.95.. => 0,
        1.195.. => 1,
        _ => 2,
    };
    format!("{ratio:.decimals$}")
}

fn markdown<R: AsRef<[String]>>(head: &[impl AsRef<str>], rows: impl IntoIterator<Item = R>) -> String {
    let head: Vec<&str> = head.iter().map(AsRef::as_ref).collect();
    let mut table = format!("| {} |\n|{}\n", head.join(" | "), " --- |".repeat(head.len()));
    for row in rows {
        table.push_str(&format!("| {} |\n", row.as_ref().join(" | ")));
    }
    table
}

/// Each of ours is followed by what it is put beside.
const ON_THREADS: [(Of, &str, &str); 12] = [
    (
        Ours,
        "acquire, record, complete, drop, on streams of their own",
        "acquire+record+complete+drop on own streams",
    ),
    (Peer, "in the seed's way: one pool behind a lock", "the same in the seed's way"),
    (Limit, "an atomic addition to a word of each thread's own", "an addition to an own word"),
    (Ours, "the same by id, in one table", "acquire+record+complete+release by id"),
    (Limit, "in a table for each thread", "a table of ids for each thread"),
    (Peer, "by the seed's ids", "the same by the seed's ids"),
    (Ours, "status of one pending event", "status of one pending event"),
    (
        Ours,
        "acquire, record, complete, drop, all on *one* stream",
        "acquire+record+complete+drop on one stream",
    ),
    (Limit, "an addition under one lock", "an addition under one lock"),
    (Ours, "poll and drop of one event's future", "poll and drop of one event's future"),
    (Peer, "of event-listener's", "the same with event-listener"),
    (Peer, "of tokio's `Notify`", "the same with tokio's Notify"),
];

fn threads(report: &Report) -> Result<String> {
    let [first, .., last] = THREADS;
    let mut head = vec!["nanoseconds for an operation of all threads together".to_owned()];
    head.extend(THREADS.map(|threads| threads.to_string()));
    head.push(format!("{last} over {first}"));

    let mut lines = Vec::new();
    let mut ours: Vec<&Row> = Vec::new();
    for (of, title, operation) in ON_THREADS {
        let rows = report.sizes(&format!("{operation},"), &THREADS, "threads")?;
        let mut line =
            vec![if of == Ours { title.to_owned() } else { format!("… {title}{}", of.remark()) }];
        if of == Ours {
            ours.clone_from(&rows);
        }
        for (row, ours) in rows.iter().zip(&ours) {
            line.push(peer(row.ours().show(), of == Peer && row.ns < ours.ns));
        }
        let (first, last) = (rows[0], rows[rows.len() - 1]);
        let scales = first.ns / last.ns;
        let shown = format!("{} ×", ratio(scales));
        // Where there are too few cores, nothing is held to it.
        let held = !last.targets.is_empty();
        line.push(if held { goal(&shown, &format!("{SCALES} ×"), scales >= SCALES) } else { shown });
        lines.push(line);
    }
    Ok(markdown(&head, lines))
}

/// A title, and what ours is put beside: as what, under which name, and in which row.
type BesidePeers = (&'static str, &'static [(Of, &'static str, &'static str)]);

const BESIDE_PEERS: [BesidePeers; 13] = [
    (
        "acquire and drop",
        &[
            (Peer, "the seed's pool", "acquire+drop"),
            (Limit, "a stack of the thread's own", "acquire+drop beside its limit"),
        ],
    ),
    (
        "acquire, record, complete, drop",
        &[
            (Peer, "the seed's way", "acquire+record+complete+drop, untimed"),
            (
                Limit,
                "a stack, a lock and an exchange",
                "acquire+record+complete+drop, untimed, beside its limit",
            ),
        ],
    ),
    (
        "… timed",
        &[
            (Peer, "the seed's way", "acquire+record+complete+drop, timed"),
            (
                Limit,
                "the limit above and a reading of the clock",
                "acquire+record+complete+drop, timed, beside its limit",
            ),
        ],
    ),
    (
        "status, known",
        &[
            (Peer, "a flag behind a mutex", "status, known"),
            (Limit, "an atomic read", "status, known, beside its limit"),
        ],
    ),
    (
        "status, pending",
        &[
            (Peer, "a flag behind a mutex", "status, pending"),
            (Limit, "two atomic reads", "status, pending, beside its limit"),
        ],
    ),
    (
        "hand-over from stream to stream",
        &[
            (Peer, "condition variable", "hand-over"),
            (Peer, "event-listener", "hand-over beside event-listener"),
            (Peer, "rayon", "hand-over beside rayon"),
            (Peer, "crossbeam", "hand-over beside crossbeam"),
            (Peer, "tokio's oneshot", "hand-over beside tokio tasks"),
            (Peer, "tokio's `Notify`", "hand-over beside tokio's Notify"),
        ],
    ),
    (
        "… with a closure",
        &[
            (Peer, "condition variable", "hand-over with a closure"),
            (Peer, "event-listener", "hand-over with a closure beside event-listener"),
            (Peer, "rayon", "hand-over with a closure beside rayon"),
            (Peer, "crossbeam", "hand-over with a closure beside crossbeam"),
            (Peer, "tokio's oneshot", "hand-over with a closure beside tokio tasks"),
            (Peer, "tokio's `Notify`", "hand-over with a closure beside tokio's Notify"),
        ],
    ),
    (
        "completion to a host wait's return, parked",
        &[
            (Peer, "condition variable", "completion to host return, park"),
            (Limit, "a bare futex", "completion to host return, park, beside its limit"),
        ],
    ),
    ("… spinning", &[(Limit, "a thread that spins on a flag", "completion to host return, spin")]),
    ("… to a callback", &[(Peer, "condition variable", "completion to callback")]),
    ("… to an awaiting task", &[(Peer, "condition variable", "completion to awaiting task")]),
    ("a pending event", &[(Peer, "the seed's event", "memory: pending event")]),
    ("an idle stream", &[(Peer, "a parked thread", "memory: idle stream")]),
];

fn peers(report: &Report) -> Result<String> {
    let mut lines = Vec::new();
    for (title, all) in BESIDE_PEERS {
        let rows = all.iter().map(|(.., name)| report.row(name)).collect::<Result<Vec<_>>>()?;
        let ours = rows[0].ours();
        let (unit, unit_name) = match ours.value {
            _ if rows[0].bytes.is_some() => (1.0, "bytes"),
            ..999.5 => (1.0, "ns"),
            _ => (1e3, "µs"),
        };
        let mut beside = Vec::new();
        let mut ratios = Vec::new();
        for ((of, label, _), row) in all.iter().zip(&rows) {
            let theirs = row.beside();
            let cell = format!("{label} {}{}", theirs.show_in(unit), of.remark());
            beside.push(peer(cell, *of == Peer && theirs.value < ours.value));
            ratios.push(ours.value / theirs.value);
        }
        ratios.sort_by(f64::total_cmp);
        lines.push([
            title.to_owned(),
            format!("{} {unit_name}", ours.show_in(unit)),
            beside.join("; "),
            match ratios.as_slice() {
                [lowest, _, .., highest] if ratios.len() > 2 => {
                    format!("{} to {}", ratio(*lowest), ratio(*highest))
                }
                few => few.iter().map(|one| ratio(*one)).collect::<Vec<_>>().join("; "),
            },
        ]);
    }
    Ok(markdown(&["", "ours", "beside", "ratio"], lines))
}

/// An operation among many things, and what the machine takes there, unless the goal is that it does not grow.
const AMONG: [(&str, &str, &str, Option<&str>); 5] = [
    ("acquire, record, drop, with so many events pending", "acquire+record+drop with", "pending", None),
    ("status of so many in turn", "status in turn of", "pending", Some("a read in a box in turn")),
    ("status of so many at random", "status at random of", "pending", Some("a read in a box at random")),
    ("acquire, record, drop, in turn on so many streams", "acquire+record+drop in turn on", "streams", None),
    (
        "acquire, record, drop, at random on so many streams",
        "acquire+record+drop at random on",
        "streams",
        Some("an addition in a box at random"),
    ),
];

fn growth(report: &Report) -> Result<String> {
    let counts: BTreeSet<usize> = EVENTS.into_iter().chain(STREAMS).collect();
    let mut head = vec!["nanoseconds".to_owned()];
    head.extend(counts.iter().map(|count| text::count(*count as u64)));
    head.push("last over first".to_owned());

    let mut lines = Vec::new();
    for (title, operation, things, limit) in AMONG {
        let sizes = if things == "streams" { &STREAMS[..] } else { &EVENTS };
        let rows = report.sizes(operation, sizes, things)?;
        let mut line = |title: String, figure: fn(&Row) -> Figure, flat: bool| {
            let mut cells = vec![title];
            cells.extend(counts.iter().map(|count| {
                let at = sizes.iter().position(|size| size == count);
                at.map_or_else(|| "–".to_owned(), |at| figure(rows[at]).show())
            }));
            let grows = figure(rows[rows.len() - 1]).value / figure(rows[0]).value;
            let shown = format!("{} ×", ratio(grows));
            cells.push(if flat { goal(&shown, &format!("{FLAT} ×"), grows <= FLAT) } else { shown });
            lines.push(cells);
        };
        line(title.to_owned(), Row::ours, limit.is_none());
        if let Some(limit) = limit {
            line(format!("… {limit}{}", Limit.remark()), Row::beside, false);
        }
    }
    Ok(markdown(&head, lines))
}

/// A title, the operation, and what the driver does in its place, where that does not go without saying.
const ON_A_GPU: [(&str, &str, Option<&str>); 6] = [
    ("acquire, record, drop", "acquire+record+drop", Some("one `cuEventRecord`")),
    ("… timed", "acquire+record+drop, timed", None),
    ("record again", "record again", None),
    ("record, and another stream waits", "record, and another stream waits", None),
    ("status of a complete recording", "status of a complete recording", Some("`cuEventQuery`")),
    ("synchronize with one", "synchronize with a complete recording", None),
];

fn gpu(report: &Report) -> Result<String> {
    let line = |title: &str, limit: &Row, cudarc: Option<&Row>, note: Option<&str>| {
        let theirs = cudarc.map(|row| peer(row.beside().show(), row.baseline_ns < row.ns));
        let note = note.map_or_else(String::new, |note| format!(": {note}"));
        [
            title.to_owned(),
            limit.ours().show(),
            theirs.unwrap_or_else(|| "–".to_owned()),
            limit.beside().show() + &note,
            format!("{:.2}", limit.ratio),
        ]
    };
    let mut lines = Vec::new();
    for (title, operation, note) in ON_A_GPU {
        let limit = report.row(&format!("{operation}, beside its limit"))?;
        let cudarc = report.row(&format!("{operation}, beside cudarc"))?;
        lines.push(line(title, limit, Some(cudarc), note));
    }
    let there_and_back = "from the host to the GPU and back";
    let limit = report.row(there_and_back)?;
    lines.push(line(there_and_back, limit, None, Some("two words in pinned memory")));
    Ok(markdown(&["nanoseconds", "ours", "cudarc's safe layer", "raw driver (limit)", "ours over it"], lines))
}

/// A title, the operation, and how many times as fast as PyTorch's it should be.
const IN_PYTHON: [(&str, &str, Option<f64>); 7] = [
    ("make, record, drop", "make, record, drop", Some(3.0)),
    ("… timed", "the same, timed", None),
    ("record again", "record again", None),
    ("query a complete one", "query a complete one", Some(4.0)),
    ("synchronize a complete one", "synchronize a complete one", None),
    ("record and wait", "record and wait", None),
    ("elapsed_time", "elapsed_time", None),
];

impl Python {
    fn table(&self) -> Result<String> {
        let mut head = vec!["nanoseconds a call", "ours, on PyTorch's streams", "ours, on its own"];
        let peers = ["PyTorch", "CuPy", "cuda.core"];
        // With its version, where there is one.
        let all = || self.place.split([';', ',']).map(str::trim);
        head.extend(peers.map(|library| all().find(|part| part.starts_with(library)).unwrap_or(library)));
        head.push("PyTorch over ours");

        let mut lines = Vec::new();
        for (title, operation, times) in IN_PYTHON {
            let median = |side: &str| self.median(operation, side);
            let ours = [median("ours")?, median("ours, own stream")?];
            let mut line = vec![title.to_owned(), ours[0].show(), ours[1].show()];
            for library in peers {
                let theirs = median(library)?;
                line.push(peer(theirs.show(), ours.iter().any(|ours| theirs.value < ours.value)));
            }
            let over = median("PyTorch")?.value / ours[0].value;
            let shown = format!("{over:.1}");
            line.push(match times {
                Some(times) => goal(&shown, &times.to_string(), over >= times),
                None => shown,
            });
            lines.push(line);
        }
        Ok(markdown(&head, lines))
    }

    fn median(&self, operation: &str, side: &str) -> Result<Figure> {
        let taken = self.figures.taken.get(operation).and_then(|sides| sides.get(side));
        let [low, median, high] =
            taken.with_context(|| format!("Python's file has no {operation:?} of {side:?}"))?;
        Ok(Figure { value: *median, spread: (high - low) / median })
    }

    fn awaiting(&self) -> Result<String> {
        let figure = |name: &str| {
            let figure = self.figures.beside_a_loop.get(name);
            let figure = figure.with_context(|| format!("Python's file has no {name:?} beside a loop"))?;
            Ok::<_, anyhow::Error>(text::count(figure.round() as u64))
        };
        Ok(format!(
            "`await` beside a loop that is never idle, 50 kernels behind a gate: {} µs from the gate's opening to the \
             task, and {} turns of the loop meanwhile; with `torch.cuda.Event.synchronize`, which blocks it, {} µs \
             and {}.\n",
            figure("await gpu_events.Event, µs")?,
            figure("turns of the loop meanwhile")?,
            figure("torch.cuda.Event.synchronize, µs")?,
            figure("turns of the loop meanwhile, which it blocks")?,
        ))
    }
}

/// How many goals the rows have met, and each that was not.
fn goals(report: &Report) -> String {
    let all = report.rows.iter().flat_map(|row| row.targets.iter().map(move |verdict| (row, verdict)));
    let (met, missed): (Vec<_>, Vec<_>) = all.partition(|(_, verdict)| verdict.met);
    let sum = format!("{} of {} met", met.len(), met.len() + missed.len());
    if missed.is_empty() {
        return format!("{sum}.\n");
    }
    let lines = missed.into_iter().map(|(row, Verdict { target, value, .. })| {
        [row.name.clone(), target.clone(), text::significant(*value, 3)]
    });
    format!("{sum}. Missed:\n\n{}", markdown(&["row", "goal", "it is"], lines))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn docs() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
    }

    fn figures(of: &str) -> PathBuf {
        docs().join(format!("bench/h200-{of}.json"))
    }

    fn committed() -> TableArgs {
        let files = ["cuda", "python", "host"].map(figures).into();
        TableArgs { files, page: docs().join("performance.md"), check: true }
    }

    /// After new figures: `gpu-events-bench table docs/bench/*.json`.
    #[test]
    fn the_committed_page_is_what_the_committed_figures_give() {
        table(&committed()).unwrap();
    }

    #[test]
    fn a_figure_typed_by_hand_is_found_and_mended() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("page.md");
        let right = fs::read_to_string(docs().join("performance.md")).unwrap();
        fs::write(&page, right.replacen("| … timed |", "| … timed | 1 |", 1)).unwrap();

        let args = TableArgs { page: page.clone(), ..committed() };
        let error = table(&args).unwrap_err().to_string();
        assert!(error.contains("\n- | … timed | 1 |") && error.contains("\n+ | … timed |"), "{error}");
        assert_eq!(error.lines().count(), 3, "{error}");
        table(&TableArgs { check: false, ..args }).unwrap();
        assert_eq!(fs::read_to_string(&page).unwrap(), right);
    }

    #[test]
    fn one_file_of_each_kind_is_needed() {
        let [cuda, python, host] = ["cuda", "python", "host"].map(figures);
        for (files, says) in [
            (vec![&cuda, &python], "none of the files is of the CPU"),
            (vec![&host, &python], "none of the files is of a CUDA device"),
            (vec![&host, &cuda], "none of the files is of Python"),
            (vec![&host, &cuda, &python, &host], "h200-host.json is the second of its kind"),
            (vec![&docs().join("performance.md")], "performance.md is neither what"),
        ] {
            let args = TableArgs { files: files.into_iter().cloned().collect(), ..committed() };
            let error = format!("{:#}", table(&args).unwrap_err());
            assert!(error.contains(says), "{says}: {error}");
        }
    }

    #[test]
    fn regions_are_filled_where_they_are() {
        let regions = [("a", "1\n".to_owned()), ("b", "2\n".to_owned())];
        let page = "x\n<!-- table: b -->\nold\n<!-- end -->\ny\n<!-- table: a -->\n<!-- end -->\n";
        let filled = "x\n<!-- table: b -->\n2\n<!-- end -->\ny\n<!-- table: a -->\n1\n<!-- end -->\n";
        assert_eq!(fill(page, &regions).unwrap(), filled);
        assert_eq!(fill(filled, &regions).unwrap(), filled);
        for (page, says) in [
            ("<!-- table: a -->\n<!-- end -->\n", "there is no region b"),
            ("<!-- table: a -->\n", "the region a has no end"),
            ("<!-- table: a -->\n<!-- table: b -->\n<!-- end -->\n", "the region a has no end of its own"),
            (&page.replace('x', "<!-- table: c -->\n<!-- end -->"), "it has 3 regions, and there are 2"),
        ] {
            assert_eq!(fill(page, &regions).unwrap_err().to_string(), says);
        }
    }

    #[test]
    fn figures_have_as_many_digits_as_mean_something() {
        let figure = |spread| Figure { value: 1_645.0, spread };
        assert_eq!([0.1, 0.3, 0.31].map(|spread| figure(spread).show()), ["1,640", "1,640", "1,600"]);
        assert_eq!(
            [0.031, 0.74, 1.004, 1.11, 1.56, 9.94, 15.6].map(ratio),
            ["0.03", "0.74", "1.00", "1.11", "1.6", "9.9", "16"]
        );
    }

    #[test]
    fn goals_that_are_missed_say_so() {
        assert_eq!(goal("16 ×", "10 ×", true), "**16 ×** (goal 10 ×)");
        assert_eq!(goal("1.5 ×", "1.25 ×", false), "1.5 × (goal 1.25 ×: missed)");
    }
}
