"use strict";
// The page's behaviour: the network drawing, the table, the choice of a layer. Texts of the model are only set as textContent.
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const layers = page.layers, byName = new Map(layers.map((layer, at) => [layer.name, at]));
  const $ = (id) => document.getElementById(id);
  const el = (tag, text, attributes = {}) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const svg = (tag, attributes = {}, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // Pages without layers have copy buttons, too.
  for (const code of document.querySelectorAll(".code")) {
    const button = el("button", "copy", { type: "button" });
    button.addEventListener("click", async () => {
      const text = code.querySelector("pre").textContent;
      try { await navigator.clipboard.writeText(text); } catch {
        const range = document.createRange();
        range.selectNodeContents(code.querySelector("pre"));
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        document.execCommand("copy");
      }
      button.textContent = "copied";
      setTimeout(() => { button.textContent = "copy"; }, 1500);
    });
    code.append(button);
  }
  const root = document.documentElement;
  if (!layers.length) { root.dataset.ready = ""; return; }

  const number = (value, digits = 4) => {
    if (value === null || value === undefined) return "–";
    if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(2);
    return String(+value.toPrecision(digits));
  };
  const percent = (part) => part === null ? "–" : `${part > 0 && part < 1e-4 ? "< 0.01" : +(100 * part).toFixed(2)} %`;
  const decibel = (layer) => layer.sqnr === null ? "no difference" : `${layer.sqnr.toFixed(1)} dB`;
  const cost = (layer) => layer.damage === null ? "not measured" : `${(100 * layer.damage).toPrecision(2)} % of the results`;

  // Colours ----------------------------------------------------------------------------------------------------------
  // "shades": amounts that are neither good nor bad. "kinds": one colour per value.
  const widths = [...new Set(layers.map((layer) => layer.weight_bits).filter((bits) => bits !== null))].sort((a, b) => a - b);
  const metrics = {
    damage: { limits: [Math.log(0.3), Math.log(0.003)], of: (l) => l.damage === null ? null : Math.log(Math.max(l.damage, 1e-9)),
      texts: ["30 % of the results or more", "0.3 % or less"], none: "not measured" },
    bits: { limits: [0, Math.max(1, widths.length - 1)], of: (l) => l.weight_bits === null ? null : widths.indexOf(l.weight_bits), kinds: widths,
      none: "no weights" },
    sqnr: { limits: [10, 50], of: (l) => l.sqnr === null ? Infinity : l.sqnr, texts: ["10 dB or less", "50 dB or more"], none: "" },
    sparsity: { limits: [0, 1], of: (l) => l.sparsity, texts: ["no zeros", "all zeros"], none: "no weights", shades: true },
    clipped: { limits: [0.01, 0], of: (l) => l.clipped, texts: ["1 % clipped or more", "none"], none: "not known" },
  };
  const main = layers.some((layer) => layer.damage !== null) ? "damage" : "sqnr";
  let metric = metrics[main];
  // How bad a layer is, as in the colours that the page opens with.
  const badness = (layer) => { const value = metrics[main].of(layer); return value === null ? -Infinity : main === "damage" ? value : -value; };
  for (const option of [...$("metric").options]) {
    if (option.value === "damage" && main !== "damage" || option.value === "bits" && widths.length < 2) option.remove();
  }
  const colourOf = (layer, by = metric) => {
    const value = by.of(layer);
    if (value === null || value === undefined) return null;
    const part = Math.min(1, Math.max(0, (value - by.limits[0]) / (by.limits[1] - by.limits[0])));
    const colours = by.shades || by.kinds ? page.shades : page.palette;
    return colours[Math.round((by.kinds ? 0.15 + 0.6 * part : part) * (colours.length - 1))];
  };
  const dark = (colour) => {
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    return 0.299 * r + 0.587 * g + 0.114 * b < 140;
  };

  // Network ----------------------------------------------------------------------------------------------------------
  const letters = [["Depthwise", "D", "depthwise"], ["Conv", "C", "convolution"], ["Dense", "F", "fully connected"],
    ["Add", "+", "sum"], ["Concatenate", "∥", "concatenation"], ["Multiply", "×", "product"], ["Pooling", "P", "pooling"],
    ["Mean", "P", "pooling"], ["Padding", "0", "padding"], ["input", "I", "input"], ["oftmax", "S", "softmax"]];
  const kindOf = (layer) => letters.find(([part]) => layer.operation.includes(part)) || ["", "·", "other"];
  const lanes = Math.max(...layers.map((layer) => layer.lane)) + 1;
  const marks = [], edges = [];

  function drawMap() {
    const width = Math.max(240, $("map").clientWidth), top = 14, laneHeight = lanes > 6 ? 16 : 22;
    const cell = Math.min(44, Math.max(22, (width - 16) / layers.length));  // a small network fills one line
    const columns = Math.max(6, Math.floor((width - 15) / cell)), lineHeight = top + lanes * laneHeight + 6;
    const lines = Math.ceil(layers.length / columns);
    const drawing = svg("svg", { viewBox: `0 0 ${width} ${lines * lineHeight}`, width, height: lines * lineHeight });
    const x = (at) => 8 + (at % columns + 0.5) * cell;
    const y = (at, lane) => Math.floor(at / columns) * lineHeight + top + lane * laneHeight;
    const left = 2, right = 8 + columns * cell + 6;
    marks.length = edges.length = 0;
    layers.forEach((layer, to) => {
      for (const name of layer.reads) {
        const from = byName.get(name), lane = layers[from].lane;
        // The line follows the source's lane to the column before the reader, and then goes to the reader's lane.
        const bend = to - 1;
        let path = `M${x(from)} ${y(from, lane)}`;
        for (let line = Math.floor(from / columns); line < Math.floor(bend / columns); line++) {
          const edge = y(line * columns, lane);
          path += `H${right}M${left} ${edge + lineHeight}`;
        }
        path += `H${x(bend)}`;
        if (Math.floor(to / columns) > Math.floor(bend / columns)) {
          path += `H${right}M${left} ${y(to, lane)}`;
        }
        path += `L${x(to)} ${y(to, layer.lane)}`;
        const line = svg("path", { class: "edge", d: path });
        edges.push([from, to, line]);
        drawing.append(line);
      }
    });
    layers.forEach((layer, at) => {
      const kind = kindOf(layer);
      const mark = svg("g", { class: "mark", role: "button", tabindex: at === chosen ? 0 : -1, transform: `translate(${x(at)} ${y(at, layer.lane)})` });
      const shape = kind[1] === "+" || kind[1] === "×" || kind[1] === "∥"
        ? svg("circle", { class: "shape", r: 8 })
        : kind[1] === "D" ? svg("rect", { class: "shape", x: -7, y: -7, width: 14, height: 14, transform: "rotate(45) scale(.87)" })
          : svg("rect", { class: "shape", x: -7.5, y: -7.5, width: 15, height: 15, rx: kind[1] === "C" || kind[1] === "F" ? 2.5 : 7.5 });
      const costs = main === "damage" && layer.damage !== null ? cost(layer) : decibel(layer);
      mark.append(svg("title", {}, `${layer.name}: ${layer.operation}, ${costs}`), shape, svg("text", { class: "kind", y: 3.5 }, kind[1]));
      if (widths.length > 1 && layer.weight_bits !== null && layer.weight_bits < widths.at(-1)) {
        mark.append(svg("text", { class: "width", x: 7, y: -6.5 }, layer.weight_bits));
      }
      mark.setAttribute("aria-label", `${layer.name}, ${layer.operation}, ${costs}`);
      mark.addEventListener("click", () => choose(at));
      marks.push(mark);
      drawing.append(mark);
    });
    $("map").replaceChildren(drawing);
    paint();
  }
  $("map").addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1, Home: -layers.length, End: layers.length }[event.key];
    if (event.key === "Enter" || event.key === " ") { choose(marks.indexOf(document.activeElement)); event.preventDefault(); }
    if (!move) return;
    event.preventDefault();
    choose(Math.min(layers.length - 1, Math.max(0, chosen + move)));
    marks[chosen].focus({ preventScroll: true });
  });

  function paint() {
    layers.forEach((layer, at) => {
      const colour = colourOf(layer), shape = marks[at].querySelector(".shape");
      shape.style.fill = colour || "var(--none)";
      marks[at].querySelector(".kind").style.fill = colour ? (dark(colour) ? "#fff" : "#111") : "var(--ink)";
      marks[at].classList.toggle("chosen", at === chosen);
      marks[at].setAttribute("tabindex", at === chosen ? 0 : -1);
    });
    for (const [from, to, line] of edges) line.classList.toggle("near", from === chosen || to === chosen);
    const legend = [], box = (colour, parent = legend) => { const found = el("i"); found.style.background = colour; parent.push(found); };
    if (metric.kinds) {
      for (const bits of metric.kinds) {
        box(colourOf(layers.find((layer) => layer.weight_bits === bits)));
        legend.push(el("span", ` ${bits} bits  `));
      }
    } else {
      legend.push(el("span", `${metric.texts[0]} `));
      for (const colour of metric.shades ? page.shades : page.palette) box(colour);
      legend.push(el("span", ` ${metric.texts[1]}`));
    }
    if (metric.none && layers.some((layer) => colourOf(layer) === null)) {
      box("var(--none)");
      legend.at(-1).style.marginLeft = "12px";
      legend.push(el("span", ` ${metric.none}`));
    }
    if (widths.length > 1) legend.push(el("span", `  A small number at a mark: its weights have fewer than ${widths.at(-1)} bits.`));
    $("legend").replaceChildren(...legend);
  }
  {
    const kinds = new Map(layers.map((layer) => [kindOf(layer)[1], kindOf(layer)[2]]));
    for (const [letter, text] of kinds) $("kinds").append(el("b", letter), ` ${text}  `);
  }
  $("metric").addEventListener("change", () => { metric = metrics[$("metric").value]; paint(); });

  // Table ------------------------------------------------------------------------------------------------------------
  const body = $("table").tBodies[0], rows = [...body.rows];
  rows.forEach((row, at) => {
    row.querySelector(".chip").style.background = colourOf(layers[at], metrics[main]) || "var(--none)";
    row.addEventListener("click", () => choose(at, true));
  });
  const keys = { at: (at) => at, name: (at) => layers[at].name, operation: (at) => layers[at].operation };
  for (const key of ["damage", "bytes", "multiplications", "weight_bits", "activation_bits", "sparsity"]) {
    keys[key] = (at) => layers[at][key];
  }
  keys.sqnr = (at) => metrics.sqnr.of(layers[at]);
  for (const head of $("table").tHead.rows[0].cells) {
    head.firstElementChild.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending", key = keys[head.dataset.key];
      for (const other of $("table").tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const order = rows.map((row, at) => at).sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === y) return a - b;
        if (x === null || y === null) return x === null ? 1 : -1;  // rows without a value always come last
        const sign = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
        return up ? sign : -sign;
      });
      body.replaceChildren(...order.map((at) => rows[at]));
    });
  }
  function filter() {
    const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean), only = $("weighted").checked;
    let count = 0;
    layers.forEach((layer, at) => {
      const text = `${layer.name} ${layer.operation}`.toLowerCase();
      const shows = words.every((word) => text.includes(word)) && (!only || layer.weights !== null);
      rows[at].hidden = !shows;
      count += shows;
    });
    $("shown").textContent = `${count} of ${layers.length}`;
  }
  $("filter").addEventListener("input", filter);
  $("weighted").addEventListener("change", filter);

  // One layer --------------------------------------------------------------------------------------------------------
  let chosen = -1, plots = null;
  const readers = layers.map(() => []);
  layers.forEach((layer, at) => layer.reads.forEach((name) => readers[byName.get(name)].push(at)));

  function choose(at, scroll = false, follow = true) {
    if (at < 0) return;
    if (rows[chosen]) rows[chosen].classList.remove("chosen");
    chosen = at;
    const layer = layers[at], row = rows[at];
    row.classList.add("chosen");
    paint();
    $("detail-name").textContent = $("caption-name").textContent = layer.name;
    $("caption-text").textContent = `${layer.operation}, ${layer.damage === null ? decibel(layer) : `costs ${cost(layer)}`}`;
    $("detail-operation").textContent = `${layer.operation}, ${layer.shape}`;
    const links = (positions) => positions.map((other) => {
      const button = el("button", layers[other].name, { type: "button" });
      button.addEventListener("click", () => choose(other));
      return button;
    });
    const facts = [["cost", cost(layer)], ["SQNR", decibel(layer)],
      ["values", `${layer.activation_bits} bits from ${number(layer.low)} to ${number(layer.high)}, scale ${number(layer.step)}`]];
    if (layer.seen) facts.push(["in float", `${number(layer.seen[0])} to ${number(layer.seen[1])}; ${percent(layer.clipped)} clipped`]);
    if (layer.weights !== null) {
      const [low, high] = layer.weight_steps;
      const scales = layer.weight_scales === 1 ? `one scale of ${number(low)}` : `${layer.weight_scales} scales, ${number(low)} to ${number(high)}`;
      facts.push(["weights", `${layer.weights.toLocaleString("en")} in ${layer.weight_bits} bits, ${scales}`]);
      facts.push(["bytes", layer.bytes.toLocaleString("en")]);
      if (layer.sparsity !== null) facts.push(["zeros", percent(layer.sparsity)]);
    }
    if (layer.multiplications) facts.push(["MACs", `${layer.multiplications.toLocaleString("en")} for one input`]);
    if (layer.known_by) facts.push(["known by", layer.known_by]);
    for (const note of layer.remarks) facts.push(["note", note]);
    const list = facts.flatMap(([name, text]) => [el("dt", name), el("dd", text)]);
    for (const [name, positions] of [["from", layer.reads.map((other) => byName.get(other))], ["read by", readers[at]]]) {
      if (!positions.length) continue;
      const dd = el("dd");
      dd.append(...links(positions));
      list.push(el("dt", name), dd);
    }
    $("detail-facts").replaceChildren(...list);
    $("values-part").hidden = !layer.values;
    $("kernel-part").hidden = $("channels-part").hidden = !layer.kernel;
    if (plots) plots.show(layer, at);
    if (scroll && matchMedia("(max-width: 900px)").matches) $("detail").scrollIntoView();
    if (!scroll && follow) {
      const box = row.closest(".scroll");
      if (!row.hidden) box.scrollTop = Math.max(0, row.offsetTop - box.clientHeight / 2);
    }
  }
  $("previous").addEventListener("click", () => choose(Math.max(0, chosen - 1)));
  $("next").addEventListener("click", () => choose(Math.min(layers.length - 1, chosen + 1)));
  for (const button of document.querySelectorAll("[data-layer]")) {
    button.addEventListener("click", () => { choose(+button.dataset.layer); $("layers").scrollIntoView(); });
  }

  // Plots ------------------------------------------------------------------------------------------------------------
  // After a ReLU one bin holds most values. The axis is cut, so that the other bins can be seen.
  function top(shares) {
    const sorted = [...shares].sort((a, b) => b - a);
    const second = sorted[1] || sorted[0] || 1;
    return sorted[0] > 4 * second ? [1.6 * second, sorted[0]] : [1.08 * sorted[0], null];
  }
  async function drawPlots() {
    const views = {};
    for (const [name, item] of Object.entries(page.plots)) {
      item.target_id = `plot-${name}`;
      views[name] = (await Bokeh.embed.embed_item(item))[0] || null;
    }
    const models = new Map();
    for (const document of Bokeh.documents) for (const model of document._all_models.values()) if (model.name) models.set(model.name, model);
    const get = (name) => models.get(name);
    const figures = Bokeh.documents.flatMap((document) => document.roots());
    const style = (name) => getComputedStyle(root).getPropertyValue(name).trim();

    function recolour() {
      const [ink, soft, line, bar, grid, warn] = ["--ink", "--soft", "--line", "--bar", "--grid", "--warn"].map(style);
      for (const figure of figures) {
        figure.setv({ outline_line_color: line });
        for (const axis of [...figure.below, ...figure.left]) {
          if (!axis.properties.axis_label_text_color) continue;
          axis.setv({ axis_label_text_color: soft, major_label_text_color: soft, axis_line_color: line, major_tick_line_color: line,
            minor_tick_line_color: null, axis_label_text_font_style: "normal", axis_label_text_font_size: "12px" });
        }
        for (const mesh of figure.center) if (mesh.properties.grid_line_color) mesh.setv({ grid_line_color: line });
      }
      for (const name of ["values_quads", "kernel_quads", "channels_quads"]) get(name).glyph.setv({ fill_color: bar, line_color: bar });
      get("values_steps").glyph.setv({ line_color: grid });
      get("values_zero").setv({ line_color: ink });
      for (const name of ["values_below", "values_above"]) get(name).setv({ fill_color: warn });
      get("profile_lines").glyph.setv({ line_color: soft });
      for (const part of ["glyph", "selection_glyph", "nonselection_glyph"]) {
        if (get("profile_points")[part].setv) get("profile_points")[part].setv({ line_color: ink });
      }
    }

    function showValues(layer) {
      const { low, high, counts } = layer.values, total = counts.reduce((a, b) => a + b, 0), width = (high - low) / counts.length;
      const share = counts.map((count) => 100 * count / total), figure = figures[names.indexOf("values")];
      get("values_bars").data = { left: counts.map((_, at) => low + at * width), right: counts.map((_, at) => low + (at + 1) * width), share };
      const levels = 2 ** layer.activation_bits, lines = [];
      if (levels <= 256) for (let at = 0; at < levels; at++) lines.push(layer.low + at * layer.step);
      else lines.push(layer.low, layer.high);
      get("values_grid").data = { x: lines };
      get("values_below").setv({ right: layer.low, visible: true });
      get("values_above").setv({ left: layer.high, visible: true });
      const start = Math.min(low, layer.low), end = Math.max(high, layer.high), margin = 0.03 * (end - start);
      const [limit, cut] = top(share);
      figure.x_range.setv({ start: start - margin, end: end + margin, reset_start: start - margin, reset_end: end + margin });
      figure.y_range.setv({ start: 0, end: limit, reset_start: 0, reset_end: limit });
      shade();
      $("values-hint").textContent = (levels <= 256
        ? `Each thin line is one of the ${levels} values that the integers can take; zoom in to see them. `
        : `The integers can take ${levels.toLocaleString("en")} values between the two lines. `)
        + "Shaded: clipped. Dashed: 0." + (cut === null ? "" : ` The tallest bar continues to ${cut.toFixed(0)} %.`);
    }
    function showKernel(layer) {
      const { low, counts } = layer.kernel, total = counts.reduce((a, b) => a + b, 0);
      const share = counts.map((count) => 100 * count / total), figure = figures[names.indexOf("kernel")];
      const integer = counts.map((_, at) => Math.round(low + 0.5) + at);
      get("kernel_bars").data = { left: integer.map((i) => i - 0.5), right: integer.map((i) => i + 0.5), share, integer, count: counts };
      const [limit, cut] = top(share);
      figure.x_range.setv({ start: low - 1, end: low + counts.length + 1, reset_start: low - 1, reset_end: low + counts.length + 1 });
      figure.y_range.setv({ start: 0, end: limit, reset_start: 0, reset_end: limit });
      const used = counts.filter((count) => count > 0).length;
      $("kernel-hint").textContent = `${used} of ${counts.length} integers are used. `
        + (layer.weight_scales === 1 ? "A weight is its integer times the scale. " : "A weight is its integer times the scale of its output channel. ")
        + (cut === null ? "" : `The tallest bar, at ${integer[counts.indexOf(Math.max(...counts))]}, continues to ${cut.toFixed(0)} %.`);
    }
    function showChannels({ lows, highs }) {
      const figure = figures[names.indexOf("channels")], low = Math.min(0, ...lows), high = Math.max(0, ...highs), margin = 0.05 * (high - low || 1);
      get("channels_bars").data = { channel: lows.map((_, at) => at), low: lows, high: highs };
      figure.x_range.setv({ start: -1, end: lows.length, reset_start: -1, reset_end: lows.length });
      figure.y_range.setv({ start: low - margin, end: high + margin, reset_start: low - margin, reset_end: high + margin });
    }
    // Without zoom, the lines of a fine grid would hide the bars, so they are drawn fainter.
    const names = Object.keys(page.plots), valueRange = figures[names.indexOf("values")].x_range;
    const shade = () => {
      const distance = (layers[chosen].step * figures[names.indexOf("values")].inner_width) / (valueRange.end - valueRange.start);
      get("values_steps").glyph.setv({ line_alpha: Math.min(0.7, Math.max(0.12, distance / 12)) });
    };
    valueRange.properties.end.change.connect(shade);
    valueRange.properties.start.change.connect(shade);
    const byCost = main === "damage";
    const finite = layers.map((layer) => byCost ? 100 * layer.damage : layer.sqnr).filter((value) => value !== null);
    const highest = Math.max(1, ...finite);
    const heights = layers.map((layer) => byCost ? 100 * layer.damage : layer.sqnr === null ? 1.05 * highest : layer.sqnr);
    const colours = () => layers.map((layer) => colourOf(layer, metrics[main]) || style("--none"));
    get("profile_dots").data = { x: layers.map((_, at) => at), y: heights, name: layers.map((l) => l.name), operation: layers.map((l) => l.operation),
      sqnr: layers.map(decibel), damage: layers.map(cost), colour: colours() };
    // A line leads to each cost from 0, and to each SQNR from those of the tensors that the layer reads.
    const joined = byCost ? heights.map((height, at) => [at, 0, at, height])
      : layers.flatMap((layer, to) => layer.reads.map((name) => byName.get(name)).map((from) => [from, heights[from], to, heights[to]]));
    get("profile_links").data = Object.fromEntries(["x0", "y0", "x1", "y1"].map((end, part) => [end, joined.map((line) => line[part])]));
    const lowest = Math.min(0, ...heights), profile = figures[names.indexOf("profile")];
    profile.left[0].axis_label = byCost ? "cost in % of the results" : "SQNR in dB";
    profile.x_range.setv({ start: -1, end: layers.length, reset_start: -1, reset_end: layers.length });
    profile.y_range.setv({ start: lowest, end: 1.12 * highest, reset_start: lowest, reset_end: 1.12 * highest });
    const picked = get("profile_dots").selected;
    picked.properties.indices.change.connect(() => { const [at] = picked.indices; if (at !== undefined && at !== chosen) choose(at); });
    plots = {
      show(layer, at) {
        if (layer.values) showValues(layer);
        if (layer.kernel) { showKernel(layer); showChannels(layer.channels); }
        if (picked.indices.length !== 1 || picked.indices[0] !== at) picked.indices = [at];
      },
    };
    recolour();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
    plots.show(layers[chosen], chosen);
    root.dataset.plotted = "";
  }

  let width = $("map").clientWidth;
  new ResizeObserver(() => { if ($("map").clientWidth !== width) { width = $("map").clientWidth; drawMap(); } }).observe($("map"));
  drawMap();
  filter();
  // The worst tensor is chosen first. The table stays at its top.
  choose(layers.reduce((worst, layer, at) => badness(layer) > badness(layers[worst]) ? at : worst, 0), false, false);
  window.drawPlots = drawPlots;
  root.dataset.ready = "";
})();
