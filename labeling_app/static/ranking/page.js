// The ranking page: one task after the other. Data reaches the document only through textContent and properties, never
// through HTML.

import { TOUCH, call, make, pageLinks, withKey } from '../dom.js';
import { guidelinesPage } from '../guidelines.js';
import { logoutForm } from '../logout.js';
import { SyncPlayer } from '../player.js';
import { DraftRanks, letter, ordinal } from '../ranks.js';
import { AnswerForm } from './answer.js';
import { RankBoard } from './board.js';
import { VideoCards } from './cards.js';
import { PlayerControls } from './controls.js';
import { forgetDraft, readDraft, writeDraft } from './draft.js';
import { makeDraggable } from './drag.js';
import { chooseEarlier } from './earlier.js';
import { keysPart, onKey } from './keys.js';
import { PromptPart, asksBeforePrompt, question } from './prompt.js';

// At the end of the address: a lead who ranks tasks instead of looking at them.
const TAKE = '#take';
const IDLE_SECONDS = 300;

export function start(element) {
  const root = element.querySelector('.ranking-page') || element;
  if (!root.dataset.started) {
    root.dataset.started = 'true';
    new RankingPage(root).next();
  }
}

class RankingPage {
  constructor(root) {
    this.root = root;
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
    this.earlier = make('button', 'quiet earlier', { type: 'button' }, withKey('Change an answer', 'U'));
    this.earlier.addEventListener('click', () => this.showEarlier());
    this.pages = make('nav', 'pages', { 'aria-label': 'Pages' });
    this.userName = make('span', 'user-name', { dir: 'auto' });
    this.logout = logoutForm();
    this.notice = make('p', 'notice', { hidden: true, role: 'alert' });
    this.status = make('p', 'visually-hidden', { role: 'status', 'aria-live': 'polite' });
    this.main = make('div', 'ranking-main');
    this.root.replaceChildren(
      make('div', 'top-bar', {}, make('div', 'progress', {}, this.progressText, this.progressBar), this.earlier, this.pages, this.userName, this.logout),
      this.notice, this.main, this.status,
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
    // A lead looks at tasks, one after the other, and takes one only when asked to.
    const take = window.location.hash === TAKE;
    const { status, data } = await call(`api/next?take=${take}&after=${this.task?.task || 0}`);
    if (status !== 200) {
      this.showNotice(data.message);
      this.showEnd('The next task could not be fetched.', true);
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
    if (data.looking) this.progressText.textContent = 'Looking at tasks';
    const { done } = data.progress;
    if (data.guidelines) this.showGuidelines(data.guidelines);
    else if (this.task) this.showTask();
    else this.showEnd(data.reason ? 'No more tasks for you' : done ? 'All done. Thank you!' : 'There is nothing to rank yet.', false, data.reason);
  }

  // How many are left is not said where it would give away which tasks are hidden checks.
  showProgress({ task, progress: { done, left } }) {
    const total = left === null ? null : done + left;
    this.progressText.textContent = task
      ? `Task ${done + 1}${total === null ? '' : ` of ${total}`}`
      : `${done}${total === null ? '' : ` of ${total}`} done`;
    this.progressBar.hidden = total === null;
    this.progressBar.max = Math.max(1, total || 0);
    this.progressBar.value = done;
    this.earlier.hidden = done === 0;
  }

  closePlayer() {
    if (this.player) this.player.close();
    this.player = null;
  }

  showGuidelines(data) {
    this.progressText.textContent = 'Guidelines';
    const failed = (message, status) => { this.showNotice(message); if (status === 400) this.next(); };
    this.main.replaceChildren(guidelinesPage(data, () => { this.showNotice(''); return this.next(); }, failed));
    this.main.querySelector('h1').focus();
    window.scrollTo({ top: 0 });
  }

  // Above the videos of a task that a lead only looks at.
  lookingPart() {
    const rank = make('button', 'quiet', { type: 'button' }, 'Rank tasks myself');
    rank.addEventListener('click', () => { window.location.hash = TAKE; this.task = null; this.next(); });
    return make('p', 'looking', {}, 'You look at this task as a lead: it is not taken from anybody, and nothing is stored. ', rank);
  }

  showEnd(title, failed = false, reason = '') {
    this.task = null;
    this.closePlayer();
    const again = make('button', 'primary', { type: 'button' }, failed ? 'Try again' : 'Look for new tasks');
    again.addEventListener('click', () => { this.showNotice(''); this.next(); });
    this.main.replaceChildren(make('div', 'the-end', {}, make('h1', '', {}, title), failed ? '' : make('p', '', {}, reason || 'No task is waiting for you right now.'), again));
    this.say(title);
  }

  async showEarlier() {
    const { status, data } = await call('api/answers');
    if (status !== 200 || !data.answers.length) {
      this.showNotice(status === 200 ? 'You have no answer that can still be changed.' : data.message);
      return;
    }
    chooseEarlier(this.root, data.answers, (answer) => this.edit(answer));
  }

  edit(answer) {
    this.closePlayer();
    this.showNotice('');
    this.editing = answer;
    this.task = answer;
    this.progressText.textContent = 'Changing an earlier answer';
    this.showTask();
  }

  showTask() {
    const { task } = this;
    task.dimensions.sort((one, other) => asksBeforePrompt(other) - asksBeforePrompt(one));
    const draft = this.editing
      ? { ranks: task.dimensions.map((name) => task.ranks[name]), comment: task.comment, flag: task.flag, about: task.remark_videos, seconds: task.seconds, seen: task.videos.map(() => true) }
      : readDraft(task.assignment);
    this.zoomed = false;
    this.count = task.videos.length;
    this.rankings = task.dimensions.map((_, index) => new DraftRanks(this.count, draft.ranks && draft.ranks[index]));
    this.step = Math.min(draft.step || 0, task.dimensions.length - 1);
    this.seconds = draft.seconds || 0;
    this.sending = false;
    this.selected = 0;
    this.seenBefore = 0;
    this.buildTask(draft);
    const loadTimes = (index) => call(`api/media/${encodeURIComponent(task.videos[index].id)}/times`).then(({ status, data }) => (status === 200 ? data.times : null));
    this.player = new SyncPlayer(this.cards.videos, task.videos.map((video) => video.fps), () => this.refreshPlayed(), loadTimes);
    (draft.seen || []).forEach((seen, index) => { if (seen && index < this.count) this.player.seen[index] = true; });
    this.selectFirstUnranked();
    this.refresh();
    const { player } = this;
    player.ready().then(() => {
      if (player === this.player && !matchMedia('(prefers-reduced-motion: reduce)').matches) player.play();
    });
    this.say(`${this.progressText.textContent}. ${this.promptHidden ? this.question.textContent : `Prompt: ${task.prompt.slice(0, 300)}`}`);
  }

  // The parts of the page for a task.
  buildTask(draft) {
    const choose = (video) => this.select(video, true);
    const drag = (element, video, pointers) => this.makeDraggable(element, video, pointers);
    const zoom = () => this.toggleZoom();
    this.prompt = new PromptPart(this.task);
    this.cards = new VideoCards(this.task.videos, { choose, zoom, drag });
    this.controls = new PlayerControls(() => this.player, zoom);
    this.board = new RankBoard(this.count, { give: (rank) => this.put(this.selected, rank, true), choose, drag });
    this.answer = new AnswerForm(this.count, draft, { editing: Boolean(this.editing), looking: this.looking }, {
      changed: () => this.saveDraft(),
      submit: () => this.submit(),
      back: () => this.goToStep(this.step - 1),
      allBad: () => this.allBad(),
      cancel: () => this.next(),
      askWhySkip: () => this.askWhySkip(),
      skip: (reason, slots) => this.skip(reason, slots),
    });
    this.question = make('h1', 'question');
    this.hint = make('p', 'hint');
    this.main.replaceChildren(
      ...(this.onlyLooking ? [this.lookingPart()] : []),
      this.prompt.element, this.cards.element, this.controls.element,
      make('section', 'ranking', { 'aria-label': 'Ranking' }, this.question, this.hint, this.board.pool, this.board.element, ...this.answer.elements),
      ...(TOUCH.matches ? [] : [keysPart(this.count)]),
    );
  }

  // Ranking --------------------------------------------------------------------------------------------

  get ranking() { return this.rankings[this.step]; }

  // A lead looks at a task, and does not change an answer of their own.
  get onlyLooking() { return this.looking && !this.editing; }

  select(index, focus = false) {
    this.selected = index;
    this.refresh();
    if (focus) this.cards.focus(index);
  }

  selectFirstUnranked() { this.selected = this.ranking.unranked[0] ?? 0; }

  put(video, rank, advance) {
    this.ranking.put(video, rank || null);
    const tied = rank ? this.ranking.at(rank).filter((other) => other !== video).map(letter) : [];
    const left = this.ranking.unranked.length;
    this.say(`Video ${letter(video)}: ${rank ? `${ordinal(rank)} place` : 'no place'}${tied.length ? `, tied with ${tied.join(', ')}` : ''}. ${left ? `${left} left.` : 'All placed.'}`);
    if (advance) this.selected = this.ranking.nextUnranked(this.selected);
    this.saveDraft();
    this.refresh();
    if (this.root.contains(document.activeElement) && document.activeElement.classList.contains('card')) this.cards.focus(this.selected);
  }

  allBad() {
    for (let video = 0; video < this.count; video += 1) this.ranking.put(video, this.count);
    this.answer.flagAllBad();
    this.say('All videos are tied and flagged as bad.');
    this.saveDraft();
    this.refresh();
  }

  toggleZoom() {
    this.zoomed = !this.zoomed;
    this.refresh();
    this.cards.focus(this.selected);
  }

  moveSelected(by) {
    const { selected } = this;
    this.ranking.move(selected, by);
    this.put(selected, this.ranking.ranks[selected], false);
  }

  makeDraggable(element, video, pointers) {
    makeDraggable(element, video, pointers, this.root, (rank) => {
      this.selected = video;
      this.put(video, rank, true);
    });
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

  // Why the ranking cannot be submitted yet, or an empty string.
  get missing() {
    if (this.onlyLooking) return '';
    if (this.player.failed.some(Boolean)) return 'A video does not play: skip this task and say so.';
    const unranked = this.ranking.unranked.map(letter);
    const unseen = this.player.seen.flatMap((seen, index) => (seen ? [] : [letter(index)]));
    if (unranked.length) return `Still to place: ${unranked.join(', ')}`;
    if (unseen.length) return `Let the videos play to the end once: ${unseen.join(', ')}`;
    return '';
  }

  get lastStep() { return this.step === this.task.dimensions.length - 1; }

  askWhySkip() { this.answer.skipDialog.ask(this.player.failed.flatMap((failed, slot) => (failed ? [slot] : []))); }

  skip(reason, slots) {
    const { about, remarks } = this.answer;
    this.send('skip', { reason, seconds: this.seconds, comment: remarks.comment, remark_videos: { skip_reason: slots, comment: about.comment } });
  }

  submit() {
    if (this.sending) return;
    if (this.onlyLooking && this.lastStep) {
      this.next();
    } else if (this.missing) {
      this.say(this.missing);
      this.answer.nudge();
    } else if (!this.lastStep) {
      this.goToStep(this.step + 1);
    } else {
      const ranks = Object.fromEntries(this.task.dimensions.map((dimension, index) => [dimension, this.rankings[index].ranks]));
      this.send(this.editing ? 'revision' : 'judgement', { ranks, seconds: this.seconds, ...this.answer.remarks, remark_videos: this.answer.about });
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
    const notice = status === 409 ? `${data.message} What is stored is under “Change an answer”.` : data.message;
    this.showNotice(status === 200 ? '' : notice);
    if (saved && !this.editing) forgetDraft();
    if (saved || status === 410 || status === 403) {
      await this.next();
      window.scrollTo({ top: 0 });
    } else {
      this.refresh();
    }
  }

  // Drawing --------------------------------------------------------------------------------------------

  get submitText() {
    if (this.sending) return 'Saving…';
    if (!this.lastStep) return 'Next question';
    return this.editing ? 'Save the change' : this.looking ? 'Next task' : 'Submit';
  }

  refresh() {
    const { ranking, selected, zoomed } = this;
    const { dimensions } = this.task;
    this.question.textContent = question(dimensions[this.step]);
    const position = dimensions.length > 1 ? `Question ${this.step + 1} of ${dimensions.length}. ` : '';
    this.hint.textContent = position + (ranking.complete
      ? 'Every video has a place. Change what you like, then submit.'
      : `Give video ${letter(selected)} a place: ${TOUCH.matches ? 'tap a place' : `press 1–${this.count}, click a place`}, or drag it there. The same place means a tie.`);
    this.prompt.refresh(this.promptHidden);
    this.cards.refresh(ranking, selected, zoomed);
    this.controls.refresh(zoomed);
    this.board.refresh(ranking, selected);
    this.answer.refresh(this.submitText, this.mayGoBack);
    this.refreshPlayed();
  }

  refreshPlayed() {
    const { player } = this;
    if (!player) return;
    this.controls.refreshPlayed(player);
    this.cards.refreshPlayed(player);
    this.answer.refreshGate(this.missing, this.sending);
    const seenNow = player.seen.filter(Boolean).length;
    if (seenNow !== this.seenBefore) { this.seenBefore = seenNow; this.saveDraft(); }
  }

  // Draft, time and lease ------------------------------------------------------------------------------

  saveDraft() {
    if (!this.task || !this.player || this.editing || this.looking) return;
    writeDraft({
      assignment: this.task.assignment,
      ranks: this.rankings.map((ranking) => ranking.ranks),
      step: this.step,
      seen: this.player.seen,
      seconds: this.seconds,
      ...this.answer.remarks,
      about: this.answer.about,
    });
  }

  everySecond() {
    const idle = (Date.now() - this.lastActivity) / 1000 > IDLE_SECONDS;
    if (!this.task || !this.player || document.hidden || idle) return;
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
