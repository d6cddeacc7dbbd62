// Answers the requests of the page if there is no server: all data are in the file, and answers are saved as a table.

const data = JSON.parse(document.getElementById("data").textContent);
const place = `hpal ${data.id}`;

export const offline = true;

let given = new Map(); // query -> label, -1 for unsure
let skipped = [];
let history = [];

try {
  const kept = JSON.parse(localStorage.getItem(place) ?? "{}");
  given = new Map(kept.given ?? []);
  history = kept.history ?? [];
} catch {
  // Some browsers store nothing for pages that are files. Then only the downloaded table keeps the answers.
}

function keep() {
  try {
    localStorage.setItem(place, JSON.stringify({ given: [...given], history }));
  } catch {
    // As above.
  }
}

function bytes(text) {
  const letters = atob(text), found = new Uint8Array(letters.length);
  for (let n = 0; n < letters.length; n++) found[n] = letters.charCodeAt(n);
  return found;
}

const unpacked = new Map();

function column(scene, name) {
  const key = `${scene.number} ${name}`;
  if (!unpacked.has(key)) {
    let values = bytes(scene[name]);
    if (name === "xyz") {
      const steps = new Uint16Array(values.buffer);
      values = new Float32Array(steps.length);
      for (let n = 0; n < steps.length; n++) values[n] = scene.low[n % 3] + steps[n] * scene.size[n % 3];
    } else if (name !== "rgb") values = Float32Array.from(values);
    unpacked.set(key, values);
  }
  return unpacked.get(key);
}

const find = (number) => data.scenes.find((scene) => scene.number === number);

let changes = 0;

/** A query, how many queries are answered, and the next query, in the form in which a server sends them. */
function asked(number) {
  const query = number === undefined ? null : { ...data.queries[number], label: given.get(number) ?? null };
  const following = open(number ?? -1).find((id) => id !== number);
  const next = following === undefined ? null : { scene: data.queries[following].scene, place: data.queries[following].place };
  return { query, prefetch: next, done: given.size, total: data.queries.length, held: 0, changes };
}

export const setName = () => {};

export const begun = Promise.resolve({
  about: { mode: "label", title: data.title, name: "", classes: data.classes, scenes: data.scenes, learns: false, truth: false },
  name: "someone", said: null, scene: null,
});

export const scene = async (number) => ({ ...find(number) });

export const range = async () => ({});

export async function points(number, name, parts) {
  const scene = find(number), values = column(scene, name), size = name === "xyz" || name === "rgb" ? 3 : 1;
  const firsts = [0];
  for (const [count] of scene.tiles) firsts.push(firsts.at(-1) + count);
  const pieces = parts.map(([tile, a, b]) => values.subarray((firsts[tile] + a) * size, (firsts[tile] + b) * size));
  const joined = new values.constructor(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    joined.set(piece, at);
    at += piece.length;
  }
  return joined.buffer;
}

export const queries = async (number) => data.queries
  .filter((query) => query.scene === number)
  .map((query) => ({ id: query.id, place: query.place, label: given.get(query.id) ?? null }));

export const region = async (number) => bytes(data.queries[number].region).buffer;

export const query = async (number) => asked(number);

function open(after) {
  const total = data.queries.length, behind = (id) => (id - after - 1 + total) % total;
  return data.queries
    .map((one) => one.id)
    .filter((id) => !given.has(id))
    .sort((a, b) => skipped.indexOf(a) - skipped.indexOf(b) || behind(a) - behind(b));
}

export const next = async (after) => asked(open(after)[0]);

export async function answer(number, label) {
  given.set(number, label);
  history = [...history.filter((one) => one !== number), number];
  changes++;
  keep();
  return next(number);
}

export async function skip(number) {
  skipped = [...skipped.filter((one) => one !== number), number];
  return next(number);
}

export async function undo() {
  const number = history.pop();
  if (number === undefined) return asked();
  given.delete(number);
  changes++;
  keep();
  return asked(number);
}

// A spreadsheet would take such a text for a formula, so it is marked; hpal removes the mark when it reads the table.
const safe = (text) => {
  const marked = /^'*[=+\-@\t\r]/.test(text) && !/^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(marked) ? `"${marked.replaceAll('"', '""')}"` : marked;
};

/** The answers as a table, for the browser to download. */
export function save() {
  const wide = data.queries.some((query) => query.points > 1);
  const lines = [["scene", "index", "x", "y", "z", ...(wide ? ["points"] : []), "label"].join(",")];
  for (const query of data.queries) {
    const label = given.get(query.id);
    const text = label === undefined ? "" : label < 0 ? "unsure" : data.classes[label].name;
    lines.push([
      safe(query.name), query.index, ...query.position.map((axis) => axis.toFixed(5)), ...(wide ? [query.points] : []), safe(text),
    ].join(","));
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }));
  link.download = data.file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
