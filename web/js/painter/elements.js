/** Making elements. Text is only ever set as text: nothing that a user typed becomes HTML. */

import { keepFocus } from "./focus.js";

const SVG = "http://www.w3.org/2000/svg";

/** An element with properties, data-* and aria-* attributes, and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const ICONS = {
  brush: "M2 14c3 0 4-1 4-3a2 2 0 0 0-2-2c-2 0-2 2-2 5zM6 9l7-7 1 1-7 7",
  eraser: "M6 13h8M3 10l6-7 4 4-6 6H5z",
  rectangle: "M2 3.5h12v9H2z",
  ellipse: "M2 8a6 4.5 0 1 0 12 0a6 4.5 0 1 0-12 0",
  lasso: "M8 3c3 0 6 1.500 6 4s-3 4-6 4-6-1.500-6-4 3-4 6-4zM5 11c-1 1-1 3 1 3",
  polygon: "M3 6l6-4 5 6-4 6-6-2z",
  bucket: "M3 8l5-5 5 5-5 5zM13 10c1 1.500 1.500 2.500.5 3.500M6 2l2 2",
  move: "M8 1v14M1 8h14M8 1L6 3M8 1l2 2M8 15l-2-2M8 15l2-2M1 8l2-2M1 8l2 2M15 8l-2-2M15 8l-2 2",
  undo: "M6 3L2 7l4 4M2 7h8a4 4 0 0 1 0 8H8",
  redo: "M10 3l4 4-4 4M14 7H6a4 4 0 0 0 0 8h2",
  eyedropper: "M2 14l1-3 6-6 2 2-6 6-3 1zM8 4l4 4M10 5l2-2a1.400 1.400 0 0 1 2 2l-2 2",
  snap: "M3 2v6a5 5 0 0 0 10 0V2h-3v6a2 2 0 0 1-4 0V2zM3 5h3M10 5h3",
  fit: "M7 2a5 5 0 1 0 0 10a5 5 0 1 0 0-10M11 11l4 4M5 7h4",
  full: "M9 2h5v5M7 14H2V9M14 2L9 7M2 14l5-5",
  clear: "M2 5V2h3M11 2h3v3M14 11v3h-3M5 14H2v-3M5.500 5.500l5 5M10.500 5.500l-5 5",
  remove: "M2.500 4h11M6 4V2h4v2M4 4l1 10h6l1-10M7 7v4M9 7v4",
  picture: "M2 3h12v10H2zM2 11l4-4 3 3 2-2 3 3M10 6h1",
  more: "M2 4h12M2 8h12M2 12h12M5 2.500v3M11 6.500v3M7 10.500v3",
  add: "M8 3v10M3 8h10",
  shown: "M1 8s3-5 7-5 7 5 7 5-3 5-7 5-7-5-7-5zM6 8a2 2 0 1 0 4 0a2 2 0 1 0-4 0",
  hidden: "M2 2l12 12M1 8s3-5 7-5c1 0 2 .3 3 .8M15 8s-3 5-7 5c-1 0-2-.3-3-.8",
  up: "M4 10l4-4 4 4",
  down: "M4 6l4 4 4-4",
  import: "M8 2v8M5 7l3 3 3-3M2 13h12",
  export: "M8 10V2M5 5l3-3 3 3M2 13h12",
};

/** A button with an icon; its label is read out and shown as a hint. */
export function iconButton(icon, label, action, properties = {}) {
  const drawn = svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: ICONS[icon] }));
  const button = element("button", { type: "button", title: label, "aria-label": label, ...properties }, drawn);
  button.addEventListener("click", (event) => {
    event.preventDefault();
    keepFocus(button, () => action(event));
  });
  return button;
}
