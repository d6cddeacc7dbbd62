// Draws a cloud in 3D: loads its tiles when they are needed, shows a query in its surroundings, colours by any column.

import {
  BufferAttribute, BufferGeometry, Color, DepthTexture, Mesh, NearestFilter, OrbitControls, OrthographicCamera,
  PerspectiveCamera, PlaneGeometry, Points, Scene, ShaderMaterial, UnsignedIntType, Vector2, Vector3, WebGLRenderer,
  WebGLRenderTarget,
} from "three";

const FIELD = 50; // degrees
const BATCH = 250000; // points of one request
const SPACING = 1.3; // pixels between drawn points that are near enough to look like a surface
const FIRST_POINTS = 50000; // points of a scene that its first picture waits for
// Limits of the number of points in a picture. While something moves, it is what the machine draws 30 times a second.
const MIN_POINTS = 15000, MAX_POINTS = 3000000;
const SLOW = 200000; // points; a machine that draws fewer gets half as many pixels along each edge while something moves
const MIN_STILL_POINTS = 150000; // points of a picture while nothing moves, at least
const STILL_AFTER = 160; // milliseconds without a movement, after which the finer picture is drawn
const MAX_LOADED = 6000000; // points of a scene that a browser holds, at most
const MAX_SCENES = 3; // scenes that stay on the GPU, at most

const VERTEX = `
attribute vec4 tint;
uniform vec3 uFocus, uEye, uPaper;
uniform float uHasFocus, uReach, uStep, uScale, uThin, uCut, uTint, uSplit, uLargest;
varying vec3 vColor;
void main() {
  vec4 seen = modelViewMatrix * vec4(position, 1.0);
  vec3 from = position - uFocus;
  float away = length(from);
  vec3 way = normalize(uEye - uFocus);
  float along = dot(from, way);
  float aside = length(from - along * way);
  // Points between the camera and the query, and a ceiling seen from above, are not drawn, because they would hide it.
  bool before = along > 0.0 && away > uReach && aside < 1.5 * uReach;
  bool covers = along > 2.0 * uStep && away <= uReach && aside < 1.2 * uStep + 0.12 * along;
  bool roof = position.z > uCut && uEye.z > uCut && (uHasFocus < 0.5 || away > uReach);
  bool hidden = roof || (uHasFocus > 0.5 && (before || covers));
  vec3 color = color.rgb;
  if (uHasFocus > 0.5) {
    float outside = smoothstep(0.92 * uReach, 1.12 * uReach, away);
    vec3 grey = mix(vec3(dot(color, vec3(0.299, 0.587, 0.114))), uPaper, 0.5);
    color = mix(color, mix(grey, tint.rgb, 0.8 * tint.a * uTint), outside);
  }
  vColor = uSplit > 0.5 ? tint.rgb : color;
  gl_PointSize = clamp(uStep * uThin * uScale / max(-seen.z, 1e-6), 1.5, uLargest);
  gl_Position = hidden ? vec4(2.0, 2.0, 2.0, 1.0) : projectionMatrix * seen;
}`;

const FRAGMENT = `
varying vec3 vColor;
void main() {
  vec2 at = gl_PointCoord - 0.5;
  if (dot(at, at) > 0.25) discard;
  gl_FragColor = vec4(vColor, 1.0);
}`;

// Eye-dome lighting (Boucheny 2009): a pixel is darker if it is farther away than its neighbours.
const SHADE_VERTEX = `void main() { gl_Position = vec4(position.xy, 0.0, 1.0); }`;
const SHADE_FRAGMENT = `
uniform sampler2D uColor, uDepth;
uniform vec2 uPixel;
uniform float uNear, uFar;
float depth(vec2 at) {
  float z = texture2D(uDepth, at).x;
  return z >= 1.0 ? 1e9 : log2(uNear * uFar / (uFar - z * (uFar - uNear)));
}
void main() {
  vec2 at = gl_FragCoord.xy * uPixel;
  vec4 color = texture2D(uColor, at);
  float here = depth(at);
  float shade = 0.0;
  if (here < 1e8) {
    for (int n = 0; n < 4; n++) {
      vec2 step = n == 0 ? vec2(1.5, 0.0) : n == 1 ? vec2(-1.5, 0.0) : n == 2 ? vec2(0.0, 1.5) : vec2(0.0, -1.5);
      float other = depth(at + step * uPixel);
      if (other < 1e8) shade += max(0.0, here - other);
    }
  }
  gl_FragColor = vec4(color.rgb * exp(-6.0 * min(shade, 0.12)), 1.0);
}`;

/** Colours for a number from 0 to 1, from dark to light, so that they can be told apart by colour-blind people too. */
export function ramp(share) {
  const stops = [[68, 40, 120], [45, 105, 142], [50, 165, 130], [150, 210, 70], [253, 231, 55]];
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const n = Math.min(Math.floor(at), stops.length - 2);
  return stops[n].map((low, k) => low + (at - n) * (stops[n + 1][k] - low));
}

