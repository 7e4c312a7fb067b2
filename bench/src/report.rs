//! Rows, the targets they are held to, and how both are shown.

use super::harness::VariantId;
use super::host;
use console::style;
use gpu_events::Device;
use serde::{Deserialize, Serialize};
use std::env::{self, consts};

/// What `run --json` prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Report {
    #[serde(rename = "where")]
    pub(super) place: Place,
    pub(super) rows: Vec<Row>,
}

/// On what, when and how rows were measured. What can't be found out is left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Place {
    /// In UTC, as `2026-11-29`.
    #[serde(skip_serializing_if = "Option::is_none")]
    date: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<String>,
    /// Those that the process may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    cores: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    os: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arch: Option<String>,
    /// If a CUDA device was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gpu: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver: Option<String>,
    /// Of the command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<Vec<String>>,
    /// Of gpu-events.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
}

impl Place {
    /// Here and now.
    pub(super) fn here(device: &Device) -> Self {
        let cuda = device.info().backend == "cuda";
        Self {
            date: host::today(),
            cpu: host::processor(),
            cores: std::thread::available_parallelism().ok().map(usize::from),
            os: Some(consts::OS.to_owned()),
            arch: Some(consts::ARCH.to_owned()),
            gpu: cuda.then(|| device.info().description.clone()),
            driver: if cuda { host::nvidia_driver() } else { None },
            arguments: Some(env::args().skip(1).collect()),
            // The library's too: all of the workspace have one.
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        }
    }

    /// What is known of it, in one line of Markdown.
    pub(super) fn line(&self) -> String {
        let known = [
            self.gpu.clone(),
            self.driver.as_ref().map(|version| format!("driver {version}")),
            self.cpu.clone(),
            self.cores.map(|cores| format!("{cores} core{}", if cores == 1 { "" } else { "s" })),
            self.os.clone(),
            self.arch.clone(),
            self.date.clone(),
            self.version.as_ref().map(|version| format!("gpu-events {version}")),
            self.arguments.as_ref().map(|arguments| format!("`{}`", arguments.join(" "))),
        ];
        known.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// One line of the answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) name: String,
    /// Median time of one operation.
    pub(super) ns: f64,
    /// The 99th percentile: of the operations where each was timed, else of batches of them.
    pub(super) p99_ns: f64,
    /// What it is put beside, measured in turn with it.
    pub(super) baseline: String,
    pub(super) baseline_ns: f64,
    /// `ns` over `baseline_ns`: below one is faster than the baseline.
    pub(super) ratio: f64,
    pub(super) baseline_p99_ns: f64,
    /// Width of the middle 80 % of the samples over their median.
    pub(super) spread: f64,
    /// Processor time of the whole process for one operation, less that of the work which stood in for a device's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu_ns: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) baseline_cpu_ns: Option<f64>,
    /// Resident memory of one object, its handle included; then `ns` is the time to make one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) baseline_bytes: Option<f64>,
    /// How many cores the host took away from this machine while the row's group was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stolen_cores: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) targets: Vec<Verdict>,
}

/// What a row is to reach.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// A median of at most so many nanoseconds.
    Ns(f64),
    /// At most so many bytes for each object.
    Bytes(f64),
    /// At least so many times as fast as the row's baseline.
    TimesFaster(f64),
    /// At most `factor` times another variant's median.
    Within { of: &'static str, variant: VariantId, factor: f64 },
    /// What comes on top of another variant's median is at most `times` the row's baseline.
    OnTop { of: &'static str, variant: VariantId, times: f64 },
}

/// How a row did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub(super) target: String,
    /// The figure that is held against the target, in the target's unit.
    pub(super) value: f64,
    pub(super) met: bool,
}

impl Target {
    /// The variant besides the row's own two that has to be measured to judge.
    pub(super) fn compares_with(&self) -> Option<VariantId> {
        match *self {
            Self::Within { variant, .. } | Self::OnTop { variant, .. } => Some(variant),
            Self::Ns(_) | Self::Bytes(_) | Self::TimesFaster(_) => None,
        }
    }

