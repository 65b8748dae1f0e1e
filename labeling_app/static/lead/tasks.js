// The task browser: the tasks of a campaign, filtered and paged by the server.

import { BASE, actionButton, call, field, make } from '../dom.js';
import { table, text } from './elements.js';
import { share } from './parts.js';

const STATUSES = [['', 'any'], ['waiting', 'no answer yet'], ['started', 'some answers'], ['done', 'all answers'], ['held', 'in hands now'], ['skipped', 'skipped by somebody'], ['undecided', 'not decided'], ['decided', 'decided by a lead']];
const KINDS = [['normal', 'tasks'], ['gold', 'gold items']];

// Where a task is looked at, and decided, with all its videos.
export function taskAddress(task) { return `${new URL('rank/', BASE).href}#task=${task}`; }

function choice(options, value) {
  return make('select', '', {}, ...options.map(([name, title]) => make('option', '', { value: name, selected: name === value }, title)));
}

// campaign: name; kept: the filters so far, which are changed here; fail(message) shows a problem.
export class TaskBrowser {
  constructor(campaign, kept, fail) {
    this.campaign = campaign;
    this.kept = kept;
    this.fail = fail;
    this.page = 1;
    this.inputs = {
      prompt: make('input', '', { type: 'search', maxLength: 300, dir: 'auto', value: kept.prompt || '' }),
      status: choice(STATUSES, kept.status),
      max_agreement: make('input', '', { type: 'number', min: 0, max: 100, step: 1, value: kept.max_agreement ?? '' }),
      metadata: make('input', '', { type: 'search', maxLength: 300, dir: 'auto', value: kept.metadata || '', placeholder: 'for example model=wan' }),
      kind: choice(KINDS, kept.kind),
      flagged: make('input', '', { type: 'checkbox', id: 'find-flagged', checked: Boolean(kept.flagged) }),
    };
    const { inputs } = this;
    this.result = make('div', 'task-list', {});
    const form = make('form', '', { 'aria-label': 'Filters' },
      make('div', 'fields', {}, field('find-prompt', 'Prompt holds', inputs.prompt), field('find-status', 'Status', inputs.status), field('find-agreement', 'Agreement at most (%)', inputs.max_agreement), field('find-metadata', 'Metadata (name=value)', inputs.metadata), field('find-kind', 'Kind', inputs.kind), make('label', 'check', { for: 'find-flagged' }, inputs.flagged, ' Flagged only')),
      make('div', 'actions', {}, make('button', 'primary', { type: 'submit' }, 'Find'), actionButton('quiet', 'Clear the filters', () => this.clear())));
    form.addEventListener('submit', (event) => { event.preventDefault(); this.find(1); });
    this.element = make('section', 'ranking', { 'aria-label': 'Tasks' }, make('h2', '', {}, `Tasks of ${campaign}`), form, this.result);
  }

  async clear() {
    for (const [name, input] of Object.entries(this.inputs)) {
      if (name === 'flagged') input.checked = false; else input.value = name === 'kind' ? 'normal' : '';
    }
    await this.find(1);
  }

  async find(page) {
    const { prompt, status, max_agreement: agreement, metadata, kind, flagged } = this.inputs;
    Object.assign(this.kept, { prompt: prompt.value, status: status.value, max_agreement: agreement.value, metadata: metadata.value, kind: kind.value, flagged: flagged.checked });
    const query = new URLSearchParams({ campaign: this.campaign, prompt: prompt.value, status: status.value, metadata: metadata.value, kind: kind.value, flagged: flagged.checked, page });
    if (agreement.value !== '') query.set('max_agreement', Number(agreement.value) / 100);
    const { status: code, data } = await call(`api/lead/tasks?${query}`);
    this.fail(code === 200 ? '' : data.message);
    if (code === 200) this.show(data);
    return this;
  }

  show({ total, page, pages, tasks }) {
    const rows = tasks.map((task) => [
      this.kept.kind === 'gold' ? text(task.prompt) : make('a', 'task-link', { href: taskAddress(task.task), dir: 'auto' }, task.prompt),
      String(task.videos), this.kept.kind === 'gold' ? String(task.completed) : `${task.completed} of ${task.overlap}`, share(task.agreement), String(task.flags), String(task.skips), String(task.held), task.decided ? 'yes' : 'no', metadataText(task.metadata),
    ]);
    const turn = (to, title) => {
      const button = actionButton('', title, async () => { await this.find(to); this.result.querySelector('.pager-text').focus(); });
      button.disabled = to < 1 || to > pages;
      return button;
    };
    this.result.replaceChildren(
      total ? table('Tasks found', ['prompt', 'videos', 'answers', 'agreement', 'flags', 'skips', 'in hands', 'decided', 'metadata'], rows) : make('p', '', {}, 'No task fits these filters.'),
      make('div', 'actions', {}, turn(page - 1, 'Previous page'), turn(page + 1, 'Next page'), make('span', 'hint pager-text', { role: 'status', tabIndex: -1 }, `${total} tasks, page ${page} of ${pages}`)),
    );
  }
}

function metadataText(metadata) {
  const lines = Object.entries(metadata).map(([name, values]) => `${name}: ${values.slice(0, 4).join(', ')}${values.length > 4 ? ' …' : ''}`);
  return make('span', 'metadata', { dir: 'auto' }, lines.join('; ') || '–');
}