const NOTHING = [128, 128, 128];

/** The four bytes of a colour as one number of its buffer; browsers run on little-endian machines only. */
const word = ([red, green, blue], alpha) => ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;

const RAMP = Uint32Array.from({ length: 256 }, (_, n) => word(ramp(n / 255).map(Math.round), 255));

class Tile {
  constructor(number, row, shared) {
    const [count, ...box] = row;
    this.number = number;
    this.count = count;
    this.low = new Vector3(...box.slice(0, 3));
    this.high = new Vector3(...box.slice(3));
    this.loaded = 0;
    this.wanted = 0;
    this.drawn = 0;
    this.columns = new Map();
    this.material = new ShaderMaterial({
      uniforms: { ...shared, uThin: { value: 1 } }, vertexShader: VERTEX, fragmentShader: FRAGMENT, vertexColors: true,
    });
    this.points = new Points(new BufferGeometry(), this.material);
    this.points.frustumCulled = false;
    this.room = 0;
  }

  /** Distance in metres from a place to the box of the tile. */
  distance(place) {
    const gap = (axis) => Math.max(this.low[axis] - place[axis], 0, place[axis] - this.high[axis]);
    return Math.hypot(gap("x"), gap("y"), gap("z"));
  }

  /** Whether the whole box is outside of the picture, beyond one of its sides. m: the 16 numbers of the camera's matrix. */
  outside(m) {
    const beyond = [0, 0, 0, 0, 0];
    for (let n = 0; n < 8; n++) {
      const x = (n & 1 ? this.high : this.low).x, y = (n & 2 ? this.high : this.low).y, z = (n & 4 ? this.high : this.low).z;
      const a = m[0] * x + m[4] * y + m[8] * z + m[12], b = m[1] * x + m[5] * y + m[9] * z + m[13];
      const w = m[3] * x + m[7] * y + m[11] * z + m[15];
      [a > w, a < -w, b > w, b < -w, w < 0].forEach((is, side) => (beyond[side] += is));
    }
    return beyond.includes(8);
  }

  get xyz() {
    return this.points.geometry.attributes.position?.array;
  }

  grow(wanted) {
    if (wanted > this.room) this.resize(Math.min(this.count, Math.max(wanted, 2 * this.room, 4096)));
  }

  /** Drops all points but the first ones. */
  shrink(count) {
    this.loaded = Math.min(this.loaded, count);
    for (const [name, values] of this.columns) {
      if (name.endsWith(" to")) this.columns.set(name, Math.min(values, count));
      else this.columns.set(name, values.slice(0, (name === "rgb" ? 3 : 1) * count));
    }
    this.resize(count);
  }

  resize(room) {
    this.room = room;
    const old = this.points.geometry;
    const geometry = new BufferGeometry();
    for (const [name, Kind, size, normal] of [
      ["position", Float32Array, 3, false], ["color", Uint8Array, 4, true], ["tint", Uint8Array, 4, true],
    ]) {
      const array = new Kind(size * this.room);
      if (old.attributes[name]) array.set(old.attributes[name].array.subarray(0, array.length));
      geometry.setAttribute(name, new BufferAttribute(array, size, normal));
    }
    this.points.geometry = geometry;
    old.dispose();
  }

  /** Stores received values of a column for the points from `begin` on. */
  keep(name, begin, values) {
    const size = name === "rgb" ? 3 : 1;
    let all = this.columns.get(name);
    const end = begin * size + values.length;
    if (!all || all.length < end) {
      const larger = new values.constructor(Math.min(this.count, Math.max(this.room, end / size)) * size);
      if (all) larger.set(all);
      all = larger;
      this.columns.set(name, all);
    }
    all.set(values, begin * size);
  }

  /** How many points have a value of a column. */
  has(name) {
    return name === "xyz" ? this.loaded : this.columns.get(name + " to") ?? 0;
  }

  /** Writes colours, and sends those from the first to the last changed one to the GPU. of: gives the colour of point n. */
  put(name, begin, of) {
    const attribute = this.points.geometry.attributes[name];
    if (!attribute) return;
    const words = new Uint32Array(attribute.array.buffer);
    let first = -1, last = -1;
    for (let n = begin; n < this.loaded; n++) {
      const now = of(n);
      if (words[n] === now) continue;
      words[n] = now;
      if (first < 0) first = n;
      last = n;
    }
    if (first < 0) return;
    attribute.addUpdateRange(4 * first, 4 * (last - first + 1));
    attribute.needsUpdate = true;
  }

  dispose() {
    this.points.geometry.dispose();
    this.material.dispose();
  }
}

