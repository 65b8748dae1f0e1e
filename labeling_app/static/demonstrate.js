// The demonstration page: a prompt is answered with an uploaded video or one from the library.

import { BASE, actionButton, call, field, imagesPart, make, pageLinks, previewVideo } from './dom.js';
import { guidelinesPage } from './guidelines.js';
import { languageChoice } from './language.js';
import { logoutForm } from './logout.js';
import { messagesPart } from './messages.js';
import { loadWords, t } from './words.js';

export async function start(element) {
  const root = element.querySelector('.ranking-page') || element;
  if (root.dataset.started) return;
  root.dataset.started = 'true';
  await loadWords();
  new DemonstrationPage(root).load();
}

class DemonstrationPage {
  constructor(root) {
    this.root = root;
    this.waiting = make('span', 'progress-text');
    this.pages = make('nav', 'pages', { 'aria-label': t('page.pages') });
    this.userName = make('span', 'user-name', { dir: 'auto' });
    this.notice = make('p', 'notice', { hidden: true, role: 'alert' });
    this.status = make('p', 'status', { role: 'status', 'aria-live': 'polite' });
    this.main = make('div', 'ranking-main');
    this.skipped = 0;
    root.replaceChildren(make('div', 'top-bar', {}, make('div', 'progress', {}, this.waiting), this.pages, this.userName, languageChoice(), logoutForm()), messagesPart(), this.notice, this.main, this.status);
  }

  showNotice(text) {
    this.notice.textContent = text;
    this.notice.hidden = !text;
  }

  async load() {
    const { status, data } = await call('api/demonstrations/prompts');
    if (status !== 200) { this.showNotice(data.message); return; }
    this.data = data;
    this.userName.textContent = data.user;
    this.pages.replaceChildren(...pageLinks('demonstrate', data.lead));
    this.waiting.textContent = data.waiting === 1 ? t('demonstrate.one_waits') : t('demonstrate.wait', { count: data.waiting });
    this.draw();
  }

  draw() {
    const { prompts } = this.data;
    this.video = null;
    this.endUpload();
    this.status.textContent = '';
    if (this.data.guidelines) {
      this.waiting.textContent = t('guidelines');
      const failed = (message, status) => { this.showNotice(message); if (status === 400) this.load(); };
      this.main.replaceChildren(guidelinesPage(this.data.guidelines, () => { this.showNotice(''); return this.load(); }, failed));
      return;
    }
    if (!prompts.length) {
      this.main.replaceChildren(make('div', 'the-end', {}, make('h1', '', {}, t('demonstrate.none')), actionButton('primary', t('demonstrate.look'), () => this.load())));
      return;
    }
    this.prompt = prompts[this.skipped % prompts.length];
    this.main.replaceChildren(this.promptPart(), this.choosePart(), this.sendPart());
    this.refresh();
  }

  promptPart() {
    const another = make('button', 'quiet', { type: 'button', hidden: this.data.prompts.length < 2 }, t('demonstrate.another'));
    another.addEventListener('click', () => { this.skipped += 1; this.showNotice(''); this.draw(); });
    const images = imagesPart(this.prompt);
    return make('section', `prompt${images.length ? ' with-images' : ''}`, { 'aria-label': t('prompt') }, ...images,
      make('div', 'prompt-words', {}, make('span', 'label', {}, t('prompt')), make('p', 'prompt-text', { dir: 'auto', tabIndex: 0 }, this.prompt.prompt), another));
  }

  choosePart() {
    const file = make('input', '', { type: 'file', accept: 'video/mp4,video/webm,video/quicktime,.mkv' });
    file.addEventListener('change', () => { if (file.files.length) this.upload(file.files[0]); });
    this.bar = make('progress', 'upload-bar', { max: 1, value: 0, hidden: true, 'aria-label': t('demonstrate.upload') });
    this.preview = make('div', 'preview-place');
    const drop = make('div', 'drop', {}, field('upload-file', t('demonstrate.upload_file'), file), this.bar);
    drop.addEventListener('dragover', (event) => { event.preventDefault(); drop.classList.add('over'); });
    drop.addEventListener('dragleave', () => drop.classList.remove('over'));
    drop.addEventListener('drop', (event) => {
      event.preventDefault();
      drop.classList.remove('over');
      if (event.dataTransfer.files.length) this.upload(event.dataTransfer.files[0]);
    });
    return make('section', 'ranking', { 'aria-label': t('demonstrate.your_video') },
      make('h1', 'question', {}, t('demonstrate.question')), drop, this.libraryPart(), this.preview);
  }

