// The map of a result: points on a canvas, coloured by a column, moved and magnified by mouse, touch or keys.
"use strict";

(() => {
  const PALETTE = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"];
  const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis
  const GREY = "#d3d9df";
  const place = document.getElementById("map");

  const colourOf = (number) => number < PALETTE.length ? PALETTE[number] : `hsl(${(number * 137.5) % 360} 55% ${40 + (number % 3) * 12}%)`;
  const ramp = (share) => {
    const at = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1), low = Math.min(Math.floor(at), RAMP.length - 2);
    return "rgb(" + RAMP[low].map((one, i) => Math.round(one + (at - low) * (RAMP[low + 1][i] - one))).join(",") + ")";
  };
  const element = (kind, attributes = {}, ...inside) => {
    const made = Object.assign(document.createElement(kind), attributes);
    made.append(...inside);
    return made;
  };
  const short = (value) => Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(3));

  function draw(points) {
    const canvas = element("canvas", { tabIndex: 0 }), pen = canvas.getContext("2d");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-describedby", "map-keys");
    const chosen = element("select", { id: "map-colour" });
    points.keys.forEach((key, i) => chosen.append(element("option", { value: i, textContent: key.name })));
    const back = element("button", { type: "button", className: "second", textContent: "Whole map" });
    const legend = element("div"), tip = element("div", { className: "tip", hidden: true });
    const keys = element("p", { id: "map-keys", className: "hint", textContent: "Drag to move, wheel or + and − to magnify, arrows to move, 0 for the whole map. Point at a cell to see what it is." });
    const top = element("div", { className: "map-top" });
    if (points.keys.length) top.append(element("div", {}, element("label", { htmlFor: "map-colour", textContent: "Colour by" }), chosen));
    top.append(back);
    place.replaceChildren(top, element("div", { className: "map-body" }, canvas, legend), keys, tip);

    const n = points.x.length, span = (values) => { let low = Infinity, high = -Infinity; for (const v of values) { low = Math.min(low, v); high = Math.max(high, v); } return [low, high]; };
    const [x0, x1] = span(points.x), [y0, y1] = span(points.y);
    // Drawn in a shuffled order that is always the same, so that no group always lies on top.
    const order = Uint32Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1, seed = 7; i > 0; i--) { seed = (seed * 1103515245 + 12345) % 2147483648; const j = seed % (i + 1); [order[i], order[j]] = [order[j], order[i]]; }
    let zoom = 1, middle = [(x0 + x1) / 2, (y0 + y1) / 2], only = null, colours = [], wide = 1, high = 1;

    const scale = () => 0.92 * zoom * Math.min(wide / (x1 - x0 || 1), high / (y1 - y0 || 1));
    const where = (i) => [(points.x[i] - middle[0]) * scale() + wide / 2, (middle[1] - points.y[i]) * scale() + high / 2];

    function paint() {
      const ratio = window.devicePixelRatio || 1;
      wide = canvas.clientWidth; high = canvas.clientHeight;
      canvas.width = wide * ratio; canvas.height = high * ratio;
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      const size = Math.max(1.2, Math.min(5, 60 / Math.sqrt(n))) * Math.min(2, Math.sqrt(zoom));
      for (const behind of [true, false])
        for (const i of order) {
          const faint = colours[i] === GREY || (only !== null && points.keys[chosen.value].codes[i] !== only);
          if (faint !== behind) continue;
          const [x, y] = where(i);
          if (x < -9 || y < -9 || x > wide + 9 || y > high + 9) continue;
          pen.fillStyle = faint ? GREY : colours[i];
          pen.beginPath(); pen.arc(x, y, size, 0, 6.2832); pen.fill();
        }
    }

    function colour() {
      const key = points.keys[chosen.value];
      only = null;
      legend.replaceChildren();
      if (!key) { colours = Array(n).fill(PALETTE[0]); }
      else if (key.levels) {
        colours = key.codes.map((code) => code < 0 ? GREY : colourOf(code));
        const list = element("ul", { className: "legend" });
        list.setAttribute("aria-label", key.name);
        key.levels.forEach((level, code) => {
          const dot = element("span", { className: "dot" });
          dot.style.background = colourOf(code);
          const button = element("button", { type: "button" }, dot, element("span", { textContent: level }), element("span", { className: "count", textContent: key.counts[code].toLocaleString("en") }));
          button.setAttribute("aria-pressed", "false");
          button.addEventListener("click", () => {
            only = only === code ? null : code;
            list.querySelectorAll("button").forEach((one, i) => one.setAttribute("aria-pressed", String(i === only)));
            paint();
          });
          list.append(element("li", {}, button));
        });
        legend.append(list);
      } else {
        const known = key.values.filter((v) => v !== null).sort((a, b) => a - b);
        const low = known[Math.floor(0.01 * (known.length - 1))], top = known[Math.ceil(0.99 * (known.length - 1))];
        colours = key.values.map((v) => v === null ? GREY : ramp(top > low ? (v - low) / (top - low) : 0.5));
        const bar = element("canvas", { className: "ramp", width: 100, height: 1 }), ink = bar.getContext("2d");
        bar.setAttribute("role", "img");
        bar.setAttribute("aria-label", `Colours of ${key.name}, from ${short(low)} to ${short(top)}`);
        for (let i = 0; i < 100; i++) { ink.fillStyle = ramp(i / 99); ink.fillRect(i, 0, 1, 1); }
        legend.append(bar, element("div", { className: "ends" }, element("span", { textContent: short(low) }), element("span", { textContent: short(top) })));
      }
      canvas.setAttribute("aria-label", `Map of ${n.toLocaleString("en")} cells` + (key ? `, coloured by ${key.name}` : ""));
      paint();
    }

    function magnify(by, x = wide / 2, y = high / 2) {
      const after = Math.min(60, Math.max(0.5, zoom * by)), before = scale();
      const at = [middle[0] + (x - wide / 2) / before, middle[1] - (y - high / 2) / before];
      zoom = after;
      middle = [at[0] - (x - wide / 2) / scale(), at[1] + (y - high / 2) / scale()];
      paint();
    }
    const move = (dx, dy) => { middle = [middle[0] - dx / scale(), middle[1] + dy / scale()]; paint(); };
    const whole = () => { zoom = 1; middle = [(x0 + x1) / 2, (y0 + y1) / 2]; paint(); };

    function point(event) {
      const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
      let best = -1, nearest = 100;
      for (let i = 0; i < n; i++) {
        const [a, b] = where(i), far = (a - x) ** 2 + (b - y) ** 2;
        if (far < nearest) { nearest = far; best = i; }
      }
      tip.hidden = best < 0;
      if (best < 0) return;
      const key = points.keys[chosen.value], outer = place.getBoundingClientRect();
      let said = "";
      if (key) said = key.levels ? (key.codes[best] < 0 ? "none" : key.levels[key.codes[best]]) : (key.values[best] === null ? "none" : short(key.values[best]));
      tip.textContent = points.cells[best] + (key ? ` · ${key.name}: ${said}` : "");
      const left = event.clientX - outer.left + 12;
      tip.style.left = Math.min(left, outer.width - Math.min(260, tip.offsetWidth) - 4) + "px";
      tip.style.top = event.clientY - outer.top + 14 + "px";
    }

    let dragged = null;
    canvas.addEventListener("pointerdown", (event) => { dragged = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); point(event); });
    canvas.addEventListener("pointermove", (event) => {
      if (!dragged) { point(event); return; }
      tip.hidden = true;
      move(event.clientX - dragged[0], event.clientY - dragged[1]);
      dragged = [event.clientX, event.clientY];
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { dragged = null; });
    canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
    canvas.addEventListener("wheel", (event) => { event.preventDefault(); magnify(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.offsetX, event.offsetY); }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const acts = { "+": () => magnify(1.3), "=": () => magnify(1.3), "-": () => magnify(1 / 1.3), "0": whole,
        ArrowLeft: () => move(40, 0), ArrowRight: () => move(-40, 0), ArrowUp: () => move(0, 40), ArrowDown: () => move(0, -40) };
      if (acts[event.key]) { event.preventDefault(); acts[event.key](); }
    });
    back.addEventListener("click", whole);
    chosen.addEventListener("change", colour);
    new ResizeObserver(paint).observe(canvas);
    colour();
    place.dataset.ready = "yes";
  }

  if (place) fetch(place.dataset.points).then((answer) => answer.ok ? answer.json() : Promise.reject(answer.status)).then(draw)
    .catch((error) => console.warn("the picture stays, the map does not come:", error));
})();
