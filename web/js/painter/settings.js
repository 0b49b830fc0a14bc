/** A region's settings, folded out under its line. */

import { changeRow } from "./actions.js";
import { MAX_LORAS, MAX_PROMPT_LENGTH } from "./drawing.js";
import { element, iconButton } from "./elements.js";
import { keepFocus } from "./focus.js";
import { exportMask } from "./importing.js";
import { shareOf } from "./places.js";
import { t } from "./texts.js";
import { useTool } from "./workspace.js";

/** Colors of things, as prompts call them. */
const PLAIN = [
  ["red", "#dc2626"], ["orange", "#f97316"], ["yellow", "#facc15"], ["green", "#16a34a"], ["cyan", "#22d3ee"],
  ["blue", "#2563eb"], ["purple", "#9333ea"], ["pink", "#f472b6"], ["brown", "#78350f"], ["black", "#171717"],
  ["gray", "#808080"], ["white", "#f5f5f5"],
]; // prettier-ignore

/** show(row, place) brings it up to date, list() asks for LoRAs. */
export function settings(store, id) {
  const lists = loras(store, id);
  const parts = [negative(store, id), numbers(store, id), colors(store, id), lists, place(store, id)];
  const group = element("div", { className: "fovea-settings", role: "group" }, ...parts.map((part) => part.element));
  return {
    element: group,
    show(row, at) {
      group.setAttribute("aria-label", t("Settings of region {}", at + 1));
      for (const part of parts) part.show(row);
    },
    list: lists.list,
  };
}

const line = (...children) => element("div", { className: "fovea-bar" }, ...children);

function negative(store, id) {
  const label = t("Negative prompt (not here)");
  const field = element("textarea", {
    rows: 1, placeholder: label, "aria-label": label, maxLength: MAX_PROMPT_LENGTH, spellcheck: false,
  }); // prettier-ignore
  field.addEventListener("focus", () => store.startTyping());
  field.addEventListener("input", () => store.typeInRow(id, { negative_prompt: field.value.replace(/\n/g, " ") }));
  field.addEventListener("change", () => store.endTyping());
  return {
    element: field,
    show: (row) => {
      if (field.value !== row.negative_prompt) field.value = row.negative_prompt;
    },
  };
}

/** Strength, and when it acts. */
function numbers(store, id) {
  const strength = number(t("Strength"), 0, 10, 0.05, 1), start = number(t("From %"), 0, 100, 1, 100);
  const end = number(t("To %"), 0, 100, 1, 100);
  strength.onSet((value) => changeRow(store, id, { strength: value }));
  start.onSet((value) => changeRow(store, id, { start_percent: value }));
  end.onSet((value) => changeRow(store, id, { end_percent: value }));
  const fields = line(strength.element, start.element, end.element);
  fields.title = t("How strongly this region acts, and in which part of the schedule.");
  return {
    element: fields,
    show(row) {
      strength.show(row.strength);
      start.show(row.start_percent);
      end.show(row.end_percent);
    },
  };
}

/** A number with its name; unit: how much of it is 1. */
function number(label, min, max, step, unit) {
  const field = element("input", { type: "number", min, max, step, "aria-label": label });
  const rounded = (value) => Math.round(value * 1e6) / 1e6;
  const typed = () => rounded(Math.min(Math.max(Number(field.value), min), max) / unit);
  let shown = 0; // before somebody types

  function onSet(set) {
    field.addEventListener("change", () => {
      if (field.value === "") field.value = shown;
      else keepFocus(field, () => set(typed()));
    });
  }

  function show(value) {
    shown = rounded(value * unit);
    if (document.activeElement !== field) field.value = shown;
  }

  const word = element("span", { textContent: label });
  return { element: element("label", { className: "fovea-number" }, word, field), onSet, show };
}

/** Whether the thing has the region's color, and plain colors to take. */
function colors(store, id) {
  const check = element("input", { type: "checkbox" });
  check.addEventListener("change", () => changeRow(store, id, { is_color_of_object: check.checked }));
  const title = t("What you paint here has the region's color. Region Start uses it.");
  const label = element("label", { className: "fovea-check", title }, check, t("The object has this color"));
  const take = (color) => changeRow(store, id, { color, is_color_of_object: true });
  const swatches = PLAIN.map(([word, color]) => {
    const about = { className: "fovea-plain", title: t(word), "aria-label": t(word) };
    const button = element("button", { type: "button", ...about });
    button.style.background = color;
    button.addEventListener("click", () => take(color));
    return button;
  });
  const pick = iconButton("eyedropper", t("Pick color (I)"), () => useTool(store, "eyedropper"));
  return {
    element: element("div", {}, label, line(...swatches, pick)),
    show: (row) => {
      check.checked = row.is_color_of_object;
      swatches.forEach((button, at) => button.setAttribute("aria-pressed", row.color === PLAIN[at][1]));
    },
  };
}

/** The LoRAs that act here, and a list to add one. */
function loras(store, id) {
  const box = element("div", { className: "fovea-loras" });
  let names = [], asked = null;

  async function list() {
    const asking = (asked = store.loraNames()), found = await asking;
    if (asking !== asked) return; // asked again meanwhile
    names = found;
    const row = store.drawing.rows.find((other) => other.id === id);
    if (row) show(row);
  }

  function show(row) {
    const set = (next) => changeRow(store, id, { loras: next });
    const lines = row.loras.map((lora, at) => {
      const replaced = (change) => set(row.loras.map((old, place) => (place === at ? { ...old, ...change } : old)));
      const strength = number(t("Strength of the LoRA"), -20, 20, 0.05, 1);
      strength.onSet((value) => replaced({ strength: value }));
      strength.show(lora.strength);
      const others = row.loras.filter((_, place) => place !== at);
      const remove = iconButton("remove", t("Remove this LoRA"), () => set(others));
      const list = choice([...new Set([lora.name, ...names])], lora.name, (name) => replaced({ name }));
      return line(list, strength.element, remove);
    });
    const add = choice(["", ...names], "", (name) => set([...row.loras, { name, strength: 1 }]));
    add.options[0].textContent = t("Add a LoRA for this region");
    add.hidden = row.loras.length >= MAX_LORAS || !names.length;
    box.replaceChildren(...lines, add);
  }

  list();
  return { element: box, show, list };
}

function choice(values, value, onChoice) {
  const list = element("select", { "aria-label": t("LoRA") });
  list.append(...values.map((name) => element("option", { value: name, textContent: name })));
  list.value = value;
  list.addEventListener("change", () => keepFocus(list, () => onChoice(list.value)));
  return list;
}

function place(store, id) {
  const words = element("span", { className: "fovea-tip" });
  const save = iconButton("export", t("Save this region's mask as PNG"), () => exportMask(store, id));
  save.append(t("Mask"));
  return {
    element: line(words, element("span", { className: "fovea-gap" }), save),
    show: (row) => {
      words.textContent = t("Covers {}% of the picture", Math.round(100 * shareOf(row)));
      save.disabled = !row.area;
    },
  };
}
