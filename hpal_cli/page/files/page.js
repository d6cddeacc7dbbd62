// The page: asks one query after another, or shows any cloud.

import { CloudView, ramp } from "hpal/cloud";
import { Plan } from "hpal/plan";
import { keysFor, make, metres, round } from "hpal/words";
import * as remote from "hpal/remote";

const $ = (id) => document.getElementById(id);

let about, view, plan, keys;
let now = null; // the query that is shown
let since = 0; // when it was shown
let busy = false;
let visited = []; // queries in the order they were looked at
let at = -1;
let shownScene = null;
let counts = { done: 0, total: 0, held: 0, changes: 0 };
let dots = { scene: null, changes: -1, all: new Map() }; // the queries of the scene that is shown
let learnt = { scene: null, changes: -1, labels: [] }; // the labels that its superpoints get from the answers
const times = { answer: [], learn: [] };
globalThis.hpalPage = { times, get view() { return view; }, get query() { return now; }, get busy() { return busy; }, learns: () => about.learns };

function say(text, kind = "") {
  $("message").hidden = !text;
  $("message").textContent = text ?? "";
  $("message").className = kind;
}

function fail(error) {
  if (error.status === 0) say("The server does not answer. All that was shown as saved is saved: start the same command again and open its new address.");
  else if (error.status === 401) say("This address is no longer valid: open the one that hpal printed last.");
  else say(error.message);
  if (!shownScene) $("veil").textContent = $("message").textContent;
}

function paper() {
  const found = getComputedStyle(document.documentElement).getPropertyValue("--paper").trim().slice(1);
  return [0, 2, 4].map((n) => parseInt(found.slice(n, n + 2), 16));
}

// ---------------------------------------------------------------- classes

function classButton(label, text) {
  const button = make("button", "class");
  button.type = "button";
  const swatch = make("i", "swatch");
  swatch.style.background = `rgb(${about.classes[label].color.join(" ")})`;
  button.append(swatch, make("span", "", about.classes[label].name));
  if (text) button.append(make("b", "share", text));
  if (keys[label]) {
    button.append(make("kbd", "", keys[label]));
    button.setAttribute("aria-keyshortcuts", keys[label]);
  }
  button.title = about.classes[label].name;
  button.dataset.label = label;
  button.addEventListener("click", () => answer(label));
  return button;
}

function listClasses() {
  $("classes").replaceChildren(...about.classes.map((_, label) => classButton(label)));
  const other = (id, text, key, act) => {
    const button = make("button", "class");
    button.type = "button";
    button.id = id;
    button.append(make("span", "", text), make("kbd", "", key));
    button.addEventListener("click", act);
    return button;
  };
  $("others").replaceChildren(
    other("unsure", "Unsure", "u", () => answer(-1)), other("skip", "Skip", "s", skip), other("undo", "Undo", "^Z", undo),
  );
  $("unsure").setAttribute("aria-keyshortcuts", "u");
  $("skip").setAttribute("aria-keyshortcuts", "s");
  $("undo").setAttribute("aria-keyshortcuts", "Control+Z");
  $("find").hidden = about.classes.length < 10;
}

function matches() {
  const wanted = $("find").value.trim().toLowerCase();
  return [...$("classes").children].filter((button) => {
    const fits = about.classes[button.dataset.label].name.toLowerCase().includes(wanted);
    button.hidden = !fits;
    return fits;
  });
}

function markAnswer() {
  for (const button of document.querySelectorAll("#classes button, #guess button"))
    button.setAttribute("aria-pressed", String(now !== null && Number(button.dataset.label) === now.label));
  $("unsure")?.setAttribute("aria-pressed", String(now !== null && now.label === -1));
}

// ---------------------------------------------------------------- queries

async function showScene(number) {
  if (shownScene === number) return;
  await view.show(number);
  shownScene = number;
  plan.show({ dots: [] });
  listColours();
  plan.paintSoon();
  // The points that the first picture left out are loaded while a person looks at it.
  setTimeout(() => shownScene === number && plan.paint(), 1500);
}

