/** The panel's looks: ComfyUI's own colors and fonts, so that it follows the theme. */

const RULES = `
.fovea-panel { --fovea-field: var(--comfy-input-bg, #222); }
/* Nodes 2.0 */
.lg-node .fovea-panel { --fovea-field: var(--component-node-widget-background, var(--comfy-input-bg, #222)); }
.fovea-painter { display: flex; flex-direction: column; width: 100%; height: 100%; min-height: 0;
  box-sizing: border-box; }
.fovea-panel { display: flex; flex-direction: column; gap: 6px; flex: 1; min-height: 0; padding: 2px;
  box-sizing: border-box; color: var(--input-text, #ddd); font-family: inherit; font-size: 12px; outline: none; }
.fovea-panel * { box-sizing: border-box; }
.fovea-panel [hidden] { display: none !important; }
.fovea-bar { display: flex; flex-wrap: wrap; align-items: center; gap: 3px; }
.fovea-bar .fovea-gap { flex: 1; }
.fovea-panel button { display: inline-flex; align-items: center; justify-content: center; gap: 4px; height: 24px;
  min-width: 24px; padding: 0 4px; border: 1px solid transparent; border-radius: 6px; background: var(--fovea-field);
  color: inherit; font: inherit; cursor: pointer; }
.fovea-panel button svg { width: 14px; height: 14px; fill: none; stroke: currentColor; stroke-width: 1.6;
  stroke-linecap: round; stroke-linejoin: round; pointer-events: none; }
.fovea-panel button:hover:not(:disabled) { border-color: var(--border-color, #4e4e4e); filter: brightness(1.15); }
.fovea-panel button:disabled { opacity: 0.35; cursor: default; }
.fovea-panel button[aria-pressed="true"] { background: var(--p-primary-color, #3b82f6); color: #fff; }
.fovea-panel button:focus-visible, .fovea-panel input:focus-visible, .fovea-panel textarea:focus-visible,
.fovea-panel select:focus-visible, .fovea-stage:focus-visible { outline: 2px solid var(--p-primary-color, #3b82f6);
  outline-offset: -1px; }
.fovea-panel input, .fovea-panel textarea, .fovea-panel select { border: 1px solid var(--border-color, #4e4e4e);
  border-radius: 6px; background: var(--fovea-field); color: var(--input-text, #ddd); font: inherit; height: 24px;
  padding: 0 6px; min-width: 0; }
.fovea-panel input[type="range"] { padding: 0; width: 70px; accent-color: var(--p-primary-color, #3b82f6); }
.fovea-stage { position: relative; flex: 1 1 auto; min-height: 140px; overflow: hidden; border-radius: 6px;
  touch-action: none; background: var(--fovea-field); cursor: crosshair; }
.fovea-paper { position: absolute; left: 0; top: 0; transform-origin: 0 0; background: #888; }
.fovea-paper > * { position: absolute; left: 0; top: 0; width: 100%; height: 100%; pointer-events: none; }
.fovea-paper > canvas { image-rendering: pixelated; }
.fovea-paper > img { object-fit: fill; }
.fovea-outline { position: absolute; pointer-events: none; left: 0; top: 0; width: 100%; height: 100%;
  overflow: visible; }
.fovea-outline * { fill: none; stroke: #fff; stroke-width: 1.2; vector-effect: non-scaling-stroke; paint-order: stroke;
  filter: drop-shadow(0 0 1px #000); }
.fovea-hint { position: absolute; inset: 0; display: flex; align-items: center; justify-content: center; padding: 12px;
  text-align: center; pointer-events: none; color: #fff; text-shadow: 0 0 3px #000; }
.fovea-rows { display: flex; flex-direction: column; gap: 3px; max-height: 45%; overflow-y: auto; flex: 0 1 auto; }
.fovea-row { display: flex; align-items: center; gap: 3px; border-radius: 6px; padding: 1px; }
.fovea-row[data-chosen="true"] { background: color-mix(in srgb, var(--p-primary-color, #3b82f6) 30%, transparent); }
.fovea-row[data-hidden="true"] { opacity: 0.5; }
.fovea-row .fovea-prompt { flex: 1; }
.fovea-row .fovea-strength { width: 52px; padding: 0 2px 0 4px; }
.fovea-row input[type="color"] { width: 26px; padding: 1px; cursor: pointer; }
.fovea-whole-prompt { position: relative; flex: 0 0 auto; }
.fovea-whole-prompt textarea, .fovea-whole-prompt .fovea-marks { display: block; width: 100%; height: 44px;
  padding: 4px 6px; margin: 0; resize: none; font: inherit; line-height: 16px; white-space: pre-wrap;
  overflow-wrap: break-word; border: 1px solid transparent; }
.fovea-whole-prompt textarea { position: relative; background: transparent; border-color: var(--border-color, #4e4e4e);
  overflow-y: auto; }
.fovea-whole-prompt .fovea-marks { position: absolute; inset: 0; overflow: hidden; color: transparent;
  border-radius: 6px; background: var(--fovea-field); pointer-events: none; }
.fovea-marks span { text-decoration: underline 2px; text-underline-offset: 2px; }
.fovea-said { min-height: 0; color: var(--descrip-text, #999); font-size: 11px; }
.fovea-said:empty { display: none; }
.fovea-said[data-wrong="true"] { color: var(--error-text, #ff4444); }
dialog.fovea-full { width: 96vw; height: 94vh; max-width: none; max-height: none; padding: 10px; border-radius: 10px;
  border: 1px solid var(--border-color, #4e4e4e); background: var(--comfy-menu-bg, #353535); color: var(--input-text,
  #ddd); font-family: inherit; }
dialog.fovea-full::backdrop { background: rgb(0 0 0 / 60%); }
dialog.fovea-full[open] { display: flex; }
`;

/** The rules as an element of the painter itself: they come and go with it. */
export function style() {
  const made = document.createElement("style");
  made.textContent = RULES;
  return made;
}
