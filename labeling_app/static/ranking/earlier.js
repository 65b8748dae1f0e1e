// The dialog in which an earlier answer is chosen, to be changed.

import { make } from '../dom.js';
import { t } from '../words.js';

// answers: those that may still be changed, the latest first; edit(answer) is called with the chosen one.
export function chooseEarlier(root, answers, edit) {
  const dialog = make('dialog', 'skip-dialog', { 'aria-label': t('earlier.title') }, make('h2', '', {}, t('earlier.question')));
  for (const answer of answers) {
    const open = make('button', 'earlier-answer', { type: 'button', dir: 'auto', textContent: answer.prompt.slice(0, 120) });
    open.addEventListener('click', () => { dialog.close(); edit(answer); });
    dialog.append(open);
  }
  const cancel = make('button', 'quiet', { type: 'button' }, t('dialog.back'));
  cancel.addEventListener('click', () => dialog.close());
  dialog.append(cancel);
  dialog.addEventListener('close', () => dialog.remove());
  root.append(dialog);
  dialog.showModal();
}
