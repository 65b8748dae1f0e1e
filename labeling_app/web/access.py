"""Access to the app: sessions in cookies, roles, and the throttle on guessing passwords."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from labeling_app.store.api_tokens import USED, program_name, valid_token
from labeling_app.store.integration_tables import ApiToken
from labeling_app.store.names import composed
from labeling_app.store.store import Store
from labeling_app.store.tables import User
from labeling_app.web.login_throttle import LoginThrottle

T = TypeVar("T")
COOKIE = "vidalign_session"
"""First part of the cookie's name (`cookie_name`)."""
NOT_LOGGED_IN = "You are not logged in: log in and try again."
LEADS = ("lead", "admin")
USES_APART = 3600.0
"""Seconds between two audit events of the use of one token."""


class NotLoggedIn(Exception):
    """The request carries no valid session."""


class NotAllowed(Exception):
    """The user's role does not allow this."""


def cookie_name(request: HTTPConnection) -> str:
    """The name of the cookie at the address by which the browser knows this server.

    Browsers send the cookies of a host to all its ports, so servers on several ports need several names.
    """
    port = request.headers.get("host", "").rpartition("]")[2].partition(":")[2]
    return f"{COOKIE}_{port}" if port.isascii() and port.isdecimal() else COOKIE


@dataclass
class Access:
    """Decides on who may come in: sessions in cookies, and the throttle on guessing passwords.

    A name opens again after a minute at most, so that nobody can lock out a colleague for long; an address,
    from which many names can be tried, after fifteen.
    """

    store: Store
    names: LoginThrottle
    addresses: LoginThrottle
    _used: dict[int, float] = field(default_factory=dict)

    def user(self, request: HTTPConnection) -> User | None:
        """The user who is logged in with this request's cookie."""
        token = request.cookies.get(cookie_name(request))
        return self.store.session_user(token) if token else None

    def lead(self, request: Request) -> User | None:
        """The lead or admin who is logged in with this request's cookie."""
        user = self.user(request)
        return user if user is not None and user.role in LEADS else None

    def note_use(self, token: ApiToken) -> None:
        """Records that a token is used, at most once an hour."""
        now = self.store.clock()
        if now - self._used.get(token.id, -USES_APART) >= USES_APART:
            self._used[token.id] = now
            self.store.record(program_name(token.name), USED)

    def wait(self, name: str, address: str) -> float:
        """Seconds until this name may be tried from this address."""
        return max(self.names.wait(composed(name)), self.addresses.wait(address))

    def log_in(self, name: str, password: str, address: str) -> tuple[str, User] | None:
        """The secret for the cookie and its user, or None when name or password is wrong."""
        # Counted before the check, so that many guesses at once do not slip through together.
        self.names.failed(composed(name))
        self.addresses.failed(address)
        user = self.store.authenticate(name, password)
        if user is None:
            self.store.record(name, "failed login", address=address)
            return None
        self.store.record(user.name, "login", address=address)
        self.names.succeeded(composed(name))
        self.addresses.succeeded(address)
        return self.store.open_session(user), user


class RequestThreads:
    """Threads for what every annotator does all the time: few, and one visit to them a request.

    Python runs one thread at a time, so many that wait for the database only take turns from each other; and a
    dependency of FastAPI would be a visit of its own.
    """

    def __init__(self, access: Access, threads: int = 4) -> None:
        self.access = access
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="annotators")

    async def run(self, request: Request, work: Callable[[User], T]) -> T:
        """Returns the result of `work` for the user who is logged in.

        Raises:
            NotLoggedIn: nobody is.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: work(self._user(request)))

    def _user(self, request: Request) -> User:
        user = self.access.user(request)
        if user is None:
            raise NotLoggedIn(NOT_LOGGED_IN)
        request.state.user = user
        return user


def logged_in(request: Request) -> User:
    """The user who is logged in; for routes that need one."""
    access: Access = request.app.state.access
    user = access.user(request)
    if user is None:
        raise NotLoggedIn(NOT_LOGGED_IN)
    request.state.user = user
    return user


def logged_in_lead(request: Request) -> User:
    """The lead or admin who is logged in, or the program whose API token a reading request carries; for routes that
    need one."""
    user = _program(request) or logged_in(request)
    if user.role not in LEADS:
        raise NotAllowed("This needs the role lead or admin: ask an admin for it.")
    return user


def _program(request: Request) -> User | None:
    """A lead by the name of an API token, who is not in the database; None where the request carries none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    access: Access = request.app.state.access
    found = valid_token(access.store, token.strip())
    if found is None:
        raise NotLoggedIn("This API token is unknown, revoked or has expired: ask for a new one.")
    if request.method not in ("GET", "HEAD"):
        raise NotAllowed("An API token only reads: log in with name and password to change something.")
    access.note_use(found)
    return User(name=program_name(found.name), role="lead")


Annotator = Annotated[User, Depends(logged_in)]
Lead = Annotated[User, Depends(logged_in_lead)]
