"use strict";
/* Shapes and where they go, as numbers for WebGL. Matrices are column by column. */
const IDENTITY = new Float32Array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]);
const FIELD_OF_VIEW = Math.PI / 4;

/* Two triangles of every four corners. */
function triangles(corners, order) {
  const indices = new Uint32Array((corners.length / 4) * 6);
  for (let i = 0, j = 0; i < corners.length; i += 4) {
    for (const k of order) indices[j++] = corners[i + k];
  }
  return indices;
}

/* A cube of side 1 around the origin, as one reads a mesh. */
function cube() {
  const places = Uint16Array.from({ length: 24 }, (_, i) => (Math.floor(i / 3) >> (i % 3)) & 1);
  const faces = [[0, 2, 3, 1], [4, 5, 7, 6], [0, 1, 5, 4], [2, 6, 7, 3], [0, 4, 6, 2], [1, 3, 7, 5]];
  const bytes = new ArrayBuffer(48 + 24 + 96);
  new Uint16Array(bytes, 0, 24).set(places);
  new Uint32Array(bytes, 72, 24).set(faces.flat());
  const lower = [-0.5, -0.5, -0.5];
  return [bytes, { lower, step: 1, n: 8, places: 0, colours: 48, n_faces: 6, faces: 72 }];
}

function path(track) {
  const pairs = [];
  for (let i = 6; i < track.length; i += 6) {
    pairs.push(...track.subarray(i - 6, i - 3), ...track.subarray(i, i + 3));
  }
  return new Float32Array(pairs);
}

/* A camera (x right, y down, z forward) as a pyramid of this depth. */
function pyramid([across, down], depth) {
  const rim = [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([x, y]) => [x * across, y * down, 1]);
  const pairs = rim.flatMap((corner, i) => [[0, 0, 0], corner, corner, rim[(i + 1) % 4]]);
  return new Float32Array(pairs.flat().map((value) => value * depth));
}

function placed([x, y, z, yaw, scale], [length, width, height]) {
  const [c, s] = [Math.cos(yaw) * scale, Math.sin(yaw) * scale];
  return new Float32Array([
    c * length, s * length, 0, 0, -s * width, c * width, 0, 0, 0, 0, scale * height, 0, x, y, z, 1,
  ]);
}

function stretched([x, y, z]) {
  return new Float32Array([x, 0, 0, 0, 0, y, 0, 0, 0, 0, z, 0, 0, 0, 0, 1]);
}

function distance(a, b) {
  return Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
}

function product(a, b) {
  const c = new Float32Array(16);
  for (let i = 0; i < 16; i++) {
    for (let k = 0; k < 4; k++) c[i] += a[(i % 4) + 4 * k] * b[4 * (i >> 2) + k];
  }
  return c;
}

/* Right, up and back of a viewer at ``azimuth`` and ``height`` (rad) around its target. */
function axes({ azimuth, height }) {
  const [ca, sa, ch, sh] = [azimuth, height].flatMap((angle) => [Math.cos(angle), Math.sin(angle)]);
  return [[-sa, ca, 0], [-ca * sh, -sa * sh, ch], [ca * ch, sa * ch, sh]];
}

function clipFromWorld(view, aspect) {
  const [right, up, back] = axes(view);
  const eye = view.target.map((value, i) => value + view.distance * back[i]);
  const camera = [];
  for (let i = 0; i < 3; i++) camera.push(right[i], up[i], back[i], 0);
  const dot = (axis) => -(axis[0] * eye[0] + axis[1] * eye[1] + axis[2] * eye[2]);
  camera.push(dot(right), dot(up), dot(back), 1);
  const f = 1 / Math.tan(FIELD_OF_VIEW / 2);
  const [near, far] = [0.02 * view.distance, 4 * (view.distance + view.reach)];
  const lens = [f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (near + far) / (near - far), -1,
                0, 0, (2 * near * far) / (near - far), 0];
  return product(lens, camera);
}
