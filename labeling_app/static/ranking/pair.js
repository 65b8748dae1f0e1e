// The answers about two videos, in place of ranks: a button and a key for each.

import { make } from '../dom.js';

// Keys, what they say, and the ranks of the two videos; `both bad` is the page's All bad (N).
const ANSWERS = [
  { name: 'first', keys: ['ArrowLeft', '1'], text: 'A is better', hint: '←', ranks: [1, 2] },
  { name: 'equal', keys: ['ArrowDown', '0', '='], text: 'Equal', hint: '↓', ranks: [1, 1] },
  { name: 'second', keys: ['ArrowRight', '2'], text: 'B is better', hint: '→', ranks: [2, 1] },
];

export const PAIR_HINT = 'Press ← if A is better, → if B is better, ↓ if they are equal, N if both are bad.';
export const PAIR_KEYS = [['A B', 'choose a video'], ['← or 1', 'A is better'], ['→ or 2', 'B is better'], ['↓, 0 or =', 'both are equal']];

// The ranks that a key gives to the two videos; null for other keys.
export function ranksOfKey(key) {
  const answer = ANSWERS.find(({ keys }) => keys.includes(key));
  return answer ? answer.ranks : null;
}

// What one of two videos is called by the answer so far.
export function pairWord(ranks, video) {
  const [own, other] = [ranks[video], ranks[1 - video]];
  if (own === null || other === null) return '';
  return own === other ? 'equal' : own < other ? 'better' : '';
}

export class PairBoard {
  // answer(ranks) is called with the ranks of both videos.
  constructor({ answer }) {
    this.buttons = ANSWERS.map(({ name, text, hint, ranks }) => {
      const button = make('button', `pair-answer ${name}`, { type: 'button', 'aria-pressed': 'false' }, text, ' ', make('kbd', '', { 'aria-hidden': 'true' }, hint));
      button.addEventListener('click', () => answer(ranks));
      return button;
    });
    this.pool = make('div', 'pool', { hidden: true });
    this.element = make('div', 'pair-answers', { role: 'group', 'aria-label': 'Answers' }, ...this.buttons);
  }

  // Both bad are two last ranks, and none of these answers.
  refresh({ ranks }) {
    this.buttons.forEach((button, index) => {
      const chosen = ANSWERS[index].ranks.every((rank, video) => rank === ranks[video]);
      button.setAttribute('aria-pressed', String(chosen));
    });
  }
}
