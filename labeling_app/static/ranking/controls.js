// The controls of all videos: play, frames, speed, zoom and position.

import { make, withKey } from '../dom.js';
import { t } from '../words.js';

const RATES = [1, 0.5, 0.25];
const RATE_NAMES = { 1: '1×', 0.5: '½×', 0.25: '¼×' };

export class PlayerControls {
  // player() returns the player of the task that is shown.
  constructor(player, zoom) {
    this.player = player;
    this.playButton = control('play', withKey(t('controls.play_key'), t('keys.space')), () => player().toggle());
    const back = control('', withKey(t('controls.back'), ','), () => player().step(-1));
    back.textContent = t('controls.frame_back');
    const forward = control('', withKey(t('controls.on'), '.'), () => player().step(1));
    forward.textContent = t('controls.frame_on');
    this.rateButton = control('', withKey(t('controls.speed'), 'S'), () => this.nextRate());
    this.scrub = make('input', 'scrub', { type: 'range', min: 0, max: 1000, value: 0, step: 1, 'aria-label': t('controls.position') });
    this.scrub.addEventListener('input', () => {
      if (player().playing) player().pause();
      player().seek((this.scrub.value / 1000) * player().duration);
    });
    this.zoomButton = control('', withKey(t('controls.zoom_key'), 'Z'), zoom);
    this.element = make('section', 'player', { 'aria-label': t('controls.player') }, this.playButton, back, forward, this.rateButton, this.zoomButton, this.scrub);
  }

  nextRate() {
    const player = this.player();
    player.setRate(RATES[(RATES.indexOf(player.rate) + 1) % RATES.length]);
  }

  refresh(zoomed) {
    this.zoomButton.textContent = t(zoomed ? 'controls.all' : 'controls.zoom');
    this.zoomButton.setAttribute('aria-label', withKey(t(zoomed ? 'controls.all_key' : 'controls.zoom_long'), 'Z'));
  }

  refreshPlayed(player) {
    this.playButton.textContent = t(player.playing ? 'controls.pause' : 'controls.play');
    this.rateButton.textContent = RATE_NAMES[player.rate];
    this.rateButton.setAttribute('aria-label', withKey(t('controls.rate', { rate: this.rateButton.textContent }), 'S'));
    if (player.duration && document.activeElement !== this.scrub) this.scrub.value = Math.round((1000 * player.time) / player.duration);
  }
}

function control(className, label, action) {
  const button = make('button', `control ${className}`, { type: 'button', 'aria-label': label, title: label });
  button.addEventListener('click', action);
  return button;
}
