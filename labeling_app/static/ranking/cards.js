// The videos of a task, each on a card with its letter.

import { make } from '../dom.js';
import { letter, ordinal } from '../ranks.js';
import { t } from '../words.js';
import { pairWord } from './pair.js';

export class VideoCards {
  // videos: each with its `url`, and its `width` and `height` where they are known; choose(video), zoom() and drag(element, video, pointers) are called from the cards.
  constructor(videos, { choose, zoom, drag }) {
    this.videos = videos.map(makeVideo);
    this.cards = this.videos.map((video, index) => {
      const card = make('div', 'card', { role: 'radio', tabIndex: -1, 'data-video': String(index) },
        video, make('div', 'card-foot', {}, make('span', 'badge', {}, letter(index)), make('span', 'card-rank')));
      card.addEventListener('dblclick', zoom);
      card.addEventListener('click', () => choose(index));
      drag(card, index, 'mouse');
      return card;
    });
    this.element = make('div', `videos videos-${videos.length}`, { role: 'radiogroup', 'aria-label': t('cards.videos') }, ...this.cards);
  }

  focus(video) { this.cards[video].focus({ preventScroll: true }); }

  refresh(ranking, selected, zoomed) {
    this.element.classList.toggle('zoomed', zoomed);
    this.cards.forEach((card, index) => {
      const rank = ranking.ranks[index];
      const isPair = ranking.count === 2;
      const words = isPair ? pairWord(ranking.ranks, index) : rank === null ? t('cards.no_place') : ordinal(rank);
      const chosen = index === selected;
      card.setAttribute('aria-checked', String(chosen));
      card.tabIndex = chosen ? 0 : -1;
      card.classList.toggle('ranked', rank !== null);
      card.querySelector('.card-rank').textContent = words;
      const place = isPair ? words || t('pair.no_answer') : rank === null ? words : t('cards.place', { rank: words });
      card.setAttribute('aria-label', t('cards.video', { video: letter(index), place }));
    });
  }

  refreshPlayed(player) {
    this.cards.forEach((card, index) => {
      card.classList.toggle('seen', player.seen[index]);
      card.classList.toggle('failed', player.failed[index]);
    });
  }
}

function makeVideo({ url, width, height }) {
  const video = make('video', '', { muted: true, playsInline: true, preload: 'auto', disablePictureInPicture: true, tabIndex: -1, 'aria-hidden': 'true' });
  if (width && height) video.style.aspectRatio = `${width} / ${height}`;
  video.src = url;
  return video;
}
