"""Proxies of the environment, and the addresses that need none."""

from __future__ import annotations

import ipaddress
import urllib.parse
import urllib.request


def is_this_machine(address: str) -> bool:
    """Returns whether an address means this machine itself."""
    host = urllib.parse.urlsplit(address).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        return False  # a name
    return number.is_loopback or number.is_unspecified


def proxy_of(address: str) -> str | None:
    """The proxy, without its password, that the environment names for an address; none for this machine itself.

    A proxy on another machine would look for a service on its own loopback address, and not here.
    """
    parts = urllib.parse.urlsplit(address)
    if is_this_machine(address) or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    found = urllib.request.getproxies().get(parts.scheme)
    return None if found is None else found.rpartition("@")[2]
