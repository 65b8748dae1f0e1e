// People on the lead's page: users, groups, campaigns of each, invitations, messages, hours.

import { BASE, actionButton, confirmed, field, make } from '../dom.js';
import { input, section, select, table, text } from './elements.js';

const ROLES = ['annotator', 'lead', 'admin'];
const time = (seconds) => (seconds === null ? '–' : new Date(1000 * seconds).toISOString().slice(0, 16).replace('T', ' '));
const isPerson = (user) => !user.simulated && !user.imported && user.state !== 'removed';

// The parts of the page; `page` is the lead's page.
export async function peopleParts(page) {
  const data = [];
  for (const path of ['users', 'groups', 'invitations', 'messages', 'hours']) {
    const found = await page.get(path);
    if (!found) return [];
    data.push(found);
  }
  const [{ users }, groups, { invitations }, { messages }, hours] = data;
  const people = users.filter(isPerson);
  return [
    usersPart(page, users), newUserPart(page), invitationsPart(page, invitations, groups.groups),
    groupsPart(page, groups.groups, people), assigneesPart(page, groups, people),
    messagesPart(page, messages, groups.groups, people), hoursPart(page, hours),
  ];
}

// Several of some names; `chosen` are those that are selected now.
function choice(names, chosen = []) {
  const made = make('select', '', { multiple: true, size: Math.min(6, Math.max(2, names.length)) }, ...names.map((name) => make('option', '', { value: name, selected: chosen.includes(name) }, name)));
  return { element: made, values: () => [...made.selectedOptions].map((option) => option.value) };
}

function usersPart(page, users) {
  const admin = page.overview.role === 'admin';
  const rows = users.map((user) => {
    const kind = user.simulated ? 'simulated' : user.imported ? 'imported' : admin && isPerson(user) ? roleChoice(page, user) : user.role;
    const may = isPerson(user) && (admin || user.role === 'annotator');
    return [text(user.name), kind, user.state, text(user.groups.join(', ') || '–'), may ? make('div', 'actions', {}, ...userActions(page, user)) : ''];
  });
  return section('People', table('People and roles', ['name', 'role', 'state', 'groups', 'changes'], rows));
}

function roleChoice(page, user) {
  const role = select(ROLES, user.role);
  role.setAttribute('aria-label', `Role of ${user.name}`);
  role.addEventListener('change', async () => {
    const sure = await confirmed(page.root, 'Change the role?', `${user.name} is ${user.role} now and becomes ${role.value}.`, 'Change the role');
    if (sure && await page.get('users/role', { name: user.name, role: role.value })) await page.changed(`${user.name} is ${role.value} now.`); else role.value = user.role;
  });
  return role;
}

function userActions(page, user) {
  const reset = actionButton('quiet', 'New password…', async () => {
    const sure = await confirmed(page.root, 'Give a new password?', `The password that ${user.name} has now ends, and so does every login with it. The new one is shown once, here.`, 'Give a new password');
    const made = sure && await page.get('users/password', { name: user.name });
    if (made) page.status.textContent = `${made.name}, new password ${made.password} (shown only now)`;
  });
  const active = user.state === 'active';
  const change = actionButton('quiet', active ? 'Deactivate…' : 'Reactivate', async () => {
    const sure = !active || await confirmed(page.root, 'Deactivate?', `Every login of ${user.name} ends now, the task in hand goes to others, and open invitations by ${user.name} end. The answers stay.`, 'Deactivate');
    if (sure && await page.get('users/state', { name: user.name, active: !active })) await page.changed(`${user.name} is ${active ? 'inactive' : 'active'} now.`);
  });
  const remove = actionButton('quiet', 'Remove…', async () => {
    const sure = await confirmed(page.root, 'Remove for good?', `${user.name} is removed for good. The answers stay under a pseudonym.`, 'Remove', user.name);
    const made = sure && await page.get('users/remove', { name: user.name, typed: user.name });
    if (made) await page.changed(`Removed: the answers are those of ${made.pseudonym} now.`);
  });
  return [reset, change, remove];
}

