// The lead's pages: campaigns and projects, people, quality, adjudication, demonstrations, audit.

import { BASE, actionButton, call, confirmed, field, imagesPart, make, pageLinks, previewVideo, send } from './dom.js';
import { guidelinesText } from './guidelines.js';
import { input, section, select, table, text } from './lead/elements.js';
import { remarkPart, share } from './lead/parts.js';
import { peopleParts } from './lead/people.js';
import { programsParts } from './lead/programs.js';
import { TaskBrowser, taskAddress } from './lead/tasks.js';
import { logoutForm } from './logout.js';
import { letter } from './ranks.js';
import { loadWords } from './words.js';

const TABS = [['campaigns', 'Campaigns'], ['tasks', 'Tasks'], ['people', 'People'], ['quality', 'Quality'], ['adjudication', 'Adjudication'], ['demonstrations', 'Demonstrations'], ['programs', 'Programs'], ['audit', 'Audit']];
const OF_ADMINS = ['programs'];
const PLOTS = [['annotators', 'Agreement with others, gold items right, same on repeats'], ['speed', 'Seconds a task'], ['positions', 'How often the video shown first is ranked best'], ['days', 'Answers a day']];
const RULES = [['gold_share', 'Share of gold items', 0.01, 0.5], ['repeat_share', 'Share of repeats', 0.01, 0.5], ['daily_cap', 'Answers a person a day (0: no limit)', 1, 999999], ['quiz_size', 'Trial tasks (gold items first)', 1, 1000], ['quiz_pass', 'Share right to pass the trial', 0.01, 1]];
const DIMENSIONS = ['overall', 'visual', 'motion', 'alignment'];

export async function start(element) {
  const root = element.querySelector('.ranking-page') || element;
  if (root.dataset.started) return;
  root.dataset.started = 'true';
  await loadWords('en');
  new LeadPage(root).load();
}

const number = (value) => (value === null || value === undefined ? '–' : String(Math.round(1000 * value) / 1000));

// Links to the videos of a skipped task that the reason is about, or to all of them.
function skippedVideos({ remark, media }) {
  const meant = remark.videos.length ? remark.videos : media.map((_, place) => ({ lead: letter(place), annotator: remark.letters.find((pair) => pair.lead === letter(place))?.annotator }));
  return make('span', 'video-links', {}, ...meant.map((video) => make('a', 'page-link', { href: new URL(`media/${encodeURIComponent(media[video.lead.charCodeAt(0) - 65])}`, BASE).href, target: '_blank', rel: 'noopener' }, `${video.lead}${video.annotator ? ` (${video.annotator} for ${remark.annotator})` : ''}`)));
}

class LeadPage {
  constructor(root) {
    this.root = root;
    this.notice = make('p', 'notice', { hidden: true, role: 'alert' });
    this.status = make('p', 'status', { role: 'status', 'aria-live': 'polite' });
    this.pages = make('nav', 'pages', { 'aria-label': 'Pages' });
    this.userName = make('span', 'user-name', { dir: 'auto' });
    this.main = make('div', 'ranking-main');
    this.campaignChoice = make('select', '', {});
    this.campaignChoice.addEventListener('change', () => this.show());
    this.campaignField = field('campaign-choice', 'Campaign', this.campaignChoice);
    this.tabs = make('nav', 'tabs', { 'aria-label': 'Parts' }, ...TABS.map(([path, title]) => make('a', 'tab', { href: `#${path}` }, title)));
    root.replaceChildren(make('div', 'top-bar', {}, make('h1', 'page-title', {}, 'Lead'), this.pages, this.userName, logoutForm()), this.tabs, this.campaignField, this.notice, this.status, this.main);
    window.addEventListener('hashchange', () => { this.status.textContent = ''; this.show(); });
  }

  showNotice(message) {
    this.notice.textContent = message;
    this.notice.hidden = !message;
  }

  // The data of a call, or null after its problem was shown.
  async get(path, body) {
    const { status, data } = await call(`api/lead/${path}`, body);
    this.showNotice(status === 200 ? '' : data.message);
    return status === 200 ? data : null;
  }

