// A paper to draw on by pointer or keyboard. `done` gets a canvas to classify when the hand rests.
"use strict";
function hcnnPad(paper, mark, { grey, ink, done }) {
  const pen = paper.getContext("2d");
  let strokes = [], drawing = false, cursor = [paper.width / 2, paper.height / 2], settle = 0; // strokes: lists of points

  function clear() {
    strokes = [];
    drawing = false;
    clearTimeout(settle);
    pen.fillStyle = grey ? "#000" : "#fff";
    pen.fillRect(0, 0, paper.width, paper.height);
  }

  function line(brush, points, width, colour) {
    Object.assign(brush, { strokeStyle: colour, lineWidth: width, lineCap: "round", lineJoin: "round" });
    brush.beginPath();
    brush.moveTo(points[0][0] - 0.01, points[0][1]); // so that a single point is a dot
    for (const point of points) brush.lineTo(...point);
    brush.stroke();
  }

  function add(point) {
    if (drawing) strokes[strokes.length - 1].push(point);
    else strokes.push([point]);
    drawing = true;
    line(pen, strokes[strokes.length - 1].slice(-2), 24, grey ? "#fff" : ink());
    clearTimeout(settle);
    settle = setTimeout(() => done(grey ? framed() : paper), 150);
  }

  // Grey networks learn centred figures that fill the image, as scanned digits do: the strokes are brought to that form,
  // whatever their size on the paper is.
  function framed() {
    const side = 240, thick = 0.16 * side, points = strokes.flat(), xs = points.map(([x]) => x), ys = points.map(([, y]) => y);
    const [left, top, right, bottom] = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
    const scale = (side - thick) / Math.max(right - left, bottom - top, 24);
    const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
    const brush = canvas.getContext("2d");
    brush.fillRect(0, 0, side, side);
    const fit = ([x, y]) => [side / 2 + scale * (x - (left + right) / 2), side / 2 + scale * (y - (top + bottom) / 2)];
    for (const one of strokes) line(brush, one.map(fit), thick, "#fff");
    return canvas;
  }

  function place(event) {
    const box = paper.getBoundingClientRect();
    return [((event.clientX - box.left) * paper.width) / box.width, ((event.clientY - box.top) * paper.height) / box.height];
  }
  paper.addEventListener("pointerdown", (event) => {
    paper.setPointerCapture(event.pointerId);
    drawing = false;
    add(place(event));
  });
  paper.addEventListener("pointermove", (event) => { if (drawing && event.buttons) add(place(event)); });
  for (const end of ["pointerup", "pointercancel"]) paper.addEventListener(end, () => { drawing = false; });

  function moveTo(point) {
    cursor = point.map((one) => Math.min(paper.width - 8, Math.max(8, one)));
    mark.style.left = `${(100 * cursor[0]) / paper.width}%`;
    mark.style.top = `${(100 * cursor[1]) / paper.height}%`;
  }
  paper.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] }[event.key];
    if (!step) return;
    event.preventDefault();
    if (!event.shiftKey) drawing = false;
    else if (!drawing) add(cursor);
    moveTo(cursor.map((one, i) => one + step[i]));
    if (event.shiftKey) add(cursor);
  });
  clear();
  moveTo(cursor);
  return { clear };
}
