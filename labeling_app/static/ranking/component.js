// The ranking as a Gradio component (`labeling_app.web.video_ranking`), in anybody's app. Data reaches the document only
// through textContent and properties, never through HTML.

import { TOUCH, make } from '../dom.js';
import { DraftRanks } from '../ranks.js';
import { loadCatalogue, t } from '../words.js';
import { keysPart, onRankerKey } from './keys.js';
import { question } from './prompt.js';
import { Ranker } from './ranker.js';

// In the value, as in a rankings file.
const NO_RANK = -1;
let stylesheet = null;
let made = 0;

// element, props, trigger and watch are what Gradio gives to a component's script.
export async function start(element, props, trigger, watch) {
  await Promise.all([loadStylesheet(), loadCatalogue()]);
  const component = new RankingComponent(element.querySelector('.ranking-page'), props, trigger);
  component.show();
  watch('value', () => component.show());
}

// Rules for the components alone: nothing else in the page changes its looks.
function loadStylesheet() {
  stylesheet ??= fetch(new URL('../ranking.css', import.meta.url)).then((response) => response.text()).then((rules) => {
    document.head.append(make('style', '', {}, `@scope (:has(> .ranking-page)) {\n${rules}\n}`));
  });
  return stylesheet;
}

class RankingComponent extends Ranker {
  constructor(root, props, trigger) {
    super(root);
    this.props = props;
    this.trigger = trigger;
    this.mustPlay = props.play_to_end;
    made += 1;
    this.gate = make('p', 'gate', { id: `video-ranking-gate-${made}` });
    this.submitButton = make('button', 'primary submit', { type: 'button', 'aria-describedby': this.gate.id }, t('rank.submit'));
    this.submitButton.addEventListener('click', () => this.submit());
    this.status = make('p', 'visually-hidden', { role: 'status', 'aria-live': 'polite' });
    // Only of the ranking that has the focus: there may be several on a page, and other components.
    root.addEventListener('keydown', (event) => {
      if (this.player && !event.ctrlKey && !event.metaKey && !event.altKey) onRankerKey(this, event);
    });
  }

  say(text) { this.status.textContent = text; }

  // Shows the task of the value, unless it is shown already.
  show() {
    const { value } = this.props;
    if (this.player && value?.task === this.task) return;
    this.closePlayer();
    this.task = value?.task;
    if (!this.task) {
      this.root.replaceChildren(make('p', 'hint', {}, t('component.nothing')));
      return;
    }
    const { prompt, videos, ranks, dimension } = value;
    this.ranking = new DraftRanks(videos.length, ranks.map((rank) => (rank === NO_RANK ? null : rank)));
    const shown = videos.map((video) => ({ ...video, url: video.url || video.file.url }));
    this.makeParts(shown);
    this.root.replaceChildren(make('div', 'ranking-main', {},
      make('section', 'prompt', { 'aria-label': t('prompt') }, make('span', 'label', {}, t('prompt')), make('p', 'prompt-text', { dir: 'auto', tabIndex: 0 }, prompt)),
      this.cards.element, this.controls.element,
      make('section', 'ranking', { 'aria-label': t('rank.ranking') }, make('p', 'question', {}, question(dimension)), this.hint, this.board.pool, this.board.element, make('div', 'actions', {}, this.submitButton, this.gate)),
      ...(TOUCH.matches ? [] : [keysPart(this.count, false, [])])), this.status);
    this.startPlayer(shown, [], async (index) => shown[index].times);
    this.selectFirstUnranked();
    this.refresh();
  }

  // Called whenever a rank has changed.
  saveDraft() {
    const ranks = this.ranking.ranks.map((rank) => rank ?? NO_RANK);
    if (ranks.join() !== this.props.value.ranks.join()) this.props.value = { ...this.props.value, ranks };
  }

  submit() {
    if (this.missing) {
      this.say(this.missing);
      this.gate.classList.remove('nudge');
      requestAnimationFrame(() => this.gate.classList.add('nudge'));
    } else {
      this.trigger('submit');
    }
  }

  refreshGate() {
    if (this.gate.textContent !== this.missing) this.gate.textContent = this.missing;
    this.submitButton.setAttribute('aria-disabled', String(Boolean(this.missing)));
  }
}