/** A scene, or the coarse level of one, on the GPU. */
class Cloud {
  constructor(about, shared) {
    this.about = about;
    this.tiles = about.tiles.map((row, n) => new Tile(n, row, shared));
    this.scene = new Scene();
    this.low = new Vector3(Infinity, Infinity, Infinity);
    this.high = new Vector3(-Infinity, -Infinity, -Infinity);
    let count = 0;
    for (const tile of this.tiles) {
      this.scene.add(tile.points);
      this.low.min(tile.low);
      this.high.max(tile.high);
      count += tile.count;
    }
    this.thin = about.points / count; // points of the scene for each that the tiles have
    this.learned = null; // a colour for each superpoint
    this.painted = ""; // the columns by which the points are coloured
    this.gone = false;
  }

  /** The size of the scene in metres along x, y and z. */
  get size() {
    return this.tiles.length ? this.high.clone().sub(this.low).toArray() : [1, 1, 1];
  }

  get middle() {
    return this.low.clone().add(this.high).multiplyScalar(0.5);
  }

  column(name) {
    return this.about.columns.find((column) => column.name === name);
  }

  kind(name) {
    return this.column(name)?.kind ?? "other";
  }

  dispose() {
    this.gone = true;
    for (const tile of this.tiles) tile.dispose();
  }
}

