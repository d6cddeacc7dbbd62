// A cloud in 3D: tiles loaded as they are needed, a query in its surroundings, colours by any column.

import {
  BufferAttribute, BufferGeometry, Color, DepthTexture, Mesh, NearestFilter, OrbitControls, OrthographicCamera,
  PerspectiveCamera, PlaneGeometry, Points, Scene, ShaderMaterial, UnsignedIntType, Vector2, Vector3, WebGLRenderer,
  WebGLRenderTarget,
} from "three";

const FIELD = 50; // degrees
const BATCH = 250000; // points of one request
const FIRST = 150000; // points of the first picture
const SPACING = 1.3; // pixels between drawn points that are near enough to look like a surface
const LEAST = 300000;
const MOST = 3000000; // points a frame, between which the budget goes with the machine

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
  // What stands between the camera and the query, or is a ceiling seen from above, would hide it.
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

// Eye-dome lighting (Boucheny 2009): what lies behind its neighbours in the picture is darker.
const SHADE_VERTEX = `void main() { gl_Position = vec4(position.xy, 0.0, 1.0); }`;
const SHADE_FRAGMENT = `
uniform sampler2D uColor, uDepth;
uniform vec2 uPixel;
uniform float uNear, uFar, uStrength;
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
  gl_FragColor = vec4(color.rgb * exp(-uStrength * min(shade, 0.12)), 1.0);
}`;

/** Colours for a number from 0 to 1, dark to light: also without seeing colours. */
export function ramp(share) {
  const stops = [[68, 40, 120], [45, 105, 142], [50, 165, 130], [150, 210, 70], [253, 231, 55]];
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const n = Math.min(Math.floor(at), stops.length - 2);
  return stops[n].map((low, k) => low + (at - n) * (stops[n + 1][k] - low));
}

const NOTHING = [128, 128, 128];

class Tile {
  constructor(number, row, shared) {
    const [count, ...box] = row;
    this.number = number;
    this.count = count;
    this.low = new Vector3(...box.slice(0, 3));
    this.high = new Vector3(...box.slice(3));
    this.loaded = 0;
    this.wanted = 0;
    this.columns = new Map();
    this.material = new ShaderMaterial({
      uniforms: { ...shared, uThin: { value: 1 } }, vertexShader: VERTEX, fragmentShader: FRAGMENT, vertexColors: true,
    });
    this.points = new Points(new BufferGeometry(), this.material);
    this.points.frustumCulled = false;
    this.room = 0;
  }

  /** Metres from a place to the tile's box. */
  distance(place) {
    const gap = (axis) => Math.max(this.low[axis] - place[axis], 0, place[axis] - this.high[axis]);
    return Math.hypot(gap("x"), gap("y"), gap("z"));
  }

  grow(wanted) {
    if (wanted <= this.room) return;
    this.room = Math.min(this.count, Math.max(wanted, 2 * this.room, 4096));
    const old = this.points.geometry;
    const geometry = new BufferGeometry();
    for (const [name, Kind, size, normal] of [
      ["position", Float32Array, 3, false], ["color", Uint8Array, 4, true], ["tint", Uint8Array, 4, true],
    ]) {
      const array = new Kind(size * this.room);
      if (old.attributes[name]) array.set(old.attributes[name].array);
      geometry.setAttribute(name, new BufferAttribute(array, size, normal));
    }
    this.points.geometry = geometry;
    old.dispose();
  }

