'use strict';
(() => {
  const trace = JSON.parse(document.getElementById('data').textContent);
  const { length, tracks, names, spans, waits, path } = trace;
  const count = spans.start.length;
  const byId = (id) => document.getElementById(id);
  const [chart, lanes, overview, tip, said] = ['chart', 'lanes', 'overview', 'tip', 'said'].map(byId);

  // Times.

  const UNITS = [[1e9, 's'], [1e6, 'ms'], [1e3, 'µs'], [1, 'ns']];
  function time(nanos) {
    const [scale, unit] = UNITS.find(([scale]) => Math.abs(nanos) >= scale) ?? [1, 'ns'];
    const value = nanos / scale;
    const digits = unit === 'ns' || Math.abs(value) >= 99.95 ? 0 : Math.abs(value) >= 9.995 ? 1 : 2;
    return `${value.toFixed(digits)} ${unit}`;
  }
  const exact = (nanos) => `${nanos.toLocaleString('en')} ns`;
  const share = (part) => `${(length ? part * 100 / length : 0).toFixed(1)} %`;
  const label = (track) => tracks[track].device ? `${tracks[track].device} · ${tracks[track].name}` : tracks[track].name;

  // Layout: rows of spans that don't overlap, one for each depth of nesting, below the name of their track.

  const ROW = 20, NAME = 19, GAP = 7, HEAD = 26, AXIS = 24;
  const rows = [];
  const places = new Array(count);
  const heads = [];
  const tops = [];
  let height = AXIS;
  {
    const of = tracks.map(() => []);
    for (let span = 0; span < count; span++) of[spans.track[span]].push(span);
    let process = -1;
    tracks.forEach((track, index) => {
      if (trace.processes.length > 1 && track.process !== process) {
        process = track.process;
        const { name, pid, uncertainty } = trace.processes[process];
        heads.push({ y: height, text: `${name} (${pid})${uncertainty ? `  ± ${time(uncertainty)}` : ''}` });
        height += HEAD;
      }
      const its = of[index].sort((a, b) => spans.start[a] - spans.start[b] || spans.end[b] - spans.end[a] || a - b);
      const open = [];
      const depths = [[]];
      for (const span of its) {
        while (open.length && spans.end[open[open.length - 1]] <= spans.start[span]) open.pop();
        (depths[open.length] ??= []).push(span);
        places[span] = { track: index, depth: open.length };
        open.push(span);
      }
      tops[index] = height;
      height += NAME;
      depths.forEach((spans_, depth) => {
        rows.push({ track: index, depth, y: height, spans: spans_ });
        height += ROW;
      });
      height += GAP;
    });
  }
  const rowOf = (span) => rows.find((row) => row.track === places[span].track && row.depth === places[span].depth);
  const waitsOf = tracks.map(() => []);
  waits.track.forEach((track, wait) => { if (waits.held[wait] > 0) waitsOf[track].push(wait); });
  waitsOf.forEach((its) => its.sort((a, b) => waits.reached[a] - waits.reached[b]));
  const arrows = waits.source.map((_, wait) => wait).filter((wait) => waits.source[wait] >= 0 && waits.before[wait] >= 0)
    .sort((a, b) => waits.released[a] - waits.released[b]);
  const work = path.from.map((_, step) => step).filter((step) => path.cause[step] === 'work');
  const heldBy = new Map();
  waits.before.forEach((span, wait) => {
    if (span >= 0 && waits.held[wait] > 0) heldBy.set(span, [...(heldBy.get(span) ?? []), wait]);
  });

  // Where the first of some that are in order by `key` is that has one above `value`.
  function above(list, key, value) {
    let [from, to] = [0, list.length];
    while (from < to) {
      const middle = (from + to) >> 1;
      if (key(list[middle]) > value) to = middle; else from = middle + 1;
    }
    return from;
  }

  // Colours: one for each name, the same in both themes, apart also for those who see fewer of them.

  const PALETTE = ['#4878a8', '#b9652a', '#4a8560', '#8f6bb0', '#96762c', '#3f868c', '#a65a78', '#7a7f3c'];
  const colours = [];
  let used = 0;
  for (const name of spans.name) colours[name] ??= PALETTE[used++ % PALETTE.length];
  let ink = {};
  function readTheme() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ['page', 'ink', 'soft', 'line', 'lane', 'wait', 'path', 'focus', 'dim']) {
      ink[name] = style.getPropertyValue(`--${name}`).trim();
    }
  }

  // The view.

  const whole = Math.max(1, length);
  let view = { from: 0, to: whole };
  let selected = -1, hovered = -1, step = -1;
  let matches = null;
  let drawn = { rectangles: 0, arrows: 0, frames: 0, milliseconds: 0 };
  let asked = false;
  const calm = matchMedia('(prefers-reduced-motion: reduce)');
  let flight = 0;

  function ask() {
    if (!asked) { asked = true; requestAnimationFrame(draw); }
  }
  function look(from, to) {
    const span = Math.min(whole, Math.max(to - from, Math.min(whole, 20)));
    const middle = (from + to) / 2;
    const start = Math.min(Math.max(0, middle - span / 2), whole - span);
    view = { from: start, to: start + span };
    ask();
  }
  function flyTo(from, to) {
    cancelAnimationFrame(flight);
    if (calm.matches) return look(from, to);
    const start = { ...view }, begun = performance.now();
    const move = (now) => {
      const at = Math.min(1, Math.max(0, (now - begun) / 180)), eased = at * (2 - at);
      look(start.from + (from - start.from) * eased, start.to + (to - start.to) * eased);
      if (at < 1) flight = requestAnimationFrame(move);
    };
    flight = requestAnimationFrame(move);
  }
  function zoom(factor, at = (view.from + view.to) / 2) {
    cancelAnimationFrame(flight);
    const from = at - (at - view.from) * factor;
    look(from, from + (view.to - view.from) * factor);
  }
  const pan = (part) => { cancelAnimationFrame(flight); const by = (view.to - view.from) * part; look(view.from + by, view.to + by); };

  let width = 0;
  function sized(canvas, high) {
    const ratio = devicePixelRatio || 1;
    const wide = canvas.parentElement.clientWidth - (canvas === overview ? 2 : 0);
    if (canvas.width !== Math.round(wide * ratio) || canvas.height !== Math.round(high * ratio)) {
      canvas.width = Math.round(wide * ratio);
      canvas.height = Math.round(high * ratio);
      canvas.style.height = `${high}px`;
    }
    const context = canvas.getContext('2d');
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, wide, high);
    return [context, wide];
  }
  const xOf = (time) => (time - view.from) / (view.to - view.from) * width;

  // Draws what of a list is in view, each at least a pixel wide, and no two within one.
  function drawAll(list, startOf, endOf, drawOne) {
    const pixel = (view.to - view.from) / width;
    let at = above(list, endOf, view.from);
    while (at < list.length && startOf(list[at]) < view.to) {
      const [from, to] = [startOf(list[at]), endOf(list[at])];
      drawOne(list[at], xOf(from), Math.max(1, xOf(to) - xOf(from)));
      drawn.rectangles++;
      at = to - from < pixel ? Math.max(at + 1, above(list, endOf, from + pixel)) : at + 1;
    }
  }

  function hatch(context, x, y, wide, high, colour, step_, up) {
    context.save();
    context.beginPath();
    context.rect(x, y, wide, high);
    context.clip();
    context.strokeStyle = colour;
    context.lineWidth = 1.2;
    context.beginPath();
    const [from, to] = [Math.max(-high, x - (x % step_) - high), Math.min(width, x + wide)];
    for (let at = from; at < to; at += step_) {
      context.moveTo(at, up ? y + high : y);
      context.lineTo(at + high, up ? y : y + high);
    }
    context.stroke();
    context.restore();
  }

  function draw() {
    asked = false;
    const begun = performance.now();
    let context;
    [context, width] = sized(lanes, height);
    drawn.rectangles = drawn.arrows = 0;
    context.font = '12px system-ui, sans-serif';
    context.textBaseline = 'middle';
    axis(context);
    for (const { y, text } of heads) {
      context.fillStyle = ink.ink;
      context.font = '650 13px system-ui, sans-serif';
      context.fillText(text, 8, y + HEAD / 2 + 2);
    }
    context.font = '12px system-ui, sans-serif';
    tracks.forEach((track, index) => {
      const its = rows.filter((row) => row.track === index);
      context.fillStyle = ink.lane;
      context.fillRect(0, tops[index] + NAME, width, its.length * ROW);
      context.fillStyle = ink.soft;
      const doubt = track.uncertainty ? `  ± ${time(track.uncertainty)}` : '';
      context.fillText(`${label(index)}${doubt}`, 8, tops[index] + NAME / 2 + 1);
    });
    for (const row of rows) {
      if (row.depth === 0) {
        drawAll(waitsOf[row.track], (wait) => waits.reached[wait], (wait) => waits.released[wait], (wait, x, wide) => {
          context.strokeStyle = ink.wait;
          context.lineWidth = 1;
          if (wide > 3) {
            context.strokeRect(x + 0.5, row.y + 4.5, wide - 1, ROW - 9);
            hatch(context, x, row.y + 4, wide, ROW - 8, ink.wait, 6, true);
          } else {
            context.fillStyle = ink.wait;
            context.fillRect(x, row.y + 6, wide, ROW - 12);
          }
        });
      }
      drawAll(row.spans, (span) => spans.start[span], (span) => spans.end[span], (span, x, wide) => {
        context.globalAlpha = matches && !matches[spans.name[span]] ? Number(ink.dim) : 1;
        context.fillStyle = colours[spans.name[span]];
        // A hair's breadth between two that touch.
        context.fillRect(x, row.y + 1, wide > 3 ? wide - 0.7 : wide, ROW - 2);
        if (spans.error[span] >= 0) hatch(context, x, row.y + 1, wide, ROW - 2, ink.path, 5, false);
        if (wide > 26) {
          const from = Math.max(x, 0) + 5, room = Math.min(x + wide, width) - from - 4;
          const text = fitted(context, names[spans.name[span]], room);
          context.fillStyle = '#fff';
          context.fillText(text, from, row.y + ROW / 2 + 1);
        }
        context.globalAlpha = 1;
      });
    }
    criticalPath(context);
    drawArrows(context);
    for (const span of new Set([hovered, selected])) if (span >= 0) mark(context, span);
    drawOverview();
    drawn.frames++;
    drawn.milliseconds = performance.now() - begun;
  }

  const widths = new Map();
  function fitted(context, text, room) {
    if (text.length > 400) text = text.slice(0, 400);
    if (!widths.has(text)) widths.set(text, context.measureText(text).width);
    const wide = widths.get(text);
    if (wide <= room) return text;
    const keep = Math.floor(text.length * room / wide) - 1;
    return keep > 0 ? `${text.slice(0, keep)}…` : '';
  }

  function ticks() {
    const least = (view.to - view.from) / Math.max(2, width / 110);
    const power = 10 ** Math.floor(Math.log10(Math.max(1, least)));
    return Math.max(1, [1, 2, 5, 10].map((by) => by * power).find((tick) => tick >= least));
  }
  function axis(context) {
    const tick = ticks();
    const digits = (scale) => Math.max(0, Math.min(6, Math.round(Math.log10(scale) - Math.floor(Math.log10(tick)))));
    const [scale, unit] = UNITS.find(([scale]) => view.to >= scale * 0.999) ?? UNITS[3];
    for (let at = Math.ceil(view.from / tick) * tick; at <= view.to; at += tick) {
      const x = Math.round(xOf(at)) + 0.5;
      context.strokeStyle = ink.line;
      context.lineWidth = 1;
      context.beginPath();
      context.moveTo(x, AXIS - 4);
      context.lineTo(x, height);
      context.stroke();
      context.fillStyle = ink.soft;
      const text = `${(at / scale).toFixed(digits(scale))} ${unit}`;
      if (x + context.measureText(text).width < width - 2) context.fillText(text, x + 4, AXIS / 2);
    }
  }

  function criticalPath(context) {
    context.strokeStyle = context.fillStyle = ink.path;
    drawAll(work, (step) => path.from[step], (step) => path.to[step], (step, x, wide) => {
      const row = rowOf(path.of[step]);
      context.fillRect(x, row.y + ROW - 4, wide, 4);
      if (wide > 4) {
        context.lineWidth = 2;
        context.strokeRect(x + 1, row.y + 1, wide - 2.5, ROW - 2);
      }
    });
  }

  const ARROWS = 300;
  function drawArrows(context) {
    const from = above(arrows, (wait) => waits.released[wait], view.from);
    const to = above(arrows, (wait) => waits.released[wait], view.to);
    let its = arrows.slice(from, Math.min(to, from + 20000));
    if (its.length > ARROWS) its = its.sort((a, b) => waits.held[b] - waits.held[a]).slice(0, ARROWS);
    // Many of them would hide what they are between.
    const faint = Math.min(1, Math.max(0.25, 50 / its.length));
    for (const wait of its) {
      const [source, before] = [waits.source[wait], waits.before[wait]];
      const [x0, x1] = [xOf(spans.end[source]), xOf(spans.start[before])];
      const [y0, y1] = [rowOf(source).y + ROW / 2, rowOf(before).y + ROW / 2];
      const held = waits.held[wait] > 0;
      context.globalAlpha = waits.critical[wait] ? 0.9 : (held ? 0.9 : 0.55) * faint;
      context.strokeStyle = context.fillStyle = waits.critical[wait] ? ink.path : held ? ink.ink : ink.wait;
      context.lineWidth = held ? 1.5 : 1;
      context.setLineDash(held ? [] : [3, 3]);
      const bend = Math.max(12, Math.min(48, Math.abs(x1 - x0) / 2));
      context.beginPath();
      context.moveTo(x0, y0);
      context.bezierCurveTo(x0 + bend, y0, x1 - bend, y1, x1 - 5, y1);
      context.stroke();
      context.setLineDash([]);
      context.beginPath();
      context.moveTo(x1, y1);
      context.lineTo(x1 - 6, y1 - 3.5);
      context.lineTo(x1 - 6, y1 + 3.5);
      context.fill();
      context.globalAlpha = 1;
      drawn.arrows++;
    }
  }

  // The span in hand, and how far off its ends may be.
  function mark(context, span) {
    const row = rowOf(span), doubt = tracks[spans.track[span]].uncertainty;
    const [x0, x1] = [xOf(spans.start[span]), xOf(spans.end[span])];
    context.strokeStyle = ink.focus;
    context.lineWidth = 2;
    context.strokeRect(x0 - 1, row.y, Math.max(3, x1 - x0 + 1), ROW);
    if (!doubt) return;
    context.lineWidth = 1.5;
    context.beginPath();
    for (const at of [spans.start[span], spans.end[span]]) {
      const [from, to, y] = [xOf(at - doubt), xOf(at + doubt), row.y + ROW + 3];
      context.moveTo(from, y - 3);
      context.lineTo(from, y + 3);
      context.moveTo(from, y);
      context.lineTo(to, y);
      context.moveTo(to, y - 3);
      context.lineTo(to, y + 3);
    }
    context.stroke();
  }

  // All of it, a column at a time: how many lanes were at work.
  let density = null;
  function drawOverview() {
    const [context, wide] = sized(overview, 34);
    if (!density || density.length !== Math.floor(wide)) {
      density = new Float64Array(Math.max(1, Math.floor(wide)));
      const column = whole / density.length;
      for (const row of rows) {
        if (row.depth > 0) continue;
        for (const span of row.spans) {
          const [from, to] = [spans.start[span], spans.end[span]];
          for (let at = Math.floor(from / column); at < density.length && at * column < to; at++) {
            density[at] += (Math.min(to, (at + 1) * column) - Math.max(from, at * column)) / column / tracks.length;
          }
        }
      }
    }
    context.fillStyle = ink.wait;
    density.forEach((busy, x) => context.fillRect(x, 33 - busy * 30, 1, busy * 30));
    const [from, to] = [view.from / whole * wide, view.to / whole * wide];
    context.fillStyle = ink.focus;
    context.globalAlpha = 0.14;
    context.fillRect(from, 0, Math.max(2, to - from), 34);
    context.globalAlpha = 1;
    context.strokeStyle = ink.focus;
    context.lineWidth = 1.5;
    context.strokeRect(from + 0.75, 0.75, Math.max(2, to - from - 1.5), 32.5);
  }

  // What is said of a span.

  function describe(span) {
    const track = spans.track[span];
    const lines = [
      `${label(track)}`,
      `from ${exact(spans.start[span])}, for ${time(spans.end[span] - spans.start[span])} (${exact(spans.end[span] - spans.start[span])})`,
    ];
    if (tracks[track].uncertainty) lines.push(`± ${time(tracks[track].uncertainty)} against other lanes`);
    const early = spans.start[span] - spans.submitted[span];
    if (early > 0) lines.push(`submitted ${time(early)} before`);
    for (const wait of heldBy.get(span) ?? []) {
      lines.push(`held back for ${time(waits.held[wait])} by ${names[waits.event[wait]]}${waits.critical[wait] ? ', on the critical path' : ''}`);
    }
    if (spans.error[span] >= 0) lines.push(`failed: ${names[spans.error[span]]}`);
    return lines;
  }
  function select(span, bring = true) {
    selected = span;
    if (span < 0) {
      said.textContent = '';
      return ask();
    }
    said.textContent = [names[spans.name[span]], ...describe(span)].join(', ');
    const [start, end] = [spans.start[span], spans.end[span]];
    if (bring && (end <= view.from || start >= view.to)) {
      const half = (view.to - view.from) / 2, middle = (start + end) / 2;
      flyTo(middle - half, middle + half);
    }
    ask();
  }
  function zoomTo(span) {
    const room = Math.max(10, (spans.end[span] - spans.start[span]) * 0.25);
    flyTo(spans.start[span] - room, spans.end[span] + room);
  }
  function spanAt(x, y) {
    const row = rows.find((row) => y >= row.y && y < row.y + ROW);
    if (!row) return -1;
    const time = view.from + x / width * (view.to - view.from);
    const pixel = (view.to - view.from) / width;
    const at = above(row.spans, (span) => Math.max(spans.end[span], spans.start[span] + pixel), time);
    return at < row.spans.length && spans.start[row.spans[at]] <= time ? row.spans[at] : -1;
  }

  // The pointer.

  const pointers = new Map();
  let dragged = 0;
  const inLanes = (event) => { const box = lanes.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  lanes.addEventListener('wheel', (event) => {
    event.preventDefault();
    const [x] = inLanes(event);
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) return pan(event.deltaX / width);
    if (event.shiftKey) return pan(event.deltaY / width);
    zoom(1.0015 ** event.deltaY, view.from + x / width * (view.to - view.from));
  }, { passive: false });
  lanes.addEventListener('pointerdown', (event) => {
    pointers.set(event.pointerId, event.clientX);
    dragged = 0;
    lanes.setPointerCapture(event.pointerId);
    lanes.classList.add('drags');
  });
  lanes.addEventListener('pointermove', (event) => {
    if (!pointers.has(event.pointerId)) return hover(event);
    const before = [...pointers.values()];
    const moved = event.clientX - pointers.get(event.pointerId);
    pointers.set(event.pointerId, event.clientX);
    dragged += Math.abs(moved);
    if (pointers.size === 1) return pan(-moved / width);
    const after = [...pointers.values()], box = lanes.getBoundingClientRect();
    const middle = (after[0] + after[1]) / 2 - box.left;
    const factor = Math.max(8, Math.abs(before[0] - before[1])) / Math.max(8, Math.abs(after[0] - after[1]));
    zoom(factor, view.from + middle / width * (view.to - view.from));
  });
  for (const name of ['pointerup', 'pointercancel']) {
    lanes.addEventListener(name, (event) => {
      pointers.delete(event.pointerId);
      lanes.classList.remove('drags');
    });
  }
  lanes.addEventListener('click', (event) => { if (dragged < 4) select(spanAt(...inLanes(event)), false); });
  lanes.addEventListener('dblclick', (event) => { const span = spanAt(...inLanes(event)); if (span >= 0) zoomTo(span); });
  lanes.addEventListener('pointerleave', () => { hovered = -1; tip.hidden = true; ask(); });
  function hover(event) {
    const [x, y] = inLanes(event);
    const span = spanAt(x, y);
    if (span !== hovered) {
      hovered = span;
      ask();
      tip.hidden = span < 0;
      if (span >= 0) {
        const name = document.createElement('b');
        name.textContent = names[spans.name[span]];
        tip.replaceChildren(name, ...describe(span).map((line) => {
          const part = document.createElement('span');
          part.textContent = line;
          return part;
        }));
      }
    }
    if (span < 0) return;
    tip.style.left = `${Math.max(4, Math.min(x + 14, width - tip.offsetWidth - 4))}px`;
    const below = y + 18 + tip.offsetHeight < height;
    tip.style.top = `${below ? y + 18 : Math.max(2, y - tip.offsetHeight - 10)}px`;
  }
  const inOverview = (event) => { const box = overview.getBoundingClientRect(); return (event.clientX - box.left) / box.width * whole; };
  overview.addEventListener('pointerdown', (event) => {
    overview.setPointerCapture(event.pointerId);
    const half = (view.to - view.from) / 2, at = inOverview(event);
    look(at - half, at + half);
  });
  overview.addEventListener('pointermove', (event) => {
    if (!overview.hasPointerCapture(event.pointerId)) return;
    const half = (view.to - view.from) / 2, at = inOverview(event);
    look(at - half, at + half);
  });

  // Keys.

  function along(by) {
    if (selected < 0) {
      const first = rows.find((row) => row.spans.length);
      return first && select(first.spans[Math.min(first.spans.length - 1, above(first.spans, (span) => spans.end[span], view.from))]);
    }
    const its = rowOf(selected).spans, next = its.indexOf(selected) + by;
    if (its[next] !== undefined) select(its[next]);
  }
  function across(by) {
    if (selected < 0) return along(1);
    const middle = (spans.start[selected] + spans.end[selected]) / 2;
    for (let at = rows.indexOf(rowOf(selected)) + by; rows[at]; at += by) {
      const its = rows[at].spans;
      if (!its.length) continue;
      return select(its[Math.min(its.length - 1, above(its, (span) => spans.end[span], middle))]);
    }
  }
  function end(last) {
    if (selected < 0) along(1);
    const its = selected >= 0 ? rowOf(selected).spans : [];
    if (its.length) select(its[last ? its.length - 1 : 0]);
  }
  function nextCritical() {
    if (!work.length) return;
    step = (step + 1) % work.length;
    select(path.of[work[step]]);
    zoomTo(path.of[work[step]]);
  }
  const toTables = () => { byId('tables').focus(); byId('tables').scrollIntoView({ behavior: calm.matches ? 'auto' : 'smooth' }); };
  function toggleHelp() {
    const keys = byId('keys');
    keys.hidden = !keys.hidden;
    byId('help').setAttribute('aria-expanded', String(!keys.hidden));
  }
  const KEYS = {
    '+': () => zoom(1 / 1.6), '=': () => zoom(1 / 1.6), '-': () => zoom(1.6), '0': () => flyTo(0, whole),
    ArrowLeft: () => pan(-0.15), ArrowRight: () => pan(0.15), h: () => pan(-0.15), l: () => pan(0.15),
    ArrowUp: () => across(-1), ArrowDown: () => across(1), k: () => across(-1), j: () => across(1),
    n: () => along(1), p: () => along(-1), Home: () => end(false), End: () => end(true),
    Enter: () => { if (selected >= 0) zoomTo(selected); else along(1); },
    c: nextCritical, t: toTables, '?': toggleHelp, Escape: () => select(-1),
  };
  chart.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(KEYS, event.key)) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  byId('zoom-in').onclick = KEYS['+'];
  byId('zoom-out').onclick = KEYS['-'];
  byId('fit').onclick = KEYS['0'];
  byId('critical').onclick = nextCritical;
  byId('help').onclick = toggleHelp;
  byId('theme').onclick = () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === 'dark'
      || (!document.documentElement.dataset.theme && matchMedia('(prefers-color-scheme: dark)').matches);
    document.documentElement.dataset.theme = dark ? 'light' : 'dark';
    readTheme();
    ask();
  };
  byId('filter').oninput = (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    matches = wanted ? names.map((name) => name.toLowerCase().includes(wanted)) : null;
    ask();
  };

  // Tables.

  const PAGE = 50;
  // Each column: its head, whether it is a number, its value for sorting, and its text.
  function table(title, caption, rows_, columns) {
    const heading = document.createElement('h2');
    heading.textContent = title;
    const scroll = document.createElement('div');
    scroll.className = 'scroll';
    const element = scroll.appendChild(document.createElement('table'));
    element.createCaption().textContent = caption;
    const head = element.createTHead().insertRow();
    const body = element.createTBody();
    const pages = document.createElement('div');
    pages.className = 'pages';
    let order = Array.from({ length: rows_ }, (_, row) => row);
    let page = 0;
    function fill() {
      body.replaceChildren();
      for (const row of order.slice(page * PAGE, (page + 1) * PAGE)) {
        const line = body.insertRow();
        for (const { number, text } of columns) {
          const cell = line.insertCell();
          cell.className = number ? 'number' : 'name';
          cell.textContent = text(row);
        }
      }
      pages.replaceChildren();
      const last = Math.max(0, Math.ceil(rows_ / PAGE) - 1);
      if (!last) return;
      const button = (name, to) => {
        const element = document.createElement('button');
        element.type = 'button';
        element.textContent = name;
        element.disabled = to < 0 || to > last;
        element.onclick = () => { page = to; fill(); };
        return element;
      };
      pages.append(button('Previous', page - 1), `page ${page + 1} of ${last + 1}`, button('Next', page + 1));
    }
    columns.forEach((column) => {
      const cell = head.appendChild(document.createElement('th'));
      cell.scope = 'col';
      if (column.number) cell.className = 'number';
      const button = cell.appendChild(document.createElement('button'));
      button.type = 'button';
      button.textContent = column.head;
      button.onclick = () => {
        const up = cell.getAttribute('aria-sort') === 'descending' || (!column.number && cell.getAttribute('aria-sort') !== 'ascending');
        for (const other of head.cells) other.removeAttribute('aria-sort');
        cell.setAttribute('aria-sort', up ? 'ascending' : 'descending');
        const sign = up ? 1 : -1;
        order.sort((a, b) => {
          const [one, other] = [column.value(a), column.value(b)];
          return sign * (typeof one === 'string' ? one.localeCompare(other) : one - other) || a - b;
        });
        page = 0;
        fill();
      };
    });
    fill();
    byId('tables').append(heading, scroll, pages);
  }
  const text = (head, of) => ({ head, value: of, text: of });
  const number = (head, value, shown = (row) => time(value(row))) => ({ head, number: true, value, text: shown });
  const withShare = (value) => (row) => `${time(value(row))} · ${share(value(row))}`;
  table('Streams', `What each was doing for ${time(length)}.`, tracks.length, [
    text('Stream', label),
    ...['busy', 'waiting', 'idle', 'critical'].map((what) => {
      const value = (row) => tracks[row][what];
      return number(what === 'critical' ? 'On the critical path' : what[0].toUpperCase() + what.slice(1), value, withShare(value));
    }),
    number('±', (row) => tracks[row].uncertainty),
    text('Clock', (row) => tracks[row].clock),
  ]);
  table('Waits', 'What held a stream back, and for how long.', waits.held.length, [
    text('Event', (row) => names[waits.event[row]]),
    text('Stream that waited', (row) => label(waits.track[row])),
    text('For the end of', (row) => waits.source[row] < 0 ? '' : `${names[spans.name[waits.source[row]]]} (${label(spans.track[waits.source[row]])})`),
    number('Reached', (row) => waits.reached[row]),
    number('Held', (row) => waits.held[row]),
    text('On the critical path', (row) => waits.critical[row] ? 'yes' : 'no'),
  ]);
  const CAUSES = {
    work: (of) => `${names[spans.name[of]]} (${label(spans.track[of])})`,
    host: (of) => `the host had not submitted ${names[spans.name[of]]} yet`,
    launch: (of) => `${names[spans.name[of]]} could have begun`,
    wait: (of) => `waiting for ${names[waits.event[of]]}`,
  };
  table('Critical path', 'What the whole took so long for, from its start to its end.', path.from.length, [
    number('From', (row) => path.from[row]),
    number('For', (row) => path.to[row] - path.from[row], (row) => withShare(() => path.to[row] - path.from[row])(row)),
    text('What', (row) => CAUSES[path.cause[row]](path.of[row])),
  ]);
  table('Overlap', 'For how long so many streams were busy at a time.', trace.overlap.length, [
    number('Streams', (row) => row, String),
    number('Time', (row) => trace.overlap[row], withShare((row) => trace.overlap[row])),
  ]);
  table('Spans', 'All of them.', count, [
    text('Span', (row) => names[spans.name[row]]),
    text('Stream', (row) => label(spans.track[row])),
    number('Start', (row) => spans.start[row], (row) => exact(spans.start[row])),
    number('Duration', (row) => spans.end[row] - spans.start[row], (row) => exact(spans.end[row] - spans.start[row])),
    text('Error', (row) => spans.error[row] < 0 ? '' : names[spans.error[row]]),
  ]);

  // The page.

  byId('title').textContent = trace.processes.map((process) => process.name).join(', ');
  const overlap = trace.overlap.slice(2).reduce((sum, nanos) => sum + nanos, 0);
  const facts = [`${time(length)}`, `${count.toLocaleString('en')} spans on ${tracks.length} lanes`, `${waits.held.filter((held) => held > 0).length} of ${waits.held.length} waits held a stream back`, `${share(overlap)} of the time two streams or more were busy`];
  if (trace.dropped) facts.push(`${trace.dropped.toLocaleString('en')} dropped for want of room`);
  byId('facts').textContent = facts.join(' · ');
  new ResizeObserver(() => ask()).observe(chart);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { readTheme(); ask(); });
  readTheme();
  ask();

  // For tests, to look at.
  window.timeline = Object.freeze({
    view: () => ({ ...view }),
    drawn: () => ({ ...drawn }),
    selected: () => selected,
    hovered: () => hovered,
    place: (span) => { const row = rowOf(span); return { x: xOf((spans.start[span] + spans.end[span]) / 2), y: row.y + ROW / 2 }; },
    rows: rows.length,
  });
})();
