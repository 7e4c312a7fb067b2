//! Pictures of what `gpu-events-bench run --json` has measured: `gpu-events-bench plot`.
//!
//! What is a picture's is told by the rows' names and baselines, which are all that the file has. Each picture is drawn
//! from the rows alone, so that the same file makes the same bytes.

use super::report::{Report, Row};
use super::text;
use anyhow::{Context, Result, ensure};
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::FontTransform;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fs;
use std::path::PathBuf;

/// Draws what has been measured, as SVG
#[derive(Debug, clap::Args)]
pub struct PlotArgs {
    /// What `gpu-events-bench run --json` has printed
    file: PathBuf,

    /// Folder for the pictures; made if it is not there
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

/// Draws the pictures that the file has rows for, and says which.
///
/// # Errors
/// If the file can't be read, is no such file or has no rows to draw, or if the folder can't be written.
pub fn plot(args: &PlotArgs) -> Result<()> {
    let shown = args.file.display();
    let json = fs::read_to_string(&args.file).with_context(|| format!("reading {shown}"))?;
    let rows = parse(&json).with_context(|| format!("{shown} is not what `run --json` prints"))?;
    ensure!(!rows.is_empty(), "{shown} has no rows");
    let pictures = pictures(&rows)?;
    ensure!(!pictures.is_empty(), "{shown} has no rows that there is a picture of");
    fs::create_dir_all(&args.out).with_context(|| format!("making {}", args.out.display()))?;
    for (name, svg) in pictures {
        let path = args.out.join(name);
        fs::write(&path, svg).with_context(|| format!("writing {}", path.display()))?;
        text::print(format!("{}\n", path.display()))?;
    }
    Ok(())
}

fn parse(json: &str) -> Result<Vec<Row>> {
    let Report { rows, .. } = serde_json::from_str(json)?;
    for row in &rows {
        // All axes are logarithmic.
        ensure!(
            [row.ns, row.baseline_ns].iter().all(|ns| ns.is_normal() && *ns > 0.0),
            "the row {:?} has a time that is none",
            row.name
        );
    }
    Ok(rows)
}

/// Those for which there are rows, as file names and their SVG.
fn pictures(rows: &[Row]) -> Result<Vec<(&'static str, String)>> {
    let mut pictures = Vec::new();
    let (threads, growth, peers) = (threads(rows), growth(rows), peers(rows));
    if !threads.is_empty() {
        pictures.push(("bench-threads.svg", panels(&threads)?));
    }
    if !growth.is_empty() {
        pictures.push(("bench-growth.svg", panels(&growth)?));
    }
    if !peers.is_empty() {
        pictures.push(("bench-peers.svg", bars(&peers)?));
    }
    Ok(pictures)
}

/// One line.
#[derive(Clone, Debug)]
struct Series {
    label: String,
    /// Ours is solid, and what it is put beside is dashed.
    ours: bool,
    /// In [`COLOURS`].
    colour: usize,
    points: Vec<(f64, f64)>,
}

/// Some lines that share axes.
#[derive(Clone, Debug)]
struct Panel {
    title: String,
    x_title: &'static str,
    y_title: &'static str,
    /// Marked on the axis.
    xs: Vec<f64>,
    series: Vec<Series>,
}

/// An operation on so many threads at once, if the row is of the group of those.
fn on_threads(row: &Row) -> Option<(&str, f64)> {
    let (operation, count) = row.name.rsplit_once(", ")?;
    let (number, "thread" | "threads") = count.split_once(' ')? else { return None };
    // A row of that group stands beside its own operation on one thread.
    let beside_itself = row.baseline.strip_suffix(", 1 thread") == Some(operation);
    Some((operation, parse_count(number)?)).filter(|_| beside_itself)
}

/// An operation among so many events or streams, and which of them, if the row is of the group of those.
fn among(row: &Row) -> Option<(&str, f64, &'static str)> {
    let (rest, things) = row.name.rsplit_once(' ')?;
    let things = match things {
        "pending" => "events pending on one stream",
        "stream" | "streams" => "streams",
        _ => return None,
    };
    let (operation, count) = rest.rsplit_once(' ')?;
    let operation = operation.trim_end_matches(" of").trim_end_matches(" with").trim_end_matches(" on");
    Some((operation, parse_count(count)?, things))
}

/// `1,000,000`
fn parse_count(text: &str) -> Option<f64> {
    text.replace(',', "").parse::<u64>().ok().filter(|count| *count > 0).map(|count| count as f64)
}

/// Whether the bench does it in a way that is not the library's: it calls such an operation `the same` in that way, or
/// by what the machine does (`an addition`, `a read`).
fn is_beside(operation: &str) -> bool {
    ["the same ", "a ", "an ", "listen "].iter().any(|start| operation.starts_with(start))
}

/// For each operation of ours a panel, with what the bench has put beside it.
fn threads(rows: &[Row]) -> Vec<Panel> {
    let mut panels: Vec<Panel> = Vec::new();
    for (row, operation, threads) in rows.iter().filter_map(|row| {
        let (operation, threads) = on_threads(row)?;
        Some((row, operation, threads))
    }) {
        let ours = !is_beside(operation);
        let known = panels.last().is_some_and(|panel| panel.title == operation);
        if (ours && !known) || panels.is_empty() {
            panels.push(Panel {
                title: operation.to_owned(),
                x_title: "threads",
                y_title: "million operations per second",
                xs: Vec::new(),
                series: Vec::new(),
            });
        }
        let label = if ours { "gpu-events" } else { operation };
        if let Some(panel) = panels.last_mut() {
            let colour = panel.series.len();
            panel.add(label, ours, colour, (threads, 1e3 / row.ns));
        }
    }
    panels
}

/// A panel for events, and one for streams.
fn growth(rows: &[Row]) -> Vec<Panel> {
    let mut panels: Vec<Panel> = Vec::new();
    for row in rows {
        let Some((operation, count, things)) = among(row) else { continue };
        let index = panels.iter().position(|panel| panel.x_title == things).unwrap_or_else(|| {
            panels.push(Panel {
                title: format!("among {things}"),
                x_title: things,
                y_title: "time of one operation in ns",
                xs: Vec::new(),
                series: Vec::new(),
            });
            panels.len() - 1
        });
        let panel = &mut panels[index];
        let colour = panel.series.iter().filter(|series| series.ours).count();
        panel.add(operation, true, colour, (count, row.ns));
        // Beside itself, it has only one line.
        if among(&Row { name: row.baseline.clone(), ..row.clone() }).is_none() {
            let colour = panel.colour_of(operation);
            panel.add(&row.baseline, false, colour, (count, row.baseline_ns));
        }
    }
    panels
}

impl Panel {
    /// Adds a point to the line of that label, and the line with that colour if it is the first.
    fn add(&mut self, label: &str, ours: bool, colour: usize, point: (f64, f64)) {
        if !self.xs.contains(&point.0) {
            self.xs.push(point.0);
        }
        match self.series.iter_mut().find(|series| series.label == label) {
            Some(series) => series.points.push(point),
            None => self.series.push(Series { label: label.to_owned(), ours, colour, points: vec![point] }),
        }
    }

