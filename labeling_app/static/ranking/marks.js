// Points and boxes in the picture of a video, set by pointer or by keys. Places are shares of the picture, from its
// left upper corner.

import { make } from '../dom.js';
import { t } from '../words.js';

export const PLACE = ['seconds', 'x', 'y', 'width', 'height'];
const POINT_PIXELS = 6;
const STEP = 0.02;
const FAST_STEP = 0.1;

// The part of a video's element that its picture fills, in pixels from the element's corner (object-fit: contain).
export function pictureBox(elementWidth, elementHeight, videoWidth, videoHeight) {
  const scale = videoWidth && videoHeight ? Math.min(elementWidth / videoWidth, elementHeight / videoHeight) : 0;
  const [width, height] = scale ? [videoWidth * scale, videoHeight * scale] : [elementWidth, elementHeight];
  return { left: (elementWidth - width) / 2, top: (elementHeight - height) / 2, width, height };
}

// The place between two points, in shares of the picture; one that is nearly a point is a point.
export function placeBetween([x, y], [otherX, otherY], pixelWidth, pixelHeight) {
  const width = Math.abs(otherX - x);
  const height = Math.abs(otherY - y);
  if (Math.hypot(width * pixelWidth, height * pixelHeight) < POINT_PIXELS) return { x: rounded(x), y: rounded(y) };
  const left = rounded(Math.min(x, otherX));
  const top = rounded(Math.min(y, otherY));
  return { x: left, y: top, width: Math.min(rounded(width), rounded(1 - left)), height: Math.min(rounded(height), rounded(1 - top)) };
}

const rounded = (share) => Math.round(10000 * share) / 10000;
const inside = (share) => Math.min(1, Math.max(0, share));

export class MarkLayer {
  // done(place) gets what was marked; left() is called when marking ends by itself, ended() whenever it ends; say(text).
  constructor(card, video, { done, left, ended, say }) {
    Object.assign(this, { card, video, done, left, ended, say });
    this.shown = make('div', 'marks', { 'aria-hidden': 'true' });
    this.draft = make('div', 'mark draft', { hidden: true });
    this.cross = make('div', 'cross');
    this.element = make('div', 'mark-layer', { tabIndex: 0, hidden: true, role: 'application' }, this.cross, this.draft);
    card.append(this.shown, this.element);
    this.element.addEventListener('keydown', (event) => this.onKey(event));
    this.element.addEventListener('pointerdown', (event) => this.onPointer(event));
    this.element.addEventListener('blur', () => this.close(false));
    for (const kind of ['click', 'dblclick']) this.element.addEventListener(kind, (event) => event.stopPropagation());
    this.observer = new ResizeObserver(() => this.fit());
    this.observer.observe(video);
    video.addEventListener('loadedmetadata', () => this.fit());
  }

  fit() {
    const box = pictureBox(this.video.clientWidth, this.video.clientHeight, this.video.videoWidth, this.video.videoHeight);
    this.size = [box.width, box.height];
    const style = { left: `${this.video.offsetLeft + box.left}px`, top: `${this.video.offsetTop + box.top}px`, width: `${box.width}px`, height: `${box.height}px` };
    for (const part of [this.element, this.shown]) Object.assign(part.style, style);
  }

  open(label) {
    this.fit();
    this.at = [0.5, 0.5];
    this.corner = null;
    const help = t('tags.help', { label });
    this.element.setAttribute('aria-label', help);
    this.element.hidden = false;
    this.element.focus({ preventScroll: true });
    this.card.scrollIntoView({ block: 'nearest' });
    this.draw();
    this.say(help);
  }

  close(back) {
    if (this.element.hidden) return;
    this.element.hidden = true;
    if (back) this.left();
    this.ended();
  }

  // The corner of a box that was begun, or a point, and where the pointer is.
  draw() {
    Object.assign(this.cross.style, { left: `${100 * this.at[0]}%`, top: `${100 * this.at[1]}%` });
    this.draft.hidden = !this.corner;
    if (this.corner) drawPlace(this.draft, placeBetween(this.corner, this.at, ...this.size));
  }

  finish() {
    const place = placeBetween(this.corner || this.at, this.at, ...this.size);
    this.done(place);
    this.close(true);
  }

  onKey(event) {
    const step = event.shiftKey ? FAST_STEP : STEP;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key === 'Tab') return;
    event.stopPropagation();
    if (moves[event.key]) this.at = this.at.map((share, axis) => inside(share + moves[event.key][axis]));
    else if (event.key.toLowerCase() === 'b') this.corner = [...this.at];
    else if (event.key === 'Enter') this.finish();
    else if (event.key === 'Escape') this.close(true);
    else return;
    event.preventDefault();
    if (!this.element.hidden) this.draw();
  }

  onPointer(down) {
    if (down.button !== 0) return;
    // Neither a drag to a rank nor a loss of the focus begins here.
    down.stopPropagation();
    down.preventDefault();
    const shareOf = (event) => {
      const box = this.element.getBoundingClientRect();
      return [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)];
    };
    this.corner = shareOf(down);
    this.at = this.corner;
    const move = (event) => { this.at = shareOf(event); this.draw(); };
    const end = (event) => {
      window.removeEventListener('pointermove', move);
      window.removeEventListener('pointerup', end);
      window.removeEventListener('pointercancel', end);
      if (event.type === 'pointerup') this.finish(); else this.close(true);
    };
    window.addEventListener('pointermove', move);
    window.addEventListener('pointerup', end);
    window.addEventListener('pointercancel', end);
    this.draw();
  }

  show(marks) {
    this.marks = marks;
    this.shown.replaceChildren(...marks.map((mark) => {
      const element = make('div', 'mark', {}, make('span', 'mark-name', { dir: 'auto' }, mark.tag));
      drawPlace(element, mark);
      return element;
    }));
  }

  showTime(time, seconds) {
    (this.marks || []).forEach((mark, index) => { this.shown.children[index].hidden = Math.abs(mark.seconds - time) > seconds; });
  }
}

function drawPlace(element, { x, y, width, height }) {
  element.classList.toggle('point', width === undefined);
  Object.assign(element.style, { left: `${100 * x}%`, top: `${100 * y}%`, width: `${100 * (width || 0)}%`, height: `${100 * (height || 0)}%` });
}