/** Brings the dots of the plan and what was learned up to date. own: a query that was just answered here. */
async function refresh(own) {
  const { changes } = counts, scene = shownScene;
  if (dots.scene === scene && own !== undefined && changes === dots.changes + 1) {
    const dot = dots.all.get(own.id);
    if (dot) dot.label = own.label;
    dots.changes = changes;
  } else if (dots.scene !== scene || dots.changes !== changes) {
    const found = await remote.queries(scene);
    if (scene !== shownScene) return;
    dots = { scene, changes, all: new Map(found.map((dot) => [dot.id, dot])) };
  }
  plan.show({
    dots: [...dots.all.values()].map((dot) => ({
      ...dot,
      color: dot.label === null ? null : dot.label < 0 ? "#888" : `rgb(${about.classes[dot.label].color.join(" ")})`,
    })),
  });
  await learn();
}

/** Shows what the server sent: a query, and how many are answered. */
async function showAsked(said, { remember = true, own } = {}) {
  const { query } = said;
  now = query;
  progress(said);
  if (!query) {
    finished();
    if (shownScene !== null) refresh(own).catch(fail);
    return;
  }
  $("ask").inert = false;
  $("veil").hidden = true;
  await showScene(query.scene);
  view.focus(query.place, query.toward, view.about.reach * 2 ** Number($("reach").value));
  plan.show({ here: query.place });
  view.setRegion(null);
  if (query.points > 1)
    remote.region(query.id).then((buffer) => now === query && view.setRegion(new Float32Array(buffer)), fail);
  const names = about.classes;
  const guess = query.guess;
  $("guess").replaceChildren(
    ...(guess ? [classButton(guess.first, `${Math.round(100 * guess.confidence)} %`), classButton(guess.second, "or")] : []),
  );
  $("question").textContent = query.points > 1
    ? `What are the lit ${query.points.toLocaleString("en")} points?` : "What is at the ring?";
  const heard = query.label === null ? "" : query.label < 0 ? " Answered: unsure." : ` Answered: ${names[query.label].name}.`;
  $("where").textContent = query.name;
  $("height").textContent = `${metres(query.height)} above ground`;
  $("find").value = "";
  matches();
  if (said.taken) say("Somebody else looks at this query just now.", "note");
  else if (heard) say(`${heard.trim()} Another key changes it.`, "note");
  else say("");
  markAnswer();
  if (remember) {
    if (visited[at] !== query.id) visited.push(query.id);
    at = visited.length - 1;
  }
  since = performance.now();
  // The plan and the spread answers are updated only after the picture, which must not wait for them.
  view.drawn().then(() => refresh(own)).catch(fail);
  const { prefetch } = said;
  // The next query is prepared after the picture, while a person looks at it.
  if (prefetch) setTimeout(() => now === query && prepare(prefetch), 400);
}

/** Loads what the next query will show. */
function prepare({ scene, place }) {
  if (scene !== shownScene) view.prepare(scene, true).catch(() => {});
  else if (place) {
    view.prefetchPlace = { x: place[0], y: place[1], z: place[2] };
    view.touch();
  }
}

function progress(said) {
  counts = { done: said.done, total: said.total, held: said.held, changes: said.changes };
  const { done, total, held } = counts;
  $("progress").max = total;
  $("progress").value = done;
  $("counted").textContent = `${done.toLocaleString("en")} of ${total.toLocaleString("en")} answered`
    + (now ? ` · query ${now.number}` : "") + (held ? ` · ${held} held by others` : "");
}

function finished() {
  $("ask").inert = true;
  $("guess").replaceChildren();
  $("question").textContent = "Nothing left to ask";
  $("ring").toggleAttribute("hidden", true);
  const more = counts.total - counts.done;
  $("veil").className = "clear";
  $("veil").hidden = false;
  $("veil").textContent = more > 0
    ? "The queries that are left are with others, or wait for a second person."
    : remote.offline ? "All answered. Save the answers as CSV and send the file back." : "All answered. Finish, and hpal says what to type next.";
}

async function once(act) {
  if (busy) return;
  busy = true;
  try {
    await act();
  } catch (error) {
    fail(error);
  } finally {
    busy = false;
  }
}

function answer(label) {
  return once(async () => {
    if (!now) return;
    const begin = performance.now();
    const took = (begin - since) / 1000;
    const answered = now;
    const said = await remote.answer(answered.id, label, took);
    answered.label = label;
    markAnswer();
    await showAsked(said, { own: answered });
    if (said.query) view.drawn().then(() => times.answer.push(performance.now() - begin));
  });
}

const skip = () => once(async () => {
  if (now) await showAsked(await remote.skip(now.id));
});

const undo = () => once(async () => {
  const said = await remote.undo();
  if (!said.query) return say("You have no answer to take back.", "note");
  await showAsked(said);
  say("Taken back. Answer again, or skip it.", "note");
});

