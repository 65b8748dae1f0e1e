// Other programs on the lead's page, for admins: API tokens and webhooks, in the language of the reader.

import { actionButton, call, confirmed, field, make } from '../dom.js';
import { wordsOfReader } from '../words.js';
import { input, section, table, text } from './elements.js';

const STATES = { valid: 'programs.valid', expired: 'programs.expired', revoked: 'programs.revoked', delivered: 'programs.delivered', waiting: 'programs.waiting', failed: 'programs.failed' };
const TOKEN_HEADS = ['programs.name', 'programs.state', 'programs.made', 'programs.until', 'programs.used', 'programs.changes'];
const WEBHOOK_HEADS = ['programs.number', 'programs.host', 'programs.events', 'programs.campaign', 'programs.deliveries', 'programs.last', 'programs.changes'];
const time = (seconds) => (seconds === null ? '–' : new Date(1000 * seconds).toISOString().slice(0, 16).replace('T', ' '));

// The parts of the page; `page` is the lead's page.
export async function programsParts(page) {
  const data = [];
  for (const path of ['tokens', 'webhooks']) {
    const found = await page.get(path);
    if (!found) return [];
    data.push(found);
  }
  const { language, t } = await wordsOfReader();
  const [{ tokens }, { webhooks, events }] = data;
  return [make('div', 'parts', { lang: language }, tokensPart(page, t, tokens), webhooksPart(page, t, webhooks, events))];
}

// A field with a secret that is shown once, hidden until there is one, and the function that shows it.
function secretField(id, label) {
  const secret = input({ type: 'text', readOnly: true });
  const element = field(id, label, secret);
  element.hidden = true;
  return [element, (value) => { secret.value = value; element.hidden = false; secret.select(); }];
}

function tokensPart(page, t, tokens) {
  const name = input({ type: 'text', maxLength: 100, dir: 'auto' });
  const days = input({ type: 'number', min: 1, max: 3650 });
  const [secret, show] = secretField('token-secret', t('programs.token_secret'));
  const place = make('div', '', {});
  const heads = TOKEN_HEADS.map((key) => t(key));
  const row = (token) => [text(token.name), t(STATES[token.state]), time(token.created_at), time(token.expires_at), token.used_at === null ? t('programs.never') : time(token.used_at), token.state === 'valid' ? revokeButton(page, t, token, redraw) : ''];
  const draw = (all) => place.replaceChildren(all.length ? table(t('programs.tokens'), heads, all.map(row)) : make('p', '', {}, t('programs.no_tokens')));
  async function redraw() {
    const { status, data } = await call('api/lead/tokens');
    if (status === 200) draw(data.tokens);
  }
  const add = actionButton('primary', t('programs.add_token'), async () => {
    const made = await page.get('tokens', { name: name.value, days: days.value === '' ? null : Number(days.value) });
    if (!made) return;
    show(made.token);
    page.status.textContent = t('programs.token_made', { name: made.name });
    await redraw();
  });
  draw(tokens);
  return section(t('programs.tokens'), make('p', 'hint', {}, t('programs.tokens_hint')), make('div', 'fields', {}, field('token-name', t('programs.token_name'), name), field('token-days', t('programs.token_days'), days)), make('div', 'actions', {}, add), secret, place);
}

function revokeButton(page, t, { name }, redraw) {
  return actionButton('quiet', t('programs.revoke'), async () => {
    const sure = await confirmed(page.root, t('programs.revoke_question'), t('programs.revoke_words', { name }), t('programs.revoke_it'), '', t('dialog.back'));
    if (!sure || !await page.get('tokens/revoke', { name })) return;
    page.status.textContent = t('programs.token_revoked', { name });
    await redraw();
  });
}

function webhooksPart(page, t, webhooks, events) {
  const url = input({ type: 'url', maxLength: 2000, placeholder: 'https://example.org/hook' });
  const boxes = events.map((event) => [event, input({ type: 'checkbox', id: `event-${event}`, checked: true })]);
  const of = page.overview.campaigns.map((campaign) => make('option', '', { value: campaign.name }, campaign.name));
  const campaign = make('select', '', {}, make('option', '', { value: '' }, t('programs.all_campaigns')), ...of);
  const [secret, show] = secretField('webhook-secret', t('programs.webhook_secret'));
  const place = make('div', '', {});
  const heads = WEBHOOK_HEADS.map((key) => t(key));
  const row = (hook) => [String(hook.id), text(hook.host), hook.events.join(', '), text(hook.campaign ?? t('programs.all_campaigns')), countsText(t, hook.counts), lastPart(t, hook.last), removeButton(page, t, hook, redraw)];
  const draw = (all) => place.replaceChildren(all.length ? table(t('programs.webhooks'), heads, all.map(row)) : make('p', '', {}, t('programs.no_webhooks')));
  async function redraw() {
    const { status, data } = await call('api/lead/webhooks');
    if (status === 200) draw(data.webhooks);
  }
  const add = actionButton('primary', t('programs.add_webhook'), async () => {
    const chosen = boxes.filter(([, box]) => box.checked).map(([event]) => event);
    const made = await page.get('webhooks', { url: url.value, events: chosen, campaign: campaign.value || null });
    if (!made) return;
    show(made.secret);
    page.status.textContent = t('programs.webhook_made', { number: made.id });
    await redraw();
  });
  draw(webhooks);
  const told = make('fieldset', 'field', {}, make('legend', '', {}, t('programs.events')), make('div', 'actions', {}, ...boxes.map(([event, box]) => make('label', 'check', { for: box.id }, box, ` ${event}`))));
  return section(t('programs.webhooks'), make('p', 'hint', {}, t('programs.webhooks_hint')), make('div', 'fields', {}, field('webhook-url', t('programs.address'), url), field('webhook-campaign', t('programs.campaign'), campaign)), told, make('div', 'actions', {}, add), secret, place);
}

// Numbers of events that were delivered, wait or were given up.
function countsText(t, counts) {
  const states = ['delivered', 'waiting', 'failed'].filter((state) => counts[state]);
  return states.map((state) => `${counts[state]} ${t(STATES[state])}`).join(', ') || '–';
}

// How the last event that was sent fared, with the reason where it did not arrive.
function lastPart(t, last) {
  if (!last) return t('programs.nothing_sent');
  return make('span', 'metadata', {}, `${t(STATES[last.state])}, ${time(last.at)}${last.error ? `: ${last.error}` : ''}`);
}

function removeButton(page, t, { id, host }, redraw) {
  return actionButton('quiet', t('programs.remove'), async () => {
    const sure = await confirmed(page.root, t('programs.remove_question'), t('programs.remove_words', { host }), t('programs.remove_it'), '', t('dialog.back'));
    if (!sure || !await page.get('webhooks/remove', { webhook: id })) return;
    page.status.textContent = t('programs.webhook_removed', { number: id });
    await redraw();
  });
}
