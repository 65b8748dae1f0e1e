// The prompt of a task and the question about it.

import { call, imagesPart, make } from '../dom.js';
import { guidelinesText } from '../guidelines.js';
import { t } from '../words.js';

const QUESTIONS = {
  overall: 'question.overall',
  visual: 'question.visual',
  motion: 'question.motion',
  alignment: 'question.alignment',
};
// Asked before the prompt is shown: who knows the prompt rates looks and motion by how well they fit it.
const BEFORE_PROMPT = ['visual', 'motion'];

export function question(dimension) { return t(QUESTIONS[dimension] || QUESTIONS.overall); }

const DIMENSIONS = {
  overall: 'dimension.overall',
  visual: 'dimension.visual',
  motion: 'dimension.motion',
  alignment: 'dimension.alignment',
};

export function dimensionName(dimension) { return t(DIMENSIONS[dimension]); }

export function asksBeforePrompt(dimension) { return BEFORE_PROMPT.includes(dimension); }

export class PromptPart {
  constructor(task) {
    this.prompt = task.prompt;
    this.text = make('p', 'prompt-text', { dir: 'auto', tabIndex: 0 });
    const guidelines = make('details', 'guidelines', { hidden: true }, make('summary', '', {}, t('guidelines')));
    if (task.campaign) {
      call(`api/guidelines?campaign=${encodeURIComponent(task.campaign)}`).then(({ status, data }) => {
        guidelines.hidden = status !== 200 || !data.text;
        if (!guidelines.hidden) guidelines.append(guidelinesText(data.html));
      });
    }
    const images = imagesPart(task);
    const words = make('div', 'prompt-words', {}, make('span', 'label', {}, t('prompt')), this.text, guidelines);
    this.element = make('section', `prompt${images.length ? ' with-images' : ''}`, { 'aria-label': t('prompt') }, ...images, words);
  }

  refresh(hidden) {
    this.text.textContent = hidden ? t('prompt.hidden') : this.prompt;
    this.text.classList.toggle('hidden-prompt', hidden);
  }
}