export class CloudView {
  /** remote: where points come from; onFrame: called after each picture; onWhole: called when a whole scene has replaced its
   * coarse level. */
  constructor(canvas, remote, { onFrame, onWhole }) {
    this.canvas = canvas;
    this.remote = remote;
    this.classes = [];
    this.onFrame = onFrame;
    this.onWhole = onWhole;
    this.renderer = new WebGLRenderer({ canvas, antialias: false, powerPreference: "high-performance" });
    this.renderer.autoClear = false;
    this.renderer.outputColorSpace = "srgb-linear"; // colours are converted neither on the canvas nor in the target
    this.renderer.info.autoReset = false;
    this.camera = new PerspectiveCamera(FIELD, 1, 0.05, 1000);
    this.camera.up.set(0, 0, 1);
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.enableDamping = false;
    this.controls.addEventListener("change", () => this.move());
    this.shared = Object.fromEntries(
      Object.entries({
        uFocus: new Vector3(), uEye: new Vector3(), uPaper: new Color(), uHasFocus: 0, uReach: 1, uStep: 0.04, uScale: 1,
        uCut: 1e9, uTint: 1, uSplit: 0, uLargest: 24,
      }).map(([name, value]) => [name, { value }]),
    );
    this.target = new WebGLRenderTarget(4, 4, { minFilter: NearestFilter, magFilter: NearestFilter });
    this.target.depthTexture = new DepthTexture(4, 4, UnsignedIntType);
    this.target.scissorTest = true;
    this.shade = new ShaderMaterial({
      uniforms: {
        uColor: { value: this.target.texture }, uDepth: { value: this.target.depthTexture },
        uPixel: { value: new Vector2() }, uNear: { value: 1 }, uFar: { value: 1 },
      },
      vertexShader: SHADE_VERTEX, fragmentShader: SHADE_FRAGMENT, depthTest: false, depthWrite: false,
    });
    this.whole = new Scene();
    this.whole.add(new Mesh(new PlaneGeometry(2, 2), this.shade));
    this.flat = new OrthographicCamera(-1, 1, 1, -1, 0, 1);
    this.lit = new Scene(); // the region that is asked about
    this.cloud = null;
    this.kept = new Map(); // number of a scene -> its cloud, when it is there; the latest last
    // Without a GPU the processor draws the points, which takes longer for each of them.
    const machine = this.renderer.getContext().getExtension("WEBGL_debug_renderer_info");
    const name = machine ? String(this.renderer.getContext().getParameter(machine.UNMASKED_RENDERER_WEBGL)) : "";
    this.budget = /swiftshader|llvmpipe|software/i.test(name) ? MIN_POINTS : 1000000;
    this.mode = "rgb";
    this.split = null;
    this.loading = 0;
    this.prefetchPlace = null;
    this.measure = Boolean(globalThis.hpalMeasure); // set by a benchmark that measures how long pictures take
    this.awaited = [];
    this.moved = -1e9;
    this.statistics = { draws: 0, points: 0, milliseconds: 0, pictures: 0 };
    new ResizeObserver(() => this.touch()).observe(canvas.parentElement);
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => this.touch());
  }

  get about() {
    return this.cloud?.about;
  }

  get tiles() {
    return this.cloud?.tiles ?? [];
  }

  /** Asks for a new picture. */
  touch() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  /** Resolves after the next picture. */
  drawn() {
    return new Promise((done) => this.awaited.push(done));
  }

  /** Asks for a new picture from another place: a quick one, since further movements may follow. */
  move() {
    this.moved = performance.now();
    this.touch();
  }

  /** Loads the first points of a scene without showing them, so that the scene can be shown at once. prefetch: whether nobody waits
   * for them, so that as many are loaded as a picture may have. */
  prepare(number, prefetch = false) {
    const there = this.kept.get(number);
    this.kept.delete(number);
    const coming = there ?? this.load(number, prefetch);
    this.kept.set(number, coming);
    coming.catch(() => this.kept.get(number) === coming && this.kept.delete(number));
    for (const [old, one] of this.kept) {
      if (this.kept.size <= MAX_SCENES) break;
      if (old === number || old === this.about?.number) continue;
      this.kept.delete(old);
      one.then((cloud) => cloud !== this.cloud && cloud.dispose(), () => {});
    }
    return coming;
  }

  async load(number, prefetch) {
    const offered = this.offered?.number === number ? this.offered : null;
    this.offered = null;
    const cloud = offered ? this.beginWith(offered)
      : await this.begin(await this.remote.scene(number), prefetch ? this.budget : Math.min(FIRST_POINTS, this.budget));
    if (!cloud.about.whole) this.replace(cloud).catch(() => {});
    return cloud;
  }

  async begin(about, amount) {
    const cloud = new Cloud(about, this.shared);
    const share = Math.min(1, amount / about.points);
    for (const tile of cloud.tiles) tile.wanted = Math.max(1, Math.ceil(share * cloud.thin * tile.count));
    for (const tile of cloud.tiles) tile.wanted = Math.min(tile.count, tile.wanted);
    await this.fill(cloud, cloud.tiles);
    return cloud;
  }

  /** Makes a cloud of a scene whose first points the server sent together with its description. */
  beginWith(about) {
    const { counts, columns, values } = about.first;
    const cloud = new Cloud(about, this.shared);
    const parts = cloud.tiles.map((tile, n) => [tile, 0, counts[n]]);
    let at = 0;
    for (const [name, length] of columns) this.take(cloud, name, parts, values.slice(at, (at += length)));
    delete about.first;
    for (const [tile, , end] of parts) {
      tile.wanted = tile.loaded = end;
      this.paint(cloud, tile, 0);
    }
    return cloud;
  }

  /** Replaces the coarse level of a scene by the whole scene, once that is loaded. */
  async replace(coarse) {
    const { number } = coarse.about;
    const whole = await this.begin(await this.remote.scene(number, true), this.budget);
    if (coarse.gone) return whole.dispose();
    this.kept.set(number, Promise.resolve(whole));
    if (this.cloud === coarse) {
      whole.learned = coarse.learned;
      await this.enter(whole);
      this.onWhole();
    }
    coarse.dispose();
  }

  /** Shows a scene; resolves when its first points can be drawn. */
  async show(number) {
    this.wished = number;
    const cloud = await this.prepare(number);
    if (this.wished === number && cloud !== this.cloud) await this.enter(cloud);
  }

  async enter(cloud) {
    this.cloud = cloud;
    const { about } = cloud;
    this.shared.uStep.value = about.step * 1.45;
    this.shared.uCut.value = about.roof ? about.cut : 1e9;
    const size = Math.hypot(...cloud.size);
    this.controls.maxDistance = 3 * size + 10 * about.reach;
    this.camera.far = this.controls.maxDistance + 2 * size;
    if (!this.modes().some((mode) => mode.name === this.mode)) this.mode = this.modes()[0].name;
    await this.repaint();
  }

  /** The columns by which points can be coloured, in the order of the keys. */
  modes() {
    const columns = this.about.columns.filter((column) => column.name !== "rgb");
    const found = [...(this.cloud.column("rgb") ? [{ name: "rgb", kind: "rgb", title: "as scanned" }] : [])];
    found.push({ name: "height", kind: "number", title: "height" });
    for (const column of columns) found.push({ ...column, title: column.name });
    if (this.cloud.learned) found.push({ name: "learned", kind: "class", title: "learned" });
    return found;
  }

  /** Points the camera at a place, from the direction `toward`. The points within `reach` metres keep their colours. */
  focus(place, toward, reach) {
    this.shared.uHasFocus.value = 1;
    this.shared.uFocus.value.set(...place);
    this.shared.uReach.value = reach;
    this.home = { place, toward, reach };
    this.prefetchPlace = null;
    this.reset();
  }

  setReach(reach) {
    if (!this.home) return;
    this.home.reach = reach;
    this.shared.uReach.value = reach;
    this.reset();
  }

  /** Moves the camera back to where it began. */
  reset() {
    if (this.home) {
      const { place, toward, reach } = this.home;
      const wide = Math.max(1, 1 / Math.max(this.aspect(), 0.1));
      this.controls.target.set(...place);
      this.camera.position.set(...place).addScaledVector(new Vector3(...toward), 3.1 * reach * Math.sqrt(wide));
    } else {
      const size = Math.hypot(...this.cloud.size);
      this.controls.target.copy(this.cloud.middle);
      this.camera.position.copy(this.cloud.middle).addScaledVector(new Vector3(-0.45, -0.65, 0.6).normalize(), 1.05 * size);
    }
    this.controls.update();
    this.move();
  }

  /** Turns the camera around what it looks at, by degrees, or goes nearer by a factor. */
  turn(across, up, nearer = 1) {
    const from = this.camera.position.clone().sub(this.controls.target);
    const far = from.length() * nearer;
    const angle = Math.atan2(from.y, from.x) + (across * Math.PI) / 180;
    const tilt = Math.min(Math.max(Math.asin(from.z / from.length()) + (up * Math.PI) / 180, -1.5), 1.5);
    from.set(Math.cos(tilt) * Math.cos(angle), Math.cos(tilt) * Math.sin(angle), Math.sin(tilt)).multiplyScalar(far);
    this.camera.position.copy(this.controls.target).add(from);
    this.controls.update();
    this.move();
  }

  aspect() {
    return this.canvas.parentElement.clientWidth / Math.max(1, this.canvas.parentElement.clientHeight);
  }

  setPaper(color) {
    this.shared.uPaper.value.setRGB(...color.map((part) => part / 255));
    this.touch();
  }

  /** Highlights the points of a region. xyz: their coordinates, one after the other. */
  setRegion(xyz) {
    for (const old of [...this.lit.children]) {
      this.lit.remove(old);
      old.geometry.dispose();
      old.material.dispose();
    }
    if (xyz && xyz.length) {
      const geometry = new BufferGeometry();
      geometry.setAttribute("position", new BufferAttribute(xyz, 3));
      const highlight = new Uint8Array(4 * (xyz.length / 3));
      new Uint32Array(highlight.buffer).fill(word([255, 0, 128], 255));
      geometry.setAttribute("color", new BufferAttribute(highlight, 4, true));
      geometry.setAttribute("tint", new BufferAttribute(highlight, 4, true));
      const material = new ShaderMaterial({
        uniforms: { ...this.shared, uThin: { value: 1.3 }, uHasFocus: { value: 0 }, uCut: { value: 1e9 } },
        vertexShader: VERTEX, fragmentShader: FRAGMENT, vertexColors: true, polygonOffset: true,
      });
      const region = new Points(geometry, material);
      region.frustumCulled = false;
      this.lit.add(region);
    }
    this.touch();
  }

  async setMode(name) {
    this.mode = name;
    await this.repaint();
  }

  /** Sets the label that each superpoint got from the answers, and how sure it is. Loads the superpoints once. */
  async setLearned(labels, sure) {
    const { cloud } = this;
    const before = cloud.learned;
    // Without labels there is nothing to show, and the superpoints need not be loaded.
    if (!before && !labels.some((label) => label >= 0)) return;
    cloud.learned = Uint32Array.from(labels, (label, n) => (label < 0 ? word(NOTHING, 0) : word(this.classes[label].color, sure[n])));
    if (before && before.length === labels.length && before.every((one, n) => one === cloud.learned[n])) return;
    await this.repaint(true);
  }

  /** Shows the cloud twice side by side, the second time coloured by another column, with the same camera. */
  async setSplit(column) {
    this.split = column;
    await this.repaint();
  }

  /** The column beside the one that points are coloured by, if there is one. */
  beside(cloud) {
    return this.split && cloud.column(this.split) ? this.split : cloud.learned ? "superpoint" : null;
  }

  needs(cloud) {
    const own = this.mode === "height" ? null : this.mode === "learned" ? "superpoint" : this.mode;
    return [...new Set([own, this.beside(cloud)])].filter((name) => name && (name === "superpoint" || cloud.column(name)));
  }

  /** Loads the columns that are shown for the points that are there, and colours them. */
  async repaint(again = false) {
    const { cloud } = this;
    const wanted = `${this.mode} ${this.beside(cloud)}`;
    if (again || cloud.painted !== wanted) {
      this.loading++;
      try {
        await Promise.all(this.needs(cloud).map((name) =>
          this.fetch(cloud, name, cloud.tiles.map((tile) => [tile, tile.has(name), tile.loaded]))));
      } finally {
        this.loading--;
      }
      if (cloud.gone) return;
      for (const tile of cloud.tiles) this.paint(cloud, tile, 0);
      cloud.painted = `${this.mode} ${this.beside(cloud)}`;
    }
    this.touch();
  }

  async fetch(cloud, name, parts) {
    const column = cloud.column(name), { number, whole } = cloud.about;
    if (column?.kind === "number" && column.low === undefined) Object.assign(column, await this.remote.range(number, name));
    const send = async (batch) => this.take(cloud, name, batch,
      await this.remote.points(number, name, batch.map(([tile, a, b]) => [tile.number, a, b]), whole));
    let batch = [], count = 0;
    for (const part of parts) {
      if (part[1] >= part[2]) continue;
      batch.push(part);
      count += part[2] - part[1];
      if (count < BATCH && batch.length < 400) continue;
      await send(batch);
      batch = [];
      count = 0;
    }
    if (batch.length) await send(batch);
  }

  /** Stores received values of a column. parts: [tile, from, to] of each part of them. */
  take(cloud, name, parts, buffer) {
    if (cloud.gone) return;
    const kind = cloud.column(name)?.kind, size = name === "xyz" || name === "rgb" ? 3 : 1;
    const Kind = name === "xyz" || kind === "number" ? Float32Array
      : kind === "rgb" ? Uint8Array : kind === "class" ? Int16Array : Int32Array;
    const values = new Kind(buffer);
    let at = 0;
    for (const [tile, a, b] of parts) {
      const mine = values.subarray(at, (at += (b - a) * size));
      if (name === "xyz") {
        tile.grow(b);
        const { position } = tile.points.geometry.attributes;
        position.array.set(mine, 3 * a);
        position.addUpdateRange(3 * a, mine.length);
        position.needsUpdate = true;
      } else {
        tile.keep(name, a, mine);
        tile.columns.set(name + " to", Math.max(tile.has(name), b));
      }
    }
  }

  /** Loads what is wanted of some tiles and paints it. */
  async fill(cloud, tiles) {
    const parts = tiles.filter((tile) => tile.wanted > tile.loaded).map((tile) => [tile, tile.loaded, tile.wanted]);
    if (!parts.length) return;
    this.loading++;
    try {
      // Another column may be shown by the time the points have come.
      let names = ["xyz", ...this.needs(cloud)];
      while (names.length && !cloud.gone) {
        await Promise.all(names.map((name) => this.fetch(cloud, name, parts.map(([tile, , end]) => [tile, tile.has(name), end]))));
        names = this.needs(cloud).filter((name) => parts.some(([tile, , end]) => tile.has(name) < end));
      }
      if (cloud.gone) return;
      for (const [tile, begin, end] of parts) {
        tile.loaded = end;
        this.paint(cloud, tile, begin);
      }
    } finally {
      this.loading--;
    }
  }

  /** Colours a tile's points from `begin` on. */
  paint(cloud, tile, begin) {
    const tints = this.classes.map((one) => word(one.color, 255)), nothing = word(NOTHING, 255);
    const beside = this.beside(cloud), other = tile.columns.get(beside);
    if (!beside || tile.has(beside) < tile.loaded) tile.put("tint", begin, () => word(NOTHING, 0));
    else if (beside === "superpoint") tile.put("tint", begin, (n) => cloud.learned[other[n]]);
    else tile.put("tint", begin, (n) => tints[other[n]] ?? nothing);
    const { mode } = this, { about } = cloud, kind = cloud.kind(mode), values = tile.columns.get(mode), { xyz } = tile;
    const shades = (low, high) => {
      const scale = 255 / Math.max(high - low, 1e-9);
      return (value) => RAMP[Math.min(Math.max(Math.round((value - low) * scale), 0), 255)] ?? RAMP[0];
    };
    if (mode === "height") {
      const shade = shades(about.floor, about.top);
      tile.put("color", begin, (n) => shade(xyz[3 * n + 2]));
    } else if (mode === "learned" && other && cloud.learned && beside === "superpoint") {
      tile.put("color", begin, (n) => (cloud.learned[other[n]] | 0xff000000) >>> 0);
    } else if (tile.has(mode) < tile.loaded) tile.put("color", begin, () => nothing);
    else if (kind === "rgb") {
      tile.put("color", begin, (n) => (0xff000000 | (values[3 * n + 2] << 16) | (values[3 * n + 1] << 8) | values[3 * n]) >>> 0);
    } else if (kind === "class") tile.put("color", begin, (n) => tints[values[n]] ?? nothing);
    else {
      const shade = shades(cloud.column(mode).low, cloud.column(mode).high);
      tile.put("color", begin, (n) => shade(values[n]));
    }
  }

  /** How many points of each tile are drawn from here, and how many are wanted once the camera is still. */
  choose(still) {
    const { cloud } = this, { step } = cloud.about;
    const focus = this.shared.uHasFocus.value ? this.shared.uFocus.value : null;
    const reach = this.shared.uReach.value;
    const eye = this.camera.position;
    const matrix = this.camera.projectionMatrix.clone().multiply(this.camera.matrixWorldInverse).elements;
    const fine = Math.min(MAX_POINTS, Math.max(MIN_STILL_POINTS, 4 * this.budget));
    let near = 0, rest = 0;
    for (const tile of cloud.tiles) {
      tile.close = focus !== null && tile.distance(focus) < reach;
      tile.seen = !tile.outside(matrix);
      const pixels = (step * this.scale) / Math.max(tile.distance(eye), 1e-3);
      tile.share = tile.close ? 1 : tile.seen ? Math.min(1, cloud.thin * (pixels / SPACING) ** 2) : 0;
      if (tile.close) near += tile.count;
      else rest += tile.share * tile.count;
    }
    const amount = (budget) => {
      const whole = Math.min(1, (0.9 * budget) / Math.max(near, 1));
      const fit = Math.min(1, Math.max(budget - whole * near, 0.1 * budget) / Math.max(rest, 1));
      return (tile) => Math.min(tile.count, Math.max(200, Math.ceil((tile.close ? whole : tile.share * fit) * tile.count)));
    };
    const wanted = amount(fine), drawn = amount(still ? fine : this.budget);
    for (const tile of cloud.tiles) {
      tile.wanted = wanted(tile);
      tile.drawn = tile.seen ? Math.min(tile.loaded, drawn(tile)) : 0;
      tile.material.uniforms.uThin.value = Math.sqrt((cloud.thin * tile.count) / Math.max(1, tile.drawn));
      tile.points.geometry.setDrawRange(0, tile.drawn);
      tile.points.visible = tile.drawn > 0;
      // The points around the query that is asked next are loaded before it is shown.
      if (this.prefetchPlace && tile.distance(this.prefetchPlace) < reach) {
        tile.wanted = Math.max(tile.wanted, Math.min(tile.count, MIN_STILL_POINTS));
      }
    }
  }

  /** Loads points that are wanted and missing. Called after a picture, so that no picture waits for them. */
  loadMissing() {
    const { cloud } = this, eye = this.camera.position;
    if (this.loading > 0) return;
    // Tiles far from the camera are dropped if the browser holds too many points.
    let held = cloud.tiles.reduce((sum, tile) => sum + tile.loaded, 0);
    for (const tile of held > MAX_LOADED ? [...cloud.tiles].sort((a, b) => b.distance(eye) - a.distance(eye)) : []) {
      if (held <= MAX_LOADED / 2 || tile.loaded < 2 * tile.wanted) continue;
      held -= tile.loaded - tile.wanted;
      tile.shrink(tile.wanted);
      tile.drawn = Math.min(tile.drawn, tile.loaded);
      tile.points.geometry.setDrawRange(0, tile.drawn);
    }
    // In small batches, the nearest first.
    let count = 0;
    const more = cloud.tiles
      .filter((tile) => tile.wanted > 1.05 * tile.loaded + 50 || (tile.wanted === tile.count && tile.loaded < tile.count))
      .sort((a, b) => Number(b.close) - Number(a.close) || a.distance(eye) - b.distance(eye))
      .filter((tile) => (count += tile.wanted - tile.loaded) < BATCH || count === tile.wanted - tile.loaded);
    if (more.length) this.fill(cloud, more).then(() => this.touch(), () => {});
  }

  draw() {
    if (!this.cloud) return;
    const begin = performance.now();
    const still = begin - this.moved >= STILL_AFTER;
    const quick = !still && this.budget < SLOW;
    const holder = this.canvas.parentElement;
    const ratio = Math.min(devicePixelRatio, 2);
    const wide = Math.max(1, holder.clientWidth), high = Math.max(1, holder.clientHeight);
    // A quick picture has half as many pixels along each edge, and is drawn on the canvas at once, without shading.
    const share = quick ? 0.5 : 1;
    const size = this.renderer.getSize(new Vector2());
    if (size.x !== wide || size.y !== high || this.renderer.getPixelRatio() !== ratio * share) {
      this.renderer.setDrawingBufferSize(wide, high, ratio * share);
    }
    const pixels = this.renderer.getDrawingBufferSize(new Vector2());
    if (!quick && (this.target.width !== pixels.x || this.target.height !== pixels.y)) this.target.setSize(pixels.x, pixels.y);
    this.quick = quick;
    this.scale = (high * ratio) / (2 * Math.tan((FIELD * Math.PI) / 360));
    this.shared.uScale.value = this.scale * share;
    this.shared.uLargest.value = 26 * ratio * share;
    this.shared.uEye.value.copy(this.camera.position);
    this.camera.aspect = (this.split ? wide / 2 : wide) / high;
    const far = this.camera.position.distanceTo(this.controls.target);
    this.camera.near = Math.max(0.01, far / 200);
    this.camera.updateProjectionMatrix();
    this.camera.updateMatrixWorld();
    this.choose(still);
    this.renderer.info.reset();
    const halves = this.split ? [0, 1] : [0];
    const width = Math.floor(pixels.x / halves.length), height = pixels.y;
    let points = 0;
    for (const half of halves) {
      this.shared.uSplit.value = half;
      for (const box of [this.target.viewport, this.target.scissor]) box.set(half * width, 0, width, height);
      this.renderer.setRenderTarget(quick ? null : this.target);
      if (quick) {
        this.renderer.setViewport((half * wide) / halves.length, 0, wide / halves.length, high);
        this.renderer.setScissor((half * wide) / halves.length, 0, wide / halves.length, high);
        this.renderer.setScissorTest(true);
      }
      this.renderer.setClearColor(this.shared.uPaper.value, 1);
      this.renderer.clear();
      this.renderer.render(this.cloud.scene, this.camera);
      points = this.renderer.info.render.points;
      if (this.lit.children.length) this.renderer.render(this.lit, this.camera);
    }
    this.renderer.setRenderTarget(null);
    this.renderer.setScissorTest(false);
    this.renderer.setViewport(0, 0, wide, high);
    if (!quick) {
      const { uPixel, uNear, uFar } = this.shade.uniforms;
      uPixel.value.set(1 / pixels.x, 1 / pixels.y);
      uNear.value = this.camera.near;
      uFar.value = this.camera.far;
      this.renderer.render(this.whole, this.flat);
    }
    if (this.measure) {
      // Reading a pixel waits until the picture is drawn.
      const gl = this.renderer.getContext();
      gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
    }
    const took = performance.now() - begin;
    this.statistics = {
      draws: this.renderer.info.render.calls, points, milliseconds: took, pictures: this.statistics.pictures + 1,
    };
    clearTimeout(this.stillTimer);
    if (!still) {
      // The next pictures have as many points as this machine draws at some thirty a second: while something moves, pictures
      // follow each other as fast as they can be drawn.
      const gap = begin - (this.begun ?? -1e9);
      this.begun = begin;
      if (gap > 40 && gap < 400) this.budget = Math.max(MIN_POINTS, 0.85 * this.budget);
      else if (gap < 25 && points > 0.8 * this.budget) this.budget = Math.min(MAX_POINTS, 1.1 * this.budget);
      this.stillTimer = setTimeout(() => this.touch(), STILL_AFTER + 5);
    }
    this.onFrame(this);
    if (still) this.loadMissing();
    for (const done of this.awaited.splice(0)) done();
  }

  /** The place (3,) in pixels from the upper left corner of the canvas, and whether it is in front of the camera. */
  project(place) {
    const at = new Vector3(...place).project(this.camera);
    const holder = this.canvas.parentElement;
    const wide = this.split ? holder.clientWidth / 2 : holder.clientWidth;
    return { x: ((at.x + 1) / 2) * wide, y: ((1 - at.y) / 2) * holder.clientHeight, seen: at.z < 1 };
  }

  /** Pixels of one metre at the distance of what is looked at. */
  metre() {
    return this.canvas.parentElement.clientHeight / (2 * Math.tan((FIELD * Math.PI) / 360))
      / this.camera.position.distanceTo(this.controls.target);
  }

  /** The drawn point nearest to the camera within some pixels of a place on the canvas; null if there is none. */
  pick(x, y, within = 6) {
    const holder = this.canvas.parentElement;
    const wide = this.split ? holder.clientWidth / 2 : holder.clientWidth;
    const ray = new Vector3(((x % wide) / wide) * 2 - 1, 1 - (y / holder.clientHeight) * 2, 0.5)
      .unproject(this.camera).sub(this.camera.position).normalize();
    const eye = this.camera.position;
    const slope = (within * 2 * Math.tan((FIELD * Math.PI) / 360)) / holder.clientHeight;
    let best = null, nearest = Infinity;
    for (const tile of this.tiles) {
      const { xyz } = tile;
      for (let n = 0; n < tile.drawn; n++) {
        const dx = xyz[3 * n] - eye.x, dy = xyz[3 * n + 1] - eye.y, dz = xyz[3 * n + 2] - eye.z;
        const along = dx * ray.x + dy * ray.y + dz * ray.z;
        if (along <= 0 || along > nearest + this.about.step) continue;
        if (xyz[3 * n + 2] > this.shared.uCut.value && eye.z > this.shared.uCut.value) continue;
        const aside2 = dx * dx + dy * dy + dz * dz - along * along;
        const score = along + Math.sqrt(Math.max(aside2, 0)) * 2;
        if (aside2 < (slope * along) ** 2 && score < nearest) {
          nearest = score;
          best = { tile, n };
        }
      }
    }
    if (!best) return null;
    let first = 0;
    for (const tile of this.tiles) {
      if (tile === best.tile) break;
      first += tile.count;
    }
    const { xyz } = best.tile;
    return { place: first + best.n, xyz: [xyz[3 * best.n], xyz[3 * best.n + 1], xyz[3 * best.n + 2]] };
  }
}
