// Elements of the lead's pages.

import { make } from '../dom.js';

export function table(caption, heads, rows) {
  const head = make('tr', '', {}, ...heads.map((text) => make('th', '', { scope: 'col' }, text)));
  const lines = rows.map((cells) => make('tr', '', {}, ...cells.map((cell, index) => make('td', '', { 'data-head': heads[index] }, cell ?? '–'))));
  return make('div', 'table-place', { tabIndex: 0, role: 'region', 'aria-label': caption }, make('table', '', {}, make('caption', 'visually-hidden', {}, caption), make('thead', '', {}, head), make('tbody', '', {}, ...lines)));
}

export const text = (value) => make('span', '', { dir: 'auto' }, value);
export const input = (properties) => make('input', '', { ...properties });
export const section = (title, ...children) => make('section', 'ranking', { 'aria-label': title }, make('h2', '', {}, title), ...children);
export const select = (options, value) => {
  const made = make('select', '', {}, ...options.map((option) => make('option', '', { value: option, selected: option === value }, option || '–')));
  return made;
};
