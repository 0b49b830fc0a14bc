/** Events on the stage that the editor would take on their way to it: the window hears of them before anybody else. */

export const HANDED = "fovea-"; // before the name of an event that only the stage hears of

const MIDDLE = 1, MIDDLE_HELD = 4; // PointerEvent.button and buttons

export function listenFirst() {
  const options = { capture: true, passive: true };
  for (const name of ["touchstart", "touchmove", "touchend", "touchcancel"]) addEventListener(name, keepTouch, options);
  for (const name of ["pointerdown", "pointermove", "pointerup"]) addEventListener(name, handMiddleOver, true);
  addEventListener("wheel", keepWheel, { capture: true, passive: false });
}

/** Two fingers zoom the graph wherever on the page they are. It counts them: it must hear of all of one or of none. */
function keepTouch(event) {
  if (event.target.closest?.(".fovea-stage, .fovea-full")) event.stopPropagation();
}

/** Nodes 2.0 moves the graph by the middle button, also over widgets. */
function handMiddleOver(event) {
  const stage = event.target.closest?.(".fovea-stage");
  if (stage && (event.button === MIDDLE || event.buttons & MIDDLE_HELD)) handOver(event, stage);
}

/** Nodes 2.0 zooms the graph where a widget has no focus, and with Ctrl everywhere. Lists in the full screen scroll. */
function keepWheel(event) {
  const stage = event.target.closest?.(".fovea-stage");
  if (stage) handOver(event, stage);
  else if (event.target.closest?.(".fovea-full")) event.stopPropagation();
}

function handOver(event, stage) {
  event.stopPropagation();
  event.preventDefault(); // the browser's own scrolling and zooming
  stage.dispatchEvent(new event.constructor(HANDED + event.type, event));
}
