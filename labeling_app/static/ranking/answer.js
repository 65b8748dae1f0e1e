// Below the ranks: what is done with the answer, and the remarks that go with it.

import { make, withKey } from '../dom.js';
import { t } from '../words.js';
import { AboutVideos, makeSkipDialog } from './remarks.js';

// Beginning of the flag as it is stored, in English for all, by which such answers are counted.
const ALL_BAD = 'All videos are bad';

// A flag with another beginning, where it has this one.
const begunBy = (flag, beginning, other) => (flag.startsWith(beginning) ? other + flag.slice(beginning.length) : flag);

export class AnswerForm {
  // draft: the answer so far; editing: it is an earlier one; looking: nothing is stored; deciding: a lead's decision,
  // which has no flag and a comment of its own. The actions: changed() after a
  // remark, submit(), back(), allBad(), cancel() and skip(reason, slots).
  constructor(count, draft, { editing, looking, deciding }, actions) {
    const onlyLooking = looking && !editing && !deciding;
    this.submitButton = button('primary submit', '', actions.submit);
    this.backButton = button('quiet', t('answer.back'), actions.back);
    const skip = button('quiet skip', t('answer.skip'), () => actions.askWhySkip());
    skip.hidden = editing || looking;
    const allBad = button('quiet all-bad', withKey(t(count === 2 ? 'answer.both_bad' : 'answer.all_bad'), 'N'), actions.allBad);
    allBad.hidden = onlyLooking;
    const cancel = button('quiet', t('answer.leave'), actions.cancel);
    cancel.hidden = !editing;
    this.gate = make('p', 'gate', { id: 'ranking-gate' });
    this.submitButton.setAttribute('aria-describedby', 'ranking-gate');
    this.flag = make('input', 'flag', { id: 'ranking-flag', maxLength: 200, dir: 'auto', value: begunBy(draft.flag || '', ALL_BAD, t('answer.all_bad_flag')), placeholder: t('answer.flag_hint') });
    this.comment = make('textarea', '', { id: 'ranking-comment', rows: 2, maxLength: 10000, dir: 'auto', value: draft.comment || '' });
    for (const input of [this.flag, this.comment]) input.addEventListener('input', actions.changed);
    const about = draft.about || {};
    this.flagAbout = new AboutVideos(this.flag, count, about.flag, actions.changed);
    this.commentAbout = new AboutVideos(this.comment, count, about.comment, actions.changed);
    this.flagPart = remark('flag-part', t('answer.flag_for'), t('answer.flag'), this.flag, this.flagAbout, onlyLooking || deciding);
    this.skipDialog = makeSkipDialog(count, actions.skip);
    this.elements = [
      make('div', 'actions', {}, this.submitButton, this.backButton, allBad, skip, cancel, this.gate),
      this.flagPart,
      remark('comment', t('answer.add_comment'), t('answer.comment'), this.comment, this.commentAbout, onlyLooking || deciding),
      this.skipDialog,
    ];
  }

  // Slots of the videos that each remark is about.
  get about() { return { flag: this.flagAbout.slots, comment: this.commentAbout.slots }; }

  get remarks() {
    return { comment: this.comment.value, flag: begunBy(this.flag.value, t('answer.all_bad_flag'), ALL_BAD) };
  }

  flagAllBad() {
    if (!this.flag.value) this.flag.value = t('answer.all_bad_flag');
    this.flagPart.open = true;
  }

  // Another answer takes back that all are bad, but no words of the annotator.
  unflagAllBad() { if (this.flag.value === t('answer.all_bad_flag')) this.flag.value = ''; }

  // Whether a flag can be written.
  writeFlag() {
    if (this.flagPart.hidden) return false;
    this.flagPart.open = true;
    this.flag.focus();
    return true;
  }

  // Shakes the line that says what is missing.
  nudge() {
    this.gate.classList.remove('nudge');
    requestAnimationFrame(() => this.gate.classList.add('nudge'));
  }

  refresh(submitText, mayGoBack) {
    this.submitButton.textContent = submitText;
    this.backButton.hidden = !mayGoBack;
  }

  refreshGate(missing, sending) {
    const gate = sending ? '' : missing;
    if (this.gate.textContent !== gate) this.gate.textContent = gate;
    this.submitButton.setAttribute('aria-disabled', String(Boolean(missing) || sending));
  }
}

function button(className, text, action) {
  const made = make('button', className, { type: 'button' }, text);
  made.addEventListener('click', () => action());
  return made;
}

function remark(className, summary, label, input, about, hidden) {
  return make('details', className, { open: Boolean(input.value), hidden }, make('summary', '', {}, summary), make('label', 'visually-hidden', { for: input.id }, label), input, about.element);
}
