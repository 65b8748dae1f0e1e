"""`vidalign label webhook`: addresses that are told of events."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from alignment.cli.commands.label_campaign import DB_HELP, command_line_user
from generator.output import InputError
from labeling_app.store.database import existing_database
from labeling_app.store.store import Store
from labeling_app.store.webhooks import EVENTS, add_webhook, remove_webhook, webhooks


@dataclass
class WebhookArguments:
    """Addresses to which the server posts events as signed JSON. Without --add and --remove, all are listed."""

    db: str = field(metadata={"help": DB_HELP})
    add: str | None = field(
        default=None,
        metadata={
            "help": "Address to tell, such as https://example.org/hook; prints the secret of its signatures once."
        },
    )
    events: list[str] | None = field(
        default=None, metadata={"help": f"Events to tell of: {', '.join(EVENTS)}; all if not given."}
    )
    campaign: str | None = field(
        default=None, metadata={"help": "Tell of this campaign only; of all if not given."}
    )
    allow_private: bool = field(
        default=False, metadata={"help": "Allow an address of this machine or a private network, and http."}
    )
    remove: int | None = field(
        default=None, metadata={"help": "Remove the webhook of this number, and what waits for it."}
    )
    uploads: str | None = field(
        default=None, metadata={"help": "Folder with the signing key: that of `label serve --uploads`."}
    )


def run_webhook(arguments: WebhookArguments) -> None:
    """Adds or removes a webhook, or lists all."""
    if arguments.add is not None and arguments.remove is not None:
        raise InputError("Both --add and --remove were given: give one at a time.")
    adds = {
        "events": arguments.events,
        "campaign": arguments.campaign,
        "allow_private": arguments.allow_private,
    }
    alone = [f"--{name}" for name, value in adds.items() if value and arguments.add is None]
    if alone:
        raise InputError(f"{alone[0]} was given without --add: a webhook is set up when it is added.")
    with Store(existing_database(arguments.db), uploads=arguments.uploads) as store:
        if arguments.add is not None:
            _add(store, arguments, arguments.add)
        elif arguments.remove is not None:
            removed = remove_webhook(store, arguments.remove)
            store.record(command_line_user(), "remove webhook", webhook=removed.id, host=_host(removed.url))
            print(f"The webhook {removed.id} is removed.")
        else:
            for row, counts, error in webhooks(store):
                states = (
                    ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "nothing yet"
                )
                of = row.campaign.name if row.campaign else "all campaigns"
                print(
                    f"{row.id}\t{_host(row.url)}\t{', '.join(row.events)}\t{of}\t{states}\t{error}".rstrip()
                )


def _add(store: Store, arguments: WebhookArguments, url: str) -> None:
    from labeling_app.web.public_address import checked_address

    checked_address(url, arguments.allow_private)
    events = arguments.events or list(EVENTS)
    row, secret = add_webhook(store, url, events, arguments.campaign, arguments.allow_private)
    store.record(command_line_user(), "add webhook", webhook=row.id, host=_host(url), events=row.events)
    print(f"Webhook {row.id} for {', '.join(row.events)}; secret {secret} (shown only now)")


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
