"""Addresses of servers: which of them are this machine's own."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit


def host(address: str) -> str:
    """Return the host and port of an address, with or without a scheme; the address itself where it has none."""
    return _split(address).netloc or address


def is_loopback(address: str) -> bool:
    """Say whether an address is this machine's own."""
    name = _split(address).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _split(address: str) -> SplitResult:
    return urlsplit(address if "//" in address else f"//{address}")
