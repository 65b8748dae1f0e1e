// The ranking page: one task after the other. Data reaches the document only through textContent and properties, never
// through HTML.

import { TOUCH, call, make, mediaUrl, pageLinks, withKey } from '../dom.js';
import { guidelinesPage } from '../guidelines.js';
import { languageChoice } from '../language.js';
import { logoutForm } from '../logout.js';
import { messagesPart } from '../messages.js';
import { DraftRanks } from '../ranks.js';
import { loadWords, t } from '../words.js';
import { AnswerForm } from './answer.js';
import { DecisionPart, decideTask, draftOfDecision, taskToDecide } from './decide.js';
import { forgetDraft, readDraft, writeDraft } from './draft.js';
import { chooseEarlier } from './earlier.js';
import { feedbackPart, trialsPart } from './feedback.js';
import { keysPart, onKey } from './keys.js';
import { PromptPart, asksBeforePrompt, question } from './prompt.js';
import { Ranker } from './ranker.js';
import { TagsPart } from './tags.js';

// At the end of the address: a lead who ranks tasks instead of looking at them.
const TAKE = '#take';
const IDLE_SECONDS = 300;

export async function start(element) {
  const root = element.querySelector('.ranking-page') || element;
  if (!root.dataset.started) {
    root.dataset.started = 'true';
    await loadWords();
    new RankingPage(root).next();
  }
}

class RankingPage extends Ranker {
  constructor(root) {
    super(root);
    this.lastActivity = Date.now();
    this.build();
    document.addEventListener('keydown', (event) => onKey(this, event));
    for (const kind of ['pointerdown', 'pointermove', 'keydown']) {
      document.addEventListener(kind, () => { this.lastActivity = Date.now(); }, { passive: true });
    }
    setInterval(() => this.everySecond(), 1000);
  }

  // The frame of the page ------------------------------------------------------------------------------

  build() {
    this.progressText = make('span', 'progress-text');
    this.progressBar = make('progress', '', { max: 1, value: 0, 'aria-hidden': 'true' });
    this.earlier = make('button', 'quiet earlier', { type: 'button' }, withKey(t('rank.change'), 'U'));
    this.earlier.addEventListener('click', () => this.showEarlier());
    this.pages = make('nav', 'pages', { 'aria-label': t('page.pages') });
    this.userName = make('span', 'user-name', { dir: 'auto' });
    this.logout = logoutForm();
    this.notice = make('p', 'notice', { hidden: true, role: 'alert' });
    this.status = make('p', 'visually-hidden', { role: 'status', 'aria-live': 'polite' });
    this.main = make('div', 'ranking-main');
    this.root.replaceChildren(
      make('div', 'top-bar', {}, make('div', 'progress', {}, this.progressText, this.progressBar), this.earlier, this.pages, this.userName, languageChoice(), this.logout),
      messagesPart(), this.notice, this.main, this.status,
    );
  }

  say(text) { this.status.textContent = text; }

  showNotice(text) {
    this.notice.textContent = text;
    this.notice.hidden = !text;
  }

  // Tasks ----------------------------------------------------------------------------------------------

  async next() {
    this.editing = null;
    this.reviewing = null;
    // A lead looks at tasks, one after the other, and takes one only when asked to.
    const take = window.location.hash === TAKE;
    const decided = taskToDecide();
    const { status, data } = await call(decided === null ? `api/next?take=${take}&after=${this.task?.task || 0}` : `api/lead/tasks/${decided}`);
    if (status !== 200) {
      this.showNotice(data.message);
      this.showEnd(t('rank.failed'), true);
      return;
    }
    this.userName.textContent = data.user;
    this.leaseSeconds = data.lease_seconds;
    this.lastRenewal = Date.now();
    this.pages.replaceChildren(...pageLinks('rank', data.lead));
    this.showProgress(data);
    this.closePlayer();
    this.task = data.task;
    this.looking = data.looking;
    this.deciding = data.deciding || null;
    if (data.looking) this.progressText.textContent = t(this.deciding ? 'rank.deciding' : 'rank.looking');
    const { done } = data.progress;
    if (data.guidelines) this.showGuidelines(data.guidelines);
    else if (this.task) this.showTask();
    else this.showEnd(t(data.reason ? 'rank.no_more' : done ? 'rank.done' : 'rank.nothing'), false, data.reason);
  }

