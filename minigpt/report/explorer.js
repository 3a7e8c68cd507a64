"use strict";
// The neuron explorer: shows what explorer.py embedded as JSON, by textContent alone, never as markup.
// A fragment `#neuron=LAYER/NEURON` selects a neuron, on loading and later.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("explorer-data").textContent);
  const [layerChoice, orderChoice, neuronChoice, view] = ["layer", "order", "neuron", "neuron-view"].map(byId);
  const WARM = "226 96 34";
  const COLD = "47 127 214";
  const STRONGEST = 0.75; // opacity of a passage's largest |h|; text must stay readable on it
  const ORDERS = {
    contribution: (a, b) => (b.contribution ?? -1) - (a.contribution ?? -1) || a.neuron - b.neuron,
    rate: (a, b) => (a.rate ?? 2) - (b.rate ?? 2) || a.neuron - b.neuron,
    number: (a, b) => a.neuron - b.neuron,
  };

  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function shown(value) {
    return value === null ? "–" : String(value);
  }

  function facts(neuron) {
    const list = element("dl", undefined, "facts");
    const rows = { verdict: neuron.verdict, fires: neuron.firing, contribution: shown(neuron.contribution) };
    for (const [name, value] of Object.entries(rows)) {
      const row = element("div");
      row.append(element("dt", name), element("dd", value));
      list.append(row);
    }
    return list;
  }

  function tokens(title, words) {
    const list = element("ul", undefined, "tokens");
    list.append(...words.map((word) => element("li", word)));
    return words.length ? [element("h4", title), list] : [];
  }

  function passage({ tokens, values, peak }) {
    const largest = Math.max(...values.map((value) => Math.abs(value ?? 0)));
    const line = element("p");
    tokens.forEach((token, index) => {
      const value = values[index];
      const span = element("span", token, index === peak ? "peak" : "");
      if (value) span.style.backgroundColor = `rgb(${value > 0 ? WARM : COLD} / ${(STRONGEST * Math.abs(value)) / largest})`;
      span.title = `h = ${shown(value)}`;
      line.append(span);
    });
    const box = element("figure", undefined, "passage");
    box.append(line, element("figcaption", `outlined token: h = ${shown(values[peak])}`));
    return box;
  }

  // ------------------------------------------------------------------------------------- anatomy: z and the activation

  const silent = (neuron) => neuron.firing === "never";

  function drawn(tag, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function rounded(value) {
    return String(Number(value.toPrecision(2))).replace("-", "−");
  }

  // The histogram of z below the curve of the activation, over one axis; what lies above 0 is coloured.
  function anatomy({ z }, curve, [low, high], label) {
    const [width, height, left, top, floor] = [420, 200, 14, 12, 170];
    const x = (value) => left + ((width - 2 * left) * (value - low)) / (high - low);
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    const most = Math.max(...z.counts);
    const step = (z.high - z.low) / z.counts.length;
    z.counts.forEach((count, index) => {
      const begin = z.low + index * step;
      const bar = count ? Math.max(1.5, (90 * count) / most) : 0;
      const colour = begin + step / 2 > 0 ? "#2f7fd6" : "#8a8f98";
      svg.append(drawn("rect", { x: x(begin), y: floor - bar, width: Math.max(1, x(begin + step) - x(begin) - 0.5), height: bar, fill: colour }));
    });
    const inside = (curve ?? []).filter(([at]) => at >= low && at <= high);
    const tallest = Math.max(1e-9, ...inside.map(([, value]) => value));
    const path = inside.map(([at, value], index) => `${index ? "L" : "M"}${x(at)} ${floor - (140 * value) / tallest}`).join("");
    svg.append(
      drawn("path", { d: `M${left} ${floor}H${width - left}`, stroke: "currentColor", "stroke-width": 1 }),
      drawn("path", { d: `M${x(0)} ${top}V${floor}`, stroke: "currentColor", "stroke-width": 1, "stroke-dasharray": "3 3" }),
      drawn("path", { d: path, stroke: "#d9730d", "stroke-width": 2.5, fill: "none" }),
      drawn("text", { x: x(0), y: floor + 18, "text-anchor": "middle", "font-size": 13 }, "z = 0"),
    );
    if (x(0) - x(low) > 40) svg.append(drawn("text", { x: x(low), y: floor + 18, "font-size": 13 }, rounded(low)));
    if (x(high) - x(0) > 40) svg.append(drawn("text", { x: x(high), y: floor + 18, "text-anchor": "end", "font-size": 13 }, rounded(high)));
    return svg;
  }

  // A dead neuron has the living one of middling firing rate beside it, a living one the first of the dead.
  function counterpart(layer, neuron) {
    const others = layer.neurons.filter((other) => other.z && silent(other) !== silent(neuron));
    return silent(neuron) ? others.sort(ORDERS.rate)[others.length >> 1] : others[0];
  }

  function explained(layer, neuron) {
    if (!neuron.z) return [];
    const other = counterpart(layer, neuron);
    const pair = other ? [neuron, other] : [neuron];
    const range = [Math.min(-0.5, ...pair.map(({ z }) => z.low)), Math.max(0.5, ...pair.map(({ z }) => z.high))];
    const plots = element("div", undefined, "plots");
    plots.append(...pair.map((shown, index) => {
      const state = silent(shown) ? "dead" : "alive";
      const label = `neuron ${shown.neuron}, ${state}`;
      const figure = element("figure");
      figure.append(element("figcaption", index ? `for comparison: ${label}` : label), anatomy(shown, layer.curve, range, `Histogram of z, ${label}`));
      return figure;
    }));
    const key = "Bars: how often z has each value, on some of the text; blue above 0.";
    const curve = layer.curve ? " Orange: the activation, which makes h of z." : "";
    return [element("p", neuron.why.join(" ")), plots, element("p", key + curve, "note")];
  }

  function show(layer, neuron) {
    const passages = neuron.passages.map(passage);
    view.replaceChildren(
      element("h3", `Layer ${layer.layer}, neuron ${neuron.neuron}`),
      facts(neuron),
      ...explained(layer, neuron),
      ...tokens("Makes these tokens likelier when it fires", neuron.promoted),
      ...tokens("Makes these tokens less likely", neuron.suppressed),
      ...(passages.length ? [element("h4", "Passages where it fires most")] : []),
      ...passages,
    );
  }

  function currentLayer() {
    return data.layers.find((layer) => String(layer.layer) === layerChoice.value);
  }

  function fillNeurons() {
    const neurons = [...currentLayer().neurons].sort(ORDERS[orderChoice.value]);
    neuronChoice.replaceChildren(
      ...neurons.map((neuron) => {
        const option = element("option", `${neuron.neuron} · ${neuron.verdict} · ${neuron.firing}`);
        option.value = neuron.neuron;
        return option;
      }),
    );
  }

  function showChosen() {
    const layer = currentLayer();
    const neuron = layer.neurons.find((candidate) => String(candidate.neuron) === neuronChoice.value);
    if (neuron) show(layer, neuron);
    else view.replaceChildren(element("p", "No neuron of this layer is kept here."));
  }

  function chosenByHand() {
    showChosen();
    history.replaceState(null, "", `#neuron=${layerChoice.value}/${neuronChoice.value}`);
  }

  function step(by) {
    const next = neuronChoice.selectedIndex + by;
    if (next < 0 || next >= neuronChoice.length) return;
    neuronChoice.selectedIndex = next;
    chosenByHand();
  }

  function follow() {
    const asked = /^#neuron=(\d+)\/(\d+)$/.exec(location.hash);
    if (!asked) return false;
    const layer = data.layers.find((candidate) => candidate.layer === Number(asked[1]));
    if (layer?.neurons.some((neuron) => neuron.neuron === Number(asked[2]))) {
      layerChoice.value = layer.layer;
      fillNeurons();
      neuronChoice.value = Number(asked[2]);
      showChosen();
    } else {
      const known = byId("sky-readout")?.dataset.chosen;
      view.replaceChildren(element("p", `Neuron ${asked[2]} of layer ${asked[1]} is not among those kept here.`), ...(known ? [element("p", known)] : []));
    }
    byId("explorer").scrollIntoView();
    return true;
  }

  layerChoice.replaceChildren(
    ...data.layers.map((layer) => {
      const option = element("option", `layer ${layer.layer}`);
      option.value = layer.layer;
      return option;
    }),
  );
  fillNeurons();
  layerChoice.addEventListener("change", () => { fillNeurons(); chosenByHand(); });
  orderChoice.addEventListener("change", () => { fillNeurons(); chosenByHand(); });
  neuronChoice.addEventListener("change", chosenByHand);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  window.addEventListener("hashchange", follow);
  byId("controls").hidden = false;
  function begin() {
    const layer = data.layers.find(({ neurons }) => neurons.some((neuron) => neuron.z && silent(neuron)));
    if (layer) {
      layerChoice.value = layer.layer;
      fillNeurons();
      neuronChoice.value = layer.neurons.find((neuron) => neuron.z && silent(neuron)).neuron;
    }
    showChosen();
  }

  if (!follow()) begin();
})();
