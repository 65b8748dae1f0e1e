// What all pages need: elements, calls of the API, links between the pages.
// Data reaches the document only through textContent and properties, never through HTML.

import { t } from './words.js';

export const BASE = new URL('../', import.meta.url);

// Fingers, and no keys to name in hints.
export const TOUCH = matchMedia('(pointer: coarse)');

// A text with the key that does the same, where there are keys.
export const withKey = (text, key) => (TOUCH.matches ? text : `${text} (${key})`);

// An element with a class, properties and children; strings become text.
export function make(tag, className, properties = {}, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-') || name === 'role' || name === 'for') element.setAttribute(name, value); else element[name] = value;
  }
  element.append(...children);
  return element;
}

export function call(path, body) {
  return answerOf(path, body === undefined ? {} : { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
}

// As `call`, with a file as the body.
export function send(path, file) { return answerOf(path, { method: 'POST', headers: { 'Content-Type': 'application/octet-stream' }, body: file }); }

async function answerOf(path, options) {
  let response;
  try {
    response = await fetch(new URL(path, BASE), options);
  } catch {
    return { status: 0, data: { message: t('server.unreachable') } };
  }
  if (response.status === 401) window.location.assign(new URL('login', BASE));
  const data = await response.json().catch(() => ({ message: t('server.problem') }));
  return { status: response.status, data };
}

// The address of a video or image of a task.
export function mediaUrl(id) { return new URL(`media/${encodeURIComponent(id)}`, BASE).href; }

// Links to the other pages of somebody with this role.
export function pageLinks(current, lead) {
  const pages = [['rank', t('page.rank')], ['demonstrate', t('page.demonstrate')], ...(lead ? [['lead', t('page.lead')]] : [])];
  return pages.map(([path, title]) => {
    const link = make('a', 'page-link', { href: new URL(`${path}/`, BASE).href }, title);
    if (path === current) link.setAttribute('aria-current', 'page');
    return link;
  });
}

// A video with its own controls. One of a list is loaded when it is played; until then its thumbnail stands there.
export function previewVideo({ id, width, height }, label, listed = false) {
  const src = mediaUrl(id);
  const video = make('video', 'preview', { src, controls: true, muted: true, loop: true, playsInline: true, preload: listed ? 'none' : 'metadata', poster: listed ? `${src}/thumbnail` : '', 'aria-label': label });
  video.style.aspectRatio = `${width} / ${height}`;
  return video;
}

// The images that videos shall begin and end with, by their ids; nothing where there are none.
export function imagesPart({ image, last_image: last }) {
  const figure = (id, caption) => make('figure', 'given-image', {},
    make('img', '', { src: mediaUrl(id), alt: caption, decoding: 'async' }), make('figcaption', '', {}, caption));
  return [...(image ? [figure(image, t('image.first'))] : []), ...(last ? [figure(last, t('image.last'))] : [])];
}

// A button that runs `action` and cannot be pressed again meanwhile.
export function actionButton(className, text, action) {
  const button = make('button', className, { type: 'button' }, text);
  button.addEventListener('click', async () => {
    button.disabled = true;
    try { await action(); } finally { button.disabled = false; }
  });
  return button;
}

// Asks before something is done that is not undone easily; resolves to whether it was confirmed. With `typed`, that text
// must be typed first. `back` names the way back.
export function confirmed(root, title, words, action, typed, back = t('dialog.back')) {
  return new Promise((resolve) => {
    const name = make('input', '', { type: 'text', dir: 'auto', autocomplete: 'off', maxLength: 200 });
    const confirm = make('button', 'primary', { type: 'submit' }, action);
    const cancel = make('button', 'quiet', { type: 'button' }, back);
    const form = make('form', '', { method: 'dialog' }, make('h2', '', {}, title), make('p', '', { dir: 'auto' }, words), ...(typed ? [field('typed-name', t('dialog.type', { text: typed }), name)] : []), make('div', 'actions', {}, confirm, cancel));
    const dialog = make('dialog', 'skip-dialog', { 'aria-label': title }, form);
    let sure = false;
    const check = () => { confirm.disabled = Boolean(typed) && name.value.trim().normalize('NFC') !== typed; };
    name.addEventListener('input', check);
    check();
    form.addEventListener('submit', () => { sure = true; });
    cancel.addEventListener('click', () => dialog.close());
    dialog.addEventListener('close', () => { dialog.remove(); resolve(sure); });
    root.append(dialog);
    dialog.showModal();
  });
}

export function field(id, label, input) {
  input.id = id;
  return make('div', 'field', {}, make('label', '', { for: id }, label), input);
}
