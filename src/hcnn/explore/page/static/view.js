// Draws a view of hcnn.explore.page.views; the report and the live page share it. Text goes in as text, never as HTML.
"use strict";
const hcnnView = (() => {
  function make(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "class") node.className = value;
      else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  }

  const shown = (number) => String(Math.round(number * 100) / 100).replace("-", "−");

  // What a translation by τ does to an image, where training gave the attribute a name: "hue +90 degrees".
  function meaning(named, tau) {
    if (!named) return "";
    let amount = named.step * tau;
    if (amount > named.period / 2) amount -= named.period;
    return `${named.property} ${amount > 0 ? "+" : ""}${shown(amount)} ${named.unit}`;
  }

  function tile(page, [image, label, distance, near], longest, own) {
    const name = page.classes[label];
    const far = near ? "" : ", farther than usual";
    const attributes = {
      class: "tile" + (own === null ? " unknown" : label === own ? " same" : "") + (near ? "" : " far"),
      title: `image ${image}: ${name}, distance ${shown(distance)}${far}`,
      "aria-label": `image ${image}, ${name}, distance ${shown(distance)}${far}`,
    };
    Object.assign(attributes, page.pick ? { type: "button", onclick: () => page.pick(image) } : { role: "img" });
    const bar = make("span", { class: "bar" });
    bar.style.width = `${Math.min(100, (100 * distance) / longest)}%`;
    return make(page.pick ? "button" : "div", attributes,
      make("img", { src: page.thumb(image), alt: "" }), bar, make("span", { class: "word" }, name));
  }

  function scores(page, values) {
    if (!values) return make("div", { class: "scores" });
    const box = make("div", { class: "scores", role: "group", "aria-label": "class probabilities" });
    const order = values.map((value, index) => [value, index]).sort((a, b) => b[0] - a[0]).slice(0, 3);
    for (const [value, index] of order) {
      const fill = make("span", { class: "fill" });
      fill.style.width = `${100 * value}%`;
      box.append(make("div", {}, fill, make("span", {}, page.classes[index]), make("span", {}, `${Math.round(100 * value)} %`)));
    }
    return box;
  }

  function array(canvas, lines) {
    const flat = lines.flat(), low = Math.min(...flat), high = Math.max(...flat);
    canvas.width = lines[0].length;
    canvas.height = lines.length;
    const pen = canvas.getContext("2d");
    lines.forEach((line, y) => line.forEach((value, x) => {
      const t = high > low ? (value - low) / (high - low) : 0.5;
      pen.fillStyle = `rgb(${[0, 34, 78].map((from, c) => Math.round(from + t * ([253, 231, 55][c] - from))).join()})`;
      pen.fillRect(x, y, 1, 1);
    }));
    canvas.setAttribute("aria-label", `the array, from ${shown(low)} to ${shown(high)}`);
    return make("span", { class: "scale" }, shown(low), make("span", { class: "ramp" }), shown(high));
  }

  function strip(place, page, view) {
    const longest = Math.max(view.far, ...view.rows.flatMap((row) => row.found.map((one) => one[2])));
    const names = { now: `now, τ = ${shown(view.move[view.axis])}`, shuffled: "control: order shuffled" };
    const rows = view.rows.map((row) => make("div", { class: `row ${row.kind}`, "data-tau": row.tau },
      make("div", { class: "name" }, row.kind === "shift"
        ? (row.tau === 0 ? `control: no shift along ${view.axis}` : `τ = ${row.tau}`) : names[row.kind],
        make("div", {}, row.kind === "shift" && row.tau === 0 ? "" : meaning(view.named, row.tau))),
      make("div", { class: "images" }, ...row.found.map((one) => tile(page, one, longest, view.label))),
      scores(page, row.scores)));
    const canvas = make("canvas", { role: "img" });
    const scale = array(canvas, view.array);
    const word = view.label === null ? "your image" : page.classes[view.label];
    const query = make("div", { class: "query" }, make("img", { src: page.queryThumb(view), alt: `the query: ${word}` }),
      make("div", { class: "note" }, `query: ${word}` + (view.image === null ? "" : ` (${view.image})`), canvas, scale,
        `its array at depth ${view.depth}, translated: v${view.depth - 1} down, v${view.depth} across`));
    place.replaceChildren(make("div", { class: "strip" }, query, make("div", { class: "rows" }, ...rows)));
  }

  function grid(place, page, data, own) {
    const longest = Math.max(...data.cells.flat().map((one) => one[2])) || 1;
    const head = make("tr", {}, make("th", {}, `${data.axes[0]} ↓ ${data.axes[1]} →`),
      ...data.cells[0].map((_, b) => make("th", {}, String(b))));
    const body = data.cells.map((line, a) => make("tr", {}, make("th", {}, String(a)),
      ...line.map((one) => make("td", {}, tile(page, one, longest, own)))));
    place.replaceChildren(make("table", {}, head, ...body));
  }

  return { make, strip, grid, shown, meaning };
})();
