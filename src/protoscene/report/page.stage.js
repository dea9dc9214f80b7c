"use strict";
/* Draws the scene with WebGL 2. World: metres, +z up, counted from the scene's origin. */

const SURFACE = [`#version 300 es
layout(location = 0) in vec3 place;
layout(location = 1) in vec3 colour;
uniform mat4 clip, pose;
uniform vec3 lower;
uniform float step_m, point_px;
out vec3 world, rgb;
void main() {
  world = (pose * vec4(lower + step_m * place, 1.0)).xyz;
  rgb = colour;
  gl_Position = clip * vec4(world, 1.0);
  gl_PointSize = clamp(point_px / gl_Position.w, 1.5, 14.0);
}`, `#version 300 es
precision highp float;
in vec3 world, rgb;
uniform vec4 only;    /* of this colour, where its alpha is not 0 */
uniform float shade;  /* 0 for points, which face nowhere */
out vec4 pixel;
void main() {
  vec3 across = cross(dFdx(world), dFdy(world));
  float facing = shade > 0.0 ? dot(normalize(across), vec3(-0.35, -0.52, 0.78)) : 0.0;
  float light = 1.0 - shade + shade * facing;
  pixel = only.a > 0.0 ? only : vec4(rgb * light, 1.0);
}`];

const LINE = [`#version 300 es
layout(location = 0) in vec3 start;
layout(location = 1) in vec3 end;
uniform mat4 clip, pose;
uniform vec2 viewport;
uniform float width;
const float NEAR = 0.01;
void main() {
  vec4 a = clip * pose * vec4(start, 1.0), b = clip * pose * vec4(end, 1.0);
  if (a.w < NEAR && b.w > NEAR) a = mix(a, b, (NEAR - a.w) / (b.w - a.w));
  if (b.w < NEAR && a.w > NEAR) b = mix(b, a, (NEAR - b.w) / (a.w - b.w));
  int corner = gl_VertexID & 3;
  vec2 along = (b.xy / b.w - a.xy / a.w) * viewport;
  along = length(along) > 0.0 ? normalize(along) : vec2(1.0, 0.0);
  vec2 across = vec2(-along.y, along.x) * ((corner & 1) == 0 ? width : -width);
  gl_Position = corner < 2 ? a : b;
  gl_Position.xy += (across + along * (corner < 2 ? -0.4 : 0.4) * width) / viewport * gl_Position.w;
  gl_Position.z -= 2e-4 * gl_Position.w;
}`, `#version 300 es
precision mediump float;
uniform vec4 only;
out vec4 pixel;
void main() { pixel = only; }`];

const GREY = [0.62, 0.65, 0.69];
const DARK = [0.32, 0.36, 0.41];
const PICK_PX = 5;

class Stage {
  constructor(canvas, scene, bytes) {
    this.canvas = canvas;
    this.scene = scene;
    const gl = canvas.getContext("webgl2", { antialias: !drawnByProcessor(), alpha: false });
    if (!gl) throw new Error("this browser has no WebGL 2");
    this.gl = gl;
    this.surface = program(gl, SURFACE);
    this.line = program(gl, LINE);
    this.background = scene.background && this.mesh(bytes, scene.background);
    this.prototypes = scene.prototypes.map((mesh) => mesh && this.mesh(bytes, mesh));
    this.evidence = scene.evidence.map((points) => ({ ...points, ...this.points(bytes, points) }));
    this.box = this.segments(new Float32Array(scene.box));
    this.solid = this.mesh(...cube());
    this.grid = this.segments(new Float32Array(scene.box.slice(0, 72)));
    this.objects = scene.objects.map((thing) => {
      const track = new Float32Array(bytes, thing.track, 6 * thing.n);
      return { ...thing, track, path: thing.moving ? this.segments(path(track)) : null };
    });
    this.cameras = scene.cameras.map((camera) => ({
      poses: new Float32Array(bytes, camera.poses, 12 * scene.seconds.length),
      lines: this.segments(pyramid(camera.tangents, 0.03 * distance(scene.eye, scene.target))),
    }));
    this.small = this.pickBuffer();
    gl.enable(gl.DEPTH_TEST);
    gl.enable(gl.CULL_FACE);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
  }

