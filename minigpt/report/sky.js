"use strict";
// The night sky: names the neuron under the pointer or chosen by the arrow keys, leads to its entry in the explorer,
// and redraws the sky of an earlier step. It shows what sky_drawing.py embedded as JSON, by textContent alone.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("sky-data").textContent);
  const [figure, readout] = ["sky", "sky-readout"].map(byId);
  const svg = figure.querySelector("svg");
  const stars = svg.querySelector(".stars");
  const { place, kinds, styles, frames, layers } = data;
  const SVG = "http://www.w3.org/2000/svg";
  const [DEAD, UNKNOWN] = ["A", "B"];
  const explorer = byId("explorer-data") !== null;
  let shown = layers.map((layer) => layer.codes); // as drawn: the last frame is what was measured
  let chosen = null;

  function drawn(tag, attributes) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  // The same as _off in sky_drawing.py, so that no star moves when the sky is redrawn.
  function off(number) {
    let mixed = Math.imul(number + 1, 0x9e3779b1) >>> 0;
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x85ebca6b) >>> 0;
    return (((mixed ^ (mixed >>> 13)) >>> 0) / 4294967296 - 0.5) * place.scatter;
  }

  function where(layer, index) {
    const [column, row] = [index % place.columns, layer * place.pitch + Math.floor(index / place.columns)];
    const seed = 2 * index + layer;
    return place.scatter ? [(column + off(seed)).toFixed(1), (row + off(seed + 1)).toFixed(1)] : [column, row];
  }

  const ring = drawn("circle", { r: 0.75, stroke: "#fff", "stroke-width": 0.16, visibility: "hidden" });

  function redraw() {
    const paths = {};
    shown.forEach((codes, layer) => {
      for (let index = 0; index < codes.length; index++) {
        const kind = kinds[codes[index]].kind;
        (paths[kind] ??= []).push(`M${where(layer, index).join(" ")}h0`);
      }
    });
    stars.replaceChildren(
      ...Object.entries(paths).map(([kind, path]) =>
        drawn("path", {
          d: path.join(""), stroke: styles[kind][0], "stroke-width": styles[kind][1],
          "stroke-linecap": kind === DEAD ? "square" : "round",
        })),
      ring,
    );
  }

  function rate(share) {
    return share < 0.01 ? `1 token in ${Number((1 / share).toPrecision(2)).toLocaleString("en")}` : `${(100 * share).toPrecision(2)} % of tokens`;
  }

  function words(layer, index) {
    const { layer: number, gates } = layers[layer];
    const code = shown[layer][index];
    const who = place.bin === 1 ? `Layer ${number}, neuron ${index}` : `Layer ${number}, ${place.bin} neurons`;
    if (code === DEAD) return `${who}: ${place.bin === 1 ? "dead" : "at least one is dead"}`;
    if (code === UNKNOWN) return `${who}: alive`;
    return `${who}: ${gates ? "open" : "fires"} on ${place.bin === 1 ? "about" : "at least about"} ${rate(kinds[code].rate)}`;
  }

  function choose(layer, index) {
    chosen = [layer, index];
    const [x, y] = where(layer, index);
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
    ring.setAttribute("visibility", "visible");
    readout.dataset.chosen = words(layer, index);
    readout.textContent = readout.dataset.chosen + (explorer && place.bin === 1 ? " – click or press Enter to see it" : "");
  }

  function under(event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(stars.getScreenCTM().inverse());
    const [column, height] = [Math.round(point.x), point.y + 0.5];
    const layer = Math.floor(height / place.pitch);
    const row = Math.floor(height - layer * place.pitch);
    const index = row * place.columns + column;
    const inside = column >= 0 && column < place.columns && row >= 0 && row < place.rows && index < (shown[layer]?.length ?? 0);
    return inside ? [layer, index] : null;
  }

  function open() {
    if (chosen && explorer && place.bin === 1) location.hash = `#neuron=${layers[chosen[0]].layer}/${chosen[1]}`;
  }

  function move(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: place.columns, ArrowUp: -place.columns };
    if (event.key === "Enter") open();
    if (!(event.key in steps)) return;
    event.preventDefault();
    let [layer, index] = chosen ?? [0, -steps[event.key]];
    index += steps[event.key];
    const column = ((index % place.columns) + place.columns) % place.columns;
    if (index < 0 && layer > 0) index = Math.floor((shown[--layer].length - 1 - column) / place.columns) * place.columns + column;
    else if (index >= shown[layer].length && layer < shown.length - 1) [layer, index] = [layer + 1, column];
    if (index >= 0 && index < shown[layer].length) choose(layer, index);
  }

  svg.addEventListener("pointermove", (event) => { const found = under(event); if (found) choose(...found); });
  svg.addEventListener("click", (event) => { const found = under(event); if (found) { choose(...found); open(); } });
  svg.addEventListener("keydown", move);
  readout.textContent = "Point at a star to learn which neuron it is.";
  svg.setAttribute("tabindex", "0");
  svg.setAttribute("role", "application");
  svg.setAttribute("aria-roledescription", "sky of neurons, arrow keys choose one");
  stars.append(ring);

  // ---------------------------------------------------------------------------------------------- over the training

  function codesAt(frame) {
    if (frame === frames.length) return layers.map((layer) => layer.codes);
    const dead = layers.map(() => new Set());
    for (const { changed } of frames.slice(0, frame + 1)) {
      for (const [layer, neurons] of changed) {
        for (const neuron of neurons) if (!dead[layer].delete(neuron)) dead[layer].add(neuron);
      }
    }
    return layers.map(({ codes }, layer) =>
      Array.from(codes, (code, index) => (dead[layer].has(index) ? DEAD : code === DEAD ? UNKNOWN : code)).join(""));
  }

  function show(frame) {
    shown = codesAt(frame);
    redraw();
    const dead = shown.reduce((sum, codes) => sum + codes.split(DEAD).length - 1, 0);
    byId("sky-step").textContent =
      frame === frames.length ? `as measured: ${dead.toLocaleString("en")} dead`
        : `step ${frames[frame].step.toLocaleString("en")}: ${dead.toLocaleString("en")} dead at its evaluation`;
    if (chosen) choose(...chosen);
  }

  if (frames.length) {
    const [slider, play] = ["sky-time", "sky-play"].map(byId);
    let timer = null;
    slider.max = frames.length;
    slider.value = frames.length;
    const stop = () => { clearInterval(timer); timer = null; play.textContent = "▶"; play.setAttribute("aria-label", "play the training"); };
    const turn = () => { show(Number(slider.value)); };
    slider.addEventListener("input", () => { stop(); turn(); });
    play.addEventListener("click", () => {
      if (timer !== null) { stop(); return; }
      if (Number(slider.value) >= frames.length) slider.value = 0;
      turn();
      play.textContent = "❚❚";
      play.setAttribute("aria-label", "pause");
      timer = setInterval(() => {
        slider.value = Number(slider.value) + 1;
        turn();
        if (Number(slider.value) >= frames.length) stop();
      }, 180);
    });
    byId("sky-controls").hidden = false;
    turn();
  }
})();
