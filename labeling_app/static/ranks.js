// The ranks that videos have been given so far. Several videos of one rank are tied; ranks may be left out.

import { t } from './words.js';

export class DraftRanks {
  constructor(count, saved) {
    this.count = count;
    const legal = Array.isArray(saved) && saved.length === count
      && saved.every((rank) => rank === null || (Number.isInteger(rank) && rank >= 1 && rank <= count));
    this.ranks = legal ? [...saved] : Array(count).fill(null);
  }

  put(video, rank) { this.ranks[video] = rank === null ? null : Math.min(Math.max(rank, 1), this.count); }

  // Better is up: a video without a rank goes to the first or the last.
  move(video, by) {
    const rank = this.ranks[video];
    this.put(video, rank === null ? (by < 0 ? 1 : this.count) : rank + by);
  }

  at(rank) { return this.ranks.flatMap((given, video) => (given === rank ? [video] : [])); }

  get unranked() { return this.at(null); }

  get complete() { return this.unranked.length === 0; }

  // The unranked video after `video`, or the first; `video` itself where all have a rank.
  nextUnranked(video) {
    const { unranked } = this;
    return unranked.find((other) => other > video) ?? unranked[0] ?? video;
  }
}

export function ordinal(rank) {
  return t({ 1: 'ordinal.1', 2: 'ordinal.2', 3: 'ordinal.3' }[rank] || 'ordinal.other', { rank });
}

export function letter(video) { return String.fromCharCode(65 + video); }
