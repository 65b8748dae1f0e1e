"""The labeling app as a server of this process: for the command, for scripts and for notebooks."""

from __future__ import annotations

import contextlib
import gc
import math
import secrets
import socket
import sys
import threading
import webbrowser
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import uvicorn

from generator.output import InputError
from labeling_app.store.store import Store
from labeling_app.web.plots import prepare_pages
from labeling_app.web.provider import Provider, read_provider
from labeling_app.web.server import create_app
from labeling_app.web.webhook_delivery import WebhookDelivery
from reward.service.listening import address_of, listen

LONGEST_LEASE_MINUTES = 7 * 24 * 60
SWITCH_SECONDS = 0.001
"""Time after which a thread that makes figures lets one that answers a request go on; Python's own is five times that,
and a request is let in a dozen times."""
PORTS = range(7860, 7960)
"""Ports that `LabelingApp.launch` tries, as Gradio does."""


class Addresses(NamedTuple):
    """Addresses of a running labeling app: `local`, and `share`, the public one, or None."""

    local: str
    share: str | None


class LabelingApp:
    """The app of `vidalign label serve` on a database, with its logins and roles.

    Args:
        database: path of an SQLite file or URL of a database, made if it is new.
        campaign: give out only tasks of this campaign; by default of all, oldest first.
        lease_minutes: silence after which a task goes to somebody else.
        candidates: folder whose subfolders of videos leads may import from their page; by default none.
        uploads: folder for uploaded demonstrations; by default beside an SQLite file.
        cache_gb: gigabytes of videos of other storage that are kept in that folder while they are used.
        provider: OpenID provider by which people may sign in, or the JSON file that describes it.
        passwords: people may log in by name and password; a first admin is made where nobody can.
        user: name in the audit table for what starting the server changes.
        framed_by: sites that may show the pages within theirs.

    Raises:
        InputError: the database cannot be opened, or another argument is not usable.
    """

    def __init__(
        self,
        database: str | Path,
        *,
        campaign: str | None = None,
        lease_minutes: float = 15.0,
        candidates: str | Path | None = None,
        uploads: str | Path | None = None,
        cache_gb: float = 20.0,
        provider: str | Path | Provider | None = None,
        passwords: bool = True,
        user: str = "python",
        framed_by: str = "'none'",
    ) -> None:
        if not 0 < lease_minutes <= LONGEST_LEASE_MINUTES:
            raise InputError(
                f"lease_minutes is {lease_minutes}: give a number above 0 and at most {LONGEST_LEASE_MINUTES}."
            )
        if not 0 <= cache_gb < math.inf:
            raise InputError(f"cache_gb is {cache_gb}: give the gigabytes that may be used, 0 or more.")
        folder = Path(candidates) if candidates else None
        if folder is not None and not folder.is_dir():
            raise InputError(f"The folder {folder} of candidates does not exist: make it or name another.")
        if isinstance(provider, str | Path):
            provider = read_provider(provider)
        self.user, self.has_passwords = user, passwords
        with contextlib.ExitStack() as stack:
            kept = int(cache_gb * 1e9)
            self.store = stack.enter_context(
                Store(database, lease_seconds=60.0 * lease_minutes, uploads=uploads, cache_bytes=kept)
            )
            self.app = create_app(self.store, campaign, folder, provider, passwords, framed_by)
            self._resources = stack.pop_all()
        self.addresses: Addresses | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> LabelingApp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self._resources.__exit__(kind, error, trace)

    def close(self) -> None:
        """Ends the server and its public address, and closes the database. Answers are stored already."""
        self.__exit__(None, None, None)

    def serve(self, host: str, port: int) -> None:
        """Serves in this thread until it is interrupted.

        Raises:
            InputError: the port is taken, or the address is not one of this machine.
        """
        listener = listen(host, port)
        address = self._prepare(listener, host)
        sys.setswitchinterval(SWITCH_SECONDS)
        # A full collection over all that the start has imported would stop every request for a fifth of a second.
        gc.collect()
        gc.freeze()
        with WebhookDelivery(self.store), contextlib.suppress(KeyboardInterrupt):
            _AnnouncedServer(self._config(), address).run(sockets=[listener])

    def launch(
        self,
        share: bool = False,
        *,
        server_name: str = "127.0.0.1",
        server_port: int | None = None,
        prevent_thread_lock: bool = False,
        inbrowser: bool = False,
    ) -> Addresses:
        """Starts the server, and waits until it is interrupted unless this is a notebook or other interactive session.

        Args:
            share: also open a public address through Gradio's share server, for a week at most; people log in there as
                everywhere.
            server_name: address to listen on; 0.0.0.0 for the whole network.
            server_port: port to listen on; 0 takes a free one, None the first free one from 7860 to 7959.
            prevent_thread_lock: return at once in scripts too; the server ends with the process or with `close`.
            inbrowser: open the page in the browser of this machine.

        Returns:
            The local and the public address.

        Raises:
            InputError: the server runs already, no port is free, or there is no way to a public address.
        """
        if self.addresses is not None:
            raise InputError(f"The labeling app runs at {self.addresses.local} already: close it first.")
        listener = _listen_anywhere(server_name) if server_port is None else listen(server_name, server_port)
        local = self._prepare(listener, server_name)
        self._start(listener, local)
        self.addresses = addresses = Addresses(local, None)
        if share:
            self.addresses = addresses = Addresses(local, self._share(server_name, listener.getsockname()[1]))
            print(f"Public address: {addresses.share}", flush=True)
        if inbrowser:
            webbrowser.open(local)
        if not prevent_thread_lock and not getattr(sys, "ps1", sys.flags.interactive):
            self._wait()
        return addresses

    def _prepare(self, listener: socket.socket, host: str) -> str:
        """Makes the first user, begins with what leads will look at, and returns the address."""
        if self.has_passwords:
            make_first_admin(self.store, self.user)
        if not self.store.campaigns():
            print("There is nothing to rank yet: vidalign label import adds videos while this runs.")
        self._resources.callback(prepare_pages(self.store).cancel)
        return address_of(listener, "127.0.0.1" if host == "0.0.0.0" else host)

    def _config(self) -> uvicorn.Config:
        return uvicorn.Config(self.app, log_level="warning", access_log=False, timeout_graceful_shutdown=3)

    def _start(self, listener: socket.socket, address: str) -> None:
        server = _AnnouncedServer(self._config(), address)
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listener]}, name="labeling app", daemon=True
        )
        thread.start()
        self._server, self._thread = server, thread
        self._deliveries = contextlib.ExitStack()
        self._deliveries.enter_context(WebhookDelivery(self.store))
        if not server.ready.wait(timeout=60) or not server.started:
            self._stop()
            raise InputError(f"The labeling app did not start at {address}: see the messages above.")

    def _share(self, host: str, port: int) -> str:
        import httpx
        from gradio import networking
        from gradio.exceptions import ChecksumMismatchError

        local = "127.0.0.1" if host == "0.0.0.0" else host
        try:
            address = networking.setup_tunnel(local, port, secrets.token_urlsafe(32), None, None)
        except (RuntimeError, ValueError, OSError, httpx.HTTPError, ChecksumMismatchError) as error:
            self._stop()
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(
                f"A public address cannot be opened ({reason}): connect this machine to the "
                "internet, or launch without share."
            ) from error
        return "https://" + address.partition("://")[2]

    def _wait(self) -> None:
        assert self._thread is not None
        with contextlib.suppress(KeyboardInterrupt):
            while self._thread.is_alive():
                self._thread.join(timeout=1)
        self.close()

    def _stop(self) -> None:
        if self.addresses is not None and self.addresses.share is not None:
            _close_tunnels(int(self.addresses.local.rpartition(":")[2]))
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(timeout=10)
            self._deliveries.close()
        self._server = self._thread = self.addresses = None


