// The report: every view lies in the file; two menus choose among them.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const page = { classes: data.classes, thumb: (image) => data.thumbs[image], queryThumb: (view) => data.thumbs[view.image] };
  const query = document.getElementById("query"), depth = document.getElementById("depth");
  const keys = Object.keys(data.views).map((key) => key.split("/"));
  const fill = (menu, values, name) =>
    menu.replaceChildren(...[...new Set(values)].map((value) => hcnnView.make("option", { value }, name(value))));
  function draw() {
    const view = data.views[`${query.value}/${depth.value}`];
    for (const place of document.querySelectorAll(".axis")) place.textContent = view.axis;
    hcnnView.strip(document.getElementById("strip"), page, view);
  }
  fill(query, keys.map((key) => key[0]), (image) => `${data.classes[data.labels[image]]} (image ${image})`);
  fill(depth, keys.map((key) => key[1]), (j) => `depth ${j}`);
  query.value = keys[0][0];
  depth.value = String(data.depth);
  for (const menu of [query, depth]) menu.addEventListener("change", draw);
  draw();

  // The frame is as high as its page, and takes the pictures that are dropped or pasted beside it.
  const frame = document.getElementById("own");
  if (!frame) return;
  addEventListener("message", ({ data, source }) => {
    if (source === frame.contentWindow && data.hcnnHeight) frame.style.height = `${data.hcnnHeight + 2}px`;
  });
  const give = (files, name) => {
    if (!frame.contentWindow.hcnnPage) return;
    frame.contentWindow.hcnnPage.take(files, name);
    frame.scrollIntoView({ block: "start" });
  };
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => { event.preventDefault(); give(event.dataTransfer.files); });
  addEventListener("paste", (event) => give(event.clipboardData.files, "pasted picture"));
})();
