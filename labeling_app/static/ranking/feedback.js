// What an annotator sees after a gold item or a trial: the known answer beside the own one, and the result.

import { call, make } from '../dom.js';
import { table } from '../lead/elements.js';
import { share } from '../lead/parts.js';
import { letter, ordinal } from '../ranks.js';
import { t } from '../words.js';
import { dimensionName } from './prompt.js';

export function trialText({ campaign, right, pairs, needed, passed }) {
  const result = pairs ? t('trial.pairs', { right, pairs, share: share(right / pairs), needed: share(needed) }) : t('trial.no_pairs');
  return t(passed ? 'trial.passed' : 'trial.failed', { campaign, result });
}

// given: the ranks of each dimension as they were sent, in the order shown; go() shows the next task.
export function feedbackPart({ feedback, trial }, given, go) {
  const heading = make('h1', 'question', { tabIndex: -1 }, t(feedback ? 'feedback.known' : trial.passed ? 'feedback.passed' : 'feedback.over'));
  const parts = [];
  if (feedback) {
    parts.push(make('p', '', {}, t('feedback.right', { right: feedback.right, pairs: feedback.pairs })));
    for (const [dimension, known] of Object.entries(feedback.known)) {
      const heads = ['', ...known.map((_, index) => letter(index))];
      parts.push(table(t('feedback.places', { dimension: dimensionName(dimension) }), heads, [[t('feedback.known_places', { dimension: dimensionName(dimension) }), ...known.map(ordinal)], [t('feedback.yours'), ...given[dimension].map(ordinal)]]));
    }
  }
  if (trial) parts.push(make('p', '', { dir: 'auto' }, trialText(trial)));
  const button = make('button', 'primary', { type: 'button' }, t('feedback.go_on'));
  button.addEventListener('click', () => go());
  const part = make('section', 'ranking feedback', { 'aria-label': t('feedback.result') }, heading, ...parts, make('div', 'actions', {}, button));
  part.focusHeading = () => heading.focus();
  return part;
}

// The results of trials so far, for the page at the end.
export async function trialsPart() {
  const { status, data } = await call('api/trials');
  const trials = status === 200 ? data.trials : [];
  return make('div', 'trials', { hidden: !trials.length }, ...trials.map((trial) => make('p', '', { dir: 'auto' }, trialText(trial))));
}
