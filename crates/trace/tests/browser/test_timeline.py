"""The HTML timeline in a real browser, without a window.

SAMPLES is a folder with what `cargo run -p gpu-events-trace --example timeline -- FOLDER` writes; screenshots go to SHOTS.
The browser is the system's Chromium.
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

SAMPLES = Path(os.environ["SAMPLES"])
SHOTS = Path(os.environ["SHOTS"])


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        assert chromium, "Debian's package chromium is missing"
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


class Page:
    """A sample, opened, which may ask for nothing but itself."""

    def __init__(self, browser, name, width=1280, height=900, scheme="light"):
        self.requests = []
        self.errors = []
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce")
        self.page = context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.goto((SAMPLES / name).as_uri())
        self.wait_drawn()
        self.data = json.loads(self.page.locator("#data").text_content())

    def wait_drawn(self):
        self.page.wait_for_function("window.timeline.drawn().frames > 0")
        # Two frames: what was asked for before the first is drawn after it.
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def ask(self, what):
        return self.page.evaluate(f"window.timeline.{what}")

    def view(self):
        self.wait_drawn()
        return self.ask("view()")

    def key(self, key):
        self.page.locator("#chart").press(key)
        self.wait_drawn()

    def span(self, name, nth=0):
        spans = self.data["spans"]["name"]
        return [span for span, at in enumerate(spans) if self.data["names"][at] == name][nth]

    def point(self, span):
        """Where a span is in the window."""
        place = self.ask(f"place({span})")
        box = self.page.locator("#lanes").bounding_box()
        return box["x"] + place["x"], box["y"] + place["y"]

    def table(self, title):
        rows = self.page.locator(f"h2:text-is('{title}') + .scroll tbody tr")
        return [row.locator("td").all_text_contents() for row in rows.all()]

    def close(self):
        assert self.errors == []
        assert len(self.requests) == 1, f"it asked for more than itself: {self.requests}"
        self.page.context.close()


@pytest.fixture
def open_page(browser):
    pages = []

    def open_page(name, **options):
        pages.append(Page(browser, name, **options))
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()


@pytest.fixture
def small(open_page):
    return open_page("small.html")


def test_the_wheel_zooms_at_the_pointer(small):
    before = small.view()
    x, y = small.point(small.span("hash", 1))
    small.page.mouse.move(x, y)
    at = small.ask(f"place({small.span('hash', 1)})")["x"]
    small.page.mouse.wheel(0, -600)
    after = small.view()
    assert after["to"] - after["from"] < (before["to"] - before["from"]) / 2
    # What is under the pointer, which is at a whole pixel, stays there.
    zoomed = (before["to"] - before["from"]) / (after["to"] - after["from"])
    assert abs(small.ask(f"place({small.span('hash', 1)})")["x"] - at) <= zoomed
    small.page.mouse.wheel(0, 6000)
    assert small.view() == before


def test_dragging_pans(small):
    small.key("+")
    before = small.view()
    x, y = small.point(small.span("hash", 1))
    small.page.mouse.move(x, y)
    small.page.mouse.down()
    small.page.mouse.move(x - 100, y, steps=5)
    small.page.mouse.up()
    after = small.view()
    width = small.page.locator("#lanes").bounding_box()["width"]
    moved = 100 / width * (before["to"] - before["from"])
    assert after["from"] - before["from"] == pytest.approx(moved, rel=0.01)
    assert after["to"] - after["from"] == pytest.approx(before["to"] - before["from"])
    assert small.ask("selected()") == -1, "a drag is no click"


def test_hovering_tells_about_the_span(small):
    span = small.span("sha256", 1)
    small.page.mouse.move(*small.point(span))
    tip = small.page.locator("#tip")
    tip.wait_for(state="visible")
    spans = small.data["spans"]
    text = tip.inner_text()
    duration = spans["end"][span] - spans["start"][span]
    assert text.startswith("sha256")
    assert "cuda:0 · hash 1" in text and f"{duration:,} ns" in text and f"{spans['start'][span]:,} ns" in text
    assert "± 1.40 µs" in text
    # A span that was held back says by what.
    small.page.mouse.move(*small.point(small.span("collect", 0)))
    small.page.wait_for_function("document.getElementById('tip').textContent.startsWith('collect')")
    assert re.search(r"held back for .* by chunk 0 is hashed", tip.inner_text())
    small.page.mouse.move(5, 5)
    tip.wait_for(state="hidden")


def test_a_click_selects_and_a_double_click_zooms(small):
    span = small.span("hash", 1)
    small.page.mouse.click(*small.point(span))
    assert small.ask("selected()") == span
    assert small.page.locator("#said").inner_text().startswith("hash, cuda:0 · hash 1")
    small.page.mouse.dblclick(*small.point(span))
    view, spans = small.view(), small.data["spans"]
    assert view["from"] <= spans["start"][span] and spans["end"][span] <= view["to"]
    assert view["to"] - view["from"] < 2 * (spans["end"][span] - spans["start"][span])


def test_the_keyboard_does_it_all(small):
    whole = small.view()
    small.page.locator("#filter").focus()
    for _ in range(7):
        small.page.keyboard.press("Tab")
    assert small.page.evaluate("document.activeElement.id") == "chart"
    outline = small.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "where the focus is can be seen"
    small.key("+")
    zoomed = small.view()
    assert zoomed["to"] - zoomed["from"] == pytest.approx((whole["to"] - whole["from"]) / 1.6)
    small.key("ArrowRight")
    assert small.view()["from"] > zoomed["from"]
    small.key("h")
    assert small.view()["from"] == pytest.approx(zoomed["from"])
    small.key("-")
    small.key("0")
    assert small.view() == whole
    small.key("n")
    first = small.ask("selected()")
    small.key("n")
    second = small.ask("selected()")
    spans = small.data["spans"]
    assert spans["track"][first] == spans["track"][second] and spans["start"][second] > spans["start"][first]
    small.key("p")
    assert small.ask("selected()") == first
    small.key("End")
    last = small.ask("selected()")
    assert spans["start"][last] == max(start for track, start in zip(spans["track"], spans["start"]) if track == spans["track"][first])
    small.key("Home")
    assert small.ask("selected()") == first
    small.key("ArrowDown")
    assert spans["track"][small.ask("selected()")] == spans["track"][first] + 1
    small.key("k")
    assert spans["track"][small.ask("selected()")] == spans["track"][first]
    small.key("Enter")
    assert small.view()["to"] - small.view()["from"] < whole["to"] / 2
    small.key("Escape")
    assert small.ask("selected()") == -1 and small.page.locator("#said").inner_text() == ""
    path = small.data["path"]
    work = [of for cause, of in zip(path["cause"], path["of"]) if cause == "work"]
    for of in [*work, work[0]]:
        small.key("c")
        assert small.ask("selected()") == of
    small.key("?")
    assert small.page.locator("#keys").is_visible()
    small.key("t")
    assert small.page.evaluate("document.activeElement.id") == "tables"


def test_the_tables_have_what_the_trace_has(small):
    data = small.data
    label = lambda track: f"{data['tracks'][track]['device']} · {data['tracks'][track]['name']}" if data["tracks"][track]["device"] else data["tracks"][track]["name"]
    streams = small.table("Streams")
    assert [row[0] for row in streams] == [label(track) for track in range(len(data["tracks"]))]
    for row, track in zip(streams, data["tracks"]):
        assert track["busy"] + track["waiting"] + track["idle"] == data["length"]
        for cell, nanos in zip(row[1:4], [track["busy"], track["waiting"], track["idle"]]):
            assert cell.endswith(f" · {nanos * 100 / data['length']:.1f} %")
    spans = small.table("Spans")
    for span, row in enumerate(spans):
        start, end = data["spans"]["start"][span], data["spans"]["end"][span]
        name = data["names"][data["spans"]["name"][span]]
        assert row[:4] == [name, label(data["spans"]["track"][span]), f"{start:,} ns", f"{end - start:,} ns"]
    assert [row[4] for row in spans if row[4]] == ["the disk is on fire"]
    assert len(small.table("Waits")) == len(data["waits"]["held"])
    path = small.table("Critical path")
    assert len(path) == len(data["path"]["from"]) and "was" not in path[0][0]
    # Sorted by duration, longest first.
    small.page.locator("h2:text-is('Spans') + .scroll").get_by_role("button", name="Duration").click()
    durations = [int(row[3].removesuffix(" ns").replace(",", "")) for row in small.table("Spans")]
    assert durations == sorted(durations, reverse=True)
    header = small.page.locator("h2:text-is('Spans') + .scroll th").nth(3)
    assert header.get_attribute("aria-sort") == "descending" and header.get_attribute("scope") == "col"
    assert "3 dropped" in small.page.locator("#facts").inner_text()


def test_a_filter_dims_the_rest(small):
    pixel = """([x, y]) => { const c = document.getElementById('lanes'), r = devicePixelRatio;
        return [...c.getContext('2d').getImageData(x * r, y * r, 1, 1).data]; }"""
    place = small.ask(f"place({small.span('read', 1)})")
    # Beside the name that is written in it.
    at = [place["x"] + 30, place["y"]]
    before = small.page.evaluate(pixel, at)
    small.page.locator("#filter").fill("SHA")
    small.wait_drawn()
    after = small.page.evaluate(pixel, at)
    assert after != before
    small.page.locator("#filter").fill("")
    small.wait_drawn()
    assert small.page.evaluate(pixel, at) == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_looks_right(open_page, scheme, width):
    page = open_page("small.html", width=width, scheme=scheme)
    size = page.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert size[0] <= size[1], f"it is {size[0]} wide, in a window of {size[1]}"
    light = page.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(251, 251, 250)"
    assert light == (scheme == "light")
    page.page.mouse.move(*page.point(page.span("sha256", 1)))
    page.wait_drawn()
    page.page.screenshot(path=SHOTS / f"{scheme}-{width}.png", full_page=True)


def test_the_theme_can_be_changed(small):
    background = "getComputedStyle(document.body).backgroundColor"
    before = small.page.evaluate(background)
    small.page.get_by_role("button", name="Theme").click()
    assert small.page.evaluate(background) != before
    small.page.get_by_role("button", name="Theme").click()
    assert small.page.evaluate(background) == before


def test_hostile_names_stay_names(open_page):
    page = open_page("hostile.html")
    assert page.page.evaluate("window.hacked") is None
    name = page.data["names"][0]
    assert name.startswith("</script>")
    page.page.mouse.move(*page.point(0))
    page.page.locator("#tip").wait_for(state="visible")
    assert page.page.locator("#tip b").text_content() == name
    assert page.table("Spans")[0][0] == name
    assert page.page.locator("img").count() == 0


def test_100_000_spans_stay_fluid(open_page):
    page = open_page("large.html")
    assert len(page.data["spans"]["start"]) == 100_000
    width = page.page.locator("#lanes").bounding_box()["width"]
    report = []
    for factor in [0, -600, -2000, -2500]:
        x, y = page.point(page.span("gemm", 1000))
        page.page.mouse.move(min(max(x, 20), 1200), y)
        page.page.mouse.wheel(0, factor)
        page.wait_drawn()
        drawn = page.ask("drawn()")
        # However many there are: at most one a pixel, in each row, for spans, waits and the path.
        assert 0 < drawn["rectangles"] <= width * (page.ask("rows") * 2 + 1)
        assert drawn["arrows"] <= 300
        report.append(f"{drawn['rectangles']} rectangles in {drawn['milliseconds']:.1f} ms")
    print("\n".join(report))
    page.key("0")
    page.key("n")
    page.key("Enter")
    span = page.ask("selected()")
    page.page.mouse.move(*page.point(span))
    page.page.locator("#tip").wait_for(state="visible")
    assert page.ask("hovered()") == span or page.data["spans"]["start"][page.ask("hovered()")] >= page.data["spans"]["start"][span]
    # The tables are in pages.
    assert len(page.table("Spans")) == 50
    page.page.locator("h2:text-is('Spans') ~ .pages").last.get_by_role("button", name="Next").click()
    assert len(page.table("Spans")) == 50
    page.key("0")
    page.page.screenshot(path=SHOTS / "large-1280.png")
