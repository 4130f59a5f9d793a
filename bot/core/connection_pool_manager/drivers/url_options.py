"""What a url says after its ``?`` and its ``+``, as SQLAlchemy and the databases spell it (pure)."""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from bot.core._shared.errors import InvalidArgumentError, invalid
from bot.core._shared.masking import mask_url

SQLALCHEMY: Mapping[str, tuple[str, ...]] = {
    "postgresql": ("asyncpg", "psycopg", "psycopg_async", "psycopg2", "psycopg2cffi", "pg8000", "aiopg"),
    "mysql": (
        "asyncmy", "aiomysql", "pymysql", "mysqldb", "mysqlconnector", "mariadbconnector", "cymysql",
    ),
    "sqlite": ("aiosqlite", "pysqlite"),
    "mongodb": ("srv",),
    "redis": ("sentinel",),
}  # fmt: skip
"""Backend -> what may follow the ``+`` of a scheme. The pool has its own driver, whichever is named."""


def wrong(url: str, allowed: str) -> InvalidArgumentError:
    """The error for a url, without its secrets."""
    return invalid("url", mask_url(url), allowed)


def _flag(text: str) -> bool:
    found = {
        "true": True,
        "1": True,
        "yes": True,
        "on": True,
        "false": False,
        "0": False,
        "no": False,
        "off": False,
    }
    return found[text.lower()]


def _seconds(text: str) -> float:
    found = float(text)
    if not (found > 0 and math.isfinite(found)):
        raise ValueError
    return found


def _count(text: str) -> int:
    found = int(text)
    if found < 0:
        raise ValueError
    return found


_KINDS: Mapping[Callable[[str], Any], str] = {
    _flag: "true or false", _seconds: "a number of seconds above 0", _count: "a whole number from 0 on",
    str: "a text",
}  # fmt: skip


def _read(url: str, name: str, value: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(value)
    except (ValueError, KeyError):
        raise wrong(url, f"{name} = {_KINDS[kind]}") from None


# PostgreSQL.

_POSTGRESQL: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "statement_cache_size": ("statement_cache_size", _count),
    "prepared_statement_cache_size": ("statement_cache_size", _count),
    "max_cached_statement_lifetime": ("max_cached_statement_lifetime", _count),
    "max_cacheable_statement_size": ("max_cacheable_statement_size", _count),
    "command_timeout": ("command_timeout", _seconds),
    "timeout": ("timeout", _seconds),
    "connect_timeout": ("timeout", _seconds),
}
"""Name in a url -> asyncpg's own option; if it stayed in the url, asyncpg would send it to the server."""

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_OF_LIBPQ = (
    "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
    "sslcompression", "sslsni", "gssencmode", "async_fallback",
)  # fmt: skip
"""Names that the pool's own driver does not need: left out."""


def postgresql_options(url: str) -> tuple[str, dict[str, Any]]:
    """The url for asyncpg, and what the rest of it says as asyncpg's options.

    Raises InvalidArgumentError.
    """
    start, mark, query = re.sub(r"^(\w+)\+[\w-]+(?=://)", r"\1", url).partition("?")
    kept: list[str] = []
    options: dict[str, Any] = {}
    for pair in query.split("&") if mark else []:
        name, _, value = (unquote_plus(part) for part in pair.partition("="))
        if name in _POSTGRESQL:
            option, kind = _POSTGRESQL[name]
            options[option] = _read(url, name, value, kind)
        elif name == "ssl":
            if value.lower() == "false":
                value = "disable"
            if value not in _SSL_MODES:
                raise wrong(url, "ssl = " + ", ".join(_SSL_MODES) + " (require: encrypted; verify-full: the "
                            "server's certificate is checked, too)")  # fmt: skip
            kept.append(f"sslmode={value}")
        elif name == "pgbouncer":
            raise wrong(url, "statement_cache_size=0 instead of pgbouncer=...")
        elif name == "channel_binding":
            if value not in ("prefer", "disable"):
                raise wrong(url, "no channel_binding=require, which asyncpg cannot do; sslmode=verify-full "
                            "checks the server's certificate")  # fmt: skip
        elif name not in _OF_LIBPQ:
            kept.append(pair)
    return start + ("?" + "&".join(kept) if any(kept) else ""), options