  points(bytes, part) {
    const gl = this.gl;
    const vertices = gl.createVertexArray();
    gl.bindVertexArray(vertices);
    buffer(gl, gl.ARRAY_BUFFER, new Uint16Array(bytes, part.places, 3 * part.n));
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 3, gl.UNSIGNED_SHORT, false, 6, 0);
    buffer(gl, gl.ARRAY_BUFFER, new Uint8Array(bytes, part.colours, 3 * part.n));
    gl.enableVertexAttribArray(1);
    gl.vertexAttribPointer(1, 3, gl.UNSIGNED_BYTE, true, 3, 0);
    return { vertices, n: part.n, lower: part.lower, step: part.step };
  }

  mesh(bytes, part) {
    const made = this.points(bytes, part);
    const corners = new Uint32Array(bytes, part.faces, 4 * part.n_faces);
    buffer(this.gl, this.gl.ELEMENT_ARRAY_BUFFER, triangles(corners, [0, 1, 2, 0, 2, 3]));
    return { ...made, n: 6 * part.n_faces };
  }

  /* Lines from pairs of points, each a strip of its own width. */
  segments(pairs) {
    const gl = this.gl;
    const n = pairs.length / 6;
    const quads = new Float32Array(24 * n);
    for (let i = 0; i < n; i++) {
      for (let k = 0; k < 4; k++) quads.set(pairs.subarray(6 * i, 6 * i + 6), 24 * i + 6 * k);
    }
    const vertices = gl.createVertexArray();
    gl.bindVertexArray(vertices);
    buffer(gl, gl.ARRAY_BUFFER, quads);
    for (const k of [0, 1]) {
      gl.enableVertexAttribArray(k);
      gl.vertexAttribPointer(k, 3, gl.FLOAT, false, 24, 12 * k);
    }
    const corners = Uint32Array.from({ length: 4 * n }, (_, i) => i);
    buffer(gl, gl.ELEMENT_ARRAY_BUFFER, triangles(corners, [0, 1, 2, 2, 1, 3]));
    return { vertices, n: 6 * n };
  }

  pickBuffer() {
    const gl = this.gl;
    const target = gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, target);
    for (const [format, place] of [[gl.RGBA8, gl.COLOR_ATTACHMENT0],
                                   [gl.DEPTH_COMPONENT24, gl.DEPTH_ATTACHMENT]]) {
      const part = gl.createRenderbuffer();
      gl.bindRenderbuffer(gl.RENDERBUFFER, part);
      gl.renderbufferStorage(gl.RENDERBUFFER, format, PICK_PX, PICK_PX);
      gl.framebufferRenderbuffer(gl.FRAMEBUFFER, place, gl.RENDERBUFFER, part);
    }
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    return target;
  }

  /* x y z yaw scale seen of an object at an instant or between two; null where it is not. */
  at(thing, instant) {
    const i = Math.floor(instant) - thing.first;
    const share = instant - Math.floor(instant);
    if (i < 0 || i >= thing.n || (share > 0 && i + 1 >= thing.n)) return null;
    const now = thing.track.subarray(6 * i, 6 * i + 6);
    if (share === 0) return [...now];
    const next = thing.track.subarray(6 * i + 6, 6 * i + 12);
    return [...now].map((value, k) => (k < 5 ? value + share * (next[k] - value) : value));
  }

  draw(view, shown) {
    const { gl, canvas } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(1, 1, 1, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    this.clip = clipFromWorld(view, canvas.width / canvas.height);
    this.drawSurfaces(shown, () => [0, 0, 0, 0], false);
    if (shown.layers.evidence) this.drawEvidence(shown);
    gl.useProgram(this.line.id);
    gl.uniformMatrix4fv(this.line.clip, false, this.clip);
    gl.uniform2f(this.line.viewport, canvas.width, canvas.height);
    gl.disable(gl.CULL_FACE);
    gl.enable(gl.BLEND);
    this.drawLines(this.grid, stretched(this.scene.size), [...GREY, 1], 1);
    for (const thing of this.objects) this.drawPath(thing, shown);
    for (const thing of this.objects) this.drawBox(thing, shown);
    if (shown.layers.cameras) this.drawCameras(Math.floor(shown.instant));
    gl.disable(gl.BLEND);
    gl.enable(gl.CULL_FACE);
  }

  /* Background and objects, these as boxes if ``solid``; ``only`` gives each number its colour. */
  drawSurfaces(shown, only, solid) {
    const { gl, surface } = this;
    gl.useProgram(surface.id);
    gl.uniformMatrix4fv(surface.clip, false, this.clip);
    gl.uniform1f(surface.shade, 0.22);
    const parts = [];
    if (shown.layers.background && this.background) parts.push([this.background, IDENTITY, 0]);
    this.objects.forEach((thing, i) => {
      const mesh = solid ? this.solid : shown.layers.objects && this.prototypes[thing.prototype];
      const now = mesh && this.at(thing, shown.instant);
      if (now) parts.push([mesh, placed(now, solid ? thing.dims : [1, 1, 1]), i + 1]);
    });
    for (const [mesh, pose, number] of parts) {
      this.bind(mesh, pose);
      gl.uniform4fv(surface.only, only(number));
      gl.drawElements(gl.TRIANGLES, mesh.n, gl.UNSIGNED_INT, 0);
    }
  }

  bind(part, pose) {
    const { gl, surface } = this;
    gl.uniformMatrix4fv(surface.pose, false, pose);
    gl.uniform3fv(surface.lower, part.lower);
    gl.uniform1f(surface.step_m, part.step);
    gl.bindVertexArray(part.vertices);
  }

  /* What was measured at the instant that is nearest. */
  nearestEvidence(instant) {
    return this.evidence.reduce((best, one) => (
      Math.abs(one.instant - instant) < Math.abs(best.instant - instant) ? one : best
    ));
  }

  drawEvidence(shown) {
    const { gl, surface } = this;
    gl.useProgram(surface.id);
    const points = this.nearestEvidence(shown.instant);
    gl.uniform1f(surface.shade, 0);
    gl.uniform4f(surface.only, 0, 0, 0, 0);
    const focal = this.canvas.height / (2 * Math.tan(FIELD_OF_VIEW / 2));
    gl.uniform1f(surface.point_px, 0.003 * distance(this.scene.eye, this.scene.target) * focal);
    this.bind(points, IDENTITY);
    gl.drawArrays(gl.POINTS, 0, points.n);
  }

  drawLines(lines, pose, colour, width) {
    const { gl, line } = this;
    gl.uniformMatrix4fv(line.pose, false, pose);
    gl.uniform4fv(line.only, colour);
    gl.uniform1f(line.width, width * this.pixelRatio());
    gl.bindVertexArray(lines.vertices);
    gl.drawElements(gl.TRIANGLES, lines.n, gl.UNSIGNED_INT, 0);
  }

  pixelRatio() {
    return this.canvas.width / Math.max(1, this.canvas.clientWidth);
  }

  drawPath(thing, shown) {
    if (!shown.layers.tracks || !thing.path) return;
    const other = shown.chosen !== null && thing.id !== shown.chosen;
    const width = thing.id === shown.chosen ? 4 : 2.5;
    this.drawLines(thing.path, IDENTITY, [...thing.colour, other ? 0.3 : 1], width);
  }

  drawBox(thing, shown) {
    const now = shown.layers.boxes && this.at(thing, shown.instant);
    if (!now) return;
    const alpha = now[5] ? 1 : 0.4;
    const width = thing.id === shown.chosen ? 4.5 : 2;
    this.drawLines(this.box, placed(now, thing.dims), [...thing.colour, alpha], width);
  }

  drawCameras(instant) {
    for (const { poses, lines } of this.cameras) {
      const p = poses.subarray(12 * instant, 12 * instant + 12);
      if (Number.isNaN(p[0])) continue;
      const pose = [p[0], p[4], p[8], 0, p[1], p[5], p[9], 0, p[2], p[6], p[10], 0, p[3], p[7], p[11], 1];
      this.drawLines(lines, new Float32Array(pose), [...DARK, 1], 1.5);
    }
  }

  /* The object that is seen at a place of the canvas (0 to 1, from the top left), or within two
     pixels of it, or in whose box that is; null where there is none. */
  pick(view, shown, u, v) {
    const { gl, canvas } = this;
    const [x, y] = [canvas.width / PICK_PX, canvas.height / PICK_PX];
    const zoom = [x, 0, 0, 0, 0, y, 0, 0, 0, 0, 1, 0, x * (1 - 2 * u), y * (2 * v - 1), 0, 1];
    this.clip = product(zoom, clipFromWorld(view, canvas.width / canvas.height));
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.small);
    gl.viewport(0, 0, PICK_PX, PICK_PX);
    gl.clearColor(0, 0, 0, 0);
    const number = this.numberSeen(shown, false) || this.numberSeen(shown, true);
    return number ? this.objects[number - 1].id : null;
  }

  numberSeen(shown, solid) {
    const gl = this.gl;
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const part = (number, shift) => ((number >> shift) & 255) / 255;
    this.drawSurfaces(shown, (n) => [part(n, 0), part(n, 8), part(n, 16), 1], solid);
    const pixels = new Uint8Array(4 * PICK_PX * PICK_PX);
    gl.readPixels(0, 0, PICK_PX, PICK_PX, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    const numbers = [];
    for (let i = 0; i < pixels.length; i += 4) {
      numbers.push(pixels[i] + 256 * pixels[i + 1] + 65536 * pixels[i + 2]);
    }
    return numbers[(numbers.length - 1) / 2] || numbers.find((number) => number > 0) || 0;
  }
}

/* Without a graphics card smooth edges cost more than all else. */
function drawnByProcessor() {
  const gl = document.createElement("canvas").getContext("webgl2");
  const named = gl?.getExtension("WEBGL_debug_renderer_info");
  const name = named ? gl.getParameter(named.UNMASKED_RENDERER_WEBGL) : "";
  return /swiftshader|llvmpipe|software|basic render/i.test(name);
}

function program(gl, sources) {
  const id = gl.createProgram();
  sources.forEach((source, i) => {
    const shader = gl.createShader(i ? gl.FRAGMENT_SHADER : gl.VERTEX_SHADER);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(id, shader);
  });
  gl.linkProgram(id);
  if (!gl.getProgramParameter(id, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(id));
  const names = ["clip", "pose", "lower", "step_m", "point_px", "only", "shade", "viewport", "width"];
  const places = names.map((name) => [name, gl.getUniformLocation(id, name)]);
  return { id, ...Object.fromEntries(places) };
}

function buffer(gl, target, values) {
  gl.bindBuffer(target, gl.createBuffer());
  gl.bufferData(target, values, gl.STATIC_DRAW);
}
