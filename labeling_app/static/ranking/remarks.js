// Which videos a remark is about: buttons with the letters of the page, beside the text.

import { make } from '../dom.js';
import { letter } from '../ranks.js';
import { t } from '../words.js';

const NAMED = /\bvideos?\s+([a-i])\b/gi;

// Slots of the videos that a text names by their letters, as in "Video B looks broken".
export function namedVideos(text, count) {
  const slots = [...text.matchAll(NAMED)].map((match) => match[1].toLowerCase().charCodeAt(0) - 97);
  return [...new Set(slots.filter((slot) => slot < count))].sort();
}

export class AboutVideos {
  // input: the element with the text; chosen: slots; onChange is called when the choice has changed.
  constructor(input, count, chosen, onChange) {
    this.chosen = new Set((chosen || []).filter((slot) => slot < count));
    // A letter that was taken away by hand is not chosen again by the text.
    this.refused = new Set();
    this.buttons = Array.from({ length: count }, (_, slot) => {
      const button = make('button', 'about-video', { type: 'button', 'aria-label': t('remarks.is_about', { video: letter(slot) }) }, letter(slot));
      button.addEventListener('click', () => {
        if (this.chosen.delete(slot)) this.refused.add(slot); else this.chosen.add(slot);
        this.refresh();
        onChange();
      });
      return button;
    });
    this.scope = make('span', 'about-scope', { role: 'status' });
    this.element = make('div', 'about', { role: 'group', 'aria-label': t('remarks.videos') }, make('span', '', {}, t('remarks.about')), ...this.buttons, this.scope);
    input.addEventListener('input', () => {
      namedVideos(input.value, count).filter((slot) => !this.refused.has(slot)).forEach((slot) => this.chosen.add(slot));
      this.refresh();
    });
    this.refresh();
  }

  get slots() { return [...this.chosen].sort(); }

  choose(slots) {
    slots.forEach((slot) => this.chosen.add(slot));
    this.refresh();
  }

  refresh() {
    this.buttons.forEach((button, slot) => button.setAttribute('aria-pressed', String(this.chosen.has(slot))));
    this.scope.textContent = this.chosen.size ? '' : t('remarks.all');
  }
}

// Reasons as they are stored, in English for all, and their words on the page.
const SKIP_REASONS = { 'A video does not play': 'skip.play', 'I do not understand the prompt': 'skip.prompt', 'The content is offensive or unsafe': 'skip.unsafe', 'Another reason': 'skip.other' };

// The dialog that asks why a task is skipped; `skip(reason, slots)` is called with the answer.
export function makeSkipDialog(count, skip) {
  const chosen = (value, index) => make('input', '', { type: 'radio', name: 'skip-reason', value, checked: index === 0 });
  const more = make('textarea', '', { rows: 2, maxLength: 2000, id: 'skip-more', dir: 'auto' });
  const about = new AboutVideos(more, count, [], () => {});
  const cancel = make('button', 'quiet', { type: 'button' }, t('dialog.back'));
  const confirm = make('button', 'primary', { type: 'submit' }, t('skip.skip'));
  const form = make('form', '', { method: 'dialog' },
    make('h2', '', {}, t('skip.why')),
    ...Object.entries(SKIP_REASONS).map(([value, key], index) => make('label', 'reason', {}, chosen(value, index), make('span', '', {}, t(key)))),
    make('label', '', { for: 'skip-more' }, t('skip.details')), more, about.element,
    make('div', 'actions', {}, confirm, cancel));
  const dialog = make('dialog', 'skip-dialog', { 'aria-label': t('skip.skip') }, form);
  cancel.addEventListener('click', () => dialog.close());
  form.addEventListener('submit', () => {
    const details = more.value.trim();
    skip(form.querySelector('input:checked').value + (details ? `: ${details}` : ''), about.slots);
  });
  // Opens it; `failed` are the slots of videos that do not play.
  dialog.ask = (failed) => {
    about.choose(failed);
    dialog.showModal();
  };
  return dialog;
}
