// The ranking page. Data reaches the document only through textContent and properties, never through HTML.

import { SyncPlayer } from './player.js';
import { DraftRanks, letter, ordinal } from './ranks.js';
import { BASE, call, make, pageLinks } from './dom.js';
import { logoutForm } from './logout.js';
import { forgetDraft, readDraft, writeDraft } from './draft.js';
import { makeDraggable } from './drag.js';
import { guidelinesPage, guidelinesText } from './guidelines.js';
import { AboutVideos, makeSkipDialog } from './remarks.js';

// At the end of the address: a lead who ranks tasks instead of looking at them.
const TAKE = '#take';
const IDLE_SECONDS = 300;
const TOUCH = matchMedia('(hover: none)');
const RATES = [1, 0.5, 0.25];
const QUESTIONS = {
  overall: 'Which video is best for this prompt?',
  visual: 'Which video looks best, whatever it shows?',
  motion: 'Which video moves best: smooth, natural, as much as it should?',
  alignment: 'Which video shows best what the prompt says?',
};
// Asked before the prompt is shown: who knows the prompt rates looks and motion by how well they fit it.
const BEFORE_PROMPT = ['visual', 'motion'];
const ALL_BAD = 'All videos are bad';

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
    document.addEventListener('keydown', (event) => this.onKey(event));
    for (const kind of ['pointerdown', 'pointermove', 'keydown']) {
      document.addEventListener(kind, () => { this.lastActivity = Date.now(); }, { passive: true });
    }
    setInterval(() => this.everySecond(), 1000);
  }

  // The frame of the page ------------------------------------------------------------------------------

  build() {
    this.progressText = make('span', 'progress-text');
    this.progressBar = make('progress', '', { max: 1, value: 0, 'aria-hidden': 'true' });
    this.earlier = make('button', 'quiet earlier', { type: 'button' }, 'Change an answer (U)');
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
    // How many are left is not said where it would give away which tasks are hidden checks.
    const { done, left } = data.progress;
    const total = left === null ? null : done + left;
    this.progressText.textContent = data.task
      ? `Task ${done + 1}${total === null ? '' : ` of ${total}`}`
      : `${done}${total === null ? '' : ` of ${total}`} done`;
    this.progressBar.hidden = total === null;
    this.progressBar.max = Math.max(1, total || 0);
    this.progressBar.value = done;
    this.earlier.hidden = done === 0;
    if (this.player) this.player.close();
    this.player = null;
    this.task = data.task;
    this.looking = data.looking;
    if (data.looking) this.progressText.textContent = 'Looking at tasks';
    if (data.guidelines) this.showGuidelines(data.guidelines);
    else if (this.task) this.showTask();
    else this.showEnd(data.reason ? 'No more tasks for you' : done ? 'All done. Thank you!' : 'There is nothing to rank yet.', false, data.reason);
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
    if (this.player) this.player.close();
    this.player = null;
    const again = make('button', 'primary', { type: 'button' }, failed ? 'Try again' : 'Look for new tasks');
    again.addEventListener('click', () => { this.showNotice(''); this.next(); });
    this.main.replaceChildren(make('div', 'the-end', {}, make('h1', '', {}, title), failed ? '' : make('p', '', {}, reason || 'No task is waiting for you right now.'), again));
    this.say(title);
  }

  // The answers that may still be changed, the latest first.
  async showEarlier() {
    const { status, data } = await call('api/answers');
    if (status !== 200 || !data.answers.length) {
      this.showNotice(status === 200 ? 'You have no answer that can still be changed.' : data.message);
      return;
    }
    const dialog = make('dialog', 'skip-dialog', { 'aria-label': 'Change an answer' }, make('h2', '', {}, 'Which answer do you want to change?'));
    for (const answer of data.answers) {
      const open = make('button', 'earlier-answer', { type: 'button', dir: 'auto', textContent: answer.prompt.slice(0, 120) });
      open.addEventListener('click', () => { dialog.close(); this.edit(answer); });
      dialog.append(open);
    }
    const cancel = make('button', 'quiet', { type: 'button' }, 'Go back');
    cancel.addEventListener('click', () => dialog.close());
    dialog.append(cancel);
    dialog.addEventListener('close', () => dialog.remove());
    this.root.append(dialog);
    dialog.showModal();
  }

  edit(answer) {
    if (this.player) this.player.close();
    this.player = null;
    this.showNotice('');
    this.editing = answer;
    this.task = answer;
    this.progressText.textContent = 'Changing an earlier answer';
    this.showTask();
  }

  showTask() {
    const { task } = this;
    task.dimensions.sort((one, other) => BEFORE_PROMPT.includes(other) - BEFORE_PROMPT.includes(one));
    const draft = this.editing
      ? { places: task.dimensions.map((name) => task.ranks[name]), comment: task.comment, flag: task.flag, about: task.remark_videos, seconds: task.seconds, seen: task.videos.map(() => true) }
      : readDraft(task.assignment);
    this.zoomed = false;
    this.count = task.videos.length;
    this.rankings = task.dimensions.map((_, index) => new DraftRanks(this.count, draft.places && draft.places[index]));
    this.step = Math.min(draft.step || 0, task.dimensions.length - 1);
    this.seconds = draft.seconds || 0;
    this.sending = false;
    this.selected = 0;
    this.seenBefore = 0;
    this.main.replaceChildren(...(this.looking && !this.editing ? [this.lookingPart()] : []), this.promptPart(), this.videosPart(), this.playerPart(), this.rankingPart(draft), this.keysPart());
    const loadTimes = (index) => call(`api/media/${encodeURIComponent(task.videos[index].id)}/times`).then(({ status, data }) => (status === 200 ? data.times : null));
    this.player = new SyncPlayer(this.videos, task.videos.map((video) => video.fps), () => this.refreshPlayer(), loadTimes);
    (draft.seen || []).forEach((seen, index) => { if (seen && index < this.count) this.player.seen[index] = true; });
    this.selectFirstUnplaced();
    this.refresh();
    const { player } = this;
    player.ready().then(() => {
      if (player === this.player && !matchMedia('(prefers-reduced-motion: reduce)').matches) player.play();
    });
    this.say(`${this.progressText.textContent}. ${this.promptHidden ? this.question.textContent : `Prompt: ${task.prompt.slice(0, 300)}`}`);
  }

  promptPart() {
    this.promptText = make('p', 'prompt-text', { dir: 'auto', tabIndex: 0 });
    const guidelines = make('details', 'guidelines', { hidden: true }, make('summary', '', {}, 'Guidelines'));
    if (this.task.campaign) {
      call(`api/guidelines?campaign=${encodeURIComponent(this.task.campaign)}`).then(({ status, data }) => {
        guidelines.hidden = status !== 200 || !data.text;
        if (!guidelines.hidden) guidelines.append(guidelinesText(data.html));
      });
    }
    return make('section', 'prompt', { 'aria-label': 'Prompt' }, make('span', 'label', {}, 'Prompt'), this.promptText, guidelines);
  }

  videosPart() {
    this.videos = [];
    this.cards = this.task.videos.map(({ id, width, height }, index) => {
      const video = make('video', '', { muted: true, playsInline: true, preload: 'auto', disablePictureInPicture: true, tabIndex: -1, 'aria-hidden': 'true' });
      video.style.aspectRatio = `${width} / ${height}`;
      video.src = new URL(`media/${encodeURIComponent(id)}`, BASE).href;
      this.videos.push(video);
      const card = make('div', 'card', { role: 'radio', tabIndex: -1, 'data-video': String(index) },
        video, make('div', 'card-foot', {}, make('span', 'badge', {}, letter(index)), make('span', 'card-place')));
      card.addEventListener('dblclick', () => this.toggleZoom());
      card.addEventListener('click', () => this.select(index, true));
      this.makeDraggable(card, index, 'mouse');
      return card;
    });
    this.grid = make('div', `videos videos-${this.count}`, { role: 'radiogroup', 'aria-label': 'Videos' }, ...this.cards);
    return this.grid;
  }

  playerPart() {
    const button = (className, label, action) => {
      const made = make('button', `control ${className}`, { type: 'button', 'aria-label': label, title: label });
      made.addEventListener('click', action);
      return made;
    };
    this.playButton = button('play', 'Play or pause (Space)', () => this.player.toggle());
    this.backButton = button('', 'One frame back (,)', () => this.player.step(-1));
    this.backButton.textContent = '‹ frame';
    this.forwardButton = button('', 'One frame on (.)', () => this.player.step(1));
    this.forwardButton.textContent = 'frame ›';
    this.rateButton = button('', 'Speed (S)', () => this.nextRate());
    this.scrub = make('input', 'scrub', { type: 'range', min: 0, max: 1000, value: 0, step: 1, 'aria-label': 'Position in all videos' });
    this.scrub.addEventListener('input', () => {
      if (this.player.playing) this.player.pause();
      this.player.seek((this.scrub.value / 1000) * this.player.duration);
    });
    this.zoomButton = button('', 'One video large (Z)', () => this.toggleZoom());
    return make('section', 'player', { 'aria-label': 'Player of all videos' }, this.playButton, this.backButton, this.forwardButton, this.rateButton, this.zoomButton, this.scrub);
  }

  rankingPart(draft) {
    this.question = make('h1', 'question');
    this.hint = make('p', 'hint');
    this.pool = make('div', 'pool', { 'data-place': '0', role: 'group', 'aria-label': 'Not placed yet' });
    this.slots = Array.from({ length: this.count }, (_, index) => {
      const place = index + 1;
      const give = make('button', 'give-place', { type: 'button' });
      give.append(make('strong', '', {}, ordinal(place)), ' ', make('span', '', {}, place === 1 ? 'best' : place === this.count ? 'worst' : ''));
      give.addEventListener('click', () => this.put(this.selected, place, true));
      return make('div', 'slot', { 'data-place': String(place), role: 'group' }, give, make('div', 'chips'));
    });
    this.submitButton = make('button', 'primary submit', { type: 'button' });
    this.submitButton.addEventListener('click', () => this.submit());
    this.previousButton = make('button', 'quiet', { type: 'button' }, 'Back');
    this.previousButton.addEventListener('click', () => this.goToStep(this.step - 1));
    const skip = make('button', 'quiet skip', { type: 'button' }, 'Skip…');
    skip.addEventListener('click', () => this.askWhySkip());
    const allBad = make('button', 'quiet all-bad', { type: 'button' }, 'All bad (N)');
    allBad.addEventListener('click', () => this.allBad());
    const cancel = make('button', 'quiet', { type: 'button', hidden: !this.editing }, 'Leave it as it was');
    cancel.addEventListener('click', () => this.next());
    skip.hidden = Boolean(this.editing) || this.looking;
    allBad.hidden = this.looking && !this.editing;
    this.flag = make('input', 'flag', { id: 'ranking-flag', maxLength: 200, dir: 'auto', value: draft.flag || '', placeholder: 'What should the lead look at?' });
    this.flag.addEventListener('input', () => this.saveDraft());
    this.gate = make('p', 'gate', { id: 'ranking-gate' });
    this.submitButton.setAttribute('aria-describedby', 'ranking-gate');
    this.comment = make('textarea', '', { id: 'ranking-comment', rows: 2, maxLength: 10000, dir: 'auto', value: draft.comment || '' });
    this.comment.addEventListener('input', () => this.saveDraft());
    const onlyLooking = this.looking && !this.editing;
    this.skipDialog = makeSkipDialog(this.count, (reason, places) => this.send('skip', {
      reason, seconds: this.seconds, comment: this.comment.value, remark_videos: { skip_reason: places, comment: this.commentAbout.places },
    }));
    const { flag: flagged, comment: commented } = draft.about || {};
    this.flagAbout = new AboutVideos(this.flag, this.count, flagged, () => this.saveDraft());
    this.commentAbout = new AboutVideos(this.comment, this.count, commented, () => this.saveDraft());
    return make('section', 'ranking', { 'aria-label': 'Ranking' },
      this.question, this.hint, this.pool, make('div', 'slots', {}, ...this.slots),
      make('div', 'actions', {}, this.submitButton, this.previousButton, allBad, skip, cancel, this.gate),
      this.flagPart = make('details', 'flag-part', { open: Boolean(draft.flag), hidden: onlyLooking }, make('summary', '', {}, 'Flag for the lead'), make('label', 'visually-hidden', { for: 'ranking-flag' }, 'Flag'), this.flag, this.flagAbout.element),
      make('details', 'comment', { open: Boolean(draft.comment), hidden: onlyLooking }, make('summary', '', {}, 'Add a comment'), make('label', 'visually-hidden', { for: 'ranking-comment' }, 'Comment'), this.comment, this.commentAbout.element),
      this.skipDialog);
  }

  keysPart() {
    const last = letter(this.count - 1);
    const rows = [
      [`A – ${last}`, 'choose a video'], [`1 – ${this.count}`, 'give it a place; the same place twice is a tie'], ['↑ ↓', 'one place better or worse'],
      ['← →', 'previous or next video'], ['0', 'take its place away'], ['Space', 'play or pause'], [', .', 'one frame back or on'], ['S', 'speed'], ['Z', 'one video large, or all'], ['N', 'all are bad: all tied, and flagged'], ['!', 'flag for the lead'], ['K', 'skip'], ['U', 'change an earlier answer'], ['Enter', 'submit'],
    ];
    const list = make('dl', '', {}, ...rows.flatMap(([keys, what]) => [make('dt', '', {}, keys), make('dd', '', {}, what)]));
    return make('details', 'keys', {}, make('summary', '', {}, 'Keyboard'), list);
  }

  // Ranking --------------------------------------------------------------------------------------------

  get places() { return this.rankings[this.step]; }

  select(index, focus = false) {
    this.selected = index;
    this.refresh();
    if (focus) this.cards[index].focus({ preventScroll: true });
  }

  selectFirstUnplaced() { this.selected = this.places.unplaced[0] ?? 0; }

  selectNextUnplaced() {
    const { unplaced } = this.places;
    if (unplaced.length) this.selected = unplaced.find((video) => video > this.selected) ?? unplaced[0];
  }

  put(video, place, advance) {
    this.places.put(video, place || null);
    const tied = place ? this.places.at(place).filter((other) => other !== video).map(letter) : [];
    const left = this.places.unplaced.length;
    this.say(`Video ${letter(video)}: ${place ? `${ordinal(place)} place` : 'no place'}${tied.length ? `, tied with ${tied.join(', ')}` : ''}. ${left ? `${left} left.` : 'All placed.'}`);
    if (advance) this.selectNextUnplaced();
    this.saveDraft();
    this.refresh();
    if (this.root.contains(document.activeElement) && document.activeElement.classList.contains('card')) this.cards[this.selected].focus({ preventScroll: true });
  }

  allBad() {
    for (let video = 0; video < this.count; video += 1) this.places.put(video, this.count);
    if (!this.flag.value) this.flag.value = ALL_BAD;
    this.flagPart.open = true;
    this.say('All videos are tied and flagged as bad.');
    this.saveDraft();
    this.refresh();
  }

  toggleZoom() {
    this.zoomed = !this.zoomed;
    this.refresh();
    this.cards[this.selected].focus({ preventScroll: true });
  }

  get promptHidden() { return BEFORE_PROMPT.includes(this.task.dimensions[this.step]); }

  // What was answered without the prompt is not answered again with it.
  get mayGoBack() {
    return this.step > 0 && BEFORE_PROMPT.includes(this.task.dimensions[this.step - 1]) === this.promptHidden;
  }

  goToStep(step) {
    this.step = step;
    this.selectFirstUnplaced();
    this.saveDraft();
    this.refresh();
  }

  // Why the ranking cannot be submitted yet, or an empty string.
  get missing() {
    if (this.looking && !this.editing) return '';
    if (this.player.failed.some(Boolean)) return 'A video does not play: skip this task and say so.';
    const unplaced = this.places.unplaced.map(letter);
    const unseen = this.player.seen.flatMap((seen, index) => (seen ? [] : [letter(index)]));
    if (unplaced.length) return `Still to place: ${unplaced.join(', ')}`;
    if (unseen.length) return `Let the videos play to the end once: ${unseen.join(', ')}`;
    return '';
  }

  // Places of the videos that each remark is about.
  get about() { return { flag: this.flagAbout.places, comment: this.commentAbout.places }; }

  askWhySkip() { this.skipDialog.ask(this.player.failed.flatMap((failed, place) => (failed ? [place] : []))); }

  get lastStep() { return this.step === this.task.dimensions.length - 1; }

  submit() {
    if (this.sending) return;
    if (this.looking && !this.editing && this.lastStep) {
      this.next();
    } else if (this.missing) {
      this.say(this.missing);
      this.gate.classList.remove('nudge');
      requestAnimationFrame(() => this.gate.classList.add('nudge'));
    } else if (!this.lastStep) {
      this.goToStep(this.step + 1);
    } else {
      const ranks = Object.fromEntries(this.task.dimensions.map((dimension, index) => [dimension, this.rankings[index].ranks]));
      this.send(this.editing ? 'revision' : 'judgement', { ranks, seconds: this.seconds, comment: this.comment.value, flag: this.flag.value, remark_videos: this.about });
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

  refresh() {
    const { places } = this;
    const { dimensions } = this.task;
    const dimension = dimensions[this.step];
    this.question.textContent = QUESTIONS[dimension] || QUESTIONS.overall;
    this.promptText.textContent = this.promptHidden ? 'The prompt is shown after this question, so that it does not colour the answer.' : this.task.prompt;
    this.promptText.classList.toggle('hidden-prompt', this.promptHidden);
    this.grid.classList.toggle('zoomed', this.zoomed);
    this.zoomButton.textContent = this.zoomed ? 'All' : 'Zoom';
    this.zoomButton.setAttribute('aria-label', this.zoomed ? 'All videos (Z)' : 'Zoom: one video large (Z)');
    const position = dimensions.length > 1 ? `Question ${this.step + 1} of ${dimensions.length}. ` : '';
    this.hint.textContent = position + (places.complete
      ? 'Every video has a place. Change what you like, then submit.'
      : `Give video ${letter(this.selected)} a place: ${TOUCH.matches ? 'tap a place' : `press 1–${this.count}, click a place`}, or drag it there. The same place means a tie.`);
    this.cards.forEach((card, index) => {
      const place = places.places[index];
      const chosen = index === this.selected;
      card.setAttribute('aria-checked', String(chosen));
      card.tabIndex = chosen ? 0 : -1;
      card.classList.toggle('placed', place !== null);
      card.querySelector('.card-place').textContent = place === null ? 'no place yet' : ordinal(place);
      card.setAttribute('aria-label', `Video ${letter(index)}, ${place === null ? 'no place yet' : `${ordinal(place)} place`}`);
    });
    this.fill(this.pool, places.unplaced);
    this.pool.classList.toggle('empty', places.complete);
    this.slots.forEach((slot, index) => {
      const videos = places.at(index + 1);
      this.fill(slot.querySelector('.chips'), videos);
      const holds = videos.length ? `: ${videos.map(letter).join(', ')}` : ', empty';
      slot.setAttribute('aria-label', `${ordinal(index + 1)} place${holds}`);
      const give = slot.querySelector('.give-place');
      give.setAttribute('aria-label', `${[...give.children].map((part) => part.textContent).join(' ').trim()}: give this place to video ${letter(this.selected)}`);
      slot.classList.toggle('tied', videos.length > 1);
    });
    this.previousButton.hidden = !this.mayGoBack;
    this.submitButton.textContent = this.sending ? 'Saving…' : this.lastStep ? (this.editing ? 'Save the change' : this.looking ? 'Next task' : 'Submit') : 'Next question';
    this.refreshPlayer();
  }

  fill(container, videos) {
    const shown = [...container.querySelectorAll('.chip')].map((chip) => Number(chip.dataset.video));
    if (shown.join() !== videos.join()) {
      container.replaceChildren(...videos.map((video) => {
        const chip = make('button', 'chip', { type: 'button', 'data-video': String(video) }, letter(video));
        chip.addEventListener('click', () => this.select(video, true));
        this.makeDraggable(chip, video, 'any');
        return chip;
      }));
    }
    for (const chip of container.querySelectorAll('.chip')) {
      const video = Number(chip.dataset.video);
      chip.setAttribute('aria-label', `Choose video ${letter(video)}`);
      chip.classList.toggle('selected', video === this.selected);
    }
  }

  refreshPlayer() {
    const { player } = this;
    if (!player) return;
    this.playButton.textContent = player.playing ? 'Pause' : 'Play';
    this.rateButton.textContent = { 1: '1×', 0.5: '½×', 0.25: '¼×' }[player.rate];
    this.rateButton.setAttribute('aria-label', `${this.rateButton.textContent} speed (S)`);
    if (player.duration && document.activeElement !== this.scrub) this.scrub.value = Math.round((1000 * player.time) / player.duration);
    this.cards.forEach((card, index) => {
      card.classList.toggle('seen', player.seen[index]);
      card.classList.toggle('failed', player.failed[index]);
    });
    const { missing } = this;
    const gate = this.sending ? '' : missing;
    if (this.gate.textContent !== gate) this.gate.textContent = gate;
    this.submitButton.setAttribute('aria-disabled', String(Boolean(missing) || this.sending));
    const seenNow = player.seen.filter(Boolean).length;
    if (seenNow !== this.seenBefore) { this.seenBefore = seenNow; this.saveDraft(); }
  }

  nextRate() { this.player.setRate(RATES[(RATES.indexOf(this.player.rate) + 1) % RATES.length]); }

  // Keyboard and drag ----------------------------------------------------------------------------------

  onKey(event) {
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey && !this.root.querySelector('dialog[open]');
    if (plain && !this.task && !this.earlier.hidden && event.key.toLowerCase() === 'u') {
      event.preventDefault();
      this.showEarlier();
      return;
    }
    if (!this.task || !this.player || event.ctrlKey || event.metaKey || event.altKey || this.root.querySelector('dialog[open]')) return;
    const { target } = event;
    if (target.closest('textarea, select, input:not([type=range])')) {
      if (event.key === 'Escape') this.cards[this.selected].focus({ preventScroll: true });
      return;
    }
    const onButton = target.closest('button, summary, a');
    const onScrub = target === this.scrub;
    const { key } = event;
    const video = key.length === 1 ? key.toLowerCase().charCodeAt(0) - 97 : -1;
    const actions = {
      ' ': () => !onButton && this.player.toggle(),
      Enter: () => !onButton && this.submit(),
      ',': () => this.player.step(-1),
      '.': () => this.player.step(1),
      s: () => this.nextRate(),
      z: () => this.toggleZoom(),
      n: () => (this.looking && !this.editing ? false : this.allBad()),
      k: () => this.editing || this.looking ? false : this.askWhySkip(),
      u: () => { this.showEarlier(); },
      '!': () => { if (this.flagPart.hidden) return false; this.flagPart.open = true; this.flag.focus(); return true; },
      Escape: () => this.zoomed && this.toggleZoom(),
      ArrowLeft: () => !onScrub && this.select((this.selected + this.count - 1) % this.count, true),
      ArrowRight: () => !onScrub && this.select((this.selected + 1) % this.count, true),
      ArrowUp: () => !onScrub && this.moveSelected(-1),
      ArrowDown: () => !onScrub && this.moveSelected(1),
      0: () => this.put(this.selected, null, false),
      Backspace: () => this.put(this.selected, null, false),
    };
    let handled = false;
    if (video >= 0 && video < this.count) {
      this.select(video, true);
      handled = true;
    } else if (/^[1-9]$/.test(key) && Number(key) <= this.count) {
      this.put(this.selected, Number(key), true);
      handled = true;
    } else if (Object.hasOwn(actions, key.toLowerCase()) || Object.hasOwn(actions, key)) {
      handled = (actions[key] || actions[key.toLowerCase()])() !== false;
    }
    if (handled) event.preventDefault();
  }

  moveSelected(by) {
    const { selected } = this;
    this.places.move(selected, by);
    this.put(selected, this.places.places[selected], false);
  }

  makeDraggable(element, video, pointers) {
    makeDraggable(element, video, pointers, this.root, (rank) => {
      this.selected = video;
      this.put(video, rank, true);
    });
  }

  // Draft, time and lease ------------------------------------------------------------------------------

  saveDraft() {
    if (!this.task || !this.player || this.editing || this.looking) return;
    writeDraft({
      assignment: this.task.assignment,
      places: this.rankings.map((ranking) => ranking.ranks),
      step: this.step,
      seen: this.player.seen,
      seconds: this.seconds,
      comment: this.comment.value,
      flag: this.flag.value,
      about: this.about,
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
