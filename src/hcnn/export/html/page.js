// The page around a network: pictures in, class probabilities out, and sliders that translate the arrays within.
// Names come from data and go into the page as text, never as HTML.
"use strict";
(() => {
  const spec = JSON.parse(document.getElementById("network").textContent);
  const at = (id) => document.getElementById(id);
  const [height, width] = spec.size, places = height * width;
  let depth = 0, shifts = [], base = null;
  let asked = 0, current = 0; // numbers of the picture that was given last, which may be unreadable, and of the one shown

  function make(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (key === "class") node.className = value;
      else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  }

  // -------------------------------------------------------------------------------------------- the network at work
  const ask = (() => {
    const waiting = new Map(); // by number: a question, and what takes the answer
    let count = 0, image = null, send;
    function give([id, found]) {
      const { question, done } = waiting.get(id);
      waiting.delete(id);
      if (question.kind === "image") image = question;
      done(found);
    }
    function answerHere() { // a browser that allows no worker to a file on disk, or a worker that failed
      const answer = hcnnAnswer(hcnnNetwork.load(spec));
      if (image) answer(image); // the last one, whose arrays the waiting questions are about
      send = (id) => setTimeout(() => give([id, answer(waiting.get(id).question)]), 0);
      for (const id of waiting.keys()) send(id);
    }
    try {
      const source = at("engine").textContent +
        "\nlet answer; onmessage = ({ data: [id, question] }) => {" +
        " if (question.kind === 'load') answer = hcnnAnswer(hcnnNetwork.load(question.spec));" +
        " else postMessage([id, answer(question)]); };";
      const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
      worker.onmessage = ({ data }) => give(data);
      worker.onerror = (event) => { // a page's security policy is told in this way only
        event.preventDefault();
        worker.terminate();
        answerHere();
      };
      worker.postMessage([0, { kind: "load", spec }]);
      send = (id) => worker.postMessage([id, waiting.get(id).question]);
    } catch (refused) {
      answerHere();
    }
    return (question) => new Promise((done) => {
      waiting.set(++count, { question, done });
      send(count);
    });
  })();

  function probabilities(logits) {
    const top = Math.max(...logits), powers = logits.map((one) => Math.exp(one - top));
    const sum = powers.reduce((a, b) => a + b);
    return powers.map((one) => one / sum);
  }

  const percent = (value) => `${(100 * value).toFixed(1)} %`;

  function showScores(now, before) {
    const order = [...now.keys()].sort((a, b) => (before ?? now)[b] - (before ?? now)[a]).slice(0, 10);
    const best = now.indexOf(Math.max(...now));
    at("scores").replaceChildren(...order.map((index) => {
      const fill = make("span", { class: "fill" });
      fill.style.width = `${100 * now[index]}%`;
      const track = make("span", { class: "track" }, fill);
      if (before) {
        const mark = make("span", { class: "before", title: `without a translation: ${percent(before[index])}` });
        mark.style.left = `calc(${100 * before[index]}% - 1px)`;
        track.append(mark);
      }
      return make("div", { class: index === best ? "score best" : "score", role: "listitem" },
        make("span", { class: "name", title: spec.classes[index] }, spec.classes[index]), track,
        make("span", { class: "number" }, percent(now[index])));
    }));
    return best;
  }

  // ------------------------------------------------------------------------------------------------------- pictures
  // The largest centred part of the network's shape, made small in halves so that nothing is skipped over.
  function shrink(source, w, h) {
    const scale = Math.min(w / width, h / height);
    let [cw, ch] = [width * scale, height * scale], from = source, [x, y] = [(w - cw) / 2, (h - ch) / 2];
    for (;;) {
      const last = cw < 2 * width * 1.001;
      const [tw, th] = last ? [width, height] : [Math.ceil(cw / 2), Math.ceil(ch / 2)];
      const canvas = Object.assign(document.createElement("canvas"), { width: tw, height: th });
      const pen = canvas.getContext("2d", { willReadFrequently: true });
      pen.fillStyle = "#fff"; // behind transparent pixels
      pen.fillRect(0, 0, tw, th);
      pen.imageSmoothingQuality = "high";
      pen.drawImage(from, x, y, cw, ch, 0, 0, tw, th);
      if (last) return pen.getImageData(0, 0, width, height).data;
      [from, x, y, cw, ch] = [canvas, 0, 0, tw, th];
    }
  }

  function bytesOf(pixels) {
    const bytes = new Uint8Array(spec.channels * places);
    for (let i = 0; i < places; i++) {
      const [r, g, b] = pixels.subarray(4 * i, 4 * i + 3);
      if (spec.channels === 1) bytes[i] = Math.round(0.299 * r + 0.587 * g + 0.114 * b);
      else [bytes[i], bytes[places + i], bytes[2 * places + i]] = [r, g, b];
    }
    return bytes;
  }

  function paint(canvas, bytes) {
    Object.assign(canvas, { width, height });
    const image = new ImageData(width, height);
    for (let i = 0; i < places; i++) {
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = bytes[(spec.channels === 1 ? 0 : c) * places + i];
      image.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  function showInput(bytes, name) {
    const canvas = paint(at("input"), bytes);
    canvas.setAttribute("aria-label", `the image as the network sees it: ${name}`);
  }

  async function classify(bytes, name) {
    const mine = ++current;
    asked++;
    showInput(bytes, name);
    const { logits, milliseconds } = await ask({ kind: "image", bytes });
    if (mine !== current) return null;
    base = probabilities(logits);
    const best = showScores(base);
    at("status").textContent =
      `${name}: ${spec.classes[best]}, ${percent(base[best])}. Computed in ${milliseconds.toFixed(0)} ms on this device.`;
    shifts = shifts.map(() => 0);
    setSliders();
    await showArray();
    return logits;
  }

  async function read(blob) {
    try {
      return await createImageBitmap(blob); // upright, as its EXIF says
    } catch (refused) { // SVG, for example
      const image = new Image(), url = URL.createObjectURL(blob);
      image.src = url;
      try { await image.decode(); } finally { URL.revokeObjectURL(url); }
      if (!image.width || !image.height) throw refused;
      return image;
    }
  }

  async function open(blob, name) {
    at("status").textContent = `${name}: reading …`;
    const mine = ++asked; // the picture before it is shown until this one has been read
    let pixels;
    try {
      const image = await read(blob);
      pixels = shrink(image, image.width, image.height);
    } catch (error) {
      if (mine === asked) at("status").textContent = `${name}: this is not a picture, or one that your browser cannot read.`;
      return;
    }
    if (mine === asked) await classify(bytesOf(pixels), name); // else another picture came meanwhile
  }

  function take(files, name) { // the first picture of what was chosen, dropped or pasted
    const file = [...files].find((one) => one.type.startsWith("image/")) ?? files[0];
    if (file) open(file, name ?? file.name);
    else at("status").textContent = "There is no picture in what was dropped or pasted.";
  }
  for (const input of [at("file"), at("camera")]) {
    input.addEventListener("change", () => {
      if (input.files.length) take(input.files);
      input.value = ""; // the same file may be chosen again
    });
  }
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("drop"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("drop"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("drop");
    take(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => take(event.clipboardData.files, "pasted picture"));
  const decode = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  spec.examples.forEach(({ bytes, label }) => {
    const show = decode(bytes), small = paint(document.createElement("canvas"), show);
    at("examples").append(make("button", { type: "button", "aria-label": `example: ${label}`, title: label,
      onclick: () => classify(show, `example (${label})`) }, make("img", { src: small.toDataURL(), alt: "" })));
  });

  // -------------------------------------------------------------------------------------------------------- drawing
  const paper = at("paper"), grey = spec.channels === 1;
  const pad = hcnnPad(paper, at("cursor"), {
    grey, ink: () => at("ink").value,
    done: (drawing) => classify(bytesOf(shrink(drawing, drawing.width, drawing.height)), "your drawing"),
  });
  at("clear").addEventListener("click", pad.clear);
  at("inks").hidden = grey;
  function showPad(open) {
    at("pad").hidden = !open;
    at("image").classList.toggle("drawing", open);
    at("draw").setAttribute("aria-expanded", String(open));
  }
  at("draw").addEventListener("click", () => {
    showPad(at("pad").hidden);
    if (!at("pad").hidden) paper.focus();
  });

  // --------------------------------------------------------------------------------------------------------- inside
  const attributes = () => spec.arrays[depth - 1];

  function setDepth(j) {
    depth = j;
    for (const button of at("depths").children) button.setAttribute("aria-pressed", String(button.value === String(j)));
    const { axes, sizes, exact } = attributes();
    shifts = axes.map(() => 0);
    at("sliders").replaceChildren(...axes.map((axis, index) => {
      const amount = make("output", {}, "0");
      const slider = make("input", {
        type: "range", min: 0, max: sizes[index] - 1, step: 1, value: 0, "aria-label": `translation along ${axis}`,
        oninput: () => { shifts[index] = Number(slider.value); amount.textContent = slider.value; move(); },
      });
      const name = make("span", {}, `v${axis.slice(1)}`);
      return make("label", {}, name, slider, amount);
    }));
    at("law").textContent = !spec.periodic
      ? "This network extends its arrays by zeros, so a translation is an approximation at the border."
      : "This network is periodic: a translation by a multiple of " +
        exact.map((step, index) => `${step || "(none)"} along ${axes[index]}`).join(", ") +
        " leaves the class scores unchanged (Proposition 3.1), whatever the image.";
    showScoresAgain();
    return showArray();
  }

  function showScoresAgain() { if (base) showScores(base); at("moved").textContent = ""; }

  function setSliders() {
    [...at("sliders").querySelectorAll("input")].forEach((slider, index) => {
      slider.value = shifts[index];
      slider.nextElementSibling.textContent = String(shifts[index]);
    });
    at("moved").textContent = "";
  }

  let busy = false, again = null;
  async function move() { // the newest position of the sliders wins; those in between are skipped
    if (!base) return;
    if (busy) { again = shifts; return; }
    busy = true;
    do {
      again = null;
      const mine = shifts; // another layer, image or start has other shifts
      const { array, logits, milliseconds } = await ask({ kind: "translate", depth, shifts: [...shifts] });
      if (mine !== shifts) continue;
      const now = probabilities(logits);
      const best = showScores(now, base);
      drawArray(array);
      const change = Math.max(...now.map((one, index) => Math.abs(one - base[index])));
      at("moved").textContent = `${spec.classes[best]}, ${percent(now[best])}; the largest change of a probability is ` +
        `${percent(change)} (the orange marks show the answer without a translation). ${milliseconds.toFixed(0)} ms.`;
    } while (again === shifts);
    busy = false;
  }

  async function showArray() {
    if (!base) return;
    const j = depth, { array } = await ask({ kind: "array", depth: j });
    if (j === depth) drawArray(array);
  }

  const dark = [0, 34, 78], light = [253, 231, 55];
  // Columns for the newest attribute, rows for the one before, panels for all older ones; each cell is one map of space.
  function drawArray({ values, extent: [rows, columns] }) {
    const { axes, sizes } = attributes();
    const [down, across] = [1, ...sizes].slice(-2), panels = values.length / (rows * columns * down * across);
    const gap = 1, cellW = columns + gap, cellH = rows + gap, panelH = down * cellH + 4 * gap;
    const canvas = at("array");
    canvas.width = across * cellW + gap;
    canvas.height = panels * panelH;
    const sorted = values.slice().sort(); // a few large values would leave everything else dark
    const low = sorted[Math.floor(0.01 * (sorted.length - 1))], high = sorted[Math.ceil(0.99 * (sorted.length - 1))];
    const brush = canvas.getContext("2d"), image = brush.createImageData(canvas.width, canvas.height);
    for (let m = 0; m < values.length / (rows * columns); m++) {
      const panel = Math.floor(m / (down * across)), y0 = panel * panelH + (Math.floor(m / across) % down) * cellH + gap;
      const x0 = (m % across) * cellW + gap;
      for (let y = 0; y < rows; y++) for (let x = 0; x < columns; x++) {
        const value = values[(m * rows + y) * columns + x];
        const t = high > low ? Math.min(1, Math.max(0, (value - low) / (high - low))) : 0.5;
        const to = 4 * ((y0 + y) * canvas.width + x0 + x);
        for (let c = 0; c < 3; c++) image.data[to + c] = dark[c] + t * (light[c] - dark[c]);
        image.data[to + 3] = 255;
      }
    }
    brush.putImageData(image, 0, 0);
    const scale = Math.max(1, Math.min(12, Math.round(Math.min(700 / canvas.width, 420 / canvas.height))));
    canvas.style.width = `${canvas.width * scale}px`;
    const range = `from ${low.toFixed(2)} (dark) to ${high.toFixed(2)} (light), without the outermost 1 %`;
    canvas.setAttribute("aria-label", `the array x${depth}, ${sizes.join(" by ")} maps, ${range}`);
    const order = [`columns go along ${axes.at(-1)}`];
    if (axes.length > 1) order.push(`rows along ${axes.at(-2)}`);
    if (axes.length > 2) order.push(`blocks along ${axes.slice(0, -2).join(", ")}`);
    at("legend").textContent =
      `x${depth}: ${sizes.join(" × ")} maps of ${rows} × ${columns} places; ${order.join(", ")}. Values ${range}.`;
  }

  at("depths").append(...spec.arrays.map((_, index) =>
    make("button", { type: "button", value: index + 1, onclick: () => setDepth(index + 1) }, `layer ${index + 1}`)));
  at("reset").addEventListener("click", () => { shifts = shifts.map(() => 0); setSliders(); showScoresAgain(); showArray(); });
  setDepth(Math.min(spec.arrays.length, Math.ceil((spec.arrays.length + 1) / 2)));
  if (spec.examples.length) at("examples").querySelector("button").click();
  showPad(location.hash === "#drawing");
  if (parent !== window) { // in a frame of another page, which makes the frame as high as this page is
    at("within").open = false;
    new ResizeObserver(() => parent.postMessage({ hcnnHeight: document.body.offsetHeight }, "*")).observe(document.body);
  }
  window.hcnnPage = { classify, ask, take }; // for programs that drive the page
})();
