/** ComfyUI's wildcards: of "a {red|blue} star" the queued prompt has one color, the workflow keeps both. */

/** A text with one of the options in the place of each {a|b}, inner ones first. \{, \| and \} are the letters
 *  themselves; a brace without its other stays. choose(options) returns one of them. */
export function resolveWildcards(text, choose) {
  const block = /\\.|\{((?:\\.|[^\\{}])*)\}/gs; // an escaped letter, or braces with none inside
  for (let before = null; before !== text; ) {
    before = text;
    text = text.replace(block, (found, inner) => (inner === undefined ? found : choose(inner.split(/(?<!\\)\|/))));
  }
  return text.replace(/\\([{}|])/g, "$1");
}

/** A choice that is the same wherever the options are: a region's prompt is still found in the whole one. */
export function sameChoices(random = Math.random) {
  const made = new Map(); // by the options
  return (options) => {
    const key = options.join("|");
    if (!made.has(key)) made.set(key, options[Math.floor(random() * options.length)]);
    return made.get(key);
  };
}

/** A drawing's text with the wildcards of its prompts resolved; without any, the very same text. */
export function resolvedText(text, choose = sameChoices()) {
  let drawing, changed = false;
  try {
    drawing = JSON.parse(text);
  } catch {
    return text; // the server says what is wrong with it
  }
  for (const owner of [drawing, ...(Array.isArray(drawing?.regions) ? drawing.regions : [])]) {
    for (const field of ["prompt", "negative_prompt"]) {
      if (typeof owner?.[field] !== "string") continue;
      const prompt = resolveWildcards(owner[field], choose);
      changed ||= prompt !== owner[field];
      owner[field] = prompt;
    }
  }
  return changed ? JSON.stringify(drawing) : text;
}
