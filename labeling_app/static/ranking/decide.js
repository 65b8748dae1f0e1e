// A lead decides a task on the ranking page: what annotators answered, beside the videos that play in step.

import { BASE, call, field, make } from '../dom.js';
import { table, text } from '../lead/elements.js';
import { remarkPart, share } from '../lead/parts.js';
import { letter } from '../ranks.js';

const TASK = /^#task=(\d+)$/;

// The task in the address that a lead decides, or null.
export function taskToDecide() {
  const found = TASK.exec(window.location.hash);
  return found ? Number(found[1]) : null;
}

function leadLink(title) { return make('a', 'page-link', { href: `${new URL('lead/', BASE).href}#adjudication` }, title); }

// What is filled in when the task opens: the lead's newest decision.
export function draftOfDecision({ decision }, dimensions) {
  if (!decision) return {};
  return { ranks: dimensions.map((name) => decision.ranks[name]), comment: decision.comment, tags: decision.tags };
}

export class DecisionPart {
  constructor({ share: different, answers, remarks, tags, decision, left }, task) {
    const heads = task.videos.map((_, index) => letter(index));
    const tables = task.dimensions.map((dimension) => {
      const given = Object.entries(answers[dimension] || {});
      return given.length ? table(`Places given (${dimension})`, [dimension, ...heads], given.map(([name, ranks]) => [text(name), ...ranks.map(String)])) : make('p', 'hint', {}, `Nobody has answered for ${dimension} yet.`);
    });
    const reasons = Object.entries(tags).map(([name, marks]) => make('p', 'remark', { dir: 'auto' }, text(name), `: ${marks.map((mark) => `${mark.tag} (video ${letter(mark.video)}${mark.seconds === undefined ? '' : ` at ${mark.seconds.toFixed(2)} s`})`).join(', ')}`));
    this.gold = make('input', '', { type: 'checkbox' });
    this.gold.id = 'decide-gold';
    this.comment = make('input', '', { type: 'text', maxLength: 10000, dir: 'auto', value: decision ? decision.comment : '' });
    const state = decision ? `Decided by ${decision.by}: what is saved here takes its place.` : `${share(different)} of the labels differ.`;
    this.top = make('div', 'looking', {}, make('span', '', { dir: 'auto' }, `You decide this task as a lead. ${state} ${left} more to decide. `), leadLink('Back to the list'));
    this.element = make('section', 'ranking answers-given', { 'aria-label': 'Answers so far' }, make('h2', '', {}, 'Answers so far'), make('p', 'hint', {}, 'Letters are of this page, except where it says of whom: each annotator saw another order.'), ...tables, ...reasons, ...remarks.map(remarkPart));
    this.below = make('div', '', {}, field('decide-comment', 'Why (optional)', this.comment), make('label', 'check', { for: 'decide-gold' }, this.gold, ' Use it as a hidden gold item'));
  }
}

// Stores the decision of a page and goes to the task that is most in dispute after it.
export async function decideTask(page, ranks) {
  const { decision, deciding, task, tags } = page;
  page.sending = true;
  page.refresh();
  const { status, data } = await call(`api/lead/tasks/${task.task}/adjudication`, { ranks, tags: tags.given, comment: decision.comment.value, gold: decision.gold.checked });
  page.sending = false;
  page.showNotice(status === 200 ? '' : data.message);
  if (status !== 200) {
    page.refresh();
  } else if (deciding.next === null) {
    page.showEnd('Decided. Nothing more is in dispute.', false, 'The export uses your rankings.');
    page.main.firstChild.append(leadLink('Back to the list'));
  } else {
    window.history.replaceState(null, '', `#task=${deciding.next}`);
    await page.next();
    window.scrollTo({ top: 0 });
  }
}
