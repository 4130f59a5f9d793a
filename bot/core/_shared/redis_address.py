"""Redis URLs: what may be in them, and what this library adds (pure)."""

from __future__ import annotations

import math
import re
from enum import Enum
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from bot.core._shared.errors import invalid
from bot.core._shared.masking import mask_url

TIMEOUT = 1.0
"""Seconds that Redis may take for one call; it answers in less than a millisecond when it is well."""

SHORTEST_TIMEOUT, LONGEST_TIMEOUT = 0.5, 60.0
"""Seconds. A read that waits for batches waits for 0.2 s, which is no sign that the server is away."""

KEY_PREFIX = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""What a prefix of keys looks like. Without a colon, so that the one after it ends it; without braces, which
choose a slot of a cluster; without the ``*?[]\\`` of patterns."""

ALLOWED_PREFIX = "1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit (a colon is put after it)"

SENTINEL_PORT = 26_379
MAX_SENTINELS = 16

SCHEMES = (
    "redis://", "rediss://", "unix://", "redis+cluster://", "rediss+cluster://", "redis+sentinel://",
    "rediss+sentinel://",
)  # fmt: skip

_OURS = frozenset({"key_prefix", "sentinel_username", "sentinel_password", "sentinel_ssl"})
_TAKEN = frozenset(
    {
        "db", "username", "password", "client_name", "socket_timeout", "socket_connect_timeout",
        "socket_keepalive", "health_check_interval", "protocol", "max_connections", "retry_on_timeout",
        "lib_name", "lib_version", "ssl_keyfile", "ssl_certfile", "ssl_cert_reqs", "ssl_ca_certs",
        "ssl_ca_data", "ssl_ca_path", "ssl_check_hostname", "ssl_password", "ssl_min_version", "ssl_ciphers",
    }
)  # fmt: skip
"""Options of redis-py in a URL that do no harm. Among those that do: ``decode_responses``, for answers are
bytes here."""

_PREFIX = re.compile(KEY_PREFIX + r"\Z")
_SERVICE = re.compile(r"[A-Za-z0-9._-]{1,255}\Z")
_SWITCH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class Kind(Enum):
    """What a URL names."""

    SINGLE = "one server"
    CLUSTER = "one node of a cluster"
    SENTINEL = "the sentinels of a primary"


class Sentinels(NamedTuple):
    """The sentinels of a service, and how to log in to them."""

    addresses: tuple[tuple[str, int], ...]
    service: str
    username: str | None
    password: str | None
    tls: bool


class RedisAddress(NamedTuple):
    """A Redis URL, read."""

    url: str
    """For redis-py: without what only this library understands. With sentinels its host is a placeholder."""
    shown: str
    """The server as logs and errors name it: no password is in it."""
    kind: Kind
    root: str
    """What every key and channel begins with: ``shop:`` for the prefix ``shop``, or nothing."""
    timeout: float | None
    """Seconds that a call may take, if the URL says it."""
    protocol: int
    """The version of Redis's protocol to begin with: 3, unless the URL says 2."""
    has_password: bool
    sentinels: Sentinels | None = None

    @classmethod
    def read(cls, url: str) -> RedisAddress:
        """Read a URL. Raises InvalidArgumentError, which names what is wrong with it and what is allowed."""
        shown = mask_url(_joined(*_without_ours(url)))
        if not url.startswith(SCHEMES):
            raise invalid("redis url", shown, f"an address after one of {', '.join(SCHEMES)}")
        base, parts = _split(url)
        options = {name: unquote(value) for name, _, value in (part.partition("=") for part in parts)}
        _check_options(options, sentinel="+sentinel://" in base)
        root = root_of(options.get("key_prefix", ""), "key_prefix of the redis url")
        timeout = _timeout_of(options)
        protocol = _protocol_of(options)
        kept = [part for part in parts if part.partition("=")[0] not in (*_OURS, "protocol")]
        scheme, _, rest = base.partition("://")
        if "+sentinel" in scheme:
            base, sentinels = _read_sentinels(scheme, rest, options, shown)
            kind = Kind.SENTINEL
        else:
            _check_port(base, shown)
            kind = Kind.CLUSTER if "+cluster" in scheme else Kind.SINGLE
            base, sentinels = base.replace("+cluster", "", 1), None
        return cls(
            _joined(base, kept),
            shown,
            kind,
            root,
            timeout,
            protocol,
            "password" in options or ":" in rest.rpartition("@")[0],
            sentinels,
        )


def root_of(prefix: object, name: str = "key_prefix") -> str:
    """What keys begin with under a prefix; nothing without one. Raises InvalidArgumentError."""
    if prefix == "" and isinstance(prefix, str):
        return ""
    if not isinstance(prefix, str) or not _PREFIX.match(prefix):
        raise invalid(name, prefix, ALLOWED_PREFIX)
    return f"{prefix}:"


def with_options(url: str, **options: Any) -> str:
    """``url`` with these options in its query. Those that it has itself stay as they are; None is not set."""
    if not url:
        return url
    base, found = _split(url)
    there = {part.partition("=")[0] for part in found}
    more = [
        f"{name}={quote(str(value), safe='')}"
        for name, value in options.items()
        if value not in (None, "") and name not in there
    ]
    return _joined(base, [*found, *more]) if more else url


FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_ca_path")
"""Options that name a file or a folder."""


def files_of(url: str) -> dict[str, str]:
    """The files that a URL names, by the option that names them."""
    options = (part.partition("=") for part in _split(url)[1])
    return {name: unquote(value) for name, _, value in options if name in FILES}


def shown_url(url: str) -> str:
    """The URL as logs and errors name it: no password, and nothing that only this library understands."""
    return mask_url(_joined(*_without_ours(url)))


def _without_ours(url: str) -> tuple[str, list[str]]:
    base, parts = _split(url)
    return base, [part for part in parts if part.partition("=")[0] not in _OURS]


def _split(url: str) -> tuple[str, list[str]]:
    """What comes before the question mark, and the parts of the query after it."""
    base, _, query = url.partition("#")[0].partition("?")
    return base, [part for part in query.split("&") if part]


def _joined(base: str, parts: list[str]) -> str:
    return base + ("?" + "&".join(parts) if parts else "")


def _check_port(base: str, shown: str) -> None:
    try:
        urlsplit(base).port  # noqa: B018 - raises for one that is none
    except ValueError:
        # Not from the error: its text may hold a part of the password.
        allowed = "redis://user:password@host:port/number, with %23 for # and %2F for /"
        raise invalid("redis url", shown, allowed) from None


def _check_options(options: dict[str, str], *, sentinel: bool) -> None:
    allowed = _TAKEN | _OURS if sentinel else _TAKEN | {"key_prefix"}
    for name in options:
        if name not in allowed:
            import difflib  # here, not above: only a wrong name needs it

            near = difflib.get_close_matches(name, allowed, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise invalid("option of the redis url", name[:100], f"one of {', '.join(sorted(allowed))}{hint}")
    for name in ("ssl_check_hostname", "socket_keepalive", "retry_on_timeout", "sentinel_ssl"):
        if name in options and options[name].lower() not in _SWITCH:
            raise invalid(f"{name} of the redis url", options[name][:100], "true or false")
    reqs = options.get("ssl_cert_reqs")
    if reqs not in (None, "none", "optional", "required"):
        raise invalid("ssl_cert_reqs of the redis url", reqs[:100], "none, optional or required")


def _timeout_of(options: dict[str, str]) -> float | None:
    timeout = _seconds("socket_timeout", options)
    connecting = _seconds("socket_connect_timeout", options)
    if connecting is not None and connecting > (timeout or TIMEOUT):
        raise invalid(
            "socket_connect_timeout of the redis url",
            connecting,
            f"at most the seconds for a call, {timeout or TIMEOUT:g} (socket_timeout of the url, or "
            "PHASE4_REDIS_TIMEOUT)",
        )
    return timeout


def _seconds(name: str, options: dict[str, str]) -> float | None:
    if name not in options:
        return None
    try:
        seconds = float(options[name])
    except ValueError:
        seconds = math.nan
    lowest = SHORTEST_TIMEOUT if name == "socket_timeout" else 0.001
    if not lowest <= seconds <= LONGEST_TIMEOUT:
        allowed = f"{lowest:g} to {LONGEST_TIMEOUT:g} seconds"
        raise invalid(f"{name} of the redis url", options[name][:100], allowed)
    return seconds


def _protocol_of(options: dict[str, str]) -> int:
    if options.get("protocol", "3") not in ("2", "3"):
        raise invalid("protocol of the redis url", options["protocol"][:100], "2 or 3")
    return int(options.get("protocol", "3"))


def _read_sentinels(scheme: str, rest: str, options: dict[str, str], shown: str) -> tuple[str, Sentinels]:
    """The URL of the primary with a placeholder for its host, and who knows where it is."""
    allowed = "redis+sentinel://user:password@host:port,host:port,host:port/service/number"

    def wrong() -> Exception:
        return invalid("redis url", shown, allowed)

    login, at, there = rest.rpartition("@")
    hosts, _, path = there.partition("/")
    service, _, number = path.removesuffix("/").partition("/")
    service = unquote(service)
    database = options.get("db", number or "0")
    if not _SERVICE.match(service) or not (database.isascii() and database.isdigit()):
        raise wrong()
    if "/" in login or not 0 < len(names := hosts.split(",")) <= MAX_SENTINELS:
        raise wrong()
    addresses = []
    for name in names:
        try:
            parts = urlsplit(f"//{name}")
            host, port = parts.hostname, parts.port
        except ValueError:
            raise wrong() from None
        if not host or parts.path or port == 0:
            raise wrong()
        addresses.append((host, port or SENTINEL_PORT))
    secure = scheme == "rediss+sentinel"
    tls = options.get("sentinel_ssl")
    return f"{'rediss' if secure else 'redis'}://{login}{at}primary/{database}", Sentinels(
        tuple(dict.fromkeys(addresses)),
        service,
        options.get("sentinel_username") or None,
        options.get("sentinel_password") or None,
        secure if tls is None else _SWITCH[tls.lower()],
    )
