// The words of annotators' pages in the language of their reader, from a catalogue of `languages/`.

let words = {};
let chosen = { language: 'en', own: '', browser: 'en', choices: [] };

// Fetches them; called before a page is drawn. Without a language, it is that of the user or of the browser.
export async function loadWords(language = '') {
  chosen = await fetchedWords(language);
  words = chosen.words;
  document.documentElement.lang = chosen.language;
}

// The language of the user or of the browser, and its words by their keys, for a part of a page in another language.
export async function wordsOfReader() {
  const found = await fetchedWords('');
  return { language: found.language, t: (key, values = {}) => filled(found.words[key] ?? key, values) };
}

async function fetchedWords(language) {
  const response = await fetch(new URL(`../api/words?language=${encodeURIComponent(language)}`, import.meta.url));
  if (response.status === 401) window.location.assign(new URL('../login', import.meta.url));
  const data = await response.json();
  if (!response.ok) throw new Error(data.message);
  return data;
}

// The words of the browser's language where nobody is logged in, as in a component of somebody else's page.
export async function loadCatalogue() {
  const language = navigator.languages.map((code) => code.slice(0, 2)).find((code) => ['en', 'de'].includes(code)) || 'en';
  words = await (await fetch(new URL(`languages/${language}.json`, import.meta.url))).json();
}

// `language`: that of the page; `own`: the one that the user has chosen, if any; `browser`: that of the browser; `choices`:
// codes and names.
export function languages() { return chosen; }

// The words of a key, with values in place of {names}.
export function t(key, values = {}) { return filled(words[key] ?? key, values); }

function filled(text, values) { return text.replace(/\{(\w+)\}/g, (_, name) => values[name]); }