  // What takes long in a large campaign: while it is made for the first time, the page says how far it is.
  async computed(path) {
    const { turn } = this;
    while (turn === this.turn) {
      const { status, data } = await call(`api/lead/${path}`);
      if (status !== 202) {
        this.showNotice(status === 200 ? '' : data.message);
        return status === 200 ? data : null;
      }
      if (turn !== this.turn) break;
      this.main.replaceChildren(make('p', 'hint', { role: 'status' }, data.message), make('progress', '', { max: 1, value: data.computing, 'aria-label': 'Share that is done' }));
      await new Promise((done) => { setTimeout(done, 1000); });
    }
    return null;
  }

  get query() { return `campaign=${encodeURIComponent(this.campaignChoice.value)}`; }

  async load(chosen) {
    const data = await this.get('overview');
    if (!data) return;
    this.overview = data;
    this.userName.textContent = `${data.user} (${data.role})`;
    this.pages.replaceChildren(...pageLinks('lead', true));
    const before = chosen || this.campaignChoice.value;
    this.campaignChoice.replaceChildren(...data.campaigns.map(({ name }) => make('option', '', { value: name, selected: name === before }, name)));
    await this.show();
  }

  async show() {
    this.turn = (this.turn || 0) + 1;
    const { turn } = this;
    const isAdmin = this.overview.role === 'admin';
    const mayShow = ([path]) => `#${path}` === window.location.hash && (isAdmin || !OF_ADMINS.includes(path));
    const current = TABS.some(mayShow) ? window.location.hash.slice(1) : 'campaigns';
    for (const tab of this.tabs.children) {
      tab.hidden = !isAdmin && OF_ADMINS.includes(tab.getAttribute('href').slice(1));
      if (tab.getAttribute('href') === `#${current}`) tab.setAttribute('aria-current', 'page'); else tab.removeAttribute('aria-current');
    }
    this.campaignField.hidden = ['people', 'programs', 'audit'].includes(current) || !this.overview.campaigns.length;
    const parts = await this[current]();
    // Meanwhile another part or campaign may have been chosen, or this one have been asked for again.
    if (turn !== this.turn) return;
    this.main.replaceChildren(...parts);
    this.main.dataset.shown = current;
  }

  // After a change: what happened, and the page as it is now.
  async changed(message, chosen) {
    await this.load(chosen);
    this.status.textContent = message;
  }

  // Campaigns ------------------------------------------------------------------------------------------

  get campaign() { return this.overview.campaigns.find(({ name }) => name === this.campaignChoice.value); }

  async campaigns() {
    const { campaigns } = this.overview;
    const rows = campaigns.map((c) => [text(c.state === 'open' ? c.name : `${c.name} (${c.state})`), text(c.project || '–'), c.dimensions.join(', '), `${c.answers} of ${c.answers_wanted}`, `${c.filled} of ${c.tasks}`, String(c.overlap), String(c.held), String(c.skips), String(c.flagged), String(c.gold), String(c.repeats), `${c.demonstrations} for ${c.prompts}`]);
    return [
      section('Progress', campaigns.length ? table('Campaigns', ['campaign', 'project', 'asks for', 'answers', 'tasks done', 'overlap', 'in hands', 'skips', 'flagged', 'gold', 'repeats', 'demonstrations'], rows) : make('p', '', {}, 'There is no campaign yet.')),
      ...(this.campaign ? [this.lifePart(), this.rulesPart(), await this.guidelinesPart()] : []),
      this.newCampaignPart(), this.newProjectPart(),
    ];
  }