  /** Keeps values of a column that came for the points from `begin` on. */
  keep(name, begin, values) {
    const size = name === "xyz" || name === "rgb" ? 3 : 1;
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

  dispose() {
    this.points.geometry.dispose();
    this.material.dispose();
  }
}

export class CloudView {
  /** remote: where points come from; onFrame: called after each picture; classes: with their colours. */
  constructor(canvas, remote, classes, onFrame) {
    this.canvas = canvas;
    this.remote = remote;
    this.classes = classes;
    this.onFrame = onFrame;
    this.renderer = new WebGLRenderer({ canvas, antialias: false, powerPreference: "high-performance" });
    this.renderer.autoClear = false;
    this.scene = new Scene();
    this.camera = new PerspectiveCamera(FIELD, 1, 0.05, 1000);
    this.camera.up.set(0, 0, 1);
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.enableDamping = false;
    this.controls.addEventListener("change", () => this.touch());
    this.shared = Object.fromEntries(
      Object.entries({
        uFocus: new Vector3(), uEye: new Vector3(), uPaper: new Color(), uHasFocus: 0, uReach: 1, uStep: 0.04, uScale: 1,
        uCut: 1e9, uTint: 1, uSplit: 0, uLargest: 24,
      }).map(([name, value]) => [name, { value }]),
    );
    this.target = new WebGLRenderTarget(4, 4, { minFilter: NearestFilter, magFilter: NearestFilter });
    this.target.depthTexture = new DepthTexture(4, 4, UnsignedIntType);
    this.shade = new ShaderMaterial({
      uniforms: {
        uColor: { value: this.target.texture }, uDepth: { value: this.target.depthTexture },
        uPixel: { value: new Vector2() }, uNear: { value: 1 }, uFar: { value: 1 }, uStrength: { value: 6 },
      },
      vertexShader: SHADE_VERTEX, fragmentShader: SHADE_FRAGMENT, depthTest: false, depthWrite: false,
    });
    this.whole = new Scene();
    this.whole.add(new Mesh(new PlaneGeometry(2, 2), this.shade));
    this.flat = new OrthographicCamera(-1, 1, 1, -1, 0, 1);
    this.tiles = [];
    // Without a GPU every point is work for the processor.
    const machine = this.renderer.getContext().getExtension("WEBGL_debug_renderer_info");
    const name = machine ? String(this.renderer.getContext().getParameter(machine.UNMASKED_RENDERER_WEBGL)) : "";
    this.budget = /swiftshader|llvmpipe|software/i.test(name) ? LEAST : 1000000;
    this.mode = "height";
    this.learned = null;
    this.split = false;
    this.loading = 0;
    this.extra = null;
    this.serial = 0;
    this.statistics = { draws: 0, points: 0, milliseconds: 0 };
    this.region = null;
    new ResizeObserver(() => this.touch()).observe(canvas.parentElement);
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => this.touch());
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

  /** Shows a scene, as `remote.scene` describes it; resolves with the first picture. */
  async show(about) {
    this.clear();
    const serial = ++this.serial;
    this.about = about;
    this.tiles = about.tiles.map((row, n) => new Tile(n, row, this.shared));
    for (const tile of this.tiles) this.scene.add(tile.points);
    this.shared.uStep.value = about.step * 1.45;
    this.shared.uCut.value = about.roof ? about.cut : 1e9;
    const size = Math.hypot(...this.size());
    this.controls.maxDistance = 3 * size + 10 * about.reach;
    this.camera.far = this.controls.maxDistance + 2 * size;
    if (!this.modes().some((mode) => mode.name === this.mode)) this.mode = this.modes()[0].name;
    const share = Math.min(1, FIRST / about.points);
    for (const tile of this.tiles) tile.wanted = Math.max(1, Math.ceil(share * tile.count));
    await this.fill(serial, this.tiles);
    this.touch();
  }

  clear() {
    for (const tile of this.tiles) {
      this.scene.remove(tile.points);
      tile.dispose();
    }
    this.tiles = [];
    this.learned = null;
    this.extra = null;
    this.setRegion(null);
  }

  /** What points can be coloured by, in the order of the keys. */
  modes() {
    const columns = this.about.columns.filter((column) => column.name !== "rgb");
    const colour = this.about.columns.some((column) => column.name === "rgb");
    const found = [...(colour ? [{ name: "rgb", kind: "rgb", title: "as scanned" }] : [])];
    found.push({ name: "height", kind: "number", title: "height" });
    for (const column of columns) found.push({ ...column, title: column.name });
    if (this.extra === "superpoint") found.push({ name: "learned", kind: "class", title: "learned" });
    return found;
  }

  /** Metres along x, y and z. */
  size() {
    const low = new Vector3(Infinity, Infinity, Infinity), high = new Vector3(-Infinity, -Infinity, -Infinity);
    for (const tile of this.tiles) {
      low.min(tile.low);
      high.max(tile.high);
    }
    return this.tiles.length ? high.sub(low).toArray() : [1, 1, 1];
  }

  middle() {
    const low = new Vector3(Infinity, Infinity, Infinity), high = new Vector3(-Infinity, -Infinity, -Infinity);
    for (const tile of this.tiles) {
      low.min(tile.low);
      high.max(tile.high);
    }
    return low.add(high).multiplyScalar(0.5);
  }

  /** The camera and what stands out: a place, looked at along `toward`, with `reach` metres around it as scanned. */
  focus(place, toward, reach) {
    this.shared.uHasFocus.value = 1;
    this.shared.uFocus.value.set(...place);
    this.shared.uReach.value = reach;
    this.home = { place, toward, reach };
    this.reset();
  }

