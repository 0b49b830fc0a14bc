/** Where the regions' prompts stand in the prompt of the whole picture: found by their letters, as
 *  guidance/token_spans.py does on a CLIP's tokens. Both answer tests/phrase_cases.json. */

// Words as CLIP splits them. No words: the parentheses of an emphasis, with its weight.
const WEIGHT = String.raw`:\s*[-+]?[\d.]+\s*(?=\))`;
const OTHERS = String.raw`(?:\\[()]|(?!${WEIGHT})[^\s\p{L}\p{N}()])+`;
const WORD = new RegExp(String.raw`${WEIGHT}|[()]|('(?:[stmd]|re|ve|ll)|\p{L}+|\p{N}|${OTHERS})`, "giu");
// Blanks, marks, and letters of scripts that write words without blanks between them.
const UNSPACED = String.raw`\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{scx=Thai}\p{scx=Laoo}\p{scx=Khmr}\p{scx=Mymr}`;
const STANDS_ALONE = new RegExp(String.raw`[ \p{P}\p{S}${UNSPACED}]`, "u");
const LETTER = /\\[()]|./gsu; // an escaped parenthesis is one

/** A text's letters in lower case, with a blank between words. Each is at [at, ends) of the text. */
export function lettersOf(text) {
  const at = [], ends = [];
  let letters = "";
  function add(letter, start, end) {
    letters += letter;
    for (let unit = 0; unit < letter.length; unit++) at.push(start), ends.push(end);
  }
  for (const { 1: word, index } of text.matchAll(WORD)) {
    if (!word) continue;
    if (letters) add(" ", index, index);
    for (const { 0: raw, index: place } of word.matchAll(LETTER)) {
      const letter = raw.length > 1 && raw[0] === "\\" ? raw[1] : raw.toLowerCase();
      add(letter, index + place, index + place + raw.length);
    }
  }
  return { letters, at, ends };
}

/** All places of a phrase in a prompt, in order and without overlaps: [{start, end}]. It begins and ends at the border
 *  of a word, beside a mark, or beside a letter of a script without blanks between words: "cat" is not in "catalog". */
export function occurrences(prompt, phrase) {
  return placesIn(lettersOf(prompt), lettersOf(phrase).letters);
}

function placesIn({ letters, at, ends }, wanted) {
  const found = [];
  let start = wanted ? letters.indexOf(wanted) : -1;
  while (start >= 0) {
    const end = start + wanted.length, fits = isBorder(letters, start) && isBorder(letters, end);
    if (fits) found.push({ start: at[start], end: ends[end - 1] });
    start = letters.indexOf(wanted, fits ? end : start + 1);
  }
  return found;
}

function isBorder(letters, at) {
  const before = letters.slice(0, at).match(/.$/su)?.[0], after = letters.slice(at).match(/^./su)?.[0];
  return !before || !after || STANDS_ALONE.test(before) || STANDS_ALONE.test(after);
}

/** What of a prompt belongs to which row: [{start, end, row}], in order and without overlaps. Long ones choose first.
 *  Rows with the same prompt get one place each, the n-th the n-th; the last place is shared, and shown as its first
 *  row's. A shorter one that is only inside of a longer one owns its letters there. */
export function regionsIn(prompt, rows) {
  const there = lettersOf(prompt), owners = Array(prompt.length).fill(null), alike = new Map();
  for (const row of rows) {
    const { letters } = lettersOf(row.prompt);
    alike.set(letters, [...(alike.get(letters) ?? []), row]);
  }
  const taken = [];
  for (const [letters, same] of [...alike].sort(([a], [b]) => b.length - a.length)) {
    const places = placesIn(there, letters);
    const free = places.filter(({ start, end }) => !taken.some((other) => start < other.end && other.start < end));
    const found = free.length ? free : places;
    found.forEach(({ start, end }, n) => {
      if (same.length === 1 || n < same.length) owners.fill(same[n] ?? same[0], start, end);
    });
    taken.push(...found);
  }
  const spans = [];
  owners.forEach((row, at) => {
    const last = spans.at(-1);
    if (row && last?.row === row && last.end === at) last.end++;
    else if (row) spans.push({ start: at, end: at + 1, row });
  });
  return spans;
}
