// Below the ranks: what is done with the answer, and the remarks that go with it.

import { make, withKey } from '../dom.js';
import { AboutVideos, makeSkipDialog } from './remarks.js';

const ALL_BAD = 'All videos are bad';

export class AnswerForm {
  // draft: the answer so far; editing: it is an earlier one; looking: nothing is stored. The actions: changed() after a
  // remark, submit(), back(), allBad(), cancel() and skip(reason, slots).
  constructor(count, draft, { editing, looking }, actions) {
    const onlyLooking = looking && !editing;
    this.submitButton = button('primary submit', '', actions.submit);
    this.backButton = button('quiet', 'Back', actions.back);
    const skip = button('quiet skip', 'Skip…', () => actions.askWhySkip());
    skip.hidden = editing || looking;
    const allBad = button('quiet all-bad', withKey('All bad', 'N'), actions.allBad);
    allBad.hidden = onlyLooking;
    const cancel = button('quiet', 'Leave it as it was', actions.cancel);
    cancel.hidden = !editing;
    this.gate = make('p', 'gate', { id: 'ranking-gate' });
    this.submitButton.setAttribute('aria-describedby', 'ranking-gate');
    this.flag = make('input', 'flag', { id: 'ranking-flag', maxLength: 200, dir: 'auto', value: draft.flag || '', placeholder: 'What should the lead look at?' });
    this.comment = make('textarea', '', { id: 'ranking-comment', rows: 2, maxLength: 10000, dir: 'auto', value: draft.comment || '' });
    for (const input of [this.flag, this.comment]) input.addEventListener('input', actions.changed);
    const about = draft.about || {};
    this.flagAbout = new AboutVideos(this.flag, count, about.flag, actions.changed);
    this.commentAbout = new AboutVideos(this.comment, count, about.comment, actions.changed);
    this.flagPart = remark('flag-part', 'Flag for the lead', 'Flag', this.flag, this.flagAbout, onlyLooking);
    this.skipDialog = makeSkipDialog(count, actions.skip);
    this.elements = [
      make('div', 'actions', {}, this.submitButton, this.backButton, allBad, skip, cancel, this.gate),
      this.flagPart,
      remark('comment', 'Add a comment', 'Comment', this.comment, this.commentAbout, onlyLooking),
      this.skipDialog,
    ];
  }

  // Slots of the videos that each remark is about.
  get about() { return { flag: this.flagAbout.slots, comment: this.commentAbout.slots }; }

  get remarks() { return { comment: this.comment.value, flag: this.flag.value }; }

  flagAllBad() {
    if (!this.flag.value) this.flag.value = ALL_BAD;
    this.flagPart.open = true;
  }

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