  setReach(reach) {
    if (!this.home) return;
    this.home.reach = reach;
    this.shared.uReach.value = reach;
    this.reset();
  }

  /** Back to where the camera began. */
  reset() {
    if (this.home) {
      const { place, toward, reach } = this.home;
      const wide = Math.max(1, 1 / Math.max(this.aspect(), 0.1));
      this.controls.target.set(...place);
      this.camera.position.set(...place).addScaledVector(new Vector3(...toward), 3.1 * reach * Math.sqrt(wide));
    } else {
      const size = Math.hypot(...this.size());
      this.controls.target.copy(this.middle());
      this.camera.position.copy(this.middle()).addScaledVector(new Vector3(-0.45, -0.65, 0.6).normalize(), 1.05 * size);
    }
    this.controls.update();
    this.touch();
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
    this.touch();
  }

  aspect() {
    return this.canvas.parentElement.clientWidth / Math.max(1, this.canvas.parentElement.clientHeight);
  }

  setPaper(color) {
    this.shared.uPaper.value.setRGB(...color.map((part) => part / 255));
    this.touch();
  }

  /** The points of a region, lit: an array of x, y, z. */
  setRegion(xyz) {
    if (this.region) {
      this.scene.remove(this.region);
      this.region.geometry.dispose();
      this.region.material.dispose();
      this.region = null;
    }
    if (xyz && xyz.length) {
      const geometry = new BufferGeometry();
      geometry.setAttribute("position", new BufferAttribute(xyz, 3));
      const count = xyz.length / 3;
      const loud = new Uint8Array(4 * count);
      for (let n = 0; n < count; n++) loud.set([255, 0, 128, 255], 4 * n);
      geometry.setAttribute("color", new BufferAttribute(loud, 4, true));
      geometry.setAttribute("tint", new BufferAttribute(loud, 4, true));
      const material = new ShaderMaterial({
        uniforms: { ...this.shared, uThin: { value: 1.3 }, uHasFocus: { value: 0 }, uCut: { value: 1e9 } },
        vertexShader: VERTEX, fragmentShader: FRAGMENT, vertexColors: true, polygonOffset: true,
      });
      this.region = new Points(geometry, material);
      this.region.frustumCulled = false;
      this.scene.add(this.region);
    }
    this.touch();
  }

  async setMode(name) {
    this.mode = name;
    await this.complete();
    for (const tile of this.tiles) this.paint(tile, 0);
    this.touch();
  }

  /** What answers made of each superpoint: labels and how sure, by superpoint. Loads the superpoints once. */
  async setLearned(labels, sure) {
    this.learned = { labels, sure };
    if (this.extra !== "superpoint") {
      this.extra = "superpoint";
      await this.complete();
    }
    for (const tile of this.tiles) this.paint(tile, 0);
    this.touch();
  }

  /** Side by side with a column, the same camera on both. */
  async setSplit(column) {
    this.split = column !== null;
    this.extra = column;
    await this.complete();
    for (const tile of this.tiles) this.paint(tile, 0);
    this.touch();
  }

  needs() {
    const own = this.mode === "height" ? [] : this.mode === "learned" ? ["superpoint"] : [this.mode];
    return [...new Set(["xyz", ...own, ...(this.extra ? [this.extra] : [])])];
  }

  /** Loads the columns that are shown for the points that are there. */
  async complete() {
    const serial = this.serial;
    for (const name of this.needs()) {
      if (this.kind(name) === "number") await this.range(name);
      const missing = this.tiles.filter((tile) => tile.loaded && (tile.columns.get(name + " to") ?? 0) < tile.loaded);
      await this.fetch(serial, name, missing.map((tile) => [tile, tile.columns.get(name + " to") ?? 0, tile.loaded]));
    }
  }

  kind(name) {
    return this.about.columns.find((column) => column.name === name)?.kind ?? "other";
  }

  async range(name) {
    const column = this.about.columns.find((one) => one.name === name);
    if (column && column.low === undefined) Object.assign(column, await this.remote.range(this.about.number, name));
  }

