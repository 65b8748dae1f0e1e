// The ranks that videos have been given so far. Several videos of one rank are tied; ranks may be left out.

export class DraftRanks {
  constructor(count, saved) {
    this.count = count;
    const legal = Array.isArray(saved) && saved.length === count
      && saved.every((place) => place === null || (Number.isInteger(place) && place >= 1 && place <= count));
    this.places = legal ? [...saved] : Array(count).fill(null);
  }

  put(video, place) { this.places[video] = place === null ? null : Math.min(Math.max(place, 1), this.count); }

  // Better is up: a video without a place goes to the first or the last.
  move(video, by) {
    const place = this.places[video];
    this.put(video, place === null ? (by < 0 ? 1 : this.count) : place + by);
  }

  at(place) { return this.places.flatMap((given, video) => (given === place ? [video] : [])); }

  get unplaced() { return this.at(null); }

  get complete() { return this.unplaced.length === 0; }

  get ranks() { return [...this.places]; }
}

export function ordinal(place) {
  const ending = { 1: 'st', 2: 'nd', 3: 'rd' }[place] || 'th';
  return `${place}${ending}`;
}

export function letter(video) { return String.fromCharCode(65 + video); }
