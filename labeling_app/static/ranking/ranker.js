// Videos of a prompt, played in step, and the ranks that they are given by keys, taps and drags. The ranking page and the
// Gradio component are both of this class.

import { TOUCH, make } from '../dom.js';
import { SyncPlayer } from '../player.js';
import { letter, ordinal } from '../ranks.js';
import { t } from '../words.js';
import { RankBoard } from './board.js';
import { VideoCards } from './cards.js';
import { PlayerControls } from './controls.js';
import { makeDraggable } from './drag.js';
import { PairBoard } from './pair.js';

// Subclasses say what is ranked (`ranking`, a DraftRanks), and may define say(text), saveDraft(), submit(), refreshGate()
// and `missingMore`, a reason of their own why the ranks cannot be submitted yet.
export class Ranker {
  constructor(root) {
    this.root = root;
    this.mustPlay = true;
  }

  say() {}

  saveDraft() {}

  refreshGate() {}

  closePlayer() {
    if (this.player) this.player.close();
    this.player = null;
  }

  // Parts for these videos, each with its `url`, `fps`, and `width` and `height` where they are known; they are put into
  // the page by the subclass.
  makeParts(videos) {
    const choose = (video) => this.select(video, true);
    const drag = (element, video, pointers) => { if (!this.isPair) this.makeDraggable(element, video, pointers); };
    const zoom = () => this.toggleZoom();
    this.count = videos.length;
    this.zoomed = false;
    this.selected = 0;
    this.seenBefore = 0;
    this.cards = new VideoCards(videos, { choose, zoom, drag });
    this.controls = new PlayerControls(() => this.player, zoom);
    this.board = this.isPair
      ? new PairBoard({ answer: (ranks) => this.answerPair(ranks) })
      : new RankBoard(this.count, { give: (rank) => this.put(this.selected, rank, true), choose, drag });
    this.hint = make('p', 'hint');
  }

  // Plays the videos as soon as they can; `seen`: those that have played to their end before.
  startPlayer(videos, seen, loadTimes) {
    const player = new SyncPlayer(this.cards.videos, videos.map((video) => video.fps), () => this.refreshPlayed(), loadTimes);
    seen.forEach((done, index) => { if (done && index < this.count) player.seen[index] = true; });
    this.player = player;
    player.ready().then(() => {
      if (player === this.player && !matchMedia('(prefers-reduced-motion: reduce)').matches) player.play();
    });
  }

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
    const alone = rank ? t('cards.place', { rank: ordinal(rank) }) : t('rank.no_place');
    const place = tied.length ? t('rank.tied', { place: alone, videos: tied.join(', ') }) : alone;
    this.say(`${t('rank.placed', { video: letter(video), place })} ${left ? t('rank.left', { count: left }) : t('rank.all_placed')}`);
    if (advance) this.selected = this.ranking.nextUnranked(this.selected);
    this.saveDraft();
    this.refresh();
    if (this.root.contains(document.activeElement) && document.activeElement.classList.contains('card')) this.cards.focus(this.selected);
  }

  // Two videos are compared by one key instead of ranked.
  get isPair() { return this.count === 2; }

  // Takes the ranks of both videos.
  answerPair(ranks) {
    ranks.forEach((rank, video) => this.ranking.put(video, rank));
    this.say(ranks[0] === ranks[1] ? t('pair.are_equal') : t('pair.is_better', { video: letter(ranks.indexOf(1)) }));
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

  // Why the ranks cannot be submitted yet, or an empty string.
  get missing() {
    if (this.player.failed.some(Boolean)) return this.failedText;
    const unranked = this.ranking.unranked.map(letter);
    const unseen = this.mustPlay ? this.player.seen.flatMap((seen, index) => (seen ? [] : [letter(index)])) : [];
    if (unranked.length) return this.isPair ? t('pair.still') : t('rank.still', { videos: unranked.join(', ') });
    if (unseen.length) return t('rank.let_play', { videos: unseen.join(', ') });
    return '';
  }

  get failedText() { return t('component.does_not_play'); }

  get pairHint() { return t(TOUCH.matches ? 'pair.tap' : 'pair.press'); }

  get hintText() {
    if (this.isPair) return this.pairHint;
    return this.ranking.complete
      ? t('rank.complete')
      : t(TOUCH.matches ? 'rank.give_tap' : 'rank.give_press', { video: letter(this.selected), count: this.count });
  }

  refresh() {
    const { ranking, selected, zoomed } = this;
    this.hint.textContent = this.hintText;
    this.cards.refresh(ranking, selected, zoomed);
    this.controls.refresh(zoomed);
    this.board.refresh(ranking, selected);
    this.refreshPlayed();
  }

  refreshPlayed() {
    const { player } = this;
    if (!player) return;
    this.controls.refreshPlayed(player);
    this.cards.refreshPlayed(player);
    this.refreshGate();
    const seenNow = player.seen.filter(Boolean).length;
    if (seenNow !== this.seenBefore) { this.seenBefore = seenNow; this.saveDraft(); }
  }
}
