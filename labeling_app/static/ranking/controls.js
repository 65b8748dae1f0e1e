// The controls of all videos: play, frames, speed, zoom and position.

import { make, withKey } from '../dom.js';

const RATES = [1, 0.5, 0.25];
const RATE_NAMES = { 1: '1×', 0.5: '½×', 0.25: '¼×' };

export class PlayerControls {
  // player() returns the player of the task that is shown.
  constructor(player, zoom) {
    this.player = player;
    this.playButton = control('play', withKey('Play or pause', 'Space'), () => player().toggle());
    const back = control('', withKey('One frame back', ','), () => player().step(-1));
    back.textContent = '‹ frame';
    const forward = control('', withKey('One frame on', '.'), () => player().step(1));
    forward.textContent = 'frame ›';
    this.rateButton = control('', withKey('Speed', 'S'), () => this.nextRate());
    this.scrub = make('input', 'scrub', { type: 'range', min: 0, max: 1000, value: 0, step: 1, 'aria-label': 'Position in all videos' });
    this.scrub.addEventListener('input', () => {
      if (player().playing) player().pause();
      player().seek((this.scrub.value / 1000) * player().duration);
    });
    this.zoomButton = control('', withKey('One video large', 'Z'), zoom);
    this.element = make('section', 'player', { 'aria-label': 'Player of all videos' }, this.playButton, back, forward, this.rateButton, this.zoomButton, this.scrub);
  }

  nextRate() {
    const player = this.player();
    player.setRate(RATES[(RATES.indexOf(player.rate) + 1) % RATES.length]);
  }

  refresh(zoomed) {
    this.zoomButton.textContent = zoomed ? 'All' : 'Zoom';
    this.zoomButton.setAttribute('aria-label', withKey(zoomed ? 'All videos' : 'Zoom: one video large', 'Z'));
  }

  refreshPlayed(player) {
    this.playButton.textContent = player.playing ? 'Pause' : 'Play';
    this.rateButton.textContent = RATE_NAMES[player.rate];
    this.rateButton.setAttribute('aria-label', withKey(`${this.rateButton.textContent} speed`, 'S'));
    if (player.duration && document.activeElement !== this.scrub) this.scrub.value = Math.round((1000 * player.time) / player.duration);
  }
}

function control(className, label, action) {
  const button = make('button', `control ${className}`, { type: 'button', 'aria-label': label, title: label });
  button.addEventListener('click', action);
  return button;
}
