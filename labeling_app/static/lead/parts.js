// What the lead's parts share: numbers, and remarks of annotators with the videos that they are about.

import { make } from '../dom.js';
import { text } from './elements.js';

export const share = (value) => (value === null || value === undefined ? '–' : `${Math.round(1000 * value) / 10} %`);

const VERBS = { flag: 'flagged', comment: 'commented', skip_reason: 'skipped' };

// Which videos a remark is about, each by its letter here and by the one that the annotator saw.
function aboutText({ annotator, videos }) {
  if (!videos.length) return ', about all videos';
  return `, about ${videos.map((video) => `video ${video.lead} here${video.annotator ? ` (${video.annotator} for ${annotator})` : ''}`).join(', ')}`;
}

// The letters in a remark's own words, where they are not those of this page.
function lettersText({ annotator, letters }) {
  return letters.length ? `Letters as ${annotator} saw them: ${letters.map((pair) => `${pair.annotator} is ${pair.lead} here`).join(', ')}.` : `The order in which ${annotator} saw the videos is not known.`;
}

export function remarkPart(remark) {
  return make('div', 'remark', {}, make('p', '', { dir: 'auto' }, text(remark.annotator), ` ${VERBS[remark.kind]}${aboutText(remark)}: `, make('q', '', { dir: 'auto' }, remark.text)), make('p', 'hint', {}, lettersText(remark)));
}