  // How many are left is not said where it would give away which tasks are hidden checks.
  showProgress({ task, progress: { done, left } }) {
    const total = left === null ? null : done + left;
    const key = total === null ? (task ? 'rank.task' : 'rank.count') : (task ? 'rank.task_of' : 'rank.count_of');
    this.progressText.textContent = t(key, { number: task ? done + 1 : done, total });
    this.progressBar.hidden = total === null;
    this.progressBar.max = Math.max(1, total || 0);
    this.progressBar.value = done;
    this.earlier.hidden = done === 0;
  }

  showGuidelines(data) {
    this.progressText.textContent = t('guidelines');
    const failed = (message, status) => { this.showNotice(message); if (status === 400) this.next(); };
    this.main.replaceChildren(guidelinesPage(data, () => { this.showNotice(''); return this.next(); }, failed));
    this.main.querySelector('h1').focus();
    window.scrollTo({ top: 0 });
  }

  // Above the videos of a task that a lead only looks at.
  lookingPart() {
    const rank = make('button', 'quiet', { type: 'button' }, t('rank.rank_myself'));
    rank.addEventListener('click', () => { window.location.hash = TAKE; this.task = null; this.next(); });
    return make('p', 'looking', {}, t('rank.as_lead'), rank);
  }

  showEnd(title, failed = false, reason = '') {
    this.task = null;
    this.closePlayer();
    const again = make('button', 'primary', { type: 'button' }, t(failed ? 'rank.again' : 'rank.look'));
    again.addEventListener('click', () => { this.showNotice(''); this.next(); });
    this.main.replaceChildren(make('div', 'the-end', {}, make('h1', '', {}, title), failed ? '' : make('p', '', {}, reason || t('rank.none_waiting')), again));
    this.say(title);
    const { firstChild } = this.main;
    trialsPart().then((part) => firstChild.append(part));
  }

  async showEarlier() {
    const { status, data } = await call('api/answers');
    if (status !== 200 || !data.answers.length) {
      this.showNotice(status === 200 ? t('rank.nothing_to_change') : data.message);
      return;
    }
    chooseEarlier(this.root, data.answers, (answer) => this.edit(answer));
  }

  edit(answer) {
    this.closePlayer();
    this.showNotice('');
    this.editing = answer;
    this.deciding = null;
    this.task = answer;
    this.progressText.textContent = t('rank.changing');
    this.showTask();
  }

  showTask() {
    const { task } = this;
    task.dimensions.sort((one, other) => asksBeforePrompt(other) - asksBeforePrompt(one));
    const draft = this.editing
      ? { ranks: task.dimensions.map((name) => task.ranks[name]), comment: task.comment, flag: task.flag, about: task.remark_videos, tags: task.given_tags, seconds: task.seconds, seen: task.videos.map(() => true) }
      : this.deciding ? draftOfDecision(this.deciding, task.dimensions) : readDraft(task.assignment);
    this.rankings = task.dimensions.map((_, index) => new DraftRanks(task.videos.length, draft.ranks && draft.ranks[index]));
    this.step = Math.min(draft.step || 0, task.dimensions.length - 1);
    this.seconds = draft.seconds || 0;
    this.sending = false;
    this.buildTask(draft);
    const loadTimes = (index) => call(`api/media/${encodeURIComponent(task.videos[index].id)}/times`).then(({ status, data }) => (status === 200 ? data.times : null));
    this.mustPlay = !this.deciding;
    this.startPlayer(task.videos, draft.seen || [], loadTimes);
    this.selectFirstUnranked();
    this.refresh();
    this.say(`${this.progressText.textContent}. ${this.promptHidden ? this.question.textContent : t('rank.prompt', { prompt: task.prompt.slice(0, 300) })}`);
  }