def labeling_app(
    database: str | Path,
    *,
    campaign: str | None = None,
    lease_minutes: float = 15.0,
    candidates: str | Path | None = None,
    uploads: str | Path | None = None,
    cache_gb: float = 20.0,
    provider: str | Path | None = None,
) -> LabelingApp:
    """Returns the labeling app on a database, to be launched; arguments and errors are those of `LabelingApp`."""
    return LabelingApp(
        database,
        campaign=campaign,
        lease_minutes=lease_minutes,
        candidates=candidates,
        uploads=uploads,
        cache_gb=cache_gb,
        provider=provider,
    )


def make_first_admin(store: Store, user: str) -> None:
    """Makes an admin and prints the password where nobody can log in yet; `user` is named in the audit table."""
    if any(each.password_hash for each in store.users()):
        return
    password, name = secrets.token_urlsafe(9), _free_name(store, "admin")
    store.add_user(name, password, role="admin")
    store.record(user, "add user", user=name, role="admin")
    print(f"Made the first user: {name}, password {password} (shown only now).")


class _AnnouncedServer(uvicorn.Server):
    """Says its address as soon as, and not before, it takes connections; `ready` is set then or when it failed."""

    def __init__(self, config: uvicorn.Config, address: str) -> None:
        super().__init__(config)
        self.address = address
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
            if self.started:
                print(f"Labeling app: {self.address}  (Ctrl+C ends it)", flush=True)
        finally:
            self.ready.set()


def _listen_anywhere(host: str) -> socket.socket:
    for port in PORTS:
        with contextlib.suppress(InputError):
            return listen(host, port)
    raise InputError(
        f"No port from {PORTS[0]} to {PORTS[-1]} is free on {host}: choose another with server_port."
    )


def _free_name(store: Store, name: str) -> str:
    taken = {user.name for user in store.users()}
    return next(
        candidate for candidate in (name, *(f"{name}{i}" for i in range(2, 1000))) if candidate not in taken
    )


def _close_tunnels(port: int) -> None:
    from gradio.tunneling import CURRENT_TUNNELS

    for tunnel in [each for each in CURRENT_TUNNELS if each.local_port == port]:
        tunnel.kill()
        CURRENT_TUNNELS.remove(tunnel)
