//! `gpu-events devices`: what is here, what it can do, and why the rest is not here.

use std::fmt::Write;

use console::style;
use gpu_events::{BackendListing, Capabilities, Device, DeviceInfo, Gates};
use serde::Serialize;

use crate::{output, units};

/// List devices, their clocks and capabilities, and the backends that are not available
#[derive(Debug, clap::Args)]
pub(crate) struct DevicesArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &DevicesArgs) -> anyhow::Result<()> {
    let backends = Device::backends();
    if args.json { output::print_json(&Json::new(&backends)) } else { output::print(text(&backends)) }
}

fn text(backends: &[BackendListing]) -> String {
    let mut text = String::new();
    for device in backends.iter().filter_map(|backend| backend.devices.as_ref().ok()).flatten() {
        describe(&mut text, device);
    }
    for (backend, error) in
        backends.iter().filter_map(|backend| Some((backend.name, backend.devices.as_ref().err()?)))
    {
        line(
            &mut text,
            format_args!("{}  {}  {error}", style(backend).bold(), style("not available").yellow()),
        );
    }
    text
}

fn describe(text: &mut String, device: &DeviceInfo) {
    let Capabilities {
        timed,
        queue_depth,
        batch_bound,
        native_waits,
        native_on_request,
        gates,
        failure_is_per_stream,
        ..
    } = &device.capabilities;
    line(text, format_args!("{}  {}", style(&device.name).bold().green(), device.description));
    let mut fact = |name: &str, value: &str| line(text, format_args!("  {name:<14}  {value}"));
    let clock = &device.clock;
    fact("clock", &format!("{}, {} steps", clock.source(), units::time(clock.resolution())));
    fact("timed events", if *timed { "yes" } else { "no" });
    fact(
        "queue takes",
        &queue_depth.map_or("any number".into(), |depth| format!("{} recordings", units::count(depth))),
    );
    let batch = |bound| format!("in batches of at most {} recordings", units::count(bound));
    fact("submits", &batch_bound.map_or("at once".into(), batch));
    fact("native waits", &if native_waits.is_empty() { "none".into() } else { native_waits.join(", ") });
    if !native_on_request.is_empty() {
        fact("  on request", &native_on_request.join(", "));
    }
    fact("gates", &gates_text(*gates));
    fact("a failure ends", if *failure_is_per_stream { "its stream" } else { "the device" });
    text.push('\n');
}

fn gates_text(gates: Gates) -> String {
    match gates {
        Gates::None => "none".into(),
        Gates::Owned => "in our own queue, any number".into(),
        Gates::Driver { limit } => format!("in the driver, {limit} streams at a time"),
        _ => UNKNOWN.into(),
    }
}

/// What a library newer than this program may answer.
const UNKNOWN: &str = "unknown";

fn line(text: &mut String, what: impl std::fmt::Display) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{what}");
}

#[derive(Serialize)]
struct Json<'a> {
    devices: Vec<JsonDevice<'a>>,
    unavailable: Vec<JsonUnavailable>,
}

#[derive(Serialize)]
struct JsonDevice<'a> {
    name: &'a str,
    backend: &'static str,
    description: &'a str,
    clock: JsonClock,
    capabilities: JsonCapabilities<'a>,
}

#[derive(Serialize)]
struct JsonClock {
    source: &'static str,
    resolution_ns: u64,
}

#[derive(Serialize)]
struct JsonCapabilities<'a> {
    timed: bool,
    queue_depth: Option<u64>,
    batch_bound: Option<u64>,
    native_waits: &'a [&'static str],
    native_on_request: &'a [&'static str],
    gates: &'static str,
    gates_limit: Option<u32>,
    failure_is_per_stream: bool,
}

#[derive(Serialize)]
struct JsonUnavailable {
    backend: &'static str,
    reason: String,
}

impl<'a> Json<'a> {
    fn new(backends: &'a [BackendListing]) -> Self {
        let mut json = Self { devices: Vec::new(), unavailable: Vec::new() };
        for backend in backends {
            match &backend.devices {
                Ok(devices) => json.devices.extend(devices.iter().map(JsonDevice::new)),
                Err(error) => {
                    json.unavailable
                        .push(JsonUnavailable { backend: backend.name, reason: error.to_string() });
                }
            }
        }
        json
    }
}

impl<'a> JsonDevice<'a> {
    fn new(device: &'a DeviceInfo) -> Self {
        let capabilities = &device.capabilities;
        let (gates, gates_limit) = match capabilities.gates {
            Gates::Owned => ("owned", None),
            Gates::Driver { limit } => ("driver", Some(limit)),
            Gates::None => ("none", None),
            _ => (UNKNOWN, None),
        };
        Self {
            name: &device.name,
            backend: device.backend,
            description: &device.description,
            clock: JsonClock {
                source: device.clock.source(),
                resolution_ns: device.clock.resolution().as_nanos() as u64,
            },
            capabilities: JsonCapabilities {
                timed: capabilities.timed,
                queue_depth: capabilities.queue_depth,
                batch_bound: capabilities.batch_bound,
                native_waits: capabilities.native_waits,
                native_on_request: capabilities.native_on_request,
                gates,
                gates_limit,
                failure_is_per_stream: capabilities.failure_is_per_stream,
            },
        }
    }
}
