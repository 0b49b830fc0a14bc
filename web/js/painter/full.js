/** The panel over the whole screen, in a dialog, and back in its place. */

import { element } from "./elements.js";
import { t } from "./texts.js";
import { setFull } from "./workspace.js";

/** place: where the panel usually is. focused: what of it has the focus at first, here and there. onKey(event): a key of
 *  the dialog. */
export function fullScreen(store, { place, panel, focused, onKey }) {
  let dialog = null;

  function open() {
    dialog = element("dialog", { className: "fovea-full", "aria-label": t("Region painter") }, panel);
    dialog.addEventListener("keydown", (event) => {
      if (event.target === dialog) onKey(event);
      const isCommand = event.ctrlKey || event.metaKey || event.altKey;
      if (!isCommand) event.stopPropagation(); // letters open the editor's sidebars, which are behind it
    });
    dialog.addEventListener("close", close);
    place.append(dialog);
    dialog.showModal();
    focused.focus();
  }

  /** Also when the browser or the editor has closed the dialog. */
  function close() {
    place.append(panel);
    dialog.remove();
    dialog = null;
    focused.focus({ preventScroll: true }); // it is lost by moving the panel
    if (store.full) setFull(store, false);
  }

  store.subscribe((changed) => {
    if (changed !== "full") return;
    if (!store.full) dialog?.close();
    else if (!dialog) open();
  });
  return { dispose: () => dialog?.remove() };
}