    fn colour_of(&self, label: &str) -> usize {
        self.series.iter().find(|series| series.label == label).map_or(0, |series| series.colour)
    }

    fn bounds(&self, of: impl Fn(&(f64, f64)) -> f64 + Copy) -> (f64, f64) {
        let values = self.series.iter().flat_map(|series| series.points.iter().map(of));
        values.fold((f64::INFINITY, 0.0), |(low, high), value| (low.min(value), high.max(value)))
    }
}

/// A row, and what it is put beside: of several rows of one name, each thing that it is put beside.
#[derive(Clone, Debug)]
struct Bars {
    name: String,
    ns: f64,
    beside: Vec<(String, f64)>,
}

/// What is in no other picture. A row of memory has a time as well, but that is not what it is about.
fn peers(rows: &[Row]) -> Vec<Bars> {
    let mut all: Vec<Bars> = Vec::new();
    for row in rows {
        if on_threads(row).is_some() || among(row).is_some() || row.bytes.is_some() {
            continue;
        }
        let name = row.name.split(" beside ").next().unwrap_or(&row.name).trim_end_matches(',');
        // What the machine does is put beside an empty loop, only to show that it is more.
        let beside = (!is_beside(name)).then(|| (row.baseline.clone(), row.baseline_ns));
        match all.iter_mut().find(|bars| bars.name == name) {
            Some(bars) => bars.beside.extend(beside),
            None => {
                all.push(Bars { name: name.to_owned(), ns: row.ns, beside: beside.into_iter().collect() });
            }
        }
    }
    all
}

/// Okabe and Ito's, which the colour-blind tell apart, the palest left out.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(90, 90, 90),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
];

