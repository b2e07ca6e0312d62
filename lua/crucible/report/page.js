// What a report draws and how it answers to a pointer and to keys. No library, no request.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const charts = [];
  let view = null; // the steps shown by every chart: [first, last], or null for all
  let smoothing = 0;

  // ---- small helpers ------------------------------------------------------------------------

  function html(name, attributes, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  function svg(name, attributes, text) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
  const grouped = (value) => (Math.round(value) || 0).toLocaleString("en-US"); // "|| 0": no negative zero
  const raised = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
  const powerOfTwo = (exponent) => "2" + [...String(exponent)].map((sign) => raised[sign]).join("");

  function figure(value) {
    if (!isNumber(value)) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e5 || size < 1e-3) return value.toExponential(2).replace("e+", "e").replace(/\.?0+e/, "e").replace("-", "−");
    return String(Number(value.toPrecision(4))).replace("-", "−");
  }

  function steps(from, to) {
    return from === to ? "step " + grouped(from) : "steps " + grouped(from) + "–" + grouped(to);
  }

  // Index of the number nearest to x in a rising list.
  function nearest(list, x) {
    let low = 0, high = list.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (list[middle] < x) low = middle; else high = middle;
    }
    return Math.abs(list[low] - x) <= Math.abs(list[high] - x) ? low : high;
  }

  // ---- scales and ticks ---------------------------------------------------------------------

  function niceStep(span, count) {
    const rough = span / Math.max(1, count), power = 10 ** Math.floor(Math.log10(rough));
    const unit = rough / power;
    return (unit > 5 ? 10 : unit > 2 ? 5 : unit > 1 ? 2 : 1) * power;
  }

  function linearTicks(low, high, count) {
    const step = niceStep(high - low, count), ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
    return { ticks, step };
  }

  function tickText(value, step) {
    const size = Math.max(Math.abs(value), step);
    if (value === 0) return "0";
    if (size >= 1e6 || size < 1e-3) {
      const digits = clamp(Math.floor(Math.log10(Math.abs(value)) + 1e-9) - Math.floor(Math.log10(step) + 1e-9), 0, 3);
      return value.toExponential(digits).replace("e+", "e").replace("-", "−").replace("e-", "e−");
    }
    const decimals = clamp(-Math.floor(Math.log10(step) + 1e-9), 0, 6);
    return value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals }).replace("-", "−");
  }

  function logTicks(low, high, count) {
    const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
    const factors = last - first <= 1 ? [1, 2, 3, 5, 7] : last - first <= 3 ? [1, 2, 5] : [1];
    const every = factors.length > 1 ? 1 : Math.max(1, Math.ceil((last - first) / count)), ticks = [];
    for (let power = first; power <= last; power += every) {
      for (const factor of factors) {
        const value = factor * 10 ** power;
        if (value >= low * 0.999 && value <= high * 1.001) ticks.push(value);
      }
    }
    return ticks;
  }

  // ---- what a chart shows -------------------------------------------------------------------

  // A line's data: x, middle values, and the band of pieces that stand for several steps.
  function lineData(line) {
    const run = data.runs[line.run];
    if (line.points) {
      const points = run.points[line.points];
      const x = points.map((point) => point[0]);
      return { x, from: x, to: x, mean: points.map((point) => point[1]), dots: true };
    }
    const curve = run.curves[line.key];
    const x = run.from.map((first, i) => (first + run.to[i]) / 2);
    return { x, from: run.from, to: run.to, mean: curve.mean, min: curve.min, max: curve.max, dots: run.from.length === 1 };
  }

  // Exponential moving average without the pull of its start (as Adam corrects its moments).
  function smooth(values) {
    if (smoothing === 0) return values;
    let sum = 0, weight = 0;
    return values.map((value) => {
      if (!isNumber(value)) return null;
      sum = smoothing * sum + (1 - smoothing) * value;
      weight = smoothing * weight + (1 - smoothing);
      return sum / weight;
    });
  }

  function fullRange() {
    let first = Infinity, last = -Infinity;
    for (const run of data.runs) {
      if (run.from.length === 0) continue;
      first = Math.min(first, run.from[0]);
      last = Math.max(last, run.to[run.to.length - 1]);
    }
    for (const chart of charts) {
      for (const line of chart.lines) {
        if (line.data.dots && line.data.x.length) {
          first = Math.min(first, line.data.x[0]);
          last = Math.max(last, line.data.x[line.data.x.length - 1]);
        }
      }
    }
    if (first > last) return [0, 1];
    return first === last ? [first - 0.5, last + 0.5] : [first, last];
  }

  const range = () => view || fullRange();

  function setView(next) {
    const whole = fullRange();
    if (next) {
      const least = Math.min(2, whole[1] - whole[0]);
      let [first, last] = next;
      if (last - first < least) [first, last] = [(first + last - least) / 2, (first + last + least) / 2];
      const width = Math.min(last - first, whole[1] - whole[0]);
      first = clamp(first, whole[0], whole[1] - width);
      next = width >= whole[1] - whole[0] ? null : [first, first + width];
    }
    view = next;
    const reset = document.getElementById("reset");
    if (reset) reset.disabled = view === null;
    for (const chart of charts) chart.draw();
  }

  // ---- line charts --------------------------------------------------------------------------

  class LineChart {
    constructor(holder, spec) {
      this.spec = spec;
      this.log = false;
      this.lines = spec.lines.map((line) => ({ ...line, data: lineData(line), shown: true }));
      this.addTools(holder);
      if (this.lines.length > 1) this.addLegend(holder);
      this.plot = html("div", { class: "plot" });
      this.tip = html("div", { class: "tip", hidden: "" });
      this.svg = svg("svg", { tabindex: "0", role: "img" });
      this.plot.append(this.svg, this.tip);
      holder.append(this.plot);
      this.listen();
    }

    addTools(holder) {
      const values = this.lines.flatMap((line) => (line.data.min || line.data.mean).filter(isNumber));
      const positive = values.length > 0 && values.every((value) => value > 0);
      if (!positive || this.spec.share) return;
      const button = html("button", { type: "button", "aria-pressed": "false", title: "logarithmic axis" }, "log");
      button.addEventListener("click", () => {
        this.log = !this.log;
        button.setAttribute("aria-pressed", String(this.log));
        this.draw();
      });
      holder.querySelector("figcaption").append(html("span", { class: "tools" }, button));
    }

    addLegend(holder) {
      const legend = html("div", { class: "legend", role: "group", "aria-label": "lines shown" });
      for (const line of this.lines) {
        const sign = svg("svg", { viewBox: "0 0 22 10", "aria-hidden": "true", class: this.ink(line) });
        sign.append(svg("path", { d: "M0 5H22", class: "curve", "stroke-dasharray": this.dash(line) }));
        const button = html("button", { type: "button", "aria-pressed": "true" }, sign, line.label);
        button.addEventListener("click", () => {
          line.shown = !line.shown;
          button.setAttribute("aria-pressed", String(line.shown));
          this.draw();
        });
        legend.append(button);
      }
      holder.append(legend);
    }

    ink(line) { return "ink" + ((line.colour || 0) % 8); }

    dash(line) { return ["none", "6 3", "2 3", "8 3 2 3"][((line.dash || 0) + Math.floor((line.colour || 0) / 8)) % 4]; }

    visible() { return this.lines.filter((line) => line.shown); }

    // Least and largest value within the range, bands included.
    extent(first, last) {
      let low = Infinity, high = -Infinity;
      for (const line of this.visible()) {
        const { from, to, mean, min, max } = line.data;
        for (let i = 0; i < mean.length; i++) {
          if (to[i] < first || from[i] > last || !isNumber(mean[i])) continue;
          low = Math.min(low, min ? min[i] : mean[i]);
          high = Math.max(high, max ? max[i] : mean[i]);
        }
      }
      return low <= high ? [low, high] : null;
    }

    scaleY(extent) {
      let [low, high] = extent;
      if (this.log) return low === high ? [low / 2, high * 2] : [low / 1.05, high * 1.05];
      if (this.spec.share) return [0, high < 0.45 ? Math.max(0.1, high * 1.2) : 1];
      if (low === high) return low === 0 ? [0, 1] : low > 0 ? [0, low * 1.5] : [low * 1.5, 0];
      if (low >= 0 && low < 0.4 * high) low = 0;
      if (!isNumber(high - low)) return [low / 2, high / 2];
      const margin = (high - low) * 0.05;
      return [low === 0 ? 0 : low - margin, high + margin];
    }

    draw() {
      const width = this.plot.clientWidth, height = this.plot.clientHeight;
      if (width === 0) return;
      const [first, last] = range();
      this.svg.replaceChildren();
      this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      const extent = this.extent(first, last);
      this.box = null;
      this.svg.setAttribute("aria-label", this.summary(extent, first, last));
      if (!extent) {
        this.svg.append(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "nothing to show here"));
        return;
      }
      const [low, high] = this.scaleY(extent);
      const count = Math.max(2, Math.floor(height / 48));
      const linear = linearTicks(low, high, count);
      const ticks = this.log ? logTicks(low, high, count) : linear.ticks;
      const labels = ticks.map((value) => (this.log ? figure(value) : tickText(value, linear.step)));
      const left = 14 + 7.2 * Math.max(...labels.map((label) => label.length), 1);
      const box = { left, right: width - 10, top: 8, bottom: height - 38, first, last };
      box.x = (value) => box.left + ((value - first) / (last - first)) * (box.right - box.left);
      const up = this.log
        ? (value) => (Math.log(value) - Math.log(low)) / (Math.log(high) - Math.log(low))
        : (value) => value / (high - low) - low / (high - low);
      box.y = (value) => box.bottom - clamp(up(value), -9, 9) * (box.bottom - box.top);
      box.step = (pixel) => first + ((pixel - box.left) / (box.right - box.left)) * (last - first);
      this.box = box;
      this.drawAxes(ticks, labels);
      this.drawLines();
      this.cross = svg("line", { class: "cross", y1: box.top, y2: box.bottom, visibility: "hidden" });
      this.pick = svg("rect", { class: "pick", y: box.top, height: box.bottom - box.top, visibility: "hidden" });
      this.svg.append(this.cross, this.pick);
    }

    drawAxes(ticks, labels) {
      const { left, right, top, bottom, first, last } = this.box;
      ticks.forEach((value, i) => {
        const y = this.box.y(value);
        this.svg.append(svg("line", { class: "grid", x1: left, x2: right, y1: y, y2: y }),
          svg("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, labels[i]));
      });
      this.drawEpochs();
      const across = linearTicks(first, last, Math.max(3, Math.floor((right - left) / 80)));
      for (const value of across.ticks.filter(Number.isInteger)) {
        const x = this.box.x(value), label = grouped(value), half = 3.7 * label.length, edge = right + 9;
        const place = x + half > edge ? { x: edge, "text-anchor": "end" } : { x, "text-anchor": "middle" };
        this.svg.append(svg("line", { class: "axis", x1: x, x2: x, y1: bottom, y2: bottom + 4 }),
          svg("text", { ...place, y: bottom + 17 }, label));
      }
      this.svg.append(svg("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }),
        svg("text", { x: (left + right) / 2, y: bottom + 33, "text-anchor": "middle" }, "step"));
    }

    // Where epochs begin, and steps that were skipped; of a single run, or the lines would mean nothing.
    drawEpochs() {
      if (data.runs.length > 1) return;
      const { top, bottom, first, last } = this.box, run = data.runs[0];
      let free = -Infinity;
      run.epochs.forEach((step, i) => {
        if (step < first || step > last) return;
        const x = this.box.x(step - 0.5);
        this.svg.append(svg("line", { class: "epoch", x1: x, x2: x, y1: top, y2: bottom }));
        if (x > free && x < this.box.right - 56) {
          this.svg.append(svg("text", { x: x + 4, y: top + 10 }, "epoch " + (i + 2)));
          free = x + 64;
        }
      });
      if (this.spec.title !== "Loss") return;
      for (const step of run.skipped) {
        if (step < first || step > last) continue;
        const x = this.box.x(step), y = bottom - 6;
        const cross = svg("path", { class: "skip", d: `M${x - 3} ${y - 3}l6 6m0 -6l-6 6` });
        cross.append(svg("title", {}, `step ${step} was skipped or its loss is not finite`));
        this.svg.append(cross);
      }
    }

    drawLines() {
      const clip = "clip-" + this.spec.id, { left, right, top, bottom } = this.box;
      const mask = svg("clipPath", { id: clip });
      mask.append(svg("rect", { x: left, y: top - 4, width: Math.max(0, right - left + 4), height: bottom - top + 8 }));
      this.svg.append(mask);
      for (const line of this.visible()) {
        const group = svg("g", { class: this.ink(line), "clip-path": `url(#${clip})` });
        const { mean, min, max, dots } = line.data;
        if (max) group.append(svg("path", { class: "band", d: this.bandPath(line.data, min, max) }));
        if (smoothing > 0 && !dots) group.append(svg("path", { class: "curve raw", d: this.path(line.data, mean) }));
        const values = dots ? mean : smooth(mean);
        group.append(svg("path", { class: "curve", d: this.path(line.data, values), "stroke-dasharray": this.dash(line) }));
        if (dots) this.drawDots(group, line.data);
        this.svg.append(group);
      }
    }

    drawDots(group, { x, mean }) {
      x.forEach((step, i) => {
        if (isNumber(mean[i])) group.append(svg("circle", { class: "dot", cx: this.box.x(step), cy: this.box.y(mean[i]), r: 4 }));
      });
    }

    // Indices to draw: those in range and one beyond on each side.
    span({ x }) {
      let first = 0, last = x.length - 1;
      while (first < last && x[first + 1] < this.box.first) first++;
      while (last > first && x[last - 1] > this.box.last) last--;
      return [first, last];
    }

    path(line, values) {
      const [first, last] = this.span(line), parts = [];
      const drawn = (i) => i >= first && i <= last && isNumber(values[i]) && !(this.log && values[i] <= 0);
      for (let i = first; i <= last; i++) {
        if (!drawn(i)) continue;
        parts.push((drawn(i - 1) ? "L" : "M") + this.box.x(line.x[i]).toFixed(1) + " " + this.box.y(values[i]).toFixed(1));
        if (!drawn(i - 1) && !drawn(i + 1)) parts.push("h0"); // alone between gaps: a dot
      }
      return parts.join("");
    }

    bandPath(line, min, max) {
      const [first, last] = this.span(line), parts = [];
      let upper = [], lower = [];
      const close = () => {
        if (upper.length > 1) parts.push("M" + upper.concat(lower.reverse()).join("L") + "Z");
        upper = [];
        lower = [];
      };
      for (let i = first; i <= last; i++) {
        if (!isNumber(min[i])) {
          close();
          continue;
        }
        const x = this.box.x(line.x[i]).toFixed(1);
        upper.push(x + " " + this.box.y(max[i]).toFixed(1));
        lower.push(x + " " + this.box.y(min[i]).toFixed(1));
      }
      close();
      return parts.join("");
    }

    summary(extent, first, last) {
      const what = this.spec.title + (this.spec.unit ? ", " + this.spec.unit : "");
      if (!extent) return what + ": nothing between steps " + Math.ceil(first) + " and " + Math.floor(last);
      return `${what}: between ${figure(extent[0])} and ${figure(extent[1])}, steps ${grouped(first)} to ${grouped(last)}`;
    }

    // ---- pointer and keys ----

    listen() {
      this.svg.addEventListener("pointerdown", (event) => this.down(event));
      this.svg.addEventListener("pointermove", (event) => this.move(event));
      this.svg.addEventListener("pointerup", (event) => this.up(event));
      this.svg.addEventListener("pointercancel", () => this.cancel());
      this.svg.addEventListener("pointerleave", () => { if (!this.start) showAt(null); });
      this.svg.addEventListener("dblclick", () => setView(null));
      this.svg.addEventListener("keydown", (event) => this.key(event));
      this.svg.addEventListener("blur", () => showAt(null));
    }

    place(event) {
      const bounds = this.svg.getBoundingClientRect();
      return clamp(event.clientX - bounds.left, this.box.left, this.box.right);
    }

    down(event) {
      if (!this.box || event.button !== 0) return;
      this.start = { x: this.place(event), id: event.pointerId };
      this.svg.setPointerCapture(event.pointerId);
    }

    move(event) {
      if (!this.box) return;
      const x = this.place(event);
      if (this.start && Math.abs(x - this.start.x) > 4) {
        this.pick.setAttribute("x", Math.min(x, this.start.x));
        this.pick.setAttribute("width", Math.abs(x - this.start.x));
        this.pick.setAttribute("visibility", "visible");
      }
      showAt(this.box.step(x), this);
    }

    up(event) {
      if (!this.start || !this.box) return;
      const x = this.place(event), from = this.start.x;
      this.cancel();
      if (Math.abs(x - from) > 8) setView([this.box.step(Math.min(x, from)), this.box.step(Math.max(x, from))]);
    }

    cancel() {
      this.start = null;
      if (this.pick) this.pick.setAttribute("visibility", "hidden");
    }

    key(event) {
      const [first, last] = range(), width = last - first, middle = (first + last) / 2;
      const moves = {
        ArrowLeft: [first - width / 5, last - width / 5], ArrowRight: [first + width / 5, last + width / 5],
        "+": [middle - width / 3, middle + width / 3], "=": [middle - width / 3, middle + width / 3],
        "-": [middle - width, middle + width], 0: null, Escape: null,
      };
      if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      setView(moves[event.key]);
    }

    // The crosshair at a step, and, in the chart that is pointed at, the values there.
    show(step, withTip) {
      if (!this.box) return;
      const hidden = step === null || step < this.box.first || step > this.box.last;
      this.cross.setAttribute("visibility", hidden ? "hidden" : "visible");
      this.tip.hidden = hidden || !withTip;
      if (hidden) return;
      const x = this.box.x(step);
      this.cross.setAttribute("x1", x);
      this.cross.setAttribute("x2", x);
      if (withTip) this.fillTip(step, x);
    }

    fillTip(step, x) {
      const rows = [];
      let title = "";
      for (const line of this.visible()) {
        const { x: places, from, to, mean, min, max } = line.data;
        if (places.length === 0) continue;
        const i = nearest(places, step), value = html("b", {}, figure(mean[i]));
        if (max && min[i] !== max[i]) value.append(` (${figure(min[i])} to ${figure(max[i])})`);
        if (!title) title = steps(from[i], to[i]);
        rows.push(html("div", { class: this.ink(line) }, html("i"), line.label, value));
      }
      this.tip.replaceChildren(title, ...rows);
      placeTip(this.tip, this.plot, x, this.box.top);
    }
  }

  function placeTip(tip, plot, x, top) {
    const width = tip.offsetWidth, room = plot.clientWidth;
    const left = x + 14 + width > room ? x - 14 - width : x + 14;
    tip.style.left = clamp(left, 0, Math.max(0, room - width)) + "px";
    tip.style.top = top + "px";
  }

  function showAt(step, chart) {
    for (const other of charts) other.show(step, other === chart);
  }

  // ---- maps ---------------------------------------------------------------------------------

  // Viridis (Smith and van der Walt 2015) at eleven places.
  const anchors = [[68, 1, 84], [72, 36, 117], [65, 68, 135], [53, 95, 141], [42, 120, 142], [33, 145, 140], [34, 168, 132],
    [68, 191, 112], [122, 209, 81], [189, 223, 38], [253, 231, 37]];

  function colour(share) {
    const at = clamp(share, 0, 1) * (anchors.length - 1), below = Math.min(Math.floor(at), anchors.length - 2);
    const rest = at - below;
    return "rgb(" + anchors[below].map((low, i) => Math.round(low + (anchors[below + 1][i] - low) * rest)).join(" ") + ")";
  }

  class HeatMap {
    constructor(holder, key, run) {
      this.key = key;
      this.maps = run.maps;
      this.map = run.maps[key];
      this.findRange();
      this.addScale(holder);
      this.plot = html("div", { class: "plot" });
      this.labels = key === "magnitudes" ? this.map.rows.map(powerOfTwo) : this.map.rows.map(String);
      this.canvas = html("canvas", { role: "img", "aria-label": this.summary(holder) });
      this.tip = html("div", { class: "tip", hidden: "" });
      this.plot.append(this.canvas, this.tip);
      holder.append(this.plot);
      if (key === "magnitudes") this.bars = new Bars(holder, this);
      this.canvas.addEventListener("pointermove", (event) => this.point(event));
      this.canvas.addEventListener("pointerdown", (event) => this.point(event, true));
      this.canvas.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    }

    findRange() {
      this.low = Infinity;
      this.high = -Infinity;
      for (const row of this.map.values) {
        for (const value of row) {
          if (!isNumber(value) || value <= 0) continue;
          this.low = Math.min(this.low, value);
          this.high = Math.max(this.high, value);
        }
      }
      if (this.key === "magnitudes") this.low = Math.max(this.low, this.map.rarest);
    }

    summary(holder) {
      const title = holder.querySelector("h3").textContent;
      if (this.low > this.high) return title + ": nothing was measured";
      return `${title}: ${this.map.rows.length} rows, values from ${figure(this.low)} to ${figure(this.high)}`;
    }

    addScale(holder) {
      if (this.low > this.high) return;
      const bar = html("canvas", { width: "128", height: "1", "aria-hidden": "true" }), pen = bar.getContext("2d");
      for (let i = 0; i < 128; i++) {
        pen.fillStyle = colour(i / 127);
        pen.fillRect(i, 0, 1, 1);
      }
      holder.querySelector("figcaption").append(html("span", { class: "scale" }, figure(this.low), bar, figure(this.high)));
    }

    share(value) {
      if (this.high === this.low) return 0.5;
      return (Math.log(value) - Math.log(this.low)) / (Math.log(this.high) - Math.log(this.low));
    }

    draw() {
      const width = this.plot.clientWidth, rows = this.map.rows.length, columns = this.maps.from.length;
      if (width === 0) return;
      const cell = rows <= 8 ? 22 : rows <= 40 ? 11 : Math.max(3, Math.floor(440 / rows));
      const labels = 12 + 7.2 * Math.max(...this.labels.map((label) => label.length));
      const height = rows * cell + 38, ratio = window.devicePixelRatio || 1;
      this.canvas.style.height = height + "px";
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
      const pen = this.canvas.getContext("2d");
      pen.scale(ratio, ratio);
      this.box = { left: labels, right: width - 10, cell, width: (width - 10 - labels) / columns };
      this.drawCells(pen, rows, columns);
      this.drawLabels(pen, rows, columns, height);
      if (this.bars) this.bars.draw();
    }

    drawCells(pen, rows, columns) {
      const { left, right, cell, width } = this.box, style = getComputedStyle(document.documentElement);
      pen.fillStyle = style.getPropertyValue("--grid");
      pen.fillRect(left, 0, right - left, rows * cell);
      for (let r = 0; r < rows; r++) {
        for (let c = 0; c < columns; c++) {
          const value = this.map.values[r][c];
          if (!isNumber(value) || value <= 0 || (this.key === "magnitudes" && value < this.low)) continue;
          pen.fillStyle = colour(this.share(value));
          const x = Math.floor(left + c * width);
          pen.fillRect(x, r * cell, Math.ceil(left + (c + 1) * width) - x, cell);
        }
      }
    }

    drawLabels(pen, rows, columns, height) {
      const { left, right, cell, width } = this.box, style = getComputedStyle(document.documentElement);
      pen.fillStyle = style.getPropertyValue("--muted");
      pen.font = "12px " + getComputedStyle(document.body).fontFamily;
      pen.textAlign = "right";
      pen.textBaseline = "middle";
      const every = Math.max(1, Math.ceil(16 / cell));
      for (let r = 0; r < rows; r += every) pen.fillText(this.labels[r], left - 6, (r + 0.5) * cell);
      pen.textAlign = "center";
      pen.textBaseline = "top";
      this.drawSteps(pen, columns, rows * cell + 5);
      pen.fillText("step", (left + right) / 2, height - 15);
    }

    // Round step numbers under the columns that hold them.
    drawSteps(pen, columns, y) {
      const { left, right, width } = this.box, { from, to } = this.maps, first = from[0], last = to[columns - 1];
      const count = Math.max(2, Math.floor((right - left) / 90));
      const ticks = first === last ? [first] : linearTicks(first, last, count).ticks.filter(Number.isInteger);
      for (const step of ticks.length ? ticks : [first]) {
        const c = nearest(to, step);
        pen.fillText(grouped(step), clamp(left + (c + 0.5) * width, left + 4, right - 8 - 3.5 * grouped(step).length), y);
      }
    }

    point(event, chosen) {
      if (!this.box) return;
      const bounds = this.canvas.getBoundingClientRect(), x = event.clientX - bounds.left, y = event.clientY - bounds.top;
      const c = Math.floor((x - this.box.left) / this.box.width), r = Math.floor(y / this.box.cell);
      const inside = c >= 0 && c < this.maps.from.length && r >= 0 && r < this.map.rows.length;
      this.tip.hidden = !inside;
      if (!inside) return;
      const name = this.key === "magnitudes" ? this.labels[r] + " to " + powerOfTwo(this.map.rows[r] + 1) : "layer " + this.labels[r];
      const value = this.map.values[r][c];
      const shown = this.key === "magnitudes" && isNumber(value) ? (100 * value).toPrecision(3) + "%" : figure(value);
      this.tip.replaceChildren(name + ", " + steps(this.maps.from[c], this.maps.to[c]) + ": ", html("b", {}, shown));
      placeTip(this.tip, this.plot, x, clamp(y - 40, 0, this.map.rows.length * this.box.cell));
      if (chosen && this.bars) this.bars.choose(c);
    }
  }

  // The histogram of one column of the map of magnitudes.
  class Bars {
    constructor(holder, heat) {
      this.heat = heat;
      this.column = heat.maps.from.length - 1;
      this.slider = html("input", { type: "range", min: "0", max: String(this.column), value: String(this.column), "aria-label": "step of the histogram" });
      this.output = html("output");
      holder.append(html("div", { class: "pick-step" }, html("b", {}, "Histogram"), this.slider, this.output));
      this.plot = html("div", { class: "plot bars" });
      this.svg = svg("svg", { role: "img" });
      this.plot.append(this.svg);
      holder.append(this.plot);
      this.slider.addEventListener("input", () => this.choose(Number(this.slider.value)));
    }

    choose(column) {
      this.column = column;
      this.slider.value = String(column);
      this.draw();
    }

    draw() {
      const { map, maps } = this.heat, width = this.plot.clientWidth, height = this.plot.clientHeight;
      if (width === 0) return;
      const shares = map.values.map((row) => row[this.column]).reverse(), names = [...this.heat.labels].reverse();
      const top = Math.max(...shares.filter(isNumber), 1e-3), right = width - 10, bottom = height - 38;
      const { ticks, step } = linearTicks(0, 100 * top, 4), labels = ticks.map((value) => tickText(value, step) + "%");
      const left = 14 + 7.2 * Math.max(...labels.map((label) => label.length));
      this.output.textContent = steps(maps.from[this.column], maps.to[this.column]);
      this.svg.replaceChildren();
      this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      this.svg.setAttribute("aria-label", `share of gradient values by power of two, ${this.output.textContent}`);
      ticks.forEach((value, i) => {
        const y = bottom - (value / (100 * top)) * (bottom - 8);
        this.svg.append(svg("line", { class: "grid", x1: left, x2: right, y1: y, y2: y }),
          svg("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, labels[i]));
      });
      const cell = (right - left) / shares.length, every = Math.max(1, Math.ceil(40 / cell));
      shares.forEach((share, i) => {
        const size = isNumber(share) ? (share / top) * (bottom - 8) : 0, x = left + i * cell;
        this.svg.append(svg("rect", { x: x + 0.5, y: bottom - size, width: Math.max(1, cell - 1), height: size }));
        if (i % every === 0) this.svg.append(svg("text", { x: x + cell / 2, y: bottom + 17, "text-anchor": "middle" }, names[i]));
      });
      this.svg.append(svg("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }),
        svg("text", { x: (left + right) / 2, y: bottom + 33, "text-anchor": "middle" }, "magnitude (least of its bar)"));
    }
  }

  // ---- controls -----------------------------------------------------------------------------

  function listenToControls() {
    const slider = document.getElementById("smoothing"), reset = document.getElementById("reset");
    if (slider) {
      slider.addEventListener("input", () => {
        smoothing = Number(slider.value);
        slider.nextElementSibling.textContent = smoothing === 0 ? "off" : smoothing.toFixed(2);
        for (const chart of charts) chart.draw();
      });
    }
    if (reset) reset.addEventListener("click", () => setView(null));
    const only = document.getElementById("only-differences");
    if (only) only.addEventListener("change", () => document.body.classList.toggle("only-differences", only.checked));
  }

  function listenToTheme(redraw) {
    const button = document.getElementById("theme"), root = document.documentElement;
    const names = ["auto", "light", "dark"];
    let at = 0;
    button.addEventListener("click", () => {
      at = (at + 1) % names.length;
      if (at === 0) root.removeAttribute("data-theme"); else root.setAttribute("data-theme", names[at]);
      button.textContent = "◐ " + names[at];
      redraw();
    });
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  }

  function listenToFilters() {
    for (const bar of document.querySelectorAll(".filter")) {
      bar.addEventListener("click", (event) => {
        const chosen = event.target.closest("button");
        if (!chosen) return;
        for (const button of bar.children) button.setAttribute("aria-pressed", String(button === chosen));
        for (const sample of bar.parentElement.querySelectorAll(".sample")) {
          sample.hidden = chosen.dataset.filter !== "" && sample.dataset.verdict !== chosen.dataset.filter;
        }
      });
    }
  }

  // ---- start --------------------------------------------------------------------------------

  const maps = [];
  for (const holder of document.querySelectorAll("[data-chart]")) {
    charts.push(new LineChart(holder, data.charts.find((chart) => chart.id === holder.dataset.chart)));
  }
  for (const holder of document.querySelectorAll("[data-map]")) {
    maps.push(new HeatMap(holder, holder.dataset.map, data.runs[Number(holder.dataset.run)]));
  }
  const redraw = () => {
    for (const view of [...charts, ...maps]) view.draw();
  };
  listenToControls();
  listenToTheme(redraw);
  for (const details of document.querySelectorAll("details.run-block")) details.addEventListener("toggle", redraw);
  listenToFilters();
  redraw();
  let width = document.body.clientWidth;
  new ResizeObserver(() => {
    if (document.body.clientWidth === width) return;
    width = document.body.clientWidth;
    redraw();
  }).observe(document.body);
  document.documentElement.dataset.drawn = String(Math.round(performance.now()));
})();
