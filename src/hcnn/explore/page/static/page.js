// The live page: its state is the address, so that back, forward and links work.
"use strict";
(async () => {
  const at = (name) => document.getElementById(name);
  const say = (text) => { at("message").textContent = text; };
  async function ask(path, options) {
    const response = await fetch(path, options);
    const answer = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
    if (!response.ok) throw new Error(answer.error || `the server answered ${response.status}`);
    return answer;
  }
  let about;
  try { about = await ask("/api/about"); } catch (error) { say(error.message); return; }
  at("title").textContent = `What the attributes of ${about.run} mean`;
  at("lead").textContent = `${about.images.toLocaleString("en")} images of ${about.data}.` +
    (about.periodic ? "" : " The network is not periodic: translations are an approximation.");
  document.title = about.run;
  at("image").max = about.images - 1;
  const sizes = Object.fromEntries(about.depths.map((one) => [one.depth, one.attributes]));
  const named = Object.fromEntries(about.depths.map((one) => [one.depth, one.named]));
  // The text beside a slider.
  function amount(depth, name, tau) {
    const meaning = hcnnView.meaning(named[depth][name], tau);
    return `τ = ${hcnnView.shown(tau)}${meaning && `: ${meaning}`}`;
  }
  // Browsers keep images for an hour, in which another run may be served at the same address: hence the digest.
  const thumb = (image) => `/image/${image}.png?${about.digest}`;
  const page = {
    classes: about.classes, thumb, queryThumb: () => thumb(state.image),
    pick: (image) => go({ ...state, image: String(image) }),
  };

  // State to address and back: #run=…&image=12&depth=7&axis=v6&v6=1&v7=0.5
  function read() {
    const given = new URLSearchParams(location.hash.slice(1));
    const depth = given.get("depth") in sizes ? Number(given.get("depth")) : about.depths[about.depths.length >> 1].depth;
    const attributes = sizes[depth], names = Object.keys(attributes), move = {};
    for (const name of names) {
      const amount = Number(given.get(name) ?? (name === names[0] ? 1 : 0));
      move[name] = Number.isFinite(amount) ? Math.max(0, Math.min(attributes[name] - 0.5, amount)) : 0;
    }
    const axis = names.includes(given.get("axis")) ? given.get("axis") : names[0];
    if (given.get("run") && given.get("run") !== about.run) say(`this link is of ${given.get("run")}; here is ${about.run}`);
    return { image: given.get("image") || "0", depth, axis, move };
  }
  const address = (s) => "#" + new URLSearchParams({ run: about.run, image: s.image, depth: s.depth, axis: s.axis, ...s.move });
  const question = (s) => new URLSearchParams({ image: s.image, depth: s.depth, axis: s.axis,
    move: Object.entries(s.move).map(([name, amount]) => `${name}:${amount}`).join() });
  let state = read(), number = 0, drawn = "", thumbed = "";
  function go(next, replace = false) {
    history[replace ? "replaceState" : "pushState"](null, "", address(next));
    say("");
    show();
  }

  at("depths").replaceChildren(...about.depths.map(({ depth }) => hcnnView.make("button", {
    type: "button", "data-depth": depth, onclick: () => go({ ...state, depth, axis: `v${depth - 1}`, move: {} }),
  }, hcnnView.make("img", { src: "data:,", alt: "" }), `x̄${depth}`)));
  // Beneath each depth the nearest image after a translation by one.
  async function thumbnails() {
    const mine = state.image;
    for (const button of at("depths").children) {
      const depth = Number(button.dataset.depth), axis = `v${depth - 1}`;
      try {
        const view = await ask("/api/view?" + new URLSearchParams({ image: mine, depth, axis, move: `${axis}:1`, k: 1 }));
        if (state.image !== mine) return;
        button.firstChild.src = page.thumb(view.rows[0].found[0][0]);
      } catch {
        if (state.image !== mine) return;
        thumbed = "";  // nothing stands for another image, and they are asked for again
        for (const one of at("depths").children) one.firstChild.src = "data:,";
        return;
      }
    }
  }
  function sliders() {
    at("sliders").replaceChildren(...Object.entries(sizes[state.depth]).map(([name, size]) => {
      const output = hcnnView.make("output", { for: `slide-${name}` }, amount(state.depth, name, state.move[name]));
      const property = named[state.depth][name]?.property;
      const slider = hcnnView.make("input", { type: "range", id: `slide-${name}`, min: 0, max: size - 0.5, step: 0.5,
        "aria-label": `translation along ${name}${property ? `, ${property}` : ""}` });
      slider.value = state.move[name];
      slider.addEventListener("input", () => {
        output.textContent = amount(state.depth, name, Number(slider.value));
        go({ ...state, axis: name, move: { ...state.move, [name]: Number(slider.value) } }, true);
      });
      return hcnnView.make("label", {}, property ? `${name}: ${property}` : name, slider, output);
    }));
  }

  // The keyboard stays where it was in what is drawn anew.
  function redraw(place, draw) {
    const number = [...place.querySelectorAll("button")].indexOf(document.activeElement);
    draw();
    place.querySelectorAll("button")[number]?.focus({ preventScroll: true });
  }

  async function show() {
    const before = state;
    state = read();
    const mine = ++number, asked = location.hash;
    at("image").value = /^\d+$/.test(state.image) ? state.image : "";
    if (before.depth !== state.depth || !at("sliders").children.length) sliders();
    else for (const [name, tau] of Object.entries(state.move)) {
      const slider = at(`slide-${name}`);
      slider.value = tau;
      slider.nextSibling.textContent = amount(state.depth, name, tau);
    }
    for (const button of at("depths").children) button.setAttribute("aria-pressed", Number(button.dataset.depth) === state.depth);
    if (thumbed !== state.image) {
      thumbed = state.image;
      thumbnails();
    }
    at("axis").textContent = state.axis;
    at("png").href = "/api/view.png?" + question(state);
    at("gif").href = "/api/walk.gif?" + question(state);
    const pair = `${state.image}/${state.depth}`, two = Object.keys(sizes[state.depth]).length > 1;
    at("pairs").hidden = !two;
    try {
      const view = await ask("/api/view?" + question(state));
      if (mine !== number) return;  // a later answer is on its way
      redraw(at("strip"), () => hcnnView.strip(at("strip"), page, view));
      at("strip").dataset.drawn = asked;  // what is shown now
      if (two && drawn !== pair) {
        drawn = pair;
        try {
          const cells = await ask("/api/grid?" + new URLSearchParams({ image: state.image, depth: state.depth }));
          if (drawn === pair) redraw(at("grid"), () => hcnnView.grid(at("grid"), page, cells, view.label));
        } catch (error) {
          if (drawn === pair) {  // nothing stands for another image, and it is asked for again
            drawn = "";
            at("grid").replaceChildren();
          }
          throw error;
        }
      }
    } catch (error) { if (mine === number) say(error.message); }
  }

  addEventListener("popstate", () => {
    say("");
    show();
  });
  at("image").addEventListener("change", () => go({ ...state, image: at("image").value || "0" }));
  at("random").addEventListener("click", () => go({ ...state, image: String(Math.floor(Math.random() * about.images)) }));
  let uploads = 0;
  at("file").addEventListener("change", async () => {
    const [file] = at("file").files, mine = ++uploads;
    if (!file) return;
    try {
      const { image } = await ask("/api/upload", { method: "POST", body: file });
      if (mine !== uploads) return;  // another file was chosen meanwhile
      go({ ...state, image });
    } catch (error) {
      if (mine !== uploads) return;
      say(error.message);
    }
    at("file").value = "";
  });
  history.replaceState(null, "", address(state));
  show();
})();