  // What happens to the campaign as a whole.
  lifePart() {
    const { campaign } = this;
    const states = { open: [['paused', 'Pause'], ['closed', 'Close…']], paused: [['open', 'Go on'], ['closed', 'Close…']], closed: [['open', 'Reopen']] };
    const change = (state, title) => actionButton('', title, async () => {
      if (state === 'closed' && !await confirmed(this.root, 'Close the campaign?', `No task of ${campaign.name} is given out any more, and its answers stay as they are.`, 'Close it')) return;
      if (await this.get(`campaigns/state?${this.query}`, { state })) await this.changed(`The campaign ${campaign.name} is ${state}.`);
    });
    const name = input({ type: 'text', maxLength: 200, value: campaign.name, dir: 'auto' });
    const rename = actionButton('', 'Rename', async () => {
      const made = await this.get(`campaigns/name?${this.query}`, { name: name.value });
      if (made) await this.changed(`The campaign is called ${made.name} now.`, made.name);
    });
    const withTasks = input({ type: 'checkbox', id: 'clone-tasks', checked: true });
    const clone = actionButton('', 'Clone under this name', async () => {
      const made = await this.get(`campaigns/clone?${this.query}`, { name: name.value, tasks: withTasks.checked });
      if (made) await this.changed(`The campaign ${made.name} has the rules of ${campaign.name} and ${made.tasks} tasks, without answers.`, made.name);
    });
    const remove = actionButton('quiet', 'Delete…', async () => {
      const sure = await confirmed(this.root, 'Delete the campaign?', `${campaign.name} has ${campaign.tasks} tasks and ${campaign.answers} answers. All of it is deleted for good; video files stay.`, 'Delete it', campaign.name);
      if (sure && await this.get(`campaigns/delete?${this.query}`, { name: campaign.name })) await this.changed(`The campaign ${campaign.name} is deleted.`);
    });
    return section(`Campaign ${campaign.name}: ${campaign.state}`, field('campaign-name', 'Name', name), make('div', 'actions', {}, rename, clone, make('label', 'check', { for: withTasks.id }, withTasks, ' with its tasks'), ...states[campaign.state].map(([state, title]) => change(state, title)), remove));
  }

  rulesPart() {
    const { campaign } = this;
    let extra;
    const inputs = RULES.map(([name, label, step, max]) => [name, label, input({ type: 'number', min: 0, max, step, value: campaign[name] })]);
    const project = select(['', ...this.overview.projects.map(({ name }) => name)], campaign.project);
    const save = actionButton('primary', 'Save the rules', async () => {
      const body = Object.fromEntries(inputs.map(([name, , made]) => [name, Number(made.value)]));
      body.project = project.value;
      Object.assign(body, extra());
      if (await this.get(`rules?${this.query}`, body)) await this.changed('The rules are saved.');
    });
    const overlap = input({ type: 'number', min: campaign.has_answers ? campaign.overlap : 1, max: 1000, value: campaign.overlap });
    const dimensions = DIMENSIONS.map((name) => [name, input({ type: 'checkbox', id: `dimension-${name}`, checked: campaign.dimensions.includes(name), disabled: campaign.has_answers })]);
    const asked = make('fieldset', 'field', {}, make('legend', '', {}, campaign.has_answers ? 'Asks for (fixed: there are answers)' : 'Asks for'), make('div', 'actions', {}, ...dimensions.map(([name, box]) => make('label', 'check', { for: box.id }, box, ` ${name}`))));
    const tags = input({ type: 'text', maxLength: 1300, dir: 'auto', value: campaign.tags.join(', '), placeholder: 'artefact, wrong count, wrong motion', disabled: campaign.has_answers && campaign.tags.length > 0 });
    const feedback = input({ type: 'checkbox', id: 'rule-gold-feedback', checked: campaign.gold_feedback });
    extra = () => ({ gold_feedback: feedback.checked, ...(tags.disabled ? {} : { tags: tags.value.split(',').map((tag) => tag.trim()).filter(Boolean) }), overlap: Number(overlap.value), ...(campaign.has_answers ? {} : { dimensions: dimensions.filter(([, box]) => box.checked).map(([name]) => name) }) });
    return section(`Rules of ${campaign.name}`, make('div', 'fields', {}, field('rule-overlap', campaign.has_answers ? 'Annotators a task (may only grow now)' : 'Annotators a task', overlap), asked, ...inputs.map(([name, label, made]) => field(`rule-${name}`, label, made)), field('rule-tags', tags.disabled ? 'Reasons for a video (fixed: there are answers)' : 'Reasons for a video, separated by commas', tags), make('label', 'check', { for: feedback.id }, feedback, ' Show the known answer after a gold item'), field('rule-project', 'Project', project)), make('div', 'actions', {}, save));
  }

