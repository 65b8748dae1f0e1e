// The ranks that videos are put on, and the pool of those without one.

import { make } from '../dom.js';
import { letter, ordinal } from '../ranks.js';
import { t } from '../words.js';

export class RankBoard {
  // give(rank) puts the selected video on a rank; choose(video) and drag(element, video, pointers) belong to chips.
  constructor(count, { give, choose, drag }) {
    this.choose = choose;
    this.drag = drag;
    this.pool = make('div', 'pool', { 'data-rank': '0', role: 'group', 'aria-label': t('board.pool') });
    this.columns = Array.from({ length: count }, (_, index) => {
      const rank = index + 1;
      const button = make('button', 'give-rank', { type: 'button' });
      button.append(make('strong', '', {}, ordinal(rank)), ' ', make('span', '', {}, rank === 1 ? t('board.best') : rank === count ? t('board.worst') : ''));
      button.addEventListener('click', () => give(rank));
      return make('div', 'rank-column', { 'data-rank': String(rank), role: 'group' }, button, make('div', 'chips'));
    });
    this.element = make('div', 'rank-columns', {}, ...this.columns);
  }

  refresh(ranking, selected) {
    this.fill(this.pool, ranking.unranked, selected);
    this.pool.classList.toggle('empty', ranking.complete);
    this.columns.forEach((column, index) => {
      const videos = ranking.at(index + 1);
      this.fill(column.querySelector('.chips'), videos, selected);
      const rank = ordinal(index + 1);
      column.setAttribute('aria-label', videos.length ? t('board.holds', { rank, videos: videos.map(letter).join(', ') }) : t('board.empty', { rank }));
      const button = column.querySelector('.give-rank');
      const place = [...button.children].map((part) => part.textContent).join(' ').trim();
      button.setAttribute('aria-label', t('board.give', { place, video: letter(selected) }));
      column.classList.toggle('tied', videos.length > 1);
    });
  }

  fill(container, videos, selected) {
    const shown = [...container.querySelectorAll('.chip')].map((chip) => Number(chip.dataset.video));
    if (shown.join() !== videos.join()) {
      container.replaceChildren(...videos.map((video) => {
        const chip = make('button', 'chip', { type: 'button', 'data-video': String(video) }, letter(video));
        chip.addEventListener('click', () => this.choose(video));
        this.drag(chip, video, 'any');
        return chip;
      }));
    }
    for (const chip of container.querySelectorAll('.chip')) {
      const video = Number(chip.dataset.video);
      chip.setAttribute('aria-label', t('board.choose', { video: letter(video) }));
      chip.classList.toggle('selected', video === selected);
    }
  }
}
