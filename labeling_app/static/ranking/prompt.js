// The prompt of a task and the question about it.

import { call, imagesPart, make } from '../dom.js';
import { guidelinesText } from '../guidelines.js';

const QUESTIONS = {
  overall: 'Which video is best for this prompt?',
  visual: 'Which video looks best, whatever it shows?',
  motion: 'Which video moves best: smooth, natural, as much as it should?',
  alignment: 'Which video shows best what the prompt says?',
};
// Asked before the prompt is shown: who knows the prompt rates looks and motion by how well they fit it.
const BEFORE_PROMPT = ['visual', 'motion'];

export function question(dimension) { return QUESTIONS[dimension] || QUESTIONS.overall; }

export function asksBeforePrompt(dimension) { return BEFORE_PROMPT.includes(dimension); }

export class PromptPart {
  constructor(task) {
    this.prompt = task.prompt;
    this.text = make('p', 'prompt-text', { dir: 'auto', tabIndex: 0 });
    const guidelines = make('details', 'guidelines', { hidden: true }, make('summary', '', {}, 'Guidelines'));
    if (task.campaign) {
      call(`api/guidelines?campaign=${encodeURIComponent(task.campaign)}`).then(({ status, data }) => {
        guidelines.hidden = status !== 200 || !data.text;
        if (!guidelines.hidden) guidelines.append(guidelinesText(data.html));
      });
    }
    const images = imagesPart(task);
    const words = make('div', 'prompt-words', {}, make('span', 'label', {}, 'Prompt'), this.text, guidelines);
    this.element = make('section', `prompt${images.length ? ' with-images' : ''}`, { 'aria-label': 'Prompt' }, ...images, words);
  }

  refresh(hidden) {
    this.text.textContent = hidden ? 'The prompt is shown after this question, so that it does not colour the answer.' : this.prompt;
    this.text.classList.toggle('hidden-prompt', hidden);
  }
}