  async guidelinesPart() {
    const { data } = await call(`api/guidelines?${this.query}`);
    const area = make('textarea', '', { rows: 4, dir: 'auto', maxLength: 50000, value: data.text || '' });
    const save = actionButton('primary', 'Save as a new version', async () => {
      const made = await this.get(`guidelines?${this.query}`, { text: area.value });
      if (made) await this.changed(`Version ${made.version} of the guidelines holds from now on.`);
    });
    const file = input({ type: 'file', accept: 'video/mp4,video/webm,video/quicktime,.mov' });
    file.addEventListener('change', () => this.addExample(file, area));
    const preview = make('details', 'guidelines', { hidden: !data.version }, make('summary', '', {}, 'As annotators read it'), guidelinesText(data.html || ''));
    return section('Guidelines (Markdown)', field('guidelines-text', data.version ? `Version ${data.version}` : 'None yet', area), field('guidelines-video', 'Add an example video where the cursor is', file), make('div', 'actions', {}, save), preview);
  }

  // Sends a video and names it in the guidelines, which show it from their next version on.
  async addExample(file, area) {
    const [video] = file.files;
    if (!video) return;
    this.status.textContent = 'The video is sent and checked…';
    const { status, data } = await send('api/demonstrations/uploads', video);
    this.showNotice(status === 200 ? '' : data.message);
    this.status.textContent = status === 200 ? 'The example is in the text: describe it in the brackets, then save.' : '';
    file.value = '';
    if (status !== 200) return;
    area.setRangeText(`\n![Example](video:${data.id})\n`, area.selectionStart, area.selectionEnd, 'end');
    area.focus();
  }

  newCampaignPart() {
    const name = input({ type: 'text', maxLength: 200 });
    const overlap = input({ type: 'number', min: 1, max: 1000, value: 2 });
    const dimensions = input({ type: 'text', value: 'overall' });
    const candidates = select(['', ...this.overview.candidates], '');
    const project = select(['', ...this.overview.projects.map((p) => p.name)], '');
    const add = actionButton('primary', 'Make the campaign', async () => {
      const body = { name: name.value, overlap: Number(overlap.value), dimensions: dimensions.value.split(/[\s,]+/).filter(Boolean), project: project.value || null, candidates: candidates.value || null };
      const made = await this.get('campaigns', body);
      if (made) await this.changed(`The campaign ${made.name} has ${made.tasks} tasks.`);
    });
    return section('New campaign', make('div', 'fields', {}, field('new-campaign', 'Name', name), field('new-overlap', 'Annotators a task', overlap), field('new-dimensions', 'Asks for (overall, visual, motion, alignment)', dimensions), field('new-candidates', 'Candidates', candidates), field('new-campaign-project', 'Project', project)), make('div', 'actions', {}, add));
  }

  newProjectPart() {
    const name = input({ type: 'text', maxLength: 200 });
    const add = actionButton('', 'Make the project', async () => {
      if (await this.get('projects', { name: name.value })) await this.changed('The project is made.');
    });
    return section('New project', make('p', '', {}, this.overview.projects.length ? `So far: ${this.overview.projects.map((p) => p.name).join(', ')}` : 'There is none yet.'), field('new-project', 'Name of the project', name), make('div', 'actions', {}, add));
  }

  // People ---------------------------------------------------------------------------------------------

  people() { return peopleParts(this); }

  // Other programs -------------------------------------------------------------------------------------

  programs() { return programsParts(this); }

  // Quality --------------------------------------------------------------------------------------------

