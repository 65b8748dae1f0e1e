"""Addresses that this server may call for others: none of its own machine and network, unless that is allowed."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from urllib.parse import SplitResult, urlsplit

from generator.output import InputError

Resolve = Callable[[str, int], list[str]]
SECONDS = 10.0
"""For a whole request."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Returns whether an IP address is one of the open internet; IPv6 that carries an IPv4 address is as that is."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64 or int(ip) >> 32 == 0:
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if any(each is not None and not is_public(str(each)) for each in inner):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def resolve(host: str, port: int) -> list[str]:
    """The IP addresses of a host.

    Raises:
        OSError: it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def checked_address(
    url: str, allow_private: bool, resolve: Resolve = resolve
) -> tuple[SplitResult, int, str]:
    """The parts of a URL, its port, and the IP address that may be called.

    Raises:
        InputError: it is no https URL (or http, where private addresses are allowed), holds a user or password, its
            host is unknown, or has an address that is not public.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    schemes = ("https", "http") if allow_private else ("https",)
    if parts.scheme not in schemes or not host or not url.isprintable() or " " in url or parts.fragment:
        raise InputError(
            f"{url[:100]!r} is not an address for a webhook: give a URL that begins with https://."
        )
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"The address at {host} holds a user or a password: leave it out, the receiver checks signatures."
        )
    port = port or (443 if parts.scheme == "https" else 80)
    try:
        addresses = resolve(host, port)
    except (OSError, UnicodeError) as error:
        raise InputError(f"The host {host} of the webhook is not known: correct the address.") from error
    private = [each for each in addresses if not is_public(each)]
    if not addresses or (private and not allow_private):
        raise InputError(
            f"The host {host} has the address {private[0] if private else 'of nobody'}, which is not one of the open "
            "internet: name another, or pass --allow_private if the receiver is in your own network."
        )
    return parts, port, addresses[0]


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    allow_private: bool = False,
    resolve: Resolve = resolve,
    seconds: float = SECONDS,
) -> int:
    """Posts and returns the status. The address that was checked is the one that is called, whatever the name of the
    host means a moment later, and redirects are not followed.

    Raises:
        InputError: as `checked_address`.
        OSError: nobody answers within `seconds`, or not as a server does.
    """
    parts, port, address = checked_address(url, allow_private, resolve)
    host = parts.hostname or ""
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    raw = socket.create_connection((address, port), timeout=seconds)
    # A receiver that sends a byte now and then would otherwise hold the thread for long.
    end = threading.Timer(seconds, _shut, [raw])
    end.daemon = True
    end.start()
    try:
        secure = parts.scheme == "https"
        connection.sock = (
            ssl.create_default_context().wrap_socket(raw, server_hostname=host) if secure else raw
        )
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, {**headers, "Host": parts.netloc, "Connection": "close"})
        return connection.getresponse().status
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"the answer is not one of a web server ({type(error).__name__})") from error
    finally:
        end.cancel()
        connection.close()
        raw.close()


def _shut(raw: socket.socket) -> None:
    try:
        raw.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
