// Formats numbers, assigns keys to classes, and makes elements of plain text.

export const RESERVED = ["u", "s"];

/** The keys for `count` classes: 1 to 9, then the letters that have no other meaning. */
export function keysFor(count) {
  const letters = [..."123456789abcdefghijklmnopqrstuvwxyz"].filter((key) => !RESERVED.includes(key));
  return Array.from({ length: count }, (_, n) => letters[n] ?? "");
}

/** A length in metres as text: 0.05 as 5 cm, 12.3 as 12 m. */
export function metres(value) {
  const size = Math.abs(value);
  if (size < 1) return `${Math.round(value * 100)} cm`;
  return size < 10 ? `${value.toFixed(1)} m` : `${Math.round(value).toLocaleString("en")} m`;
}

/** The largest of 1, 2, 5, 10, ... that is at most `value`. */
export function round(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [5, 2, 1].find((step) => step * power <= value) * power;
}

/** Makes an element with a class and a text. The text is never read as HTML. */
export function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}