    /// `None` if what it needs has not been measured.
    pub(super) fn judge(&self, row: &Row, median_of: impl Fn(VariantId) -> Option<f64>) -> Option<Verdict> {
        let at_most = |target, value, limit| Verdict { target, value, met: value <= limit };
        Some(match *self {
            Self::Ns(limit) => at_most(format!("≤ {limit} ns"), row.ns, limit),
            Self::Bytes(limit) => at_most(format!("≤ {limit} B"), row.bytes?, limit),
            Self::TimesFaster(times) => {
                let value = row.baseline_ns / row.ns;
                let target = if times > 1.0 { format!("≥ {times}× faster") } else { "faster".to_owned() };
                Verdict { target, value, met: value >= times }
            }
            Self::Within { of, variant, factor } => {
                at_most(format!("≤ {factor}× {of}"), row.ns / median_of(variant)?, factor)
            }
            Self::OnTop { of, variant, times } => {
                let value = (row.ns - median_of(variant)?) / row.baseline_ns;
                at_most(format!("≤ {of} + {times}× that"), value, times)
            }
        })
    }
}

/// A group's rows as a table. What a row is put beside is named once for all rows in line that share it.
pub(super) fn table(title: &str, rows: &[Row]) -> String {
    let width =
        rows.iter().map(|row| row.name.chars().count()).chain([title.chars().count()]).max().unwrap_or(0);
    let memory = rows.iter().any(|row| row.bytes.is_some());
    let cpu = rows.iter().any(|row| row.cpu_ns.is_some());
    let mut table = format!("{}", style(format!("{title:<width$}")).bold());
    let mut heads = vec!["median", "p99", "beside", "ratio"];
    heads.extend(cpu.then_some("CPU"));
    heads.extend(memory.then_some(["memory", "beside"]).into_iter().flatten());
    heads.iter().for_each(|head| table.push_str(&format!("{head:>11}")));
    table.push('\n');
    for (index, row) in rows.iter().enumerate() {
        table.push_str(&format!("{:<width$}", row.name));
        let mut cell = |text: String| table.push_str(&format!("{text:>11}"));
        [row.ns, row.p99_ns, row.baseline_ns].into_iter().for_each(|ns| cell(time(ns)));
        cell(ratio(row.ratio));
        if cpu {
            cell(row.cpu_ns.map_or_else(String::new, time));
        }
        if memory {
            [row.bytes, row.baseline_bytes]
                .into_iter()
                .for_each(|bytes| cell(bytes.map_or_else(String::new, size)));
        }
        for Verdict { target, met, .. } in &row.targets {
            let verdict = if *met {
                style(format!("✓ {target}")).green()
            } else {
                style(format!("✗ {target}")).red()
            };
            table.push_str(&format!("  {verdict}"));
        }
        table.push('\n');
        if rows.get(index + 1).is_none_or(|next| next.baseline != row.baseline) {
            table.push_str(&format!("{}\n", style(format!("  beside {}", row.baseline)).dim()));
        }
    }
    table.push('\n');
    table
}

/// How many targets were met, and each that was not with its figure.
pub(super) fn targets(rows: &[Row]) -> String {
    let verdicts: Vec<_> =
        rows.iter().flat_map(|row| row.targets.iter().map(move |verdict| (row, verdict))).collect();
    let missed: Vec<_> = verdicts.iter().filter(|(_, verdict)| !verdict.met).collect();
    if verdicts.is_empty() {
        return String::new();
    }
    let met = format!("{} of {} targets met", verdicts.len() - missed.len(), verdicts.len());
    let mut text = format!("{}\n", if missed.is_empty() { style(met).green() } else { style(met).red() });
    for (row, Verdict { target, value, .. }) in missed {
        text.push_str(&format!("  missed: {}, {target}: it is {value:.2}\n", row.name));
    }
    text
}

/// Three digits: 0.71 ns, 1.50 ns, 77.4 ns, 812 ns, 15.3 µs.
fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ..999.5 => (ns, "ns"),
        ..999.5e3 => (ns / 1e3, "µs"),
        _ => (ns / 1e6, "ms"),
    };
    format!("{} {unit}", crate::text::three_digits(value))
}

fn size(bytes: f64) -> String {
    format!("{bytes:.0} B")
}

