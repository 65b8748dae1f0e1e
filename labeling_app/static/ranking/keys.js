// The keyboard of the ranking page.

import { make } from '../dom.js';
import { letter } from '../ranks.js';
import { PAIR_KEYS, ranksOfKey } from './pair.js';

// The list of keys, for those who open it.
export function keysPart(count) {
  const ranks = [
    [`A – ${letter(count - 1)}`, 'choose a video'], [`1 – ${count}`, 'give it a place; the same place twice is a tie'], ['↑ ↓', 'one place better or worse'],
    ['← →', 'previous or next video'], ['0', 'take its place away'],
  ];
  const rows = [
    ...(count === 2 ? PAIR_KEYS : ranks), ['Space', 'play or pause'], [', .', 'one frame back or on'], ['S', 'speed'], ['Z', 'one video large, or all'], ['N', count === 2 ? 'both are bad: equal, and flagged' : 'all are bad: all tied, and flagged'], ['!', 'flag for the lead'], ['K', 'skip'], ['U', 'change an earlier answer'], ['Enter', 'submit'],
  ];
  const list = make('dl', '', {}, ...rows.flatMap(([keys, what]) => [make('dt', '', {}, keys), make('dd', '', {}, what)]));
  return make('details', 'keys', {}, make('summary', '', {}, 'Keyboard'), list);
}

// Does what a key means on the page.
export function onKey(page, event) {
  if (event.ctrlKey || event.metaKey || event.altKey || page.root.querySelector('dialog[open]')) return;
  if (!page.task && !page.earlier.hidden && event.key.toLowerCase() === 'u') {
    event.preventDefault();
    page.showEarlier();
    return;
  }
  if (!page.task || !page.player) return;
  const { target, key } = event;
  if (target.closest('textarea, select, input:not([type=range])')) {
    if (key === 'Escape') page.cards.focus(page.selected);
    return;
  }
  const actions = keyActions(page, Boolean(target.closest('button, summary, a')), target === page.controls.scrub, event.repeat);
  const video = key.length === 1 ? key.toLowerCase().charCodeAt(0) - 97 : -1;
  let handled = false;
  const pair = page.isPair && target !== page.controls.scrub ? ranksOfKey(key) : null;
  if (video >= 0 && video < page.count) {
    page.select(video, true);
    handled = true;
  } else if (pair) {
    // A key that is held down answers once.
    if (!event.repeat) page.answerPair(pair);
    handled = true;
  } else if (page.isPair && /^(Arrow|[0-9]$|Backspace)/.test(key)) {
    handled = false;
  } else if (/^[1-9]$/.test(key) && Number(key) <= page.count) {
    page.put(page.selected, Number(key), true);
    handled = true;
  } else if (Object.hasOwn(actions, key.toLowerCase()) || Object.hasOwn(actions, key)) {
    handled = (actions[key] || actions[key.toLowerCase()])() !== false;
  }
  if (handled) event.preventDefault();
}

// Actions by key; those that return false leave the key to the browser.
function keyActions(page, onButton, onScrub, repeats) {
  const { count, selected } = page;
  return {
    ' ': () => !onButton && page.player.toggle(),
    Enter: () => !onButton && page.submit(),
    ',': () => page.player.step(-1),
    '.': () => page.player.step(1),
    s: () => page.controls.nextRate(),
    z: () => page.toggleZoom(),
    n: () => (page.onlyLooking || repeats ? false : page.allBad()),
    k: () => (page.editing || page.looking ? false : page.askWhySkip()),
    u: () => { page.showEarlier(); },
    '!': () => page.answer.writeFlag(),
    Escape: () => page.zoomed && page.toggleZoom(),
    ArrowLeft: () => !onScrub && page.select((selected + count - 1) % count, true),
    ArrowRight: () => !onScrub && page.select((selected + 1) % count, true),
    ArrowUp: () => !onScrub && page.moveSelected(-1),
    ArrowDown: () => !onScrub && page.moveSelected(1),
    0: () => page.put(selected, null, false),
    Backspace: () => page.put(selected, null, false),
  };
}
