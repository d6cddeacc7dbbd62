// Numbers in words, keys for classes, and elements made of text alone.

export const RESERVED = ["u", "s"];

/** Keys for so many classes: 1 to 9, then the letters that mean nothing else. */
export function keysFor(count) {
  const letters = [..."123456789abcdefghijklmnopqrstuvwxyz"].filter((key) => !RESERVED.includes(key));
  return Array.from({ length: count }, (_, n) => letters[n] ?? "");
}

/** 0.05 as 5 cm, 12.3 as 12 m. */
export function metres(value) {
  const size = Math.abs(value);
  if (size < 1) return `${Math.round(value * 100)} cm`;
  return size < 10 ? `${value.toFixed(1)} m` : `${Math.round(value).toLocaleString("en")} m`;
}

/** The largest of 1, 2, 5, 10, ... that is at most so large. */
export function round(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [5, 2, 1].find((step) => step * power <= value) * power;
}

/** An element with a class and a text: never HTML, whatever the text holds. */
export function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}