const go = (step) => once(async () => {
  if (step < 0 && at <= 0) return say("This is where you began.", "note");
  if (step > 0 && at >= visited.length - 1) return showAsked(await remote.next(now ? now.id : -1));
  at += step;
  await showAsked(await remote.query(visited[at]), { remember: false });
});

const jump = (dot) => once(async () => {
  await showAsked(await remote.query(dot.id));
});

async function learn() {
  const { changes } = counts, scene = shownScene, begin = performance.now();
  if (!about.learns || (learnt.scene === scene && learnt.changes === changes)) return;
  // Without answers there is nothing to learn from.
  if (!view.cloud.learned && ![...dots.all.values()].some((dot) => dot.label !== null && dot.label >= 0)) return;
  const before = learnt;
  learnt = { scene, changes, labels: scene === before.scene ? before.labels : [] };
  const mine = learnt;
  try {
    const { labels, sure } = await remote.learned(scene);
    if (mine !== learnt || scene !== shownScene) return;
    learnt.labels = labels;
    const first = !view.cloud.learned;
    await view.setLearned(labels, sure);
    if (first) listColours();
    else if (view.mode === "learned") showLegend();
    plan.paintSoon();
    times.learn.push(performance.now() - begin);
  } catch (error) {
    learnt = before;
    if (error.status !== 409) return;
    about.learns = false;
    say(`Answers are not spread on this page: ${error.message}`, "note");
  }
}

// ---------------------------------------------------------------- colours

function listColours() {
  const modes = view.modes();
  $("colours").replaceChildren(...modes.slice(0, 9).map((mode, n) => {
    const button = make("button", "", `${mode.title} `);
    button.type = "button";
    button.append(make("kbd", "", `⇧${n + 1}`));
    button.setAttribute("aria-pressed", String(mode.name === view.mode));
    button.setAttribute("aria-keyshortcuts", `Shift+${n + 1}`);
    button.addEventListener("click", () => colour(mode.name));
    return button;
  }));
  showLegend();
}

async function colour(name) {
  try {
    await view.setMode(name);
    listColours();
    plan.paintSoon(0);
  } catch (error) {
    fail(error);
  }
}

function showLegend() {
  const mode = view.modes().find((one) => one.name === view.mode);
  const rows = [];
  const row = (...parts) => {
    const line = make("div");
    line.append(...parts);
    rows.push(line);
  };
  if (mode.kind === "number") {
    const bar = make("canvas");
    bar.width = 120;
    bar.height = 1;
    const context = bar.getContext("2d");
    for (let x = 0; x < 120; x++) {
      context.fillStyle = `rgb(${ramp(x / 119).map(Math.round).join(" ")})`;
      context.fillRect(x, 0, 1, 1);
    }
    const column = view.about.columns.find((one) => one.name === mode.name);
    const [low, high] = mode.name === "height" ? [metres(0), metres(view.about.top - view.about.floor)]
      : [column.low, column.high].map((value) => Number((value ?? 0).toPrecision(3)).toLocaleString("en"));
    row(make("span", "", low), bar, make("span", "", high));
  } else if (mode.kind === "class" || view.split) {
    const there = new Map();
    for (const tile of view.tiles) {
      const values = tile.columns.get(mode.name === "learned" ? "superpoint" : mode.kind === "class" ? mode.name : "truth");
      const end = Math.min(tile.loaded, values?.length ?? 0), step = 1 + Math.floor(end / 3000);
      for (let n = 0; n < end; n += step) {
        const label = mode.name === "learned" ? learnt.labels[values[n]] ?? -1 : values[n];
        there.set(label, (there.get(label) ?? 0) + step);
      }
    }
    const order = [...there.entries()].sort((a, b) => b[1] - a[1]);
    for (const [label] of order.slice(0, 14)) {
      const swatch = make("i", "swatch");
      swatch.style.background = label < 0 ? "rgb(128 128 128)" : `rgb(${(about.classes[label]?.color ?? [128, 128, 128]).join(" ")})`;
      row(swatch, make("span", "", label < 0 ? "nothing known" : about.classes[label]?.name ?? `class ${label}`));
    }
    if (order.length > 14) row(make("span", "", `and ${order.length - 14} more`));
  }
  $("legend").replaceChildren(...rows);
}

// ---------------------------------------------------------------- the picture

