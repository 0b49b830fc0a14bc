/** The panel's looks: ComfyUI's own colors and fonts, so that it follows the theme. */

const RULES = `
.fovea-panel { --fovea-field: var(--comfy-input-bg, #222); --fovea-line: var(--border-color, #4e4e4e);
  --fovea-accent: var(--p-primary-color, #3b82f6); }
/* Nodes 2.0 */
.lg-node .fovea-panel { --fovea-field: var(--component-node-widget-background, var(--comfy-input-bg, #222)); }
.fovea-painter { display: flex; flex-direction: column; width: 100%; height: 100%; container-type: inline-size;
  box-sizing: border-box; }
.fovea-panel { display: flex; flex-direction: column; gap: 6px; flex: 1; min-height: 0; padding: 2px;
  box-sizing: border-box; color: var(--input-text, #ddd); font-family: inherit; font-size: 12px; outline: none; }
.fovea-panel * { box-sizing: border-box; }
.fovea-panel [hidden] { display: none !important; }
.fovea-left, .fovea-right { display: flex; flex-direction: column; gap: 6px; min-width: 0; min-height: 0; }
.fovea-left { flex: 1 0 auto; }
.fovea-right { flex: 0 1 auto; }
.fovea-bar { display: flex; align-items: center; gap: 3px; flex: 0 0 auto; min-width: 0; }
.fovea-bar .fovea-gap { flex: 1; }
.fovea-options { height: 26px; gap: 8px; }
.fovea-panel button { display: inline-flex; align-items: center; justify-content: center; gap: 4px; height: 26px;
  min-width: 26px; padding: 0 4px; border: 1px solid transparent; border-radius: 6px; background: var(--fovea-field);
  color: inherit; font: inherit; cursor: pointer; white-space: nowrap; }
.fovea-bar.fovea-tools { gap: 1px; }
.fovea-panel .fovea-tools button { flex: 0 1 26px; min-width: 20px; padding: 0; }
.fovea-panel button svg { width: 16px; height: 16px; flex: 0 0 auto; fill: none; stroke: currentColor;
  stroke-width: 1.5; stroke-linecap: round; stroke-linejoin: round; pointer-events: none; }
.fovea-panel button:hover:not(:disabled) { border-color: var(--fovea-line); filter: brightness(1.15); }
.fovea-panel button:disabled { opacity: 0.35; cursor: default; }
.fovea-panel button[aria-pressed="true"] { background: var(--fovea-accent); color: #fff; }
.fovea-panel button:focus-visible, .fovea-panel input:focus-visible, .fovea-panel textarea:focus-visible,
.fovea-panel select:focus-visible, .fovea-stage:focus-visible { outline: 2px solid var(--fovea-accent);
  outline-offset: -1px; }
.fovea-word { display: none; font-size: 11px; }
.fovea-panel input, .fovea-panel textarea, .fovea-panel select { border: 1px solid var(--fovea-line);
  border-radius: 6px; background: var(--fovea-field); color: var(--input-text, #ddd); font: inherit; height: 26px;
  padding: 0 6px; min-width: 0; }
.fovea-panel select { flex: 0 1 auto; max-width: 150px; }
.fovea-panel input[type="range"] { padding: 0; width: 70px; flex: 0 1 70px; min-width: 24px;
  accent-color: var(--fovea-accent); }
.fovea-panel input[type="number"] { width: 54px; flex: 0 0 auto; padding: 0 2px 0 5px; }
.fovea-panel input[type="checkbox"] { height: 14px; margin: 0; accent-color: var(--fovea-accent); }
.fovea-panel label { display: flex; align-items: center; gap: 4px; min-width: 0; white-space: nowrap; }
.fovea-amount { flex: 0 1 auto; }
.fovea-box { display: flex; gap: 6px; }
.fovea-tip { color: var(--descrip-text, #999); font-size: 11px; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.fovea-stage { position: relative; flex: 1 1 auto; min-height: 260px; overflow: hidden; border-radius: 6px;
  touch-action: none; background: var(--fovea-field); cursor: crosshair; }
.fovea-paper { position: absolute; left: 0; top: 0; transform-origin: 0 0; background: #888; }
.fovea-paper > * { position: absolute; left: 0; top: 0; width: 100%; height: 100%; pointer-events: none; }
.fovea-paper[data-enlarged="true"] > canvas { image-rendering: pixelated; }
.fovea-paper > img { object-fit: fill; }
.fovea-outline { position: absolute; pointer-events: none; left: 0; top: 0; width: 100%; height: 100%;
  overflow: visible; }
.fovea-outline * { fill: none; stroke: #fff; stroke-width: 1.2; vector-effect: non-scaling-stroke; paint-order: stroke;
  filter: drop-shadow(0 0 1px #000); }
.fovea-outline .fovea-selected { stroke-dasharray: 4 3; }
.fovea-outline .fovea-handle { fill: #fff; stroke: #333; stroke-width: 1; filter: none; }
.fovea-tags { position: absolute; inset: 0; pointer-events: none; overflow: hidden; }
.fovea-tag { position: absolute; transform: translate(-50%, -50%); padding: 0 5px; border-radius: 4px; overflow: hidden;
  border-left: 4px solid var(--fovea-color); background: rgb(0 0 0 / 65%); color: #fff; font-size: 11px;
  line-height: 16px; text-overflow: ellipsis; white-space: nowrap; }
.fovea-tag[data-chosen="true"] { background: #000; outline: 1px solid #fff; }
.fovea-hint { position: absolute; inset: 0; display: flex; align-items: center; justify-content: center; padding: 12px;
  text-align: center; pointer-events: none; color: #fff; font-size: 14px; text-shadow: 0 0 3px #000; }
.fovea-rows { position: relative; display: flex; flex-direction: column; gap: 3px; min-height: 44px; max-height: var(--fovea-rows);
  overflow-y: auto; flex: 0 1 auto; }
.fovea-row { flex: 0 0 auto; border-radius: 6px; padding: 1px; }
.fovea-row-head { display: flex; gap: 3px; }
.fovea-row[data-chosen="true"] { background: color-mix(in srgb, var(--fovea-accent) 30%, transparent); }
.fovea-row[data-hidden="true"] .fovea-row-head { opacity: 0.5; }
.fovea-panel .fovea-prompt { flex: 1; height: 42px; padding: 4px 6px; line-height: 16px; resize: none; }
.fovea-row[data-empty="true"] .fovea-prompt { border-color: #e8a33d; border-style: dashed; }
.fovea-row[data-empty="true"] .fovea-prompt::placeholder { color: #e8a33d; opacity: 1; }
.fovea-panel .fovea-swatch { position: relative; flex: 0 0 28px; }
.fovea-panel .fovea-swatch input { width: 28px; height: 42px; padding: 1px; cursor: pointer; }
.fovea-swatch span { position: absolute; inset: 0; display: grid; place-items: center; pointer-events: none;
  font-weight: bold; }
.fovea-row-buttons { display: grid; grid-template-columns: repeat(3, 24px); grid-auto-rows: 20px; gap: 2px; }
.fovea-row-buttons button { height: 20px; min-width: 24px; padding: 0; background: transparent; }
.fovea-row-buttons button svg { width: 14px; height: 14px; }
.fovea-panel button[aria-expanded="true"] { background: var(--fovea-field); border-color: var(--fovea-line); }
.fovea-panel button[data-set="true"] { color: var(--fovea-accent); }
.fovea-settings { display: flex; flex-direction: column; gap: 4px; padding: 4px 3px; }
.fovea-settings > div { display: flex; gap: 4px; }
.fovea-settings > div:not(.fovea-bar) { flex-direction: column; }
.fovea-settings textarea { height: 24px; padding: 3px 6px; line-height: 16px; resize: none; }
.fovea-settings .fovea-number { font-size: 11px; }
.fovea-panel .fovea-settings .fovea-number input { width: 44px; appearance: textfield; }
.fovea-settings .fovea-bar { flex-wrap: wrap; }
.fovea-loras:empty { display: none !important; }
.fovea-panel .fovea-loras select { flex: 0 0 auto; max-width: none; }
.fovea-panel .fovea-loras .fovea-bar select { flex: 1 1 90px; }
.fovea-loras .fovea-number span { display: none; }
.fovea-panel button.fovea-plain { width: 15px; min-width: 15px; height: 17px; padding: 0;
  border-color: rgb(128 128 128 / 60%); border-radius: 4px; }
.fovea-panel button.fovea-plain[aria-pressed="true"] { outline: 2px solid var(--fovea-accent); outline-offset: 1px; }
.fovea-whole-prompt { position: relative; flex: 0 0 auto; }
.fovea-whole-prompt textarea, .fovea-whole-prompt .fovea-marks { display: block; width: 100%; height: 46px;
  padding: 4px 6px; margin: 0; resize: none; font: inherit; line-height: 16px; white-space: pre-wrap;
  overflow-wrap: break-word; border: 1px solid transparent; }
.fovea-whole-prompt textarea { position: relative; background: transparent; border-color: var(--fovea-line);
  overflow-y: auto; }
.fovea-whole-prompt .fovea-marks { position: absolute; inset: 0; overflow: hidden; color: transparent;
  border-radius: 6px; background: var(--fovea-field); pointer-events: none; }
.fovea-marks span { text-decoration: underline 2px; text-underline-offset: 2px; }
.fovea-said { min-height: 0; color: var(--descrip-text, #999); font-size: 11px; }
.fovea-said:empty { display: none; }
.fovea-said[data-wrong="true"] { color: var(--error-text, #ff4444); }
dialog.fovea-full { touch-action: pan-x pan-y; width: 98vw; height: 96vh; max-width: none; max-height: none;
  padding: 10px; border-radius: 10px; border: 1px solid var(--border-color, #4e4e4e); font-family: inherit;
  background: var(--comfy-menu-bg, #353535); color: var(--input-text, #ddd); }
dialog.fovea-full::backdrop { background: rgb(0 0 0 / 60%); }
dialog.fovea-full[open] { display: flex; container-type: inline-size; }
/* Room for the regions beside the painting; panel.js knows the width */
@container (min-width: 640px) {
  .fovea-panel { flex-direction: row; gap: 8px; }
  .fovea-left { flex: 1 1 auto; }
  .fovea-right { flex: 0 0 clamp(260px, 39cqw, 400px); }
  .fovea-rows { flex: 1 1 0; max-height: none; }
  .fovea-whole-prompt textarea, .fovea-whole-prompt .fovea-marks { height: 62px; }
}
@container (min-width: 1100px) {
  .fovea-panel .fovea-tools button { flex: 0 0 auto; height: 34px; min-width: 34px; padding: 0 7px; }
  .fovea-tools button svg { width: 20px; height: 20px; }
  .fovea-word { display: inline; }
  .fovea-panel input[type="range"] { width: 140px; flex-basis: 140px; }
  .fovea-panel .fovea-prompt { height: 58px; }
  .fovea-panel .fovea-swatch input { height: 58px; }
  .fovea-row-buttons { grid-auto-rows: 28px; }
  .fovea-whole-prompt textarea, .fovea-whole-prompt .fovea-marks { height: 120px; }
}
`;

/** The rules as an element of the painter itself: they come and go with it. */
export function style() {
  const made = document.createElement("style");
  made.textContent = RULES;
  return made;
}