  async quality() {
    if (!this.campaign) return [make('p', '', {}, 'There is no campaign yet.')];
    const data = await this.computed(`quality?${this.query}`);
    if (!data) return [];
    const summary = table('Agreement', ["Krippendorff's α", '95 % interval', 'same label', 'same, without ties', 'ties', 'rankings', 'tasks'], [[number(data.alpha), data.alpha_low === null ? number(null) : `${number(data.alpha_low)} to ${number(data.alpha_high)}`, share(data.pairwise), share(data.pairwise_without_ties), share(data.tie_rate), String(data.num_judgements), String(data.num_tasks)]]);
    const rows = data.annotators.map((p) => [text(p.simulated ? `${p.name} (simulated)` : p.imported ? `${p.name} (imported)` : p.name), p.flags.join(', ') || '–', String(p.judgements), String(p.skips), number(p.median_seconds), share(p.tie_rate), share(p.agreement), share(p.accuracy), share(p.gold_accuracy), share(p.self_consistency), share(p.first_place_rate)]);
    const people = table('Annotators', ['annotator', 'look at', 'tasks', 'skips', 'seconds', 'ties', 'agreement', 'weight', 'gold right', 'same on repeats', 'first shown best'], rows);
    const rates = data.win_rates.map((r) => [text(`${r.first} against ${r.second}`), share(r.mean), r.low === null ? '–' : `${share(r.low)} to ${share(r.high)}`, r.low === null ? '–' : share(r.high - r.low), share(r.tie_rate), String(r.n), String(r.clusters)]);
    const compared = rates.length ? [section('Models', table('Win rates', ['models', 'win rate of the first', '95 % interval', 'its width', 'ties', 'judgements', 'prompts'], rates))] : [];
    const plots = PLOTS.map(([name, title]) => make('figure', 'plot', {}, make('img', '', { src: new URL(`api/lead/plots/${name}.svg?${this.query}`, BASE).href, alt: `${title}; the numbers are in the table` }), make('figcaption', '', {}, title)));
    const checking = data.changed_files === null ? [make('p', 'hint', {}, `Whether video files have changed or gone since they were judged is still being checked (${share(data.files_checked)} done); until then the export looks at each.`)] : [];
    const changed = data.changed_files?.length ? [make('p', 'notice', {}, `The export leaves out rankings of ${data.changed_files.length} video file(s) that have changed or gone since they were judged; put them back to have all: ${data.changed_files.slice(0, 5).join(', ')}${data.changed_files.length > 5 ? ' …' : ''}`)] : [];
    const download = (raw, title, format = 'jsonl') => make('a', 'download', { href: new URL(`api/lead/export?${this.query}&raw=${raw}&skip_bad=${checking.length + changed.length > 0}&format=${format}`, BASE).href, download: `rankings.${format}` }, title);
    const madeAt = make('p', 'hint', {}, `Numbers of ${new Date(1000 * data.made_at).toLocaleTimeString()}; in large campaigns they follow the answers within a minute.`);
    const skipped = data.skipped.length ? [section('Skipped', table('Skipped tasks', ['annotator', 'prompt', 'reason', 'videos'], data.skipped.map((s) => [text(s.annotator), text(s.prompt), text(s.reason), skippedVideos(s)])))] : [];
    const tags = data.tags.length ? [section('Reasons', table('Reasons given', ['reason', 'videos', 'share of judged', 'marks', "Krippendorff's α"], data.tags.map((t) => [text(t.tag), String(t.videos), share(t.share), String(t.marks), number(t.alpha)])))] : [];
    return [...compared, section('Agreement', summary, madeAt), section('Annotators', people), ...tags, ...skipped, section('Plots', make('div', 'plots', {}, ...plots)), section('Export', ...checking, ...changed, make('div', 'actions', {}, download(false, 'Rankings with the decisions (JSONL)'), download(true, 'Rankings of annotators alone (JSONL)'), download(false, 'CSV for spreadsheets', 'csv'), download(false, 'Parquet', 'parquet')))];
  }

  // Adjudication ---------------------------------------------------------------------------------------

  async adjudication() {
    if (!this.campaign) return [make('p', '', {}, 'There is no campaign yet.')];
    const data = await this.computed(`disagreements?${this.query}`);
    if (!data) return [];
    if (!data.tasks.length) return [section('Adjudication', make('p', '', {}, 'Nothing to decide: no answers of different annotators are far apart, and nothing is flagged.'))];
    return [make('p', 'hint', {}, `${data.tasks.length} tasks to decide; the worst disagreement comes first.`), ...data.tasks.slice(0, 10).map((task) => this.decisionPart(task))];
  }