const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(224, 224, 224);
const BESIDE: RGBColor = RGBColor(170, 170, 170);

const WIDTH: u32 = 900;
/// Of text, in pixels; and what a letter takes at most on average, to break lines by.
const TEXT: f64 = 12.0;
const LETTER: f64 = 6.6;
const LINE: i32 = 17;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws text at a place, which is its middle in height.
fn write(area: &Area<'_>, text: &str, place: (i32, i32), side: HPos, bold: bool) -> Result<()> {
    area.draw(&Text::new(text.to_owned(), place, style(bold).pos(Pos::new(side, VPos::Center))))?;
    Ok(())
}

fn style(bold: bool) -> TextStyle<'static> {
    let weight = if bold { FontStyle::Bold } else { FontStyle::Normal };
    // The backend divides by as much.
    TextStyle::from(FontDesc::new(FontFamily::SansSerif, TEXT * 1.24, weight)).color(&INK)
}

/// A picture of so many pixels' height.
fn draw(height: u32, paint: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE)?;
        paint(&area)?;
        area.present()?;
    }
    Ok(svg)
}

/// Two side by side, with axes that can be compared.
fn panels(panels: &[Panel]) -> Result<String> {
    let lines = panels.iter().map(|panel| panel.series.len()).max().unwrap_or(0) as u32;
    let height = 330 + lines * LINE as u32;
    let rows = panels.len().div_ceil(2);
    let (low, high) = panels
        .iter()
        .map(|panel| panel.bounds(|point| point.1))
        .fold((f64::INFINITY, 0.0_f64), |all, one| (all.0.min(one.0), all.1.max(one.1)));
    let y_range = (low / 1.3, high * 1.3);
    draw(height * rows as u32, |root| {
        for (panel, area) in panels.iter().zip(root.split_evenly((rows, 2))) {
            panel.draw(root, &area, lines as i32 * LINE + 40, y_range)?;
        }
        Ok(())
    })
}

impl Panel {
    /// The title, the legend in `head` pixels with it, and the lines. The texts are in `root`'s pixels.
    fn draw(&self, root: &Area<'_>, area: &Area<'_>, head: i32, y_range: (f64, f64)) -> Result<()> {
        let (left, top) = area.get_base_pixel();
        write(root, &self.title, (left + 16, top + 18), HPos::Left, true)?;
        for (line, series) in self.series.iter().enumerate() {
            let y = top + 40 + line as i32 * LINE;
            series.draw_sample(root, (left + 16, y))?;
            write(root, &series.label, (left + 56, y), HPos::Left, series.ours)?;
        }

        let (x_low, x_high) = self.bounds(|point| point.0);
        let mut builder = ChartBuilder::on(area);
        builder.margin_left(66).margin_right(22).margin_top(head).margin_bottom(52);
        let x = (x_low / 1.12..x_high * 1.12).log_scale();
        let y = (y_range.0..y_range.1).log_scale();
        let mut chart = builder.build_cartesian_2d(x, y)?;
        for x in self.xs.iter().copied() {
            chart.draw_series([PathElement::new([(x, y_range.0), (x, y_range.1)], GRID)])?;
            let (at, bottom) = chart.backend_coord(&(x, y_range.0));
            write(root, &short(x), (at, bottom + 13), HPos::Center, false)?;
        }
        for y in ticks(y_range) {
            chart.draw_series([PathElement::new([(x_low / 1.12, y), (x_high * 1.12, y)], GRID)])?;
            let (edge, at) = chart.backend_coord(&(x_low / 1.12, y));
            write(root, &marked(y), (edge - 7, at), HPos::Right, false)?;
        }
        let (edge, bottom) = chart.backend_coord(&(x_low / 1.12, y_range.0));
        let (end, top) = chart.backend_coord(&(x_high * 1.12, y_range.1));
        write(root, self.x_title, ((edge + end) / 2, bottom + 33), HPos::Center, false)?;
        let upright = TextStyle::from(
            FontDesc::new(FontFamily::SansSerif, TEXT * 1.24, FontStyle::Normal)
                .transform(FontTransform::Rotate270),
        );
        let upright = upright.color(&INK).pos(Pos::new(HPos::Center, VPos::Center));
        root.draw(&Text::new(self.y_title, (left + 16, (top + bottom) / 2), upright))?;

        // Ours last, and so on top.
        for series in self.series.iter().filter(|series| !series.ours) {
            let points = series.points.iter().copied();
            chart.draw_series(DashedLineSeries::new(points, 6, 4, series.stroke()))?;
            chart.draw_series(series.points.iter().map(|point| Circle::new(*point, 2, series.fill())))?;
        }
        for series in self.series.iter().filter(|series| series.ours) {
            chart.draw_series(LineSeries::new(series.points.iter().copied(), series.stroke()))?;
            chart.draw_series(series.points.iter().map(|point| Circle::new(*point, 3, series.fill())))?;
        }
        Ok(())
    }
}

