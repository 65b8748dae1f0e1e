// Reasons (tags) for each video, with the moments and the places of the picture that are marked for them.

import { make, withKey } from '../dom.js';
import { letter } from '../ranks.js';
import { t } from '../words.js';
import { MarkLayer, PLACE } from './marks.js';

const SHOWN_SECONDS = 0.3;

export class TagsPart {
  // tags: those of the campaign; cards: VideoCards; given: marks so far; hidden: nothing is asked. The actions:
  // changed() after a change, say(text), player().
  constructor(tags, cards, given, hidden, { changed, say, player }) {
    this.names = tags;
    this.cards = cards;
    this.actions = { changed, say, player };
    // For each video the places of each tag that it has; a tag of the video as a whole has none.
    this.places = cards.cards.map(() => new Map());
    this.current = cards.cards.map(() => null);
    for (const { video, tag, ...place } of given || []) {
      if (video < this.places.length && tags.includes(tag)) this.add(video, tag, place.seconds === undefined || place.seconds === null ? null : kept(place));
    }
    this.layers = cards.cards.map((card, video) => new MarkLayer(card, cards.videos[video], {
      done: (place) => this.placed(video, place),
      left: () => cards.focus(video),
      ended: () => { if (this.wasPlaying) this.actions.player()?.play(); },
      say,
    }));
    this.heading = make('h2', 'tags-heading', { id: 'tags-heading' });
    this.buttons = tags.map((tag) => {
      const button = make('button', 'tag', { type: 'button', dir: 'auto' }, tag);
      button.addEventListener('click', () => this.toggle(tag));
      return button;
    });
    this.picture = action(withKey(t('tags.picture'), 'M'), () => this.markPicture());
    this.moment = action(withKey(t('tags.moment'), 'X'), () => this.markMoment());
    this.list = make('ul', 'tag-marks', { 'aria-label': t('tags.marks') });
    this.element = make('section', 'tags', { hidden: hidden || !tags.length, 'aria-labelledby': 'tags-heading' },
      this.heading, make('div', 'tag-buttons', {}, ...this.buttons), make('div', 'actions', {}, this.picture, this.moment), this.list);
    this.selected = 0;
  }

  // What is sent with the answer; null where nothing is asked.
  get given() {
    if (this.element.hidden) return null;
    return this.places.flatMap((tags, video) => [...tags].flatMap(([tag, places]) => (places.length ? places.map((place) => ({ video, tag, ...place })) : [{ video, tag }])));
  }

  add(video, tag, place) {
    const places = this.places[video].get(tag) || [];
    this.places[video].set(tag, place ? [...places, place] : places);
    this.current[video] = tag;
  }

  toggle(tag) {
    const { selected } = this;
    if (this.places[selected].delete(tag)) {
      this.current[selected] = [...this.places[selected].keys()].pop() || null;
      this.actions.say(t('tags.taken', { video: letter(selected), tag }));
    } else {
      this.add(selected, tag, null);
      this.actions.say(t('tags.given', { video: letter(selected), tag }));
    }
    this.actions.changed();
    this.refresh(selected);
  }

  // The tag that a mark is for, or null after it was said that there is none.
  get tagToMark() {
    const tag = this.current[this.selected];
    if (!tag) this.actions.say(t('tags.first'));
    return tag;
  }

  focus() {
    if (this.element.hidden) return false;
    this.buttons[0].focus();
    return true;
  }

  markPicture() {
    if (this.element.hidden || !this.tagToMark) return false;
    // The picture stands still while it is marked.
    this.wasPlaying = this.actions.player().playing;
    this.actions.player().pause();
    this.layers[this.selected].open(t('tags.mark_in', { tag: this.current[this.selected], video: letter(this.selected) }));
    return true;
  }

  markMoment() {
    if (this.element.hidden || !this.tagToMark) return false;
    this.placed(this.selected, {});
    return true;
  }

  placed(video, place) {
    const seconds = Math.round(1000 * this.cards.videos[video].currentTime) / 1000;
    const tag = this.current[video];
    this.add(video, tag, { seconds, ...place });
    this.actions.say(t('tags.marked', { tag, video: letter(video), place: placeText({ seconds, ...place }) }));
    this.actions.changed();
    this.refresh(this.selected);
  }

  remove(video, tag, place) {
    this.places[video].set(tag, this.places[video].get(tag).filter((other) => other !== place));
    this.actions.changed();
    this.refresh(this.selected);
    this.buttons[this.names.indexOf(tag)].focus();
  }

  refresh(selected) {
    this.selected = selected;
    if (this.element.hidden) return;
    this.heading.textContent = withKey(t('tags.heading', { video: letter(selected) }), 'T');
    const own = this.places[selected];
    this.buttons.forEach((button, index) => {
      button.setAttribute('aria-pressed', String(own.has(this.names[index])));
      button.classList.toggle('current', own.size > 1 && this.current[selected] === this.names[index]);
    });
    for (const button of [this.picture, this.moment]) button.setAttribute('aria-disabled', String(!own.size));
    this.list.replaceChildren(...[...own].flatMap(([tag, places]) => places.map((place) => this.markItem(selected, tag, place))));
    this.cards.cards.forEach((card, video) => { card.querySelector('.card-foot').dataset.tags = [...this.places[video].keys()].join(', '); });
    this.layers.forEach((layer, video) => layer.show([...this.places[video]].flatMap(([tag, places]) => places.filter((place) => place.x !== undefined).map((place) => ({ tag, ...place })))));
    this.refreshTime();
  }

  markItem(video, tag, place) {
    const label = t('tags.mark', { tag, place: placeText(place) });
    const seek = action(label, () => { const player = this.actions.player(); player.pause(); player.seek(place.seconds); });
    seek.title = t('tags.show');
    const remove = action(t('tags.remove'), () => this.remove(video, tag, place));
    remove.setAttribute('aria-label', t('tags.remove_mark', { mark: label }));
    return make('li', '', {}, seek, remove);
  }

  // Shows the marks of the moments at which the videos are.
  refreshTime() {
    this.layers.forEach((layer, video) => layer.showTime(this.cards.videos[video].currentTime, SHOWN_SECONDS));
  }
}

function action(text, run) {
  const button = make('button', 'quiet', { type: 'button' }, text);
  button.addEventListener('click', () => run());
  return button;
}

function kept(place) {
  return Object.fromEntries(PLACE.flatMap((name) => (place[name] === undefined || place[name] === null ? [] : [[name, place[name]]])));
}

function placeText({ seconds, x, width }) {
  return t(width !== undefined ? 'tags.box_at' : x !== undefined ? 'tags.point_at' : 'tags.at', { seconds: seconds.toFixed(2) });
}
