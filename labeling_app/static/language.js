// The choice of the language of annotators' pages.

import { call, make } from './dom.js';
import { languages, t } from './words.js';

export function languageChoice() {
  const { own, browser, choices } = languages();
  const ofBrowser = t('language.browser', { language: Object.fromEntries(choices)[browser] });
  const option = (value, name) => make('option', '', { value, selected: value === own }, name);
  const select = make('select', 'language', { 'aria-label': t('language') }, option('', ofBrowser), ...choices.map(([code, name]) => option(code, name)));
  select.addEventListener('change', async () => {
    const { status } = await call('api/language', { language: select.value });
    if (status === 200) window.location.reload(); else select.value = own;
  });
  return select;
}