  // The parts of the page for a task.
  buildTask(draft) {
    this.makeParts(this.task.videos.map((video) => ({ ...video, url: mediaUrl(video.id) })));
    this.prompt = new PromptPart(this.task);
    this.answer = new AnswerForm(this.count, draft, { editing: Boolean(this.editing), looking: this.looking, deciding: Boolean(this.deciding) }, {
      changed: () => this.saveDraft(),
      submit: () => this.submit(),
      back: () => this.goToStep(this.step - 1),
      allBad: () => this.allBad(),
      cancel: () => this.next(),
      askWhySkip: () => this.askWhySkip(),
      skip: (reason, slots) => this.skip(reason, slots),
    });
    this.tags = new TagsPart(this.task.tags, this.cards, draft.tags, this.onlyLooking, {
      changed: () => this.saveDraft(), say: (text) => this.say(text), player: () => this.player,
    });
    this.decision = this.deciding ? new DecisionPart(this.deciding, this.task) : null;
    this.question = make('h1', 'question');
    this.main.replaceChildren(
      ...(this.decision ? [this.decision.top] : this.onlyLooking ? [this.lookingPart()] : []),
      this.prompt.element, this.cards.element, this.controls.element,
      make('section', 'ranking', { 'aria-label': t('rank.ranking') }, this.question, this.hint, this.board.pool, this.board.element, this.tags.element, ...(this.decision ? [this.decision.below] : []), ...this.answer.elements),
      ...(this.decision ? [this.decision.element] : []),
      ...(TOUCH.matches ? [] : [keysPart(this.count, !this.tags.element.hidden)]),
    );
  }

  // Ranking --------------------------------------------------------------------------------------------

  get ranking() { return this.rankings[this.step]; }

  // A lead looks at a task, and does not change an answer of their own.
  get onlyLooking() { return this.looking && !this.editing && !this.deciding; }

  allBad() {
    if (this.sending) return;
    for (let video = 0; video < this.count; video += 1) this.ranking.put(video, this.count);
    this.answer.flagAllBad();
    this.say(t(this.isPair ? 'pair.both_bad' : 'rank.all_bad'));
    this.saveDraft();
    this.refresh();
    if (this.isPair) this.submitPair();
  }

  answerPair(ranks) {
    if (this.sending) return;
    this.answer.unflagAllBad();
    super.answerPair(ranks);
    this.submitPair();
  }

  // Sends the answer at once where nothing is missing; a changed one waits for the button.
  submitPair() {
    if (this.editing || this.onlyLooking) return;
    this.submit();
  }

  // Questions and answers ------------------------------------------------------------------------------

  get promptHidden() { return asksBeforePrompt(this.task.dimensions[this.step]); }

  // What was answered without the prompt is not answered again with it.
  get mayGoBack() {
    return this.step > 0 && asksBeforePrompt(this.task.dimensions[this.step - 1]) === this.promptHidden;
  }

  goToStep(step) {
    this.step = step;
    this.selectFirstUnranked();
    this.saveDraft();
    this.refresh();
  }

  get missing() { return this.onlyLooking ? '' : super.missing; }

  get failedText() { return t('rank.does_not_play'); }

  get lastStep() { return this.step === this.task.dimensions.length - 1; }

  askWhySkip() { this.answer.skipDialog.ask(this.player.failed.flatMap((failed, slot) => (failed ? [slot] : []))); }

  skip(reason, slots) {
    const { about, remarks } = this.answer;
    this.send('skip', { reason, seconds: this.seconds, comment: remarks.comment, remark_videos: { skip_reason: slots, comment: about.comment } });
  }

