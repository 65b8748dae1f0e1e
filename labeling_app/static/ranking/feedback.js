// What an annotator sees after a gold item or a trial: the known answer beside the own one, and the result.

import { call, make } from '../dom.js';
import { table } from '../lead/elements.js';
import { share } from '../lead/parts.js';
import { letter, ordinal } from '../ranks.js';

export function trialText({ campaign, right, pairs, needed, passed }) {
  const result = pairs ? `${right} of ${pairs} pairs as in the known answers (${share(right / pairs)}), ${share(needed)} needed` : 'no pair was decided';
  return `Trial of ${campaign}: ${passed ? 'passed' : 'not passed'}, ${result}.`;
}

// given: the ranks of each dimension as they were sent, in the order shown; go() shows the next task.
export function feedbackPart({ feedback, trial }, given, go) {
  const heading = make('h1', 'question', { tabIndex: -1 }, feedback ? 'The answer to this task was known' : trial.passed ? 'You have passed the trial' : 'The trial is over');
  const parts = [];
  if (feedback) {
    parts.push(make('p', '', {}, `You ordered ${feedback.right} of ${feedback.pairs} pairs as in the known answer.`));
    for (const [dimension, known] of Object.entries(feedback.known)) {
      const heads = ['', ...known.map((_, index) => letter(index))];
      parts.push(table(`Places (${dimension})`, heads, [[`known (${dimension})`, ...known.map(ordinal)], ['yours', ...given[dimension].map(ordinal)]]));
    }
  }
  if (trial) parts.push(make('p', '', { dir: 'auto' }, trialText(trial)));
  const button = make('button', 'primary', { type: 'button' }, 'Go on');
  button.addEventListener('click', () => go());
  const part = make('section', 'ranking feedback', { 'aria-label': 'Result' }, heading, ...parts, make('div', 'actions', {}, button));
  part.focusHeading = () => heading.focus();
  return part;
}

// The results of trials so far, for the page at the end.
export async function trialsPart() {
  const { status, data } = await call('api/trials');
  const trials = status === 200 ? data.trials : [];
  return make('div', 'trials', { hidden: !trials.length }, ...trials.map((trial) => make('p', '', { dir: 'auto' }, trialText(trial))));
}
