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

  function show(layer, neuron) {
    const passages = neuron.passages.map(passage);
    view.replaceChildren(
      element("h3", `Layer ${layer.layer}, neuron ${neuron.neuron}`),
      facts(neuron),
      ...tokens("Makes these tokens likelier when it fires", neuron.promoted),
      ...tokens("Makes these tokens less likely", neuron.suppressed),
      element("h4", passages.length ? "Passages where it fires most" : "No passages are kept of this neuron"),
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
      view.replaceChildren(element("p", `Neuron ${asked[2]} of layer ${asked[1]} is not among those kept here.`));
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
  if (!follow()) showChosen();
})();