function newUserPart(page) {
  const name = input({ type: 'text', maxLength: 100 });
  const role = select(page.overview.role === 'admin' ? ROLES : ['annotator'], 'annotator');
  const add = actionButton('primary', 'Add', async () => {
    const made = await page.get('users', { name: name.value, role: role.value });
    if (made) await page.changed(`${made.role} ${made.name}, password ${made.password} (shown only now)`);
  });
  return section('Add somebody', make('div', 'fields', {}, field('new-user', 'Name', name), field('new-role', 'Role', role)), make('div', 'actions', {}, add));
}

function invitationsPart(page, invitations, groups) {
  const role = select(page.overview.role === 'admin' ? ROLES : ['annotator'], 'annotator');
  const group = select(['', ...groups.map(({ name }) => name)], '');
  const uses = input({ type: 'number', min: 1, max: 1000, value: 1 });
  const days = input({ type: 'number', min: 1, max: 365, value: 7 });
  const link = input({ type: 'text', readOnly: true });
  const linkField = field('invitation-link', 'Link of the new invitation (shown once)', link);
  linkField.hidden = true;
  const place = make('div', '', {});
  const draw = (all) => place.replaceChildren(all.length ? table('Invitations', ['number', 'state', 'role', 'group', 'used', 'by', 'until (UTC)', 'changes'], all.map((row) => invitationRow(page, row))) : make('p', '', {}, 'There is none yet.'));
  const invite = actionButton('primary', 'Make a link', async () => {
    const made = await page.get('invitations', { role: role.value, group: group.value || null, uses: Number(uses.value), days: Number(days.value) });
    if (!made) return;
    link.value = new URL(made.path, BASE).href;
    linkField.hidden = false;
    link.select();
    page.status.textContent = `Invitation ${made.id} is made: copy its link now.`;
    const all = await page.get('invitations');
    if (all) draw(all.invitations);
  });
  draw(invitations);
  const fields = make('div', 'fields', {}, field('invitation-role', 'Role', role), field('invitation-group', 'Group', group), field('invitation-uses', 'Accounts', uses), field('invitation-days', 'Days', days));
  return section('Invitations', make('p', 'hint', {}, 'Who opens the link chooses a name and a password.'), fields, make('div', 'actions', {}, invite), linkField, place);
}

function invitationRow(page, row) {
  const revoke = actionButton('quiet', 'Withdraw', async () => {
    if (await page.get('invitations/revoke', { invitation: row.id })) await page.changed(`Invitation ${row.id} is withdrawn.`);
  });
  return [String(row.id), row.state, row.role, text(row.group || '–'), `${row.used} of ${row.uses}`, text(row.by || 'command line'), time(row.expires_at), row.state === 'open' ? revoke : ''];
}

function groupsPart(page, groups, people) {
  const rows = groups.map((group) => {
    const remove = actionButton('quiet', 'Delete…', async () => {
      const sure = await confirmed(page.root, 'Delete the group?', `The group ${group.name} is deleted; its members stay.`, 'Delete it');
      if (sure && await page.get('groups/delete', { name: group.name })) await page.changed(`The group ${group.name} is deleted.`);
    });
    return [text(group.name), text(group.members.join(', ') || '–'), remove];
  });
  const name = input({ type: 'text', maxLength: 100, dir: 'auto' });
  name.setAttribute('list', 'group-names');
  const list = make('datalist', '', { id: 'group-names' }, ...groups.map((group) => make('option', '', { value: group.name })));
  const chosen = choice(people.map((person) => person.name));
  const change = (title, part) => actionButton(part === 'add' ? 'primary' : '', title, async () => {
    const made = await page.get('groups', { name: name.value, [part]: chosen.values() });
    if (made) await page.changed(`${made.name}: ${made.members.join(', ') || 'nobody yet'}`);
  });
  const fields = make('div', 'fields', {}, field('group-name', 'Group (a new name makes one)', name), field('group-people', 'People', chosen.element));
  return section('Groups', rows.length ? table('Groups', ['name', 'members', 'changes'], rows) : make('p', '', {}, 'There is none yet.'), fields, list, make('div', 'actions', {}, change('Add them', 'add'), change('Take them out', 'remove')));
}