  async fetch(serial, name, parts) {
    let batch = [], count = 0;
    const send = async () => {
      if (!batch.length) return;
      const mine = batch;
      batch = [];
      count = 0;
      const buffer = await this.remote.points(this.about.number, name, mine.map(([tile, a, b]) => [tile.number, a, b]));
      if (serial !== this.serial) return;
      const kind = name === "xyz" ? Float32Array : this.kind(name) === "rgb" ? Uint8Array
        : this.kind(name) === "class" ? Int16Array : this.kind(name) === "number" ? Float32Array : Int32Array;
      const size = name === "xyz" || name === "rgb" ? 3 : 1;
      const values = new kind(buffer);
      let at = 0;
      for (const [tile, a, b] of mine) {
        tile.keep(name, a, values.subarray(at, at + (b - a) * size));
        tile.columns.set(name + " to", b);
        at += (b - a) * size;
      }
    };
    for (const part of parts) {
      batch.push(part);
      count += part[2] - part[1];
      if (count >= BATCH || batch.length >= 400) await send();
    }
    await send();
  }

  /** Loads what is wanted of some tiles and paints it. */
  async fill(serial, tiles) {
    const parts = tiles.filter((tile) => tile.wanted > tile.loaded).map((tile) => [tile, tile.loaded, tile.wanted]);
    if (!parts.length) return;
    this.loading++;
    try {
      for (const name of this.needs()) {
        if (this.kind(name) === "number") await this.range(name);
        const missing = parts.map(([tile, , b]) => [tile, tile.columns.get(name + " to") ?? 0, b]);
        await this.fetch(serial, name, missing.filter(([, a, b]) => a < b));
      }
      if (serial !== this.serial) return;
      for (const [tile, begin, end] of parts) {
        tile.grow(end);
        const position = tile.points.geometry.attributes.position;
        position.array.set(tile.columns.get("xyz").subarray(3 * begin, 3 * end), 3 * begin);
        position.needsUpdate = true;
        tile.loaded = end;
        this.paint(tile, begin);
      }
    } finally {
      this.loading--;
    }
  }

  /** Colours of a tile's points from `begin` on. */
  paint(tile, begin) {
    const { color, tint } = tile.points.geometry.attributes;
    if (!color) return;
    const xyz = tile.columns.get("xyz");
    const values = tile.columns.get(this.mode), kind = this.kind(this.mode);
    const known = this.mode === "height" || this.mode === "learned" || (tile.columns.get(this.mode + " to") ?? 0) >= tile.loaded;
    const column = this.about.columns.find((one) => one.name === this.mode);
    const { floor, top } = this.about;
    const beside = this.extra ? tile.columns.get(this.extra) : null;
    for (let n = begin; n < tile.loaded; n++) {
      let rgb = NOTHING, own = NOTHING, sure = 0;
      if (this.extra === "superpoint" && this.learned && beside) {
        const label = this.learned.labels[beside[n]];
        if (label >= 0) {
          own = this.classes[label].color;
          sure = this.learned.sure[beside[n]];
        }
      } else if (this.extra && beside) {
        own = this.classes[beside[n]]?.color ?? NOTHING;
        sure = 255;
      }
      if (this.mode === "height") rgb = ramp((xyz[3 * n + 2] - floor) / Math.max(top - floor, 1e-6));
      else if (this.mode === "learned") rgb = own;
      else if (!known) rgb = NOTHING;
      else if (kind === "rgb") rgb = [values[3 * n], values[3 * n + 1], values[3 * n + 2]];
      else if (kind === "class") rgb = this.classes[values[n]]?.color ?? NOTHING;
      else rgb = ramp((values[n] - column.low) / Math.max(column.high - column.low, 1e-9));
      const at = 4 * n;
      color.array[at] = rgb[0];
      color.array[at + 1] = rgb[1];
      color.array[at + 2] = rgb[2];
      color.array[at + 3] = 255;
      tint.array[at] = own[0];
      tint.array[at + 1] = own[1];
      tint.array[at + 2] = own[2];
      tint.array[at + 3] = sure;
    }
    color.needsUpdate = true;
    tint.needsUpdate = true;
  }

