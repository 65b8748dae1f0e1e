// Messages of leads, each shown until it is confirmed.

import { actionButton, call, make } from './dom.js';
import { languages, t } from './words.js';

const LOOK_AGAIN_MS = 60000;

// The place of the messages; it looks for new ones by itself.
export function messagesPart() {
  const place = make('section', 'messages', { hidden: true, 'aria-label': t('messages'), 'aria-live': 'polite' });
  const look = async () => {
    if (document.hidden) return;
    const { status, data } = await call('api/messages');
    if (status === 200) show(place, data.messages);
  };
  look();
  setInterval(look, LOOK_AGAIN_MS);
  return place;
}

function show(place, messages) {
  const shown = [...place.children].map((part) => part.dataset.message).join();
  if (shown === messages.map(({ id }) => String(id)).join()) return;
  place.replaceChildren(...messages.map((message) => messagePart(place, message)));
  place.hidden = !messages.length;
}

function messagePart(place, { id, text, sender, at }) {
  const time = new Date(1000 * at).toLocaleString(languages().language, { dateStyle: 'medium', timeStyle: 'short' });
  const part = make('article', 'message', { 'data-message': String(id) });
  const confirm = actionButton('', t('messages.read'), async () => {
    const { status } = await call('api/messages/read', { message: id });
    if (status !== 200) return;
    part.remove();
    place.hidden = !place.children.length;
  });
  part.append(make('p', 'hint', { dir: 'auto' }, t('messages.from', { name: sender || t('messages.lead'), time })), make('p', 'message-text', { dir: 'auto' }, text), confirm);
  return part;
}
