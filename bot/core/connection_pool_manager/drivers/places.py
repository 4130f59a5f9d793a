"""The hosts of a url, one by one (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_OWN_CHOICE = re.compile(r"[?&](?:target_session_attrs|host|hostaddr|unix_socket)=")


def places_of(url: str, options: Mapping[str, Any]) -> list[str]:
    """A url for each host of ``scheme://user:password@a:1,b,c/database``, in their order, each once.

    Just ``url`` if it has one host, or says itself how the driver is to choose (``target_session_attrs``).
    """
    scheme, separator, rest = url.partition("://")
    place = re.split(r"[/?#]", rest, maxsplit=1)[0]
    login, at, hosts = place.rpartition("@")
    if "," not in hosts or _OWN_CHOICE.search(url) or {"target_session_attrs", "host"} & options.keys():
        return [url]
    tail = rest[len(place) :]
    return list(dict.fromkeys(f"{scheme}{separator}{login}{at}{host}{tail}" for host in hosts.split(",")))


def host_of(place: str) -> str:
    """The host and port of a url, for a message."""
    return re.split(r"[/?#]", place.partition("://")[2], maxsplit=1)[0].rpartition("@")[2] or "localhost"