function onFrame() {
  times.first ??= performance.now();
  const ring = $("ring");
  const focus = view.home && (about.mode === "view" || now) ? view.home.place : null;
  if (focus) {
    const { x, y, seen } = view.project(focus);
    ring.toggleAttribute("hidden", !seen);
    ring.style.transform = `translate(${x - 50}px, ${y - 50}px)`;
  } else ring.toggleAttribute("hidden", true);
  const pixels = view.metre();
  const length = round(110 / pixels);
  $("scale-bar").style.width = `${length * pixels}px`;
  $("scale-text").textContent = metres(length);
  if (view.home) $("reach-text").textContent = metres(view.home.reach);
  // On a machine that draws slowly, the camera in the plan moves only once the picture is still.
  if (!view.quick) plan.draw();
}

function setReach(step) {
  $("reach").value = Number($("reach").value) + step;
  view.setReach(view.about.reach * 2 ** Number($("reach").value));
}

// ---------------------------------------------------------------- looking

async function look(number) {
  $("veil").hidden = false;
  $("veil").textContent = "Loading…";
  shownScene = null;
  view.home = null;
  view.shared.uHasFocus.value = 0;
  await showScene(number);
  view.reset();
  $("veil").hidden = true;
  $("picked").hidden = true;
  $("where").textContent = about.scenes.find((scene) => scene.number === number).name;
  $("counted").textContent = `${view.about.points.toLocaleString("en")} points`;
  showMarks();
  const truth = view.about.columns.some((column) => column.name === "truth");
  $("truth-label").hidden = !truth;
  if (truth && $("truth").checked) await side(true);
}

function showMarks() {
  const color = ({ label }) => (label < 0 ? "#ff0080" : `rgb(${(about.classes[label]?.color ?? [255, 0, 128]).join(" ")})`);
  plan.show({ dots: view.about.marks.map((mark) => ({ ...mark, color: color(mark) })), here: null });
  $("marks").replaceChildren(...view.about.marks.slice(0, 1000).map((mark) => {
    const button = make("button", "class");
    button.type = "button";
    button.append(make("span", "", mark.text));
    button.addEventListener("click", () => showMark(mark));
    return button;
  }));
}

function showMark(mark) {
  view.focus(mark.place, [-0.5, -0.7, 0.5], view.about.reach);
  plan.show({ here: mark.place });
}

async function side(on) {
  $("truth").checked = on;
  await view.setSplit(on ? "truth" : null);
  $("sides").hidden = !on;
  $("left-side").textContent = view.modes().find((mode) => mode.name === view.mode).title;
  showLegend();
}

async function pick(event) {
  const box = $("cloud").getBoundingClientRect();
  const found = view.pick(event.clientX - box.left, event.clientY - box.top);
  $("picked").hidden = true;
  if (!found) return;
  const known = await remote.point(shownScene, found.place, view.about.whole);
  const list = make("dl");
  for (const [name, value] of [
    ["scene", known.scene], ["index", known.index], ["position", known.position.join("  ")], ...Object.entries(known.values),
  ]) list.append(make("dt", "", name), make("dd", "", String(value)));
  $("picked").replaceChildren(make("strong", "", "Point"), list);
  $("picked").hidden = false;
  view.home = { place: found.xyz, toward: view.camera.position.clone().sub(view.controls.target).normalize().toArray(), reach: view.about.reach };
  view.touch();
}

// ---------------------------------------------------------------- keys

function onKey(event) {
  if ($("help").open || event.altKey || event.metaKey) return;
  const typing = event.target.matches("input[type=search], #name, select");
  if (event.ctrlKey) {
    if (event.key.toLowerCase() === "z" && !typing && about.mode === "label") {
      event.preventDefault();
      undo();
    }
    return;
  }
  if (typing) {
    if (event.target === $("find") && event.key === "Enter") {
      const [first] = matches();
      if (first && $("find").value.trim()) {
        $("find").blur();
        answer(Number(first.dataset.label));
      }
    } else if (event.key === "Escape") event.target.blur();
    return;
  }
  const act = actionFor(event);
  if (act) {
    event.preventDefault();
    act();
  }
}

