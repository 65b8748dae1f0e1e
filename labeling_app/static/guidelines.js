// Guidelines: rendered Markdown, and the page on which they are acknowledged before the first task.

import { BASE, actionButton, call, make } from './dom.js';
import { t } from './words.js';

const TAGS = new Set(['P', 'H1', 'H2', 'H3', 'H4', 'H5', 'H6', 'UL', 'OL', 'LI', 'STRONG', 'EM', 'CODE', 'PRE', 'BLOCKQUOTE', 'HR', 'BR', 'A', 'TABLE', 'THEAD', 'TBODY', 'TR', 'TH', 'TD']);

// Elements anew from HTML: of known tags, without attributes but the addresses of links and the ids of videos. Nothing of the given HTML
// itself comes into the page.
function copyOf(node) {
  if (node.nodeType === Node.TEXT_NODE) return [document.createTextNode(node.data)];
  if (node.nodeType !== Node.ELEMENT_NODE) return [];
  if (node.tagName === 'VIDEO') return exampleVideo(node.dataset.media || '', node.title);
  const children = [...node.childNodes].flatMap(copyOf);
  if (!TAGS.has(node.tagName)) return children;
  const made = document.createElement(node.tagName);
  if (/^(P|LI|H\d|TD|TH|BLOCKQUOTE)$/.test(node.tagName)) made.dir = 'auto';
  if (node.tagName === 'A') {
    const address = node.getAttribute('href') || '';
    if (/^(https?:|mailto:)/i.test(address)) Object.assign(made, { href: address, target: '_blank', rel: 'noopener noreferrer' });
  }
  if (node.tagName === 'OL' && node.start !== 1) made.start = node.start;
  made.append(...children);
  return [made];
}

// An example video of the store, with its caption.
function exampleVideo(id, caption) {
  if (!/^[A-Za-z0-9_-]{1,32}$/.test(id)) return [];
  const video = make('video', 'preview', { src: new URL(`media/${id}`, BASE).href, controls: true, muted: true, loop: true, playsInline: true, preload: 'metadata', 'aria-label': caption || t('guidelines.example') });
  return [make('span', 'example-video', {}, video, ...(caption ? [make('span', 'hint', { dir: 'auto' }, caption)] : []))];
}

export function guidelinesText(html) {
  const parsed = new DOMParser().parseFromString(html, 'text/html');
  return make('div', 'guidelines-text', {}, ...[...parsed.body.childNodes].flatMap(copyOf));
}

// Shows guidelines and waits for the confirmation; `go` is called after it, `fail` with the message of a problem.
export function guidelinesPage({ campaign, version, html }, go, fail) {
  const heading = make('h1', 'question', { tabIndex: -1 }, t(version > 1 ? 'guidelines.changed' : 'guidelines.before'));
  const confirm = actionButton('primary', t('guidelines.read'), async () => {
    const { status, data } = await call(`api/guidelines/acknowledgement?campaign=${encodeURIComponent(campaign)}`, { version });
    if (status === 200) await go(); else fail(data.message, status);
  });
  return make('section', 'ranking guidelines-page', { 'aria-label': t('guidelines') }, heading, make('p', 'hint', { dir: 'auto' }, t('guidelines.version', { campaign, version })), guidelinesText(html), make('div', 'actions', {}, confirm));
}