# MySQL.

_MYSQL: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "charset": ("charset", str),
    "unix_socket": ("unix_socket", str),
    "autocommit": ("autocommit", _flag),
    "connect_timeout": ("connect_timeout", _seconds),
    "init_command": ("init_command", str),
    "sql_mode": ("sql_mode", str),
    "local_infile": ("local_infile", _flag),
    "program_name": ("program_name", str),
}
_MYSQL_TLS = ("ssl", "ssl_mode", "ssl_ca", "ssl_cert", "ssl_key", "ssl_check_hostname", "ssl_verify_identity")
_MYSQL_MODES = ("disabled", "required", "verify_ca", "verify_identity")


def mysql_options(url: str, query: str) -> dict[str, Any]:
    """What a url says after its ``?``, as asyncmy's options. Raises InvalidArgumentError."""
    options: dict[str, Any] = {}
    tls: dict[str, str] = {}
    for given, value in parse_qsl(query, keep_blank_values=True):
        name = given.lower().replace("-", "_")
        if name in _MYSQL:
            option, kind = _MYSQL[name]
            options[option] = _read(url, name, value, kind)
        elif name in _MYSQL_TLS:
            tls[name] = value
        else:
            known = ", ".join([*_MYSQL, *_MYSQL_TLS])
            raise wrong(url, f"of options after the ? only {known}; others are driver options")
    if tls and (context := _tls_of_mysql(url, tls)) is not None:
        options["ssl"] = context
    return options


def _tls_of_mysql(url: str, given: Mapping[str, str]) -> ssl.SSLContext | None:
    """The certificate and the host's name are checked unless the url says otherwise."""
    mode = given.get("ssl_mode", "").lower() or None
    if mode is not None and mode not in _MYSQL_MODES:
        raise wrong(url, "ssl_mode = " + ", ".join(name.upper() for name in _MYSQL_MODES))
    if mode == "disabled" or ("ssl" in given and not _read(url, "ssl", given["ssl"], _flag)):
        if len(given) > 1:
            raise wrong(url, "no other ssl_ option where TLS is off")
        return None
    try:
        context = ssl.create_default_context(cafile=given.get("ssl_ca"))
        if certificate := given.get("ssl_cert"):
            context.load_cert_chain(certificate, given.get("ssl_key"))
    except (OSError, ValueError) as error:
        raise wrong(
            url, f"files of certificates that can be read, but: {type(error).__name__}: {error}"
        ) from None
    checks_host = mode in (None, "verify_identity")
    for name in ("ssl_check_hostname", "ssl_verify_identity"):
        if name in given:
            checks_host = _read(url, name, given[name], _flag)
    context.check_hostname = checks_host and mode != "required"
    if mode == "required":
        context.verify_mode = ssl.CERT_NONE
    return context


# Redis.


def redis_url(url: str) -> str:
    """The url in redis-py's spelling: lower-case scheme, ``rediss`` for ``ssl=true`` and Valkey's names.

    Raises InvalidArgumentError.
    """
    scheme, separator, rest = url.partition("://")
    scheme = re.sub("^valkey", "redis", scheme.lower())
    place, mark, query = rest.partition("?")
    kept: list[str] = []
    for pair in query.split("&") if mark else []:
        name, _, value = pair.partition("=")
        if name != "ssl":
            kept.append(pair)
        elif scheme == "unix" and _read(url, "ssl", value, _flag):
            raise wrong(url, "no ssl for a socket file")
        elif _read(url, "ssl", value, _flag):
            scheme = "rediss"
        elif scheme == "rediss":
            raise wrong(url, "redis://... for ssl=false")
    return f"{scheme}{separator}{place}" + ("?" + "&".join(kept) if any(kept) else "")