  submit() {
    if (this.sending) return;
    if (this.reviewing) {
      this.next();
    } else if (this.onlyLooking && this.lastStep) {
      this.next();
    } else if (this.missing) {
      this.say(this.missing);
      this.answer.nudge();
    } else if (!this.lastStep) {
      this.goToStep(this.step + 1);
    } else {
      const ranks = Object.fromEntries(this.task.dimensions.map((dimension, index) => [dimension, this.rankings[index].ranks]));
      if (this.deciding) decideTask(this, ranks);
      else this.send(this.editing ? 'revision' : 'judgement', { ranks, seconds: this.seconds, ...this.answer.remarks, remark_videos: this.answer.about, tags: this.tags.given });
    }
  }

  async send(what, body) {
    if (this.sending) return;
    this.sending = true;
    this.refresh();
    const { status, data } = await call(`api/assignments/${this.task.assignment}/${what}`, body);
    this.sending = false;
    const saved = status === 200 || status === 409;
    // Another window has sent one, or this one's acknowledgement was lost.
    const notice = status === 409 ? `${data.message} ${t('rank.stored')}` : data.message;
    this.showNotice(status === 200 ? '' : notice);
    if (saved && !this.editing) forgetDraft();
    if (status === 200 && (data.feedback || data.trial)) {
      this.review(data, body.ranks);
    } else if (saved || status === 410 || status === 403) {
      await this.next();
      window.scrollTo({ top: 0 });
    } else {
      this.refresh();
    }
  }

  // Shows the known answer or the result of the trial in place of the ranks; the videos stay.
  review(data, given) {
    this.reviewing = feedbackPart(data, given, () => this.next());
    this.main.querySelector('.ranking').replaceWith(this.reviewing);
    this.reviewing.focusHeading();
  }

  // Drawing --------------------------------------------------------------------------------------------

  get submitText() {
    if (this.sending) return t('rank.saving');
    if (!this.lastStep) return t('rank.next_question');
    return t(this.editing ? 'rank.save_change' : this.deciding ? 'rank.decide' : this.looking ? 'rank.next_task' : 'rank.submit');
  }

  get hintText() {
    const { length } = this.task.dimensions;
    return (length > 1 ? t('rank.question_of', { number: this.step + 1, total: length }) : '') + super.hintText;
  }

  get pairHint() {
    if (this.ranking.complete && this.editing) return t('pair.change');
    return TOUCH.matches ? super.pairHint : t('pair.hint');
  }

  refresh() {
    this.question.textContent = question(this.task.dimensions[this.step]);
    this.prompt.refresh(this.promptHidden);
    this.tags.refresh(this.selected);
    this.answer.refresh(this.submitText, this.mayGoBack);
    super.refresh();
  }

  refreshGate() { this.answer.refreshGate(this.missing, this.sending); }

  refreshPlayed() {
    if (this.player) this.tags.refreshTime();
    super.refreshPlayed();
  }

  // Draft, time and lease ------------------------------------------------------------------------------

  saveDraft() {
    if (!this.task || !this.player || this.editing || this.looking || this.reviewing) return;
    writeDraft({
      assignment: this.task.assignment,
      ranks: this.rankings.map((ranking) => ranking.ranks),
      step: this.step,
      seen: this.player.seen,
      seconds: this.seconds,
      ...this.answer.remarks,
      about: this.answer.about,
      tags: this.tags.given,
    });
  }

  everySecond() {
    const idle = (Date.now() - this.lastActivity) / 1000 > IDLE_SECONDS;
    if (!this.task || !this.player || this.reviewing || document.hidden || idle) return;
    this.seconds += 1;
    this.saveDraft();
    if (!this.editing && !this.looking && (Date.now() - this.lastRenewal) / 1000 > this.leaseSeconds / 3) this.renew();
  }

  async renew() {
    this.lastRenewal = Date.now();
    const { task } = this;
    const { status, data } = await call(`api/assignments/${task.assignment}/lease`, {});
    if (this.task === task && (status === 410 || status === 403)) {
      this.showNotice(data.message);
      await this.next();
    }
  }
}
