// The button that logs out. What was not sent yet does not stay for the next person at this browser.

import { BASE, make } from './dom.js';
import { forgetDraft } from './ranking/draft.js';
import { t } from './words.js';

export function logoutForm() {
  const form = make('form', '', { method: 'post', action: new URL('logout', BASE).href }, make('button', 'quiet', { type: 'submit' }, t('logout')));
  form.addEventListener('submit', forgetDraft);
  return form;
}
