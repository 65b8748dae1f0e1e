// The keyboard of the ranking page and of the Gradio component.

import { make } from '../dom.js';
import { letter } from '../ranks.js';
import { t } from '../words.js';
import { pairKeys, ranksOfKey } from './pair.js';

function pageKeys(count, tagged) {
  const tags = tagged ? [['T', t('keys.tags')], ['M', t('keys.mark')], ['X', t('keys.moment')]] : [];
  return [['N', t(count === 2 ? 'keys.both_bad' : 'keys.bad')], ...tags, ['!', t('keys.flag')], ['K', t('keys.skip')], ['U', t('keys.change')]];
}

// The list of keys, for those who open it; `tagged`: whether reasons are asked for; `more`: those beside the keys that
// every ranking has.
export function keysPart(count, tagged = false, more = pageKeys(count, tagged)) {
  const ranks = [
    [`A – ${letter(count - 1)}`, t('keys.choose')], [`1 – ${count}`, t('keys.place')], ['↑ ↓', t('keys.move')],
    ['← →', t('keys.neighbour')], ['0', t('keys.take')],
  ];
  const rows = [
    ...(count === 2 ? pairKeys() : ranks), [t('keys.space'), t('keys.play')], [', .', t('keys.frame')], ['S', t('keys.speed')], ['Z', t('keys.zoom')], ...more, ['Enter', t('keys.submit')],
  ];
  const list = make('dl', '', {}, ...rows.flatMap(([keys, what]) => [make('dt', '', {}, keys), make('dd', '', {}, what)]));
  return make('details', 'keys', {}, make('summary', '', {}, t('keys.title')), list);
}

// Keys while the result of an answer is shown.
const REVIEW_KEYS = [' ', ',', '.', 's', 'S', 'z', 'Z', 'Enter'];

// Does what a key means on the ranking page.
export function onKey(page, event) {
  if (event.ctrlKey || event.metaKey || event.altKey || page.root.querySelector('dialog[open]')) return;
  if (!page.task && !page.earlier.hidden && event.key.toLowerCase() === 'u') {
    event.preventDefault();
    page.showEarlier();
    return;
  }
  if (page.reviewing && !REVIEW_KEYS.includes(event.key)) return;
  if (page.task && page.player) onRankerKey(page, event, pageActions(page, event.repeat));
}

// Does what a key means to a ranking; `more`: actions by key beside those that every ranking has.
export function onRankerKey(ranker, event, more = {}) {
  const { target, key } = event;
  if (target.closest('textarea, select, input:not([type=range])')) {
    if (key === 'Escape') ranker.cards.focus(ranker.selected);
    return;
  }
  const onScrub = target === ranker.controls.scrub;
  const actions = { ...keyActions(ranker, Boolean(target.closest('button, summary, a')), onScrub), ...more };
  const video = key.length === 1 ? key.toLowerCase().charCodeAt(0) - 97 : -1;
  let handled = false;
  const pair = ranker.isPair && !onScrub ? ranksOfKey(key) : null;
  if (video >= 0 && video < ranker.count) {
    ranker.select(video, true);
    handled = true;
  } else if (pair) {
    // A key that is held down answers once.
    if (!event.repeat) ranker.answerPair(pair);
    handled = true;
  } else if (ranker.isPair && /^(Arrow|[0-9]$|Backspace)/.test(key)) {
    handled = false;
  } else if (/^[1-9]$/.test(key) && Number(key) <= ranker.count) {
    ranker.put(ranker.selected, Number(key), true);
    handled = true;
  } else if (Object.hasOwn(actions, key.toLowerCase()) || Object.hasOwn(actions, key)) {
    handled = (actions[key] || actions[key.toLowerCase()])() !== false;
  }
  if (handled) event.preventDefault();
}

// Actions by key; those that return false leave the key to the browser.
function keyActions(ranker, onButton, onScrub) {
  const { count, selected } = ranker;
  return {
    ' ': () => !onButton && ranker.player.toggle(),
    Enter: () => !onButton && ranker.submit(),
    ',': () => ranker.player.step(-1),
    '.': () => ranker.player.step(1),
    s: () => ranker.controls.nextRate(),
    z: () => ranker.toggleZoom(),
    Escape: () => ranker.zoomed && ranker.toggleZoom(),
    ArrowLeft: () => !onScrub && ranker.select((selected + count - 1) % count, true),
    ArrowRight: () => !onScrub && ranker.select((selected + 1) % count, true),
    ArrowUp: () => !onScrub && ranker.moveSelected(-1),
    ArrowDown: () => !onScrub && ranker.moveSelected(1),
    0: () => ranker.put(selected, null, false),
    Backspace: () => ranker.put(selected, null, false),
  };
}

function pageActions(page, repeats) {
  return {
    n: () => (page.onlyLooking || repeats ? false : page.allBad()),
    k: () => (page.editing || page.looking ? false : page.askWhySkip()),
    u: () => { page.showEarlier(); },
    t: () => page.tags.focus(),
    m: () => page.tags.markPicture(),
    x: () => page.tags.markMoment(),
    '!': () => page.answer.writeFlag(),
  };
}