  decisionPart(task) {
    const answers = task.dimensions.map((dimension) => table(`Places given (${dimension})`, [dimension, ...task.videos.map((_, index) => letter(index))], Object.entries(task.answers[dimension] || {}).map(([name, ranks]) => [text(name), ...ranks.map(String)])));
    const decide = make('a', 'download', { href: taskAddress(task.task) }, 'Decide with all videos');
    return make('section', 'ranking decision', { 'aria-label': `Task ${task.task}` },
      ...imagesPart(task), make('p', 'prompt-text', { dir: 'auto', tabIndex: 0 }, task.prompt), make('p', 'hint', {}, `${share(task.share)} of the labels differ. Letters are those of the page on which you decide, except where it says of whom.`),
      ...answers, ...task.remarks.map(remarkPart), make('div', 'actions', {}, decide));
  }

  async tasks() {
    if (!this.campaign) return [make('p', '', {}, 'There is no campaign yet.')];
    this.filters ||= {};
    const browser = new TaskBrowser(this.campaign.name, this.filters, (message) => this.showNotice(message));
    await browser.find(1);
    return [browser.element];
  }

  // Demonstrations -------------------------------------------------------------------------------------

  async demonstrations() {
    if (!this.campaign) return [make('p', '', {}, 'There is no campaign yet.')];
    const first = this.campaign.name === this.demonstrationsOf ? this.firstDemonstration : 0;
    const data = await this.get(`demonstrations?${this.query}&first=${first}`);
    if (!data) return [];
    const turn = (by, title) => actionButton('', title, async () => { this.demonstrationsOf = this.campaign.name; this.firstDemonstration = first + by; await this.show(); });
    const shown = data.demonstrations.length;
    const turns = data.count > shown ? [make('div', 'actions', {}, ...(first ? [turn(-data.page, 'Earlier ones')] : []), `${first + 1} to ${first + shown} of ${data.count}`, ...(first + shown < data.count ? [turn(data.page, 'Later ones')] : []))] : [];
    const area = make('textarea', '', { rows: 4, dir: 'auto' });
    const wanted = input({ type: 'number', min: 1, max: 1000, value: 1 });
    const ask = actionButton('primary', 'Ask for demonstrations', async () => {
      const prompts = area.value.split('\n').filter((line) => line.trim());
      const made = await this.get(`demonstrations/prompts?${this.query}`, { prompts, wanted: Number(wanted.value) });
      if (made) await this.changed(`${made.added} new prompts wait for a video.`);
    });
    const cards = data.demonstrations.map((row) => {
      const review = (state, title) => {
        const button = actionButton('', title, async () => {
          if (await this.get(`demonstrations/${row.id}/review`, { state })) await this.changed(`Demonstration ${row.id} is ${state}.`);
        });
        button.setAttribute('aria-pressed', String(row.state === state));
        return button;
      };
      return make('li', 'library-card', {}, previewVideo(row.video, `Demonstration by ${row.annotator}`, true), text(row.prompt), make('span', 'hint', { dir: 'auto' }, `${row.annotator}, ${row.source}, ${row.state}${row.comment ? `: ${row.comment}` : ''}`), make('div', 'actions', {}, review('accepted', 'Accept'), review('rejected', 'Reject')));
    });
    return [section('Demonstrations', ...turns, cards.length ? make('ul', 'library-list', {}, ...cards) : make('p', '', {}, 'There is none yet.')), section('Ask for more', field('ask-prompts', 'Prompts, one a line', area), field('ask-wanted', 'Videos a prompt', wanted), make('div', 'actions', {}, ask))];
  }

  async audit() {
    const data = await this.get('audit');
    if (!data) return [];
    return [section('Audit', table('Events', ['when', 'who', 'what', 'details'], data.events.map((e) => [new Date(1000 * e.at).toISOString().slice(0, 19).replace('T', ' '), text(e.user), e.action, text(JSON.stringify(e.details))])))];
  }
}
