// Sends the requests of the page to its server. The token is in the address after the #, a part that browsers do not send.

const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem("hpal-token", given);
  history.replaceState(null, "", location.pathname);
}
const token = sessionStorage.getItem("hpal-token") ?? "";
const client = sessionStorage.getItem("hpal-client") ?? crypto.getRandomValues(new Uint32Array(4)).join("-");
sessionStorage.setItem("hpal-client", client);

export const offline = false;

let name = localStorage.getItem("hpal-name") ?? "";

/** The name of the person who answers. */
export function setName(value) {
  name = value;
}

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function call(path, body) {
  let answer;
  try {
    answer = await fetch(path, {
      method: body ? "POST" : "GET",
      headers: { Authorization: `Bearer ${token}`, ...(body ? { "Content-Type": "application/json" } : {}) },
      body: body && JSON.stringify(body),
    });
  } catch {
    throw new Refused(0, "The server does not answer.");
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, said.error ?? `The server said ${answer.status}.`);
  }
  return answer;
}

const json = async (path, body) => (await call(path, body)).json();
const bytes = async (path) => (await call(path)).arrayBuffer();
const who = () => `client=${client}&name=${encodeURIComponent(name)}`;

/** What the page begins with, in one answer: the length of its JSON, the JSON, and the first points of the scene. It is asked for at
 * once, while the browser still reads the page's other scripts. */
export const begun = bytes(`/api/start?${who()}`).then((buffer) => {
  const length = new DataView(buffer).getUint32(0, true);
  const found = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  if (found.scene) found.scene.first.values = buffer.slice(4 + length);
  return found;
});
begun.catch(() => {}); // The error is reported where `begun` is awaited.
export const scene = (number, whole = false) => json(`/api/scene/${number}${whole ? "?whole=1" : ""}`);
export const points = (number, column, parts, whole) => bytes(
  `/api/scene/${number}/points?column=${encodeURIComponent(column)}&whole=${Number(whole)}&parts=${parts.map((part) => part.join(":")).join(",")}`,
);
export const range = (number, column) => json(`/api/scene/${number}/range?column=${encodeURIComponent(column)}`);
export const point = (number, place, whole) => json(`/api/scene/${number}/point/${place}?whole=${Number(whole)}`);
export const queries = (number) => json(`/api/scene/${number}/queries`);
export const region = (number) => bytes(`/api/query/${number}/region`);
export const query = (number) => json(`/api/query/${number}?${who()}`);
export const next = (after) => json(`/api/next?${who()}${after >= 0 ? `&after=${after}` : ""}`);
export const answer = (number, label, seconds) => json("/api/answer", { client, name, query: number, label, seconds });
export const skip = (number) => json("/api/skip", { client, name, query: number });
export const undo = () => json("/api/undo", { client, name });
export const state = (number) => json(`/api/state?${who()}${number === null ? "" : `&query=${number}`}`);
export const end = () => json("/api/end", {});

/** For each superpoint its class, -1 for none, and the probability of this class. */
export async function learned(number) {
  const buffer = await bytes(`/api/scene/${number}/learned`);
  const labels = new Int16Array(buffer.byteLength / 4), sure = new Uint8Array(buffer.byteLength / 4);
  const view = new DataView(buffer);
  for (let n = 0; n < labels.length; n++) {
    labels[n] = view.getInt16(4 * n, true);
    sure[n] = view.getUint8(4 * n + 2);
  }
  return { labels, sure };
}
