"use strict";
(() => {
  const data = JSON.parse(document.getElementById("figures").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const PREFIXES = [[1e24, "Y"], [1e21, "Z"], [1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const color = (index) => `var(--c${index % 8})`;
  const known = (value) => value !== null && value !== undefined && Number.isFinite(value);
  let axis = "tokens";

  // Numbers as people read them.
  const tidy = (value, digits = 4) => String(Number(value.toPrecision(digits)));
  const si = (value, giga = "G") => {
    const [size, name] = PREFIXES.find(([least]) => Math.abs(value) >= least) || [];
    const found = size && [size, name === "G" ? giga : name];
    return found ? `${tidy(value / found[0])} ${found[1]}` : Math.abs(value) > 0 && Math.abs(value) < 1e-3 ? Number(value.toPrecision(3)).toExponential() : tidy(value);
  };
  const things = (value) => si(value, "B");
  const bytes = (value) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    const power = Math.min(4, Math.max(0, Math.floor(Math.log2(Math.max(1, value)) / 10)));
    return `${tidy(value / 1024 ** power, 3)} ${units[power]}`;
  };
  const time = (value) => {
    const [size, unit] = value >= 172800 ? [86400, "d"] : value >= 7200 ? [3600, "h"] : value >= 120 ? [60, "min"] : [1, "s"];
    return `${tidy(value / size, 3)} ${unit}`;
  };
  const percent = (value) => `${tidy(100 * value, value < 0.01 ? 1 : value < 0.1 ? 2 : 3)} %`;
  const AXES = { tokens: [things, "tokens"], flops: [si, "FLOPs"], seconds: [time, "time"], step: [things, "steps"] };

  const node = (name, attributes, parent, text) => {
    const made = document.createElementNS(SVG, name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    if (text !== undefined) made.textContent = text;
    parent?.appendChild(made);
    return made;
  };
  const element = (name, style, parent, text) => {
    const made = document.createElement(name);
    if (style) made.className = style;
    if (text !== undefined) made.textContent = text;
    parent?.appendChild(made);
    return made;
  };

  // Round positions for at most `count` labels; times step in minutes and hours.
  const ticks = (low, high, count, unit) => {
    const span = high - low || 1;
    const scale = unit !== time ? 1 : high >= 172800 ? 86400 : high >= 7200 ? 3600 : high >= 120 ? 60 : 1;
    const raw = span / scale / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = ([1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw * 0.999) || 10) * power * scale;
    const places = [];
    for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++) places.push(index * step);
    return places;
  };
  const extent = (series) => {
    let low = Infinity, high = -Infinity;
    for (const { y } of series) for (const value of y) if (known(value)) { low = Math.min(low, value); high = Math.max(high, value); }
    return [low, high];
  };
  // A start of training ten times above the rest would flatten it: the view is bounded by what 99 % of the values stay below.
  const robust = (series, [low, high]) => {
    const values = series.flatMap(({ y }) => y.filter(known)).sort((a, b) => a - b);
    if (values.length < 50) return [low, high];
    const bound = values[Math.floor(values.length * 0.985)];
    return [low, high - low > 3 * (bound - low) ? bound + 0.35 * (bound - low) : high];
  };

  function lines(host, { series, unit = si, zero = false, clip = false, marks = [], height, ticksY = 5, legends = true }) {
    host.replaceChildren();
    series = series.filter(({ x, y }) => y.some((value, index) => known(value) && known(x[index])));
    if (!series.length) return void element("p", "empty", host, "nothing recorded on this axis");
    if (series.length > 1 && legends) {
      const legend = element("div", "legend", host);
      for (const item of series) if (item.name) {
        const swatch = element("span", item.faint ? "faint" : "", legend, item.name);
        swatch.style.setProperty("--k", item.color);
      }
    }
    const [unitX, nameX] = AXES[axis];
    const width = Math.max(240, host.clientWidth), bottom = 26, top = 14;
    let [lowX, highX] = extent(series.map(({ x }) => ({ y: x })));
    let [low, high] = clip ? robust(series, extent(series)) : extent(series);
    if (zero) low = Math.min(0, low);
    if (high - low < 1e-12 * Math.max(1, Math.abs(high))) { const room = Math.abs(high) * 0.05 || 1; low -= zero ? 0 : room; high += room; }
    if (highX === lowX) { lowX = Math.min(0, lowX); highX = highX + (highX - lowX || 1) * 0.05; }
    const pad = (high - low) * 0.06;
    high += pad; if (!(zero && low === 0)) low -= pad;
    const labels = ticks(low, high, ticksY, unit);
    const left = 14 + 6.6 * Math.max(2, ...labels.map((value) => unit(value).length)), right = 10;
    const sx = (value) => left + (value - lowX) / (highX - lowX) * (width - left - right);
    const sy = (value) => height - bottom - (value - low) / (high - low) * (height - bottom - top);
    const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `${host.dataset.title} against ${nameX}` }, host);
    const clipName = `clip-${host.dataset.chart}`;
    node("rect", { x: left - 4, y: top - 4, width: width - left - right + 8, height: height - bottom - top + 6 }, node("clipPath", { id: clipName }, node("defs", {}, svg)));
    for (const value of labels) {
      node("line", { x1: left, x2: width - right, y1: sy(value), y2: sy(value), stroke: "var(--grid)" }, svg);
      node("text", { x: left - 8, y: sy(value) + 4, "text-anchor": "end" }, svg, unit(value));
    }
    const places = ticks(lowX, highX, Math.max(3, Math.floor(width / 110)), unitX);
    places.forEach((value, index) => {
      const last = index === places.length - 1 && axis !== "seconds";
      const label = last ? `${unitX(value)} ${nameX}` : unitX(value);
      const over = sx(value) + 3.2 * label.length > width;
      node("line", { x1: sx(value), x2: sx(value), y1: height - bottom, y2: height - bottom + 4, stroke: "var(--faint)" }, svg);
      node("text", { x: over ? width : sx(value), y: height - bottom + 18, "text-anchor": over ? "end" : "middle" }, svg, label);
    });
    node("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, stroke: "var(--faint)" }, svg);
    for (const mark of marks) if (known(mark[axis]) && mark[axis] >= lowX - 1e-9) drawMark(svg, mark, sx(Math.min(highX, mark[axis])), top, height - bottom);
    const group = node("g", { "clip-path": `url(#${clipName})` }, svg);
    for (const item of series) drawLine(group, item, sx, sy);
    hover(host, svg, { series, sx, sy, unit, unitX, nameX, left, width, right, top, bottom, height, marks });
  }

  function drawLine(group, { x, y, color, faint, dots }, sx, sy) {
    let path = "", open = false, alone = [];
    y.forEach((value, index) => {
      if (!known(value) || !known(x[index])) return void (open = false);
      const place = `${sx(x[index]).toFixed(1)},${sy(value).toFixed(1)}`;
      path += (open ? "L" : "M") + place;
      if (!open && !(known(y[index + 1]) && known(x[index + 1]))) alone.push([x[index], value]);
      open = true;
    });
    node("path", { d: path, fill: "none", stroke: color, "stroke-width": faint ? 1 : 1.8, "stroke-opacity": faint ? 0.32 : 1, "stroke-linejoin": "round", "stroke-linecap": "round" }, group);
    if (dots) alone = x.map((value, index) => [value, y[index]]).filter(([a, b]) => known(a) && known(b));
    if (alone.length <= 60) for (const [a, b] of alone) node("circle", { cx: sx(a), cy: sy(b), r: 2.8, fill: color }, group);
  }

  const ALARMS = new Set(["nonfinite", "spike", "skip", "rollback", "out_of_memory"]);
  const QUIET = new Set(["checkpoint", "compile"]);
  function drawMark(svg, mark, x, top, bottom) {
    const stroke = ALARMS.has(mark.name) ? "var(--bad)" : "var(--c0)";
    node("line", { x1: x, x2: x, y1: top, y2: bottom, stroke, "stroke-dasharray": "2 3", "stroke-opacity": 0.75 }, svg);
    node("path", { d: `M${x - 4},${top - 6}h8l-4,7z`, fill: stroke }, svg);
  }

  // The nearest point of every series under the pointer.
  function hover(host, svg, view) {
    const { series, sx, sy, unit, unitX, nameX, left, width, right, top, bottom, height, marks } = view;
    const rule = node("line", { y1: top, y2: height - bottom, stroke: "var(--soft)", "stroke-opacity": 0.5, visibility: "hidden" }, svg);
    const dots = series.map((item) => node("circle", { r: 3.5, fill: item.color, stroke: "var(--card)", "stroke-width": 1.5, visibility: "hidden" }, svg));
    let tip = null;
    const leave = () => { tip?.remove(); tip = null; for (const item of [rule, ...dots]) item.setAttribute("visibility", "hidden"); };
    const move = (event) => {
      const box = svg.getBoundingClientRect();
      const at = (event.clientX - box.left) * width / box.width;
      if (at < left - 12 || at > width - right + 12) return leave();
      const nearest = series.map(({ x, y }) => {
        let best = -1, distance = Infinity;
        x.forEach((value, index) => { if (known(value) && known(y[index]) && Math.abs(sx(value) - at) < distance) { distance = Math.abs(sx(value) - at); best = index; } });
        return best;
      });
      const lead = nearest.findIndex((index) => index >= 0);
      if (lead < 0) return leave();
      const place = series[lead].x[nearest[lead]];
      tip ||= element("div", "tip", host);
      tip.replaceChildren();
      element("div", "x", tip, axis === "seconds" ? unitX(place) : `${unitX(place)} ${nameX}`);
      series.forEach((item, index) => {
        if (nearest[index] < 0) return;
        const row = element("div", "", tip);
        element("i", "", row).style.background = item.color;
        row.append(`${item.name || host.dataset.title}  ${unit(item.y[nearest[index]])}`);
        for (const [key, value] of [["cx", sx(item.x[nearest[index]])], ["cy", Math.max(top, sy(item.y[nearest[index]]))], ["visibility", "visible"]]) dots[index].setAttribute(key, value);
      });
      for (const mark of marks) if (known(mark[axis]) && Math.abs(sx(mark[axis]) - at) < 5) element("div", "", tip, `▾ ${mark.name.replaceAll("_", " ")}${mark.step ? `, step ${mark.step}` : ""}`);
      for (const [key, value] of [["x1", sx(place)], ["x2", sx(place)], ["visibility", "visible"]]) rule.setAttribute(key, value);
      const left_ = (sx(place) / width) * box.width;
      tip.style.left = `${Math.max(0, left_ + 14 + tip.offsetWidth > box.width ? left_ - 14 - tip.offsetWidth : left_ + 14)}px`;
      tip.style.top = `${top + 4 + svg.offsetTop || svg.parentNode.querySelector(".legend")?.offsetHeight || 0}px`;
    };
    svg.addEventListener("pointermove", move);
    svg.addEventListener("pointerdown", move);
    svg.addEventListener("pointerleave", leave);
  }

  function bar(host, { parts, unit }) {
    host.replaceChildren();
    const entries = Object.entries(parts).filter(([, value]) => value > 0);
    const total = entries.reduce((sum, [, value]) => sum + value, 0);
    const width = Math.max(200, host.clientWidth), height = 26;
    const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": host.dataset.title }, host);
    node("rect", { width, height, rx: 6 }, node("clipPath", { id: `clip-${host.dataset.chart}` }, node("defs", {}, svg)));
    const group = node("g", { "clip-path": `url(#clip-${host.dataset.chart})` }, svg);
    let x = 0;
    entries.forEach(([name, value], index) => {
      const share = value / total * width;
      const box = node("rect", { x, width: Math.max(0.5, share - (index < entries.length - 1 ? 2 : 0)), height, fill: color(name === "rest" || name === "other" ? 7 : index) }, group);
      node("title", {}, box, `${name.replaceAll("_", " ")}: ${unit(value)}, ${percent(value / total)}`);
      x += share;
    });
    const legend = element("div", "legend", host);
    legend.style.margin = "8px 0 0";
    entries.forEach(([name, value], index) => {
      const item = element("span", "", legend, `${name.replaceAll("_", " ")}  `);
      item.style.setProperty("--k", color(name === "rest" || name === "other" ? 7 : index));
      element("b", "", item, percent(value / total));
      item.append(`  ${unit(value)}`);
    });
  }

  const curves = data.curves;
  const marks = [...data.events.filter(({ name }) => !QUIET.has(name)), ...data.stages].slice(0, 300);
  const curve = (name, index = 0, more = {}) => ({ x: curves[axis], y: curves[name], color: color(index), ...more });
  const metric = () => ["bits_per_byte", "loss", "perplexity"].find((name) => Object.values(data.evaluations).some((source) => source[name]?.some(known)));
  const both = (name, index) => [curve(name, index, { faint: true, name: "each logged step" }), curve(`smooth_${name}`, index, { name: "moving average" })];
  const CHARTS = {
    loss: (host) => lines(host, { series: both("loss", 0), clip: true, marks, height: 320, ticksY: 6 }),
    evaluations: (host) => {
      const name = metric() || Object.keys(Object.values(data.evaluations)[0]).find((key) => !AXES[key]);
      host.parentNode.querySelector("h3").textContent = `Validation, ${name === "bits_per_byte" ? "bits per byte" : name}`;
      lines(host, { series: Object.entries(data.evaluations).map(([source, points], index) => ({ x: points[axis], y: points[name] || [], color: color(index), name: source, dots: true })), clip: true, height: 260, marks: data.stages });
    },
    lr: (host) => lines(host, { series: [curve("lr", 4)], zero: true, height: 190, ticksY: 4, legends: false }),
    grad_norm: (host) => lines(host, { series: both("grad_norm", 3), zero: true, clip: true, height: 190, ticksY: 4, legends: false, marks: marks.filter(({ name }) => ALARMS.has(name)) }),
    tokens_per_second: (host) => lines(host, { series: both("tokens_per_second", 2), zero: true, height: 190, ticksY: 4, legends: false, unit: si }),
    utilization: (host) => lines(host, { series: both("utilization", 6), zero: true, height: 190, ticksY: 4, legends: false, unit: percent }),
    time: (host) => bar(host, { parts: data.time, unit: time }),
    flops: (host) => bar(host, { parts: data.flops, unit: (value) => `${si(value)}${value < 1e3 ? " " : ""}FLOP` }),
    memory: (host) => bar(host, { parts: data.memory, unit: bytes }),
  };

  const hosts = [...document.querySelectorAll("[data-chart]")];
  const draw = () => {
    for (const host of hosts) {
      host.dataset.title = host.parentNode.querySelector("h3").textContent;
      CHARTS[host.dataset.chart](host);
    }
    for (const button of document.querySelectorAll("[data-axis]")) button.setAttribute("aria-pressed", button.dataset.axis === axis);
  };
  const buttons = [...document.querySelectorAll("[data-axis]")];
  if (buttons.length && !buttons.some((button) => button.dataset.axis === axis)) axis = buttons[0].dataset.axis;
  for (const button of buttons) button.addEventListener("click", () => { axis = button.dataset.axis; draw(); });
  let width = 0;
  new ResizeObserver(() => { if (width !== document.body.clientWidth) { width = document.body.clientWidth; draw(); } }).observe(document.body);
  addEventListener("beforeprint", draw);
  addEventListener("afterprint", draw);
  draw();
  document.documentElement.dataset.drawn = "yes";
})();