impl Series {
    fn stroke(&self) -> ShapeStyle {
        COLOURS[self.colour % COLOURS.len()].stroke_width(if self.ours { 3 } else { 2 })
    }

    fn fill(&self) -> ShapeStyle {
        COLOURS[self.colour % COLOURS.len()].filled()
    }

    /// A piece of the line, for the legend.
    fn draw_sample(&self, root: &Area<'_>, (x, y): (i32, i32)) -> Result<()> {
        let ends = [(x, y), (x + 32, y)];
        if self.ours {
            root.draw(&PathElement::new(ends, self.stroke()))?;
        } else {
            root.draw(&DashedPathElement::new(ends, 6, 4, self.stroke()))?;
        }
        root.draw(&Circle::new((x + 16, y), if self.ours { 3 } else { 2 }, self.fill()))?;
        Ok(())
    }
}

/// Bars for what takes how long, each with its name on the left, ours in colour and on top.
fn bars(groups: &[Bars]) -> Result<String> {
    const BAR: i32 = 12;
    const GAP: i32 = 12;
    const LABELS: i32 = 380;
    const FOOT: i32 = 52;
    let times = groups
        .iter()
        .flat_map(|group| std::iter::once(group.ns).chain(group.beside.iter().map(|(_, ns)| *ns)));
    let (low, high) = times.fold((f64::INFINITY, 0.0_f64), |(low, high), ns| (low.min(ns), high.max(ns)));
    // From a power of ten on, so that the shortest bar is one.
    let range = (10_f64.powf((low / 1.5).log10().floor()), high * 1.5);
    // Each bar's lines of text, its time, and whether it is ours.
    let entries: Vec<Vec<(Vec<String>, f64, bool)>> = groups
        .iter()
        .map(|group| {
            let ours = (broken(&group.name, LABELS - 24), group.ns, !is_beside(&group.name));
            let beside = group.beside.iter().map(|(name, ns)| (broken(name, LABELS - 24), *ns, false));
            std::iter::once(ours).chain(beside).collect()
        })
        .collect();
    let height_of = |lines: &[String]| lines.len() as i32 * LINE + 2;
    let height: i32 =
        entries.iter().map(|group| GAP + group.iter().map(|(lines, ..)| height_of(lines)).sum::<i32>()).sum();
    let (top, bottom) = (20, 20 + height);
    draw((bottom + FOOT) as u32, |root| {
        let mut builder = ChartBuilder::on(root);
        builder.margin_left(LABELS).margin_right(76).margin_top(top).margin_bottom(FOOT);
        let mut chart = builder.build_cartesian_2d((range.0..range.1).log_scale(), 0..1)?;
        for x in ticks(range) {
            chart.draw_series([PathElement::new([(x, 0), (x, 1)], GRID)])?;
            let (at, _) = chart.backend_coord(&(x, 0));
            write(root, &marked(x), (at, bottom + 13), HPos::Center, false)?;
        }
        write(root, "time of one operation in ns", ((LABELS + 824) / 2, bottom + 33), HPos::Center, false)?;
        let mut y = top;
        for group in &entries {
            y += GAP / 2;
            for (lines, ns, ours) in group {
                let middle = y + height_of(lines) / 2;
                for (line, text) in lines.iter().enumerate() {
                    let y = y + line as i32 * LINE + LINE / 2 + 1;
                    write(root, text, (LABELS - 10, y), HPos::Right, *ours)?;
                }
                let (end, _) = chart.backend_coord(&(*ns, 0));
                let colour = if *ours { COLOURS[0] } else { BESIDE };
                let corners = [(LABELS, middle - BAR / 2), (end.max(LABELS + 1), middle + BAR / 2)];
                root.draw(&Rectangle::new(corners, colour.filled()))?;
                write(root, &shown(*ns), (end + 6, middle), HPos::Left, *ours)?;
                y += height_of(lines);
            }
            y += GAP / 2;
        }
        Ok(())
    })
}

