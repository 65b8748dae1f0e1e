"""`vidalign label token`: API tokens of programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from alignment.cli.commands.label_campaign import DB_HELP, command_line_user
from generator.output import InputError
from labeling_app.store.api_tokens import add_token, last_uses, revoke_token, token_state, tokens
from labeling_app.store.database import existing_database
from labeling_app.store.integration_tables import ApiToken
from labeling_app.store.store import Store


@dataclass
class TokenArguments:
    """Tokens with which programs read what leads read. Without --add and --revoke, all are listed."""

    db: str = field(metadata={"help": DB_HELP})
    add: str | None = field(
        default=None,
        metadata={"help": "Make a token of this name; prints it once, since only its hash is kept."},
    )
    expires: float | None = field(
        default=None, metadata={"help": "Days after which the new token expires; never if not given."}
    )
    revoke: str | None = field(default=None, metadata={"help": "End the token of this name for good."})


def run_token(arguments: TokenArguments) -> None:
    """Makes or revokes a token, or lists all."""
    if arguments.add is not None and arguments.revoke is not None:
        raise InputError("Both --add and --revoke were given: give one at a time.")
    if arguments.expires is not None and arguments.add is None:
        raise InputError("--expires was given without --add: a token gets its end when it is made.")
    with Store(existing_database(arguments.db)) as store:
        if arguments.add is not None:
            token = add_token(store, arguments.add, arguments.expires)
            store.record(command_line_user(), "add token", token=arguments.add, days=arguments.expires)
            print(f"{arguments.add}: {token} (shown only now)")
        elif arguments.revoke is not None:
            revoke_token(store, arguments.revoke)
            store.record(command_line_user(), "revoke token", token=arguments.revoke)
            print(f"The token {arguments.revoke} is revoked.")
        else:
            used = last_uses(store)
            for token_row in tokens(store):
                moment = used.get(token_row.name)
                use = "never used" if moment is None else f"last used {_day(moment)}"
                print(f"{token_row.name}\t{_state(token_row, store.clock())}\t{use}")


def _state(token: ApiToken, now: float) -> str:
    state = token_state(token, now)
    moment = token.expires_at if token.revoked_at is None else token.revoked_at
    if moment is None:
        return state
    return f"{'valid until' if state == 'valid' else state} {_day(moment)}"


def _day(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"
