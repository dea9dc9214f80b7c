"use strict";
/* The pictures that are compared, an instant at a time. */
const slider = document.getElementById("instant");
if (slider) {
  const rows = [...document.querySelectorAll(".instant")];
  const label = document.getElementById("time");
  const show = () => {
    rows.forEach((row, i) => { row.hidden = i !== Number(slider.value); });
    label.value = rows[slider.value].dataset.time;
  };
  slider.addEventListener("input", show);
  show();
}

/* The 3-D timeline: its time, its layers, the object that is chosen, and where it is seen from. */
class Player {
  constructor(stage, scene) {
    this.stage = stage;
    this.scene = scene;
    this.canvas = stage.canvas;
    this.bar = document.getElementById("timeline");
    this.clock = document.getElementById("clock");
    this.button = document.getElementById("play");
    this.measured = document.getElementById("measured");
    this.shown = { instant: 0, chosen: null, layers: {} };
    this.view = viewFrom(scene);
    this.pointers = new Map();
    this.waiting = false;
    this.played = null;
    this.listen();
    this.showTime();
    new ResizeObserver(() => this.resize()).observe(this.canvas);
  }

  listen() {
    for (const box of document.querySelectorAll("[data-layer]")) {
      const change = () => { this.shown.layers[box.dataset.layer] = box.checked; this.redraw(); };
      box.addEventListener("change", change);
      change();
    }
    this.bar.addEventListener("input", () => { this.pause(); this.go(Number(this.bar.value)); });
    this.button.addEventListener("click", () => this.playOrPause());
    for (const entry of document.querySelectorAll("[data-choose]")) {
      entry.addEventListener("click", () => this.choose(Number(entry.dataset.choose)));
    }
    const canvas = this.canvas;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => this.release(event));
    }
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(0.0015 * event.deltaY * (event.deltaMode ? 16 : 1)));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === " ") this.playOrPause();
      else if (step) { this.pause(); this.go(Math.round(this.shown.instant) + step); }
      else return;
      event.preventDefault();
    });
  }

  /* Time ------------------------------------------------------------------------------------- */

  go(instant) {
    const last = this.scene.seconds.length - 1;
    this.shown.instant = Math.min(Math.max(instant, 0), last);
    this.bar.value = Math.round(this.shown.instant);
    this.showTime();
    this.redraw();
  }

  seconds() {
    const [i, all] = [Math.floor(this.shown.instant), this.scene.seconds];
    return all[i] + (this.shown.instant - i) * ((all[i + 1] ?? all[i]) - all[i]);
  }

  showTime() {
    this.clock.value = seconds(this.seconds());
    if (this.measured) {
      const { instant } = this.stage.nearestEvidence(this.shown.instant);
      this.measured.textContent = `of ${seconds(this.scene.seconds[instant])}`;
    }
    this.showPlace();
  }

  playOrPause() {
    if (this.played !== null) { this.pause(); return; }
    if (this.shown.instant >= this.scene.seconds.length - 1) this.go(0);
    this.button.textContent = "Pause";
    this.played = { since: null, from: this.seconds() };
    requestAnimationFrame((now) => this.play(now));
  }

  pause() {
    this.played = null;
    this.button.textContent = "Play";
  }

  play(now) {
    if (this.played === null) return;
    this.played.since ??= now;
    const [wanted, all] = [this.played.from + (now - this.played.since) / 1000, this.scene.seconds];
    let i = Math.floor(this.shown.instant);
    while (i + 1 < all.length && all[i + 1] <= wanted) i++;
    const ended = i + 1 === all.length;
    this.go(ended ? i : i + Math.max(0, (wanted - all[i]) / (all[i + 1] - all[i])));
    if (ended) this.pause();
    else requestAnimationFrame((later) => this.play(later));
  }

  /* Choice ----------------------------------------------------------------------------------- */

  choose(id) {
    this.shown.chosen = id;
    const place = document.getElementById("chosen");
    const part = (name) => document.querySelector(`[data-${name}]`)?.cloneNode(true) ?? "";
    const thing = this.stage.objects.find((one) => one.id === id);
    for (const entry of document.querySelectorAll("[data-choose]")) {
      const pressed = Number(entry.dataset.choose) === id;
      entry.setAttribute("aria-pressed", String(pressed));
      if (pressed) entry.scrollIntoView({ block: "nearest" });
    }
    document.getElementById("unchosen").hidden = Boolean(thing);
    place.hidden = !thing;
    if (thing) {
      const [row, sides] = [part(`object="${id}"`), part(`sides="${thing.prototype}"`)];
      const words = `Object ${id}: prototype ${thing.prototype}, score ${thing.score.toFixed(2)}`;
      const strip = row && row.querySelector(".strip");
      document.getElementById("facts").replaceChildren(row || words, sides, strip);
      this.showPresence(thing);
    }
    this.showPlace();
    this.redraw();
  }

  /* A column for each instant: coloured where the object was seen, pale where it was not. */
  showPresence(thing) {
    const strip = document.getElementById("presence");
    strip.width = this.scene.seconds.length;
    const pen = strip.getContext("2d");
    const [r, g, b] = thing.colour.map((value) => Math.round(255 * value));
    for (let i = 0; i < thing.n; i++) {
      pen.fillStyle = `rgba(${r}, ${g}, ${b}, ${thing.track[6 * i + 5] ? 1 : 0.35})`;
      pen.fillRect(thing.first + i, 0, 1, 1);
    }
  }

  showPlace() {
    const thing = this.stage.objects.find((one) => one.id === this.shown.chosen);
    if (!thing) return;
    const [now, origin] = [this.stage.at(thing, this.shown.instant), this.scene.origin];
    let words = "not there at this time";
    if (now) {
      const metres = [0, 1, 2].map((k) => (now[k] + origin[k]).toFixed(2)).join(", ");
      const turn = ((((now[3] * 180) / Math.PI) % 360) + 540) % 360 - 180;
      const unseen = now[5] ? "" : " · no sensor saw it";
      words = `at ${metres} m · yaw ${turn.toFixed(0)}°${this.speed(thing)}${unseen}`;
    }
    document.getElementById("place").textContent = words;
  }

  speed(thing) {
    const i = Math.floor(this.shown.instant);
    const [now, next] = [this.stage.at(thing, i), this.stage.at(thing, i + 1)];
    if (!now || !next) return "";
    const seconds = this.scene.seconds[i + 1] - this.scene.seconds[i];
    return ` · ${(distance(now, next) / seconds).toFixed(2)} m/s`;
  }

  /* Pointer: one turns, right or shift moves, two zoom; a click chooses. ------------------------ */

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    this.clicked = this.pointers.size === 1 && event.button === 0 ? [event.clientX, event.clientY] : null;
  }

  drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (this.clicked && Math.hypot(event.clientX - this.clicked[0], event.clientY - this.clicked[1]) > 4) {
      this.clicked = null;
    }
    if (others.length) {
      const [x, y] = others[0][1];
      const apart = (a, b) => Math.max(1, Math.hypot(a - x, b - y));
      this.zoom(apart(...before) / apart(event.clientX, event.clientY));
      this.move(dx / 2, dy / 2);
    } else if (event.shiftKey || event.buttons & 2) {
      this.move(dx, dy);
    } else if (!this.clicked) {
      this.view.azimuth -= 0.006 * dx;
      this.view.height = Math.min(Math.max(this.view.height + 0.006 * dy, -1.5), 1.56);
    }
    this.redraw();
  }

  release(event) {
    this.pointers.delete(event.pointerId);
    if (!this.clicked || event.type !== "pointerup") return;
    const area = this.canvas.getBoundingClientRect();
    const [u, v] = [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
    this.clicked = null;
    this.choose(this.stage.pick(this.view, this.shown, u, v));
  }

  move(dx, dy) {
    const [right, up] = axes(this.view);
    const metres = (2 * this.view.distance * Math.tan(FIELD_OF_VIEW / 2)) / this.canvas.clientHeight;
    this.view.target = this.view.target.map((x, i) => x + metres * (dy * up[i] - dx * right[i]));
  }

  zoom(factor) {
    const { reach, distance: now } = this.view;
    this.view.distance = Math.min(Math.max(now * factor, 0.001 * reach), 4 * reach);
    this.redraw();
  }

  /* Drawing ---------------------------------------------------------------------------------- */

  resize() {
    const ratio = Math.min(window.devicePixelRatio, 2);
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    this.stage.draw(this.view, this.shown);
  }

  redraw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.stage.draw(this.view, this.shown);
    });
  }
}

function seconds(time) {
  return `${Math.round(1000 * time) / 1000} s`;
}

function viewFrom({ eye, target, size }) {
  const away = eye.map((value, i) => value - target[i]);
  const reach = Math.hypot(...size);
  const [azimuth, long] = [Math.atan2(away[1], away[0]), Math.hypot(...away)];
  return { target, azimuth, height: Math.asin(away[2] / long), distance: long, reach };
}

async function unpacked(text) {
  const letters = atob(text);
  const packed = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) packed[i] = letters.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

async function start() {
  const text = (id) => document.getElementById(id).textContent;
  try {
    const scene = JSON.parse(text("scene"));
    const bytes = await unpacked(text("shapes"));
    new Player(new Stage(document.getElementById("stage"), scene, bytes), scene);
  } catch (problem) {
    const words = `The 3-D view cannot be shown: ${problem.message}.`;
    document.getElementById("complaint").textContent = words;
    throw problem;
  }
}
start();
