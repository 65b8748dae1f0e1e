// The answers about two videos, in place of ranks: a button and a key for each.

import { make } from '../dom.js';
import { t } from '../words.js';

// Keys, the key of their words, and the ranks of the two videos; `both bad` is the page's All bad (N).
const ANSWERS = [
  { name: 'first', keys: ['ArrowLeft', '1'], text: 'pair.first', hint: '←', ranks: [1, 2] },
  { name: 'equal', keys: ['ArrowDown', '0', '='], text: 'pair.equal', hint: '↓', ranks: [1, 1] },
  { name: 'second', keys: ['ArrowRight', '2'], text: 'pair.second', hint: '→', ranks: [2, 1] },
];

export function pairKeys() { return [['A B', t('keys.choose')], ['← 1', t('pair.first')], ['→ 2', t('pair.second')], ['↓ 0 =', t('pair.are_equal')]]; }

// The ranks that a key gives to the two videos; null for other keys.
export function ranksOfKey(key) {
  const answer = ANSWERS.find(({ keys }) => keys.includes(key));
  return answer ? answer.ranks : null;
}

// What one of two videos is called by the answer so far.
export function pairWord(ranks, video) {
  const [own, other] = [ranks[video], ranks[1 - video]];
  if (own === null || other === null) return '';
  return own === other ? t('pair.word_equal') : own < other ? t('pair.word_better') : '';
}

export class PairBoard {
  // answer(ranks) is called with the ranks of both videos.
  constructor({ answer }) {
    this.buttons = ANSWERS.map(({ name, text, hint, ranks }) => {
      const button = make('button', `pair-answer ${name}`, { type: 'button', 'aria-pressed': 'false' }, t(text), ' ', make('kbd', '', { 'aria-hidden': 'true' }, hint));
      button.addEventListener('click', () => answer(ranks));
      return button;
    });
    this.pool = make('div', 'pool', { hidden: true });
    this.element = make('div', 'pair-answers', { role: 'group', 'aria-label': t('pair.answers') }, ...this.buttons);
  }

  // Both bad are two last ranks, and none of these answers.
  refresh({ ranks }) {
    this.buttons.forEach((button, index) => {
      const chosen = ANSWERS[index].ranks.every((rank, video) => rank === ranks[video]);
      button.setAttribute('aria-pressed', String(chosen));
    });
  }
}
