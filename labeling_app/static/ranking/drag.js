// Dragging videos to ranks.

import { make } from '../dom.js';
import { letter } from '../ranks.js';

const DRAG_PIXELS = 6;

// Pointer events serve mouse and finger alike; on cards a finger scrolls the page instead.
// `dropped` gets the rank on which the video was let go; `root`, whose ranks alone count, is marked meanwhile.
export function makeDraggable(element, video, pointers, root, dropped) {
  element.addEventListener('pointerdown', (down) => {
    if (down.button !== 0 || (pointers === 'mouse' && down.pointerType !== 'mouse')) return;
    const begin = { x: down.clientX, y: down.clientY };
    let ghost = null;
    let over = null;
    const move = (event) => {
      if (!ghost && Math.hypot(event.clientX - begin.x, event.clientY - begin.y) < DRAG_PIXELS) return;
      if (!ghost) {
        ghost = make('div', 'chip ghost', { 'aria-hidden': 'true' }, letter(video));
        root.append(ghost);
        root.classList.add('dragging');
      }
      ghost.style.transform = `translate(${event.clientX}px, ${event.clientY}px)`;
      const below = document.elementFromPoint(event.clientX, event.clientY)?.closest('[data-rank]');
      const target = below && root.contains(below) ? below : null;
      if (target !== over) {
        over?.classList.remove('over');
        target?.classList.add('over');
        over = target;
      }
      event.preventDefault();
    };
    const finish = (event) => {
      window.removeEventListener('pointermove', move);
      window.removeEventListener('pointerup', finish);
      window.removeEventListener('pointercancel', finish);
      over?.classList.remove('over');
      root.classList.remove('dragging');
      if (!ghost) return;
      ghost.remove();
      // The click that follows a drag must not choose a video or give a rank.
      const swallow = (click) => { click.stopPropagation(); click.preventDefault(); };
      window.addEventListener('click', swallow, { capture: true, once: true });
      setTimeout(() => window.removeEventListener('click', swallow, { capture: true }), 0);
      if (event.type === 'pointerup' && over) dropped(Number(over.dataset.rank));
    };
    window.addEventListener('pointermove', move, { passive: false });
    window.addEventListener('pointerup', finish);
    window.addEventListener('pointercancel', finish);
  });
  element.addEventListener('dragstart', (event) => event.preventDefault());
}