/// In lines of so many pixels at most, where there are spaces to break at.
fn broken(text: &str, width: i32) -> Vec<String> {
    let letters = (f64::from(width) / LETTER) as usize;
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= letters => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Powers of ten, and 2 and 5 times those where there are few.
fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let steps: &[f64] = if high / low < 300.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let all = powers.flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)));
    all.filter(|tick| (low * 0.999..=high * 1.001).contains(tick)).collect()
}

/// A number on an axis.
fn marked(value: f64) -> String {
    if value >= 1.0 { text::count(value.round() as u64) } else { format!("{value}") }
}

/// A count on an axis where there is little room: 1k, 1M.
fn short(count: f64) -> String {
    let units = [(1e6, "M"), (1e3, "k")];
    let unit = units.into_iter().find(|(unit, _)| count >= *unit && count % unit == 0.0);
    unit.map_or_else(|| marked(count), |(unit, letter)| format!("{}{letter}", marked(count / unit)))
}

/// A time beside its bar: the axis is in nanoseconds, and so are these.
fn shown(ns: f64) -> String {
    if ns < 999.5 { text::three_digits(ns) } else { text::count(ns.round() as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::path::Path;

    /// As the bench prints it.
    fn row(name: &str, baseline: &str, ns: f64) -> Value {
        json!({
            "name": name, "ns": ns, "p99_ns": ns, "baseline": baseline, "baseline_ns": 2.0 * ns,
            "ratio": 0.5, "baseline_p99_ns": 2.0 * ns, "spread": 0.1,
        })
    }

    fn report(rows: &[Value]) -> String {
        json!({ "where": {}, "rows": rows }).to_string()
    }

    fn sample() -> Vec<Row> {
        let mut rows = vec![
            row("acquire+drop", "the seed's <pool>", 13.0),
            row("acquire+drop beside a lean one", "the same & leaner", 13.0),
            row("acquire+drop, 2 threads", "the seed's pool, 2 threads", 14.0),
            row("acquire+drop beside its limit", "an atomic exchange", 13.0),
            row("an atomic exchange", "an empty loop", 4.0),
        ];
        for (operation, ns) in [("record on own streams", 28.0), ("the same in the seed's way", 200.0)] {
            let one = format!("{operation}, 1 thread");
            rows.push(row(&one, &one, ns));
            rows.push(row(&format!("{operation}, 16 threads"), &one, ns / 2.0));
        }
        for count in ["1", "1,000,000"] {
            let name = format!("acquire+record+drop with {count} pending");
            rows.push(row(&name, "acquire+record+drop with 1 pending", 40.0));
            rows.push(row(&format!("status in turn of {count} pending"), "a read in a box in turn", 4.0));
        }
        rows.push(row("record at random on 1 stream", "an addition in a box", 30.0));
        rows.push(row("record at random on 10 streams", "an addition in a box", 31.0));
        let mut memory = row("memory: pending event", "the seed's event", 120.0);
        memory["bytes"] = 104.0.into();
        rows.push(memory);
        parse(&report(&rows)).unwrap()
    }

    fn picture(name: &str) -> String {
        pictures(&sample()).unwrap().into_iter().find(|(file, _)| *file == name).unwrap().1
    }

    /// The texts of a picture, after a look at whether each element that is opened is closed, in order.
    fn texts(svg: &str) -> Vec<String> {
        let (mut open, mut texts) = (Vec::new(), Vec::new());
        for piece in svg.split('<').skip(1) {
            let (tag, text) = piece.split_once('>').expect("a tag ends");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if let Some(closed) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(closed), "{tag}");
            } else if !tag.ends_with('/') && !tag.starts_with('?') {
                open.push(tag.split_whitespace().next().unwrap_or(tag));
                texts.extend((tag.starts_with("text")).then(|| text.trim().to_owned()));
            }
        }
        assert!(open.is_empty(), "never closed: {open:?}");
        texts
    }

    #[track_caller]
    fn assert_says(svg: &str, labels: &[&str]) {
        let texts = texts(svg);
        for label in labels {
            assert!(texts.iter().any(|text| text == label), "{label:?} is not among {texts:?}");
        }
    }

    #[test]
    fn threads_have_a_panel_for_each_operation() {
        let panels = threads(&sample());
        assert_eq!(panels.len(), 1);
        assert_eq!(panels[0].xs, [1.0, 16.0]);
        assert_eq!(panels[0].series[1].points, [(1.0, 5.0), (16.0, 10.0)]);
        let labels =
            ["record on own streams", "gpu-events", "the same in the seed&apos;s way", "16", "threads"];
        assert_says(&picture("bench-threads.svg").replace("&#39;", "&apos;"), &labels);
    }

    #[test]
    fn growth_has_a_line_for_each_family_and_for_what_is_beside_it() {
        let labels = ["acquire+record+drop", "status in turn", "a read in a box in turn", "1M"];
        assert_says(&picture("bench-growth.svg"), &labels);
        assert_says(&picture("bench-growth.svg"), &["record at random", "an addition in a box", "streams"]);
    }

    #[test]
    fn peers_are_all_that_is_in_no_other_picture() {
        let all = peers(&sample());
        let names: Vec<_> = all.iter().map(|bars| (bars.name.as_str(), bars.beside.len())).collect();
        assert_eq!(names, [("acquire+drop", 3), ("acquire+drop, 2 threads", 1), ("an atomic exchange", 0)]);
        let svg = picture("bench-peers.svg").replace("&#39;", "&apos;");
        assert_says(&svg, &["acquire+drop", "the seed&apos;s &lt;pool&gt;", "the same &amp; leaner", "13.0"]);
    }

    #[test]
    fn the_same_rows_make_the_same_pictures() {
        assert_eq!(pictures(&sample()).unwrap(), pictures(&sample()).unwrap());
    }

    #[test]
    fn the_committed_pictures_are_of_the_committed_figures() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let json = fs::read_to_string(docs.join("bench/h200-host.json")).unwrap();
        for (name, svg) in pictures(&parse(&json).unwrap()).unwrap() {
            let committed = fs::read_to_string(docs.join("images").join(name)).unwrap();
            assert!(
                committed == svg,
                "{name}: `gpu-events-bench plot docs/bench/h200-host.json --out docs/images` draws another"
            );
        }
    }

    #[test]
    fn labels_are_broken_where_there_are_spaces() {
        assert_eq!(
            broken("a mutex and a condition variable", 100),
            ["a mutex and a", "condition", "variable"]
        );
        assert_eq!(broken("a-single-word-that-is-too-long", 50), ["a-single-word-that-is-too-long"]);
    }

    #[test]
    fn axes_have_ticks_and_round_numbers() {
        assert_eq!(ticks((3.0, 60.0)), [5.0, 10.0, 20.0, 50.0]);
        assert_eq!(ticks((0.1, 1000.0)), [0.1, 1.0, 10.0, 100.0, 1000.0]);
        assert_eq!([1.0, 16.0, 1000.0, 100_000.0, 1e6].map(short), ["1", "16", "1k", "100k", "1M"]);
        assert_eq!([0.1, 1.0, 10_000.0].map(marked), ["0.1", "1", "10,000"]);
    }

    fn plot_file(folder: &Path, json: &str) -> Result<()> {
        let file = folder.join("rows.json");
        fs::write(&file, json).unwrap();
        plot(&PlotArgs { file, out: folder.join("out") })
    }

    #[test]
    fn what_is_no_measurement_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let missing = PlotArgs { file: folder.path().join("missing.json"), out: folder.path().join("out") };
        let error = format!("{:#}", plot(&missing).unwrap_err());
        assert!(error.contains("reading") && error.contains("missing.json"), "{error}");

        let negative = row("a", "b", -1.0);
        let mut memory = row("a", "b", 1.0);
        memory["bytes"] = 8.0.into();
        for (json, says) in [
            (String::new(), "is not what `run --json` prints"),
            ("[]".to_owned(), "is not what `run --json` prints"),
            ("{\"rows\": []}".to_owned(), "missing field `where`"),
            (report(&[json!({ "name": "a" })]), "missing field `ns`"),
            (report(&[negative]), "the row \"a\" has a time that is none"),
            (report(&[]), "has no rows"),
            (report(&[memory]), "no rows that there is a picture of"),
        ] {
            let error = format!("{:#}", plot_file(folder.path(), &json).unwrap_err());
            assert!(error.contains(says), "{json}: {error}");
        }
        assert!(!folder.path().join("out").exists());
    }

    #[test]
    fn only_pictures_with_rows_are_written() {
        let folder = tempfile::tempdir().unwrap();
        plot_file(folder.path(), &report(&[row("a", "b", 1.0)])).unwrap();
        let written: Vec<_> = fs::read_dir(folder.path().join("out")).unwrap().flatten().collect();
        assert_eq!(written.len(), 1);
        assert_eq!(written[0].file_name(), "bench-peers.svg");
    }
}