function actionFor(event) {
  const digit = /^Digit([1-9])$/.exec(event.code);
  if (event.shiftKey && digit) {
    const mode = view.modes()[Number(digit[1]) - 1];
    return mode && (() => colour(mode.name));
  }
  const turns = {
    ArrowLeft: [-12, 0], ArrowRight: [12, 0], ArrowUp: [0, 8], ArrowDown: [0, -8], "+": [0, 0, 0.8], "=": [0, 0, 0.8], "-": [0, 0, 1.25],
  };
  if (event.target.type === "range" && event.key.startsWith("Arrow")) return null;
  if (turns[event.key]) return () => view.turn(...turns[event.key]);
  const usual = {
    Home: () => view.reset(), "?": () => $("help").showModal(), "[": () => setReach(-0.5), "]": () => setReach(0.5),
  };
  if (usual[event.key]) return usual[event.key];
  if (about.mode === "view") return event.key === "t" && !$("truth-label").hidden ? () => side(!$("truth").checked).catch(fail) : null;
  const asks = {
    u: () => answer(-1), s: skip, Backspace: () => go(-1), PageUp: () => go(-1), PageDown: () => go(1),
    "/": () => $("find").hidden || $("find").focus(),
  };
  if (event.repeat && !["PageUp", "PageDown"].includes(event.key)) return null;
  if (asks[event.key]) return asks[event.key];
  const label = event.shiftKey ? -1 : keys.indexOf(event.key.toLowerCase());
  return event.key && label >= 0 ? () => answer(label) : null;
}

// ---------------------------------------------------------------- the beginning

async function start() {
  view = new CloudView($("cloud"), remote, { onFrame, onWhole });
  const begun = await remote.begun;
  about = begun.about;
  view.offered = begun.scene;
  keys = keysFor(about.classes.length);
  document.title = `${about.title} · hpal`;
  view.classes = about.classes;
  plan = new Plan($("plan"), view, (dot) => (about.mode === "label" ? jump(dot) : showMark(dot)));
  view.setPaper(paper());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => view.setPaper(paper()));
  document.addEventListener("keydown", onKey);
  $("help-button").addEventListener("click", () => $("help").showModal());
  $("reach").addEventListener("input", () => setReach(0));
  $("end").addEventListener("click", end);
  if (about.mode === "view") return startLooking();
  listClasses();
  $("find").addEventListener("input", matches);
  $("name").value = begun.name;
  remote.setName(begun.name);
  $("name").addEventListener("change", () => {
    const value = $("name").value.trim() || about.name || "someone";
    $("name").value = value;
    localStorage.setItem("hpal-name", value);
    remote.setName(value);
    once(async () => showAsked(await remote.next(now ? now.id - 1 : -1)));
  });
  if (remote.offline) {
    $("save").hidden = false;
    $("save").addEventListener("click", remote.save);
    $("end").hidden = true;
  }
  const said = begun.said ?? await remote.next(-1);
  if (!said.query && about.scenes.length) await showScene(about.scenes[0].number);
  await showAsked(said);
  if (!remote.offline) setInterval(() => remote.state(now ? now.id : null).then(others, fail), 20000);
}

/** Shows what other people have answered in the meantime. */
async function others(said) {
  progress(said);
  if (!busy && shownScene !== null) await refresh();
}

/** Called when the whole of a large scene is loaded, of which the first picture was coarse. */
function onWhole() {
  plan.paintSoon();
  listColours();
  if (about.mode === "view") showMarks();
}

async function startLooking() {
  $("ask").hidden = true;
  $("look").hidden = false;
  $("progress").hidden = true;
  $("name-label").hidden = true;
  $("reach-label").hidden = true;
  for (const scene of about.scenes) {
    const option = make("option", "", scene.marks ? `${scene.name} (${scene.marks})` : scene.name);
    option.value = scene.number;
    $("scenes").append(option);
  }
  $("scenes").addEventListener("change", () => look(Number($("scenes").value)).catch(fail));
  $("truth").addEventListener("change", () => side($("truth").checked).catch(fail));
  let down = null;
  $("cloud").addEventListener("pointerdown", (event) => (down = [event.clientX, event.clientY]));
  $("cloud").addEventListener("click", (event) => {
    if (down && Math.hypot(event.clientX - down[0], event.clientY - down[1]) < 4) pick(event).catch(fail);
  });
  await look(about.scenes[0].number);
}

async function end() {
  if (about.mode === "label" && !confirm("End the session for everybody? All answers are saved.")) return;
  try {
    await remote.end();
    $("veil").className = "";
    $("veil").hidden = false;
    $("veil").textContent = "Ended. The terminal says what to type next; this page can be closed.";
    $("ask").inert = true;
    now = null;
    $("ring").toggleAttribute("hidden", true);
  } catch (error) {
    fail(error);
  }
}

start().catch(fail);