/// Small ratios keep two digits, since 0.01 and 0.014 are far apart.
fn ratio(ratio: f64) -> String {
    if ratio < 0.0995 { format!("{ratio:.3}") } else { crate::text::three_digits(ratio) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(ns: f64, baseline_ns: f64) -> Row {
        Row {
            name: "row".to_owned(),
            ns,
            p99_ns: ns,
            baseline: "baseline".to_owned(),
            baseline_ns,
            ratio: ns / baseline_ns,
            baseline_p99_ns: baseline_ns,
            spread: 0.0,
            cpu_ns: None,
            baseline_cpu_ns: None,
            bytes: None,
            baseline_bytes: None,
            stolen_cores: None,
            targets: Vec::new(),
        }
    }

    fn judge(target: Target, row: &Row, other: Option<f64>) -> Option<(String, f64, bool)> {
        target.judge(row, |_| other).map(|verdict| (verdict.target, verdict.value, verdict.met))
    }

    #[test]
    fn targets_are_judged() {
        let fast = row(20.0, 80.0);
        assert_eq!(judge(Target::Ns(20.0), &fast, None), Some(("≤ 20 ns".to_owned(), 20.0, true)));
        assert_eq!(judge(Target::Ns(1.5), &fast, None), Some(("≤ 1.5 ns".to_owned(), 20.0, false)));
        assert_eq!(judge(Target::TimesFaster(4.0), &fast, None), Some(("≥ 4× faster".to_owned(), 4.0, true)));
        assert_eq!(
            judge(Target::TimesFaster(1.0), &row(2.0, 1.0), None),
            Some(("faster".to_owned(), 0.5, false))
        );
        assert_eq!(judge(Target::Bytes(128.0), &fast, None), None);
        let sized = Row { bytes: Some(96.0), ..fast };
        assert_eq!(judge(Target::Bytes(128.0), &sized, None), Some(("≤ 128 B".to_owned(), 96.0, true)));
    }

    #[test]
    fn targets_may_look_at_another_variant() {
        let mut group = super::super::harness::Group::new("other");
        let variant = group.variant("other", Box::new(|_| Ok(())));
        let within = Target::Within { of: "one thread", variant, factor: 1.25 };
        assert_eq!(within.compares_with(), Some(variant));
        assert!(judge(within, &row(20.0, 1.0), Some(16.0)).unwrap().2);
        assert!(!judge(within, &row(20.1, 1.0), Some(16.0)).unwrap().2);
        assert_eq!(judge(within, &row(20.0, 1.0), None), None);
        let on_top = Target::OnTop { of: "one", variant, times: 1.5 };
        assert_eq!(
            judge(on_top, &row(45.0, 10.0), Some(30.0)),
            Some(("≤ one + 1.5× that".to_owned(), 1.5, true))
        );
    }

    #[test]
    fn figures_have_three_digits() {
        let shown = [0.712, 1.5, 20.0, 77.43, 999.4, 999.6, 15_250.0, 2_000_000.0].map(time);
        assert_eq!(
            shown,
            ["0.71 ns", "1.50 ns", "20.0 ns", "77.4 ns", "999 ns", "1.00 µs", "15.2 µs", "2.00 ms"]
        );
        assert_eq!([0.0123, 0.1, 0.95, 17.26, 812.4].map(ratio), ["0.012", "0.10", "0.95", "17.3", "812"]);
    }

    #[test]
    fn the_json_row_has_the_promised_fields() {
        let json = serde_json::to_value(row(2.0, 4.0)).unwrap();
        for field in ["ns", "p99_ns", "baseline_ns", "ratio"] {
            assert!(json[field].is_f64(), "{field}");
        }
        assert_eq!((json["name"].as_str(), json["baseline"].as_str()), (Some("row"), Some("baseline")));
        assert_eq!(json.get("bytes"), None);
    }

    #[test]
    fn what_is_not_known_of_a_place_is_left_out() {
        let place = Place { cpu: Some("a processor".to_owned()), cores: Some(1), ..Place::default() };
        assert_eq!(serde_json::to_value(&place).unwrap(), json!({ "cpu": "a processor", "cores": 1 }));
        assert_eq!(place.line(), "a processor, 1 core");
        let here = Place::here(&Device::open("cpu").unwrap());
        assert!(here.arguments.is_some() && here.version.is_some());
        assert_eq!((here.gpu, here.driver), (None, None));
    }

    #[test]
    fn a_table_names_each_baseline_once_and_counts_targets() {
        let met = Verdict { target: "≤ 20 ns".to_owned(), value: 2.0, met: true };
        let missed = Verdict { target: "faster".to_owned(), value: 0.5, met: false };
        let rows =
            [Row { targets: vec![met], ..row(2.0, 4.0) }, Row { targets: vec![missed], ..row(4.0, 2.0) }];
        let text = table("title", &rows) + &targets(&rows);
        let text = console::strip_ansi_codes(&text);
        assert_eq!(text.matches("beside baseline").count(), 1);
        assert!(text.contains("✓ ≤ 20 ns") && text.contains("✗ faster"), "{text}");
        assert!(
            text.contains("1 of 2 targets met") && text.contains("missed: row, faster: it is 0.50"),
            "{text}"
        );
    }
}
