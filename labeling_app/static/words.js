// The words of annotators' pages in the language of their reader, from a catalogue of `languages/`.

let words = {};
let chosen = { language: 'en', own: '', choices: [] };

// Fetches them; called before a page is drawn. Without a language, it is that of the user or of the browser.
export async function loadWords(language = '') {
  const response = await fetch(new URL(`../api/words?language=${encodeURIComponent(language)}`, import.meta.url));
  if (response.status === 401) window.location.assign(new URL('../login', import.meta.url));
  const data = await response.json();
  if (!response.ok) throw new Error(data.message);
  words = data.words;
  chosen = data;
  document.documentElement.lang = data.language;
}

// The words of the browser's language where nobody is logged in, as in a component of somebody else's page.
export async function loadCatalogue() {
  const language = navigator.languages.map((code) => code.slice(0, 2)).find((code) => ['en', 'de'].includes(code)) || 'en';
  words = await (await fetch(new URL(`languages/${language}.json`, import.meta.url))).json();
}

// `language`: that of the page; `own`: the one that the user has chosen, if any; `choices`: codes and names.
export function languages() { return chosen; }

// The words of a key, with values in place of {names}.
export function t(key, values = {}) {
  return (words[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name]);
}
