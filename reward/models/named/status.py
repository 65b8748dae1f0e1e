"""State of the named rewards on this machine, for `vidalign doctor`; asks no hub, and the server of a judge that is
named one small question."""

from __future__ import annotations

from typing import Any

from generator.output import InputError
from reward.models.named import registry
from reward.models.named.entry import NamedReward, RewardRequest
from reward.models.named.places import cached, download_command, files_of


def status_of(request: RewardRequest) -> dict[str, Any]:
    """`{name, ready, says, gigabytes, licence}` of a reward that was asked for, its place looked at."""
    entry = request.entry
    missing = registry.missing_modules(entry)
    if missing:
        ready, says = False, f"needs {', '.join(missing)}: {registry.install_command(entry)}"
    elif entry.served:
        ready, says = _server(request)
    elif not entry.weights:
        ready, says = True, "ready, no weights to fetch"
    elif request.folder() is not None:
        ready, says = _folder(request)
    else:
        ready, says = _weights(entry)
    return {
        "name": request.name,
        "ready": ready,
        "says": says,
        "gigabytes": entry.gigabytes,
        "licence": entry.licence,
    }


def all_statuses() -> list[dict[str, Any]]:
    """`status_of` every entry of the registry, without a place."""
    return [status_of(RewardRequest(entry)) for entry in registry.ENTRIES]


def _folder(request: RewardRequest) -> tuple[bool, str]:
    try:
        files_of(request)
    except InputError as error:
        return False, str(error)
    return True, f"ready in {request.place}"


def _weights(entry: NamedReward) -> tuple[bool, str]:
    absent = [source for source in entry.weights if not cached(source)]
    if not absent:
        return True, f"ready, {entry.gigabytes:.2g} GB"
    commands = "; ".join(download_command(source) for source in absent)
    return False, f"weights absent, {sum(source.gigabytes for source in absent):.2g} GB: {commands}"


def _server(request: RewardRequest) -> tuple[bool, str]:
    if not request.place:
        return False, "needs the address of a server"
    from reward.models.named.server_state import server_state

    return server_state(request)
