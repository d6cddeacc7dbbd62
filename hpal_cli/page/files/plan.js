// Draws the whole scene from above, with the places of the queries.

const LOUD = "#ff0080";
const MAX_POINTS = 150000; // points that are drawn, at most

export class Plan {
  /** onChoose: called with the number of the query whose dot was clicked. */
  constructor(canvas, view, onChoose) {
    this.canvas = canvas;
    this.view = view;
    this.dots = [];
    this.here = null;
    this.image = document.createElement("canvas");
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      const x = event.clientX - box.left, y = event.clientY - box.top;
      const near = this.dots
        .map((dot) => [Math.hypot(...this.at(dot.place).map((axis, n) => axis - [x, y][n])), dot])
        .sort((a, b) => a[0] - b[0])[0];
      if (near && near[0] < 12) onChoose(near[1]);
    });
    this.stale = true; // whether the drawing is out of date
    this.drawn = "";
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** Sets what the plan shows beside the points: dots for the queries, and the place that is looked at. */
  show({ dots = this.dots, here = this.here }) {
    this.dots = dots;
    this.here = here;
    this.stale = true;
    // A quick picture is followed by a still one, and the plan is drawn with that.
    if (!this.view.quick) this.draw();
  }

  /** Draws after some time without further calls. */
  paintSoon(delay = 250) {
    clearTimeout(this.coming);
    this.coming = setTimeout(() => this.paint(), delay);
  }

  /** Draws the loaded points anew: after a scene was loaded, and when its colours changed. */
  paint() {
    const { view } = this;
    if (!view.tiles.length) return;
    const { low: { x: left, y: bottom }, high: { x: right, y: top } } = view.cloud;
    const low = [left, bottom], high = [right, top];
    const size = Math.max(high[0] - low[0], high[1] - low[1], 1e-3);
    let loaded = 0;
    for (const tile of view.tiles) loaded += tile.loaded;
    // The first points of each tile show the whole scene with fewer points.
    const part = Math.min(1, MAX_POINTS / Math.max(1, loaded));
    loaded *= part;
    // The pixels are as fine as the number of loaded points allows.
    const across = Math.round(Math.min(320, Math.max(60, Math.sqrt(loaded) * 0.6)));
    const pixel = size / across;
    const wide = Math.ceil((high[0] - low[0]) / pixel) + 1, tall = Math.ceil((high[1] - low[1]) / pixel) + 1;
    this.image.width = wide;
    this.image.height = tall;
    const context = this.image.getContext("2d");
    const data = context.createImageData(wide, tall);
    const height = new Float32Array(wide * tall).fill(-Infinity);
    for (const tile of view.tiles) {
      const { xyz } = tile, colors = tile.points.geometry.attributes, end = Math.ceil(part * tile.loaded);
      for (let n = 0; n < end; n++) {
        const z = xyz[3 * n + 2];
        if (view.about.roof && z > view.about.cut) continue;
        const at = Math.floor((high[1] - xyz[3 * n + 1]) / pixel) * wide + Math.floor((xyz[3 * n] - low[0]) / pixel);
        if (z <= height[at]) continue;
        height[at] = z;
        const share = view.mode === "learned" ? 0 : (0.75 * colors.tint.array[4 * n + 3]) / 255;
        for (let k = 0; k < 3; k++) {
          const own = colors.color.array[4 * n + k];
          data.data[4 * at + k] = own + share * (colors.tint.array[4 * n + k] - own);
        }
        data.data[4 * at + 3] = 255;
      }
    }
    context.putImageData(data, 0, 0);
    this.low = low;
    this.high = high;
    this.stale = true;
    this.draw();
  }

  /** The place on the canvas in pixels. */
  at(place) {
    return [this.left + (place[0] - this.low[0]) * this.fit, this.top + (this.high[1] - place[1]) * this.fit];
  }

  draw() {
    if (!this.low) return;
    const ratio = devicePixelRatio;
    const wide = this.canvas.clientWidth, tall = this.canvas.clientHeight;
    if (!wide || !tall) return;
    const { x: eyeX, y: eyeY } = this.view.camera.position;
    const now = [wide, tall, ratio, ...(this.here ? [eyeX, eyeY] : [])].join(" ");
    if (!this.stale && now === this.drawn) return;
    this.stale = false;
    this.drawn = now;
    if (this.canvas.width !== Math.round(wide * ratio)) this.canvas.width = Math.round(wide * ratio);
    if (this.canvas.height !== Math.round(tall * ratio)) this.canvas.height = Math.round(tall * ratio);
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.scale(ratio, ratio);
    const size = [Math.max(this.high[0] - this.low[0], 1e-3), Math.max(this.high[1] - this.low[1], 1e-3)];
    this.fit = Math.min((wide - 16) / size[0], (tall - 16) / size[1]);
    this.left = (wide - size[0] * this.fit) / 2;
    this.top = (tall - size[1] * this.fit) / 2;
    context.globalAlpha = 0.85;
    context.imageSmoothingEnabled = true;
    context.drawImage(this.image, this.left, this.top, size[0] * this.fit, size[1] * this.fit);
    context.globalAlpha = 1;
    for (const dot of this.dots) {
      const [x, y] = this.at(dot.place);
      context.beginPath();
      context.arc(x, y, 3.5, 0, 7);
      context.fillStyle = dot.color ?? "transparent";
      context.fill();
      context.lineWidth = 3;
      context.strokeStyle = "rgba(255,255,255,.9)";
      context.stroke();
      context.lineWidth = 1.3;
      context.strokeStyle = "#222";
      context.stroke();
    }
    if (this.here) {
      const [x, y] = this.at(this.here);
      const way = Math.atan2(-(this.here[1] - eyeY), this.here[0] - eyeX);
      // The camera, as a wedge that opens towards what it sees.
      const far = Math.min(Math.hypot(this.here[0] - eyeX, this.here[1] - eyeY) * this.fit, 34);
      context.beginPath();
      context.moveTo(x - far * Math.cos(way), y - far * Math.sin(way));
      context.arc(x - far * Math.cos(way), y - far * Math.sin(way), Math.max(far, 14), way - 0.4, way + 0.4);
      context.closePath();
      context.fillStyle = "rgba(255,0,128,.22)";
      context.fill();
      context.beginPath();
      context.arc(x, y, 6, 0, 7);
      context.fillStyle = LOUD;
      context.fill();
      context.lineWidth = 2;
      context.strokeStyle = "#fff";
      context.stroke();
    }
  }
}