function assigneesPart(page, { campaigns, groups }, people) {
  const title = 'Who works on what';
  if (!campaigns.length) return section(title, make('p', '', {}, 'There is no campaign yet.'));
  const shown = (row) => [...row.people, ...row.groups.map((name) => `group ${name}`)].join(', ') || 'everybody';
  const campaign = select(campaigns.map(({ name }) => name), campaigns[0].name);
  const place = make('div', 'fields', {});
  let chosen;
  const draw = () => {
    const current = campaigns.find(({ name }) => name === campaign.value);
    chosen = { people: choice(people.map(({ name }) => name), current.people), groups: choice(groups.map(({ name }) => name), current.groups) };
    place.replaceChildren(field('assign-people', 'People', chosen.people.element), field('assign-groups', 'Groups', chosen.groups.element));
  };
  campaign.addEventListener('change', draw);
  draw();
  const save = actionButton('primary', 'Save', async () => {
    const made = await page.get(`assignees?campaign=${encodeURIComponent(campaign.value)}`, { people: chosen.people.values(), groups: chosen.groups.values() });
    if (made) await page.changed(`${campaign.value} goes to ${shown(made)}.`);
  });
  const rows = campaigns.map((row) => [text(row.name), text(shown(row))]);
  return section(title, table('Campaigns and people', ['campaign', 'goes to'], rows), field('assign-campaign', 'Campaign', campaign), make('p', 'hint', {}, 'Nobody chosen: everybody.'), place, make('div', 'actions', {}, save));
}

function messagesPart(page, messages, groups, people) {
  const area = make('textarea', '', { rows: 3, maxLength: 5000, dir: 'auto' });
  const names = choice(people.filter(({ state }) => state === 'active').map(({ name }) => name));
  const chosenGroups = choice(groups.map(({ name }) => name));
  const send = actionButton('primary', 'Send', async () => {
    const made = await page.get('messages', { text: area.value, people: names.values(), groups: chosenGroups.values() });
    if (made) await page.changed(`The message is shown to ${made.to} people until they confirm it.`);
  });
  const rows = messages.map((row) => [text(row.text), text(row.by || 'command line'), time(row.at), `${row.read} of ${row.to}`, text(row.unread_by.join(', ') || '–')]);
  const fields = make('div', 'fields', {}, field('message-people', 'To people', names.element), field('message-groups', 'To groups', chosenGroups.element));
  return section('Messages', field('message-text', 'Message', area), make('p', 'hint', {}, 'Nobody chosen: all active annotators.'), fields, make('div', 'actions', {}, send), rows.length ? table('Messages', ['text', 'by', 'when (UTC)', 'read', 'not read by'], rows) : '');
}

function hoursPart(page, first) {
  const campaign = select(['', ...page.overview.campaigns.map(({ name }) => name)], '');
  const since = input({ type: 'date' });
  const until = input({ type: 'date' });
  const place = make('div', '', {});
  const draw = ({ people }) => {
    const rows = people.map((row) => [text(row.name), String(row.answers), String(row.changes), String(row.skips), String(row.demonstrations), (row.seconds / 3600).toFixed(2), time(row.last_at)]);
    place.replaceChildren(table('Progress and hours', ['name', 'answers', 'changes', 'skips', 'demonstrations', 'hours', 'last answer (UTC)'], rows));
  };
  const look = async () => {
    const query = new URLSearchParams();
    if (campaign.value) query.set('campaign', campaign.value);
    if (since.value) query.set('since', String(Date.parse(`${since.value}T00:00:00Z`) / 1000));
    if (until.value) query.set('until', String(Date.parse(`${until.value}T00:00:00Z`) / 1000 + 86400));
    const data = await page.get(`hours?${query}`);
    if (data) draw(data);
  };
  for (const each of [campaign, since, until]) each.addEventListener('change', look);
  draw(first);
  const rule = `An answer counts the time since the one before it; after ${first.break_seconds / 60} minutes without one, the seconds that the page measured.`;
  return section('Progress and hours', make('p', 'hint', {}, rule), make('div', 'fields', {}, field('hours-campaign', 'Campaign', campaign), field('hours-since', 'From (UTC)', since), field('hours-until', 'To (UTC)', until)), place);
}
