// The answer that is not sent yet, kept in the browser.

import { BASE } from '../dom.js';

// Of this server alone, also where several share a host behind a proxy.
const DRAFT = `vidalign-draft ${BASE.pathname}`;

// The draft of an assignment; an empty one where none is kept.
export function readDraft(assignment) {
  try {
    const draft = JSON.parse(localStorage.getItem(DRAFT)) || {};
    // A draft of before an update of the server calls its ranks places.
    return draft.assignment === assignment ? { ranks: draft.places, ...draft } : {};
  } catch {
    return {};
  }
}

export function writeDraft(draft) { localStorage.setItem(DRAFT, JSON.stringify(draft)); }

export function forgetDraft() { localStorage.removeItem(DRAFT); }
