/** Where the focus is. Without it in the panel, the editor takes the next key: its undo, or its Delete. */

export function focusStage(part) {
  part.closest(".fovea-panel").querySelector(".fovea-stage").focus({ preventScroll: true });
}

/** Act. Where that removes, hides or disables what has the focus, the stage of the same panel gets it. */
export function keepFocus(part, act) {
  const panel = part.closest(".fovea-panel"), isOurs = panel?.contains(document.activeElement);
  act();
  if (isOurs && isLost(panel, document.activeElement)) focusStage(panel);
}

const isLost = (panel, focused) => !panel.contains(focused) || focused.disabled || focused.closest("[hidden]") !== null;