  libraryPart() {
    const videos = this.data.library.filter(({ campaign }) => campaign === this.prompt.campaign);
    if (!videos.length) return '';
    const cards = videos.map((video, index) => {
      const choose = make('button', 'choose', { type: 'button', 'aria-pressed': 'false', 'data-media': video.id }, t('demonstrate.take', { number: index + 1 }));
      choose.addEventListener('click', () => this.choose(video));
      return make('li', 'library-card', {}, previewVideo(video, t('demonstrate.of_library', { number: index + 1 }), true), choose);
    });
    return make('details', 'library', {}, make('summary', '', {}, t('demonstrate.or_choose', { count: cards.length })), make('ul', 'library-list', {}, ...cards));
  }

  sendPart() {
    this.comment = make('textarea', '', { rows: 2, maxLength: 10000, dir: 'auto' });
    this.submitButton = actionButton('primary submit', t('demonstrate.give'), () => this.send());
    this.gate = make('p', 'gate');
    return make('section', 'ranking', { 'aria-label': t('demonstrate.send') }, field('demonstration-comment', t('demonstrate.comment'), this.comment), make('div', 'actions', {}, this.submitButton, this.gate));
  }

  refresh() {
    this.gate.textContent = this.video ? '' : t('demonstrate.first');
    this.submitButton.setAttribute('aria-disabled', String(!this.video));
    for (const button of this.root.querySelectorAll('.choose')) {
      button.setAttribute('aria-pressed', String(Boolean(this.video) && button.dataset.media === this.video.id));
    }
  }

  choose(video) {
    this.video = video;
    this.preview.replaceChildren(make('h2', '', {}, t('demonstrate.will_look')), previewVideo(video, t('demonstrate.preview')), make('p', 'hint', {}, t('demonstrate.facts', { width: video.width, height: video.height, frames: video.num_frames, rate: Math.round(video.fps * 100) / 100 })));
    this.status.textContent = t('demonstrate.ready');
    this.refresh();
  }

  upload(file) {
    this.showNotice('');
    this.video = null;
    this.preview.replaceChildren();
    this.refresh();
    this.bar.hidden = false;
    this.status.textContent = t('demonstrate.uploading');
    this.endUpload();
    return new Promise((resolve) => {
      const request = new XMLHttpRequest();
      this.request = request;
      request.open('POST', new URL('api/demonstrations/uploads', BASE));
      request.setRequestHeader('Content-Type', 'application/octet-stream');
      request.upload.addEventListener('progress', (event) => {
        this.bar.value = event.total ? event.loaded / event.total : 0;
        if (event.loaded === event.total && this.request === request) this.status.textContent = t('demonstrate.checking');
      });
      request.addEventListener('loadend', () => {
        if (this.request !== request) { resolve(); return; } // another video or prompt was chosen meanwhile
        this.bar.hidden = true;
        this.status.textContent = '';
        let data = {};
        try { data = JSON.parse(request.responseText); } catch { data = { message: t('server.unreachable') }; }
        if (request.status === 200) this.choose(data); else this.showNotice(data.message || t('server.unreachable'));
        resolve();
      });
      request.send(file);
    });
  }

  endUpload() {
    const { request } = this;
    this.request = null;
    request?.abort();
  }

  async send() {
    if (!this.video) { this.status.textContent = this.gate.textContent; return; }
    const { status, data } = await call(`api/demonstrations/${this.prompt.id}`, { media: this.video.id, comment: this.comment.value });
    this.showNotice(status === 200 ? '' : data.message);
    if (status !== 200) return;
    await this.load();
    this.status.textContent = t('demonstrate.saved');
    window.scrollTo({ top: 0 });
  }
}