  /** How many points of each tile are wanted from here, within the budget; loads those that are missing. */
  choose() {
    const focus = this.shared.uHasFocus.value ? this.shared.uFocus.value : null;
    const reach = this.shared.uReach.value;
    const eye = this.camera.position;
    let near = 0, rest = 0;
    for (const tile of this.tiles) {
      tile.close = focus !== null && tile.distance(focus) < reach;
      const far = Math.max(tile.distance(eye), 1e-3);
      const pixels = (this.about.step * this.scale) / far;
      tile.share = tile.close ? 1 : Math.min(1, (pixels / SPACING) ** 2);
      if (tile.close) near += tile.count;
      else rest += tile.share * tile.count;
    }
    const room = Math.max(this.budget - near, 0.1 * this.budget);
    const fit = Math.min(1, room / Math.max(rest, 1));
    for (const tile of this.tiles) {
      const share = tile.close ? Math.min(1, Math.max(this.budget, LEAST) / near) : tile.share * fit;
      tile.wanted = Math.min(tile.count, Math.max(200, Math.ceil(share * tile.count)));
      tile.drawn = Math.min(tile.loaded, tile.wanted);
      tile.material.uniforms.uThin.value = Math.sqrt(tile.count / Math.max(1, tile.drawn));
      tile.points.geometry.setDrawRange(0, tile.drawn);
      tile.points.visible = tile.drawn > 0;
    }
    if (this.loading === 0) {
      // Little by little, what is nearest first, so that the picture is never waited for.
      let count = 0;
      const more = this.tiles
        .filter((tile) => tile.wanted > 1.05 * tile.loaded + 50 || (tile.wanted === tile.count && tile.loaded < tile.count))
        .sort((a, b) => Number(b.close) - Number(a.close) || a.distance(eye) - b.distance(eye))
        .filter((tile) => (count += tile.wanted - tile.loaded) < BATCH || count === tile.wanted - tile.loaded);
      if (more.length) this.fill(this.serial, more).then(() => this.touch(), () => {});
    }
  }

  draw() {
    if (!this.about) return;
    const begin = performance.now();
    const holder = this.canvas.parentElement;
    const ratio = Math.min(devicePixelRatio, 2);
    const wide = Math.max(1, holder.clientWidth), high = Math.max(1, holder.clientHeight);
    const size = this.renderer.getSize(new Vector2());
    if (size.x !== wide || size.y !== high || this.renderer.getPixelRatio() !== ratio) {
      this.renderer.setPixelRatio(ratio);
      this.renderer.setSize(wide, high, false);
      this.target.setSize(wide * ratio, high * ratio);
    }
    this.scale = (high * ratio) / (2 * Math.tan((FIELD * Math.PI) / 360));
    this.shared.uScale.value = this.scale;
    this.shared.uLargest.value = 26 * ratio;
    this.shared.uEye.value.copy(this.camera.position);
    this.camera.aspect = (this.split ? wide / 2 : wide) / high;
    const far = this.camera.position.distanceTo(this.controls.target);
    this.camera.near = Math.max(0.01, far / 200);
    this.camera.updateProjectionMatrix();
    this.choose();
    const paper = this.shared.uPaper.value;
    this.renderer.setRenderTarget(this.target);
    this.renderer.setClearColor(paper, 1);
    this.renderer.info.reset();
    this.renderer.info.autoReset = false;
    this.target.viewport.set(0, 0, wide * ratio, high * ratio);
    this.target.scissorTest = false;
    this.renderer.clear();
    let draws = 0, points = 0;
    for (const half of this.split ? [0, 1] : [0]) {
      this.shared.uSplit.value = half;
      const left = this.split ? Math.round((half * wide * ratio) / 2) : 0;
      const width = this.split ? Math.round((wide * ratio) / 2) : wide * ratio;
      this.target.viewport.set(left, 0, width, high * ratio);
      this.renderer.setRenderTarget(this.target);
      this.renderer.render(this.scene, this.camera);
      draws = this.renderer.info.render.calls;
      points = this.renderer.info.render.points;
    }
    this.renderer.setRenderTarget(null);
    this.shade.uniforms.uPixel.value.set(1 / (wide * ratio), 1 / (high * ratio));
    this.shade.uniforms.uNear.value = this.camera.near;
    this.shade.uniforms.uFar.value = this.camera.far;
    this.renderer.render(this.whole, this.flat);
    if (this.measure) {
      // Only who reads a pixel waits until it is drawn.
      const gl = this.renderer.getContext();
      gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
    }
    const took = performance.now() - begin;
    this.statistics = { draws: draws + 1, points, milliseconds: took };
    // The next pictures have as many points as this machine draws at some thirty a second: while something moves, pictures
    // follow each other as fast as they can be drawn.
    const gap = begin - (this.begun ?? -1e9);
    this.begun = begin;
    if (gap > 45 && gap < 300) this.budget = Math.max(LEAST, 0.85 * this.budget);
    else if (gap < 25 && points > 0.8 * this.budget) this.budget = Math.min(MOST, 1.1 * this.budget);
    this.onFrame(this);
  }

  /** Pixels from the upper left corner of the canvas, and whether the place (3,) is before the camera. */
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
      const xyz = tile.columns.get("xyz");
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
    const xyz = best.tile.columns.get("xyz");
    return { place: first + best.n, xyz: [xyz[3 * best.n], xyz[3 * best.n + 1], xyz[3 * best.n + 2]] };
  }
}
