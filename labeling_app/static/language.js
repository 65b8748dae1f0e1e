// The choice of the language of annotators' pages.

import { call, make } from './dom.js';
import { languages, t } from './words.js';

export function languageChoice() {
  const { own, choices } = languages();
  const option = (value, name) => make('option', '', { value, selected: value === own }, name);
  const select = make('select', 'language', { 'aria-label': t('language') }, option('', t('language.browser')), ...choices.map(([code, name]) => option(code, name)));
  select.addEventListener('change', async () => {
    const { status } = await call('api/language', { language: select.value });
    if (status === 200) window.location.reload(); else select.value = own;
  });
  return select;
}
