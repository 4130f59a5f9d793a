"""Access: every client on the loopback, elsewhere clients with the token.

The token travels in a header or, once, in the body of a request; never in a query string, which would
be logged. A browser then holds a cookie: an expiry and a number, signed with the token, so it outlives a
restart with the same token and ends with another. Signing out ends the session itself, copies of its cookie
too, as long as the process lives.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from bot.core._shared.masking import one_line
from bot.core.phase4_admin import TOKEN_VARIABLE
from bot.core.phase4_admin.api_errors import ApiError
from bot.core.phase4_admin.bodies import read_small
from bot.core.phase4_admin.client_address import (
    client_address,
    host_name,
    is_forwarded,
    plain_address,
)

logger = logging.getLogger("bot.access")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

COOKIE = "phase4_dashboard"
SESSION_SECONDS = 12 * 3600
SIGN_IN_SECONDS = 10.0
MAX_SIGN_IN = 4_096
"""Bytes of the body."""
MAX_SIGNED_OUT = 10_000
"""Sessions that are remembered as ended until their cookies expire."""

LOG_SECONDS = 60.0
MIN_TOKEN = 16
"""Characters; shorter ones could be guessed."""


def valid_token(token: str) -> str:
    """``token`` if it can serve as one; raises ValueError, which does not quote it."""
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"a token of {len(token)} character(s): expected at least {MIN_TOKEN} printable ASCII characters "
            f"without spaces"
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address or name."""
    host = host.strip("[]").rstrip(".").lower()
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class Access:
    """The token, if one is needed, and the checks against it.

    It is needed when one is given, or when ``host`` is not the loopback; then, without one, it is made.
    """

    def __init__(self, host: str, token: str = "", *, now: Callable[[], float] = time.time) -> None:
        self.made = not token and not is_loopback(host)
        """Whether the token was made here, so that it has to be printed at the start."""
        self.token = token or (secrets.token_urlsafe(24) if self.made else "")
        self.cookie = f"{COOKIE}_{hashlib.sha256(b'name ' + self.token.encode()).hexdigest()[:8]}"
        """The cookie's name, by token: browsers keep one jar for all ports of a host, so for several bots."""
        self._now = now
        # Changed by sign_out: sessions that were ended, and when their cookies expire. The first ends first.
        self._signed_out: OrderedDict[str, int] = OrderedDict()
        # Changed by _tell_wrong.
        self._wrong = 0
        self._told = float("-inf")

    @property
    def needed(self) -> bool:
        return bool(self.token)

    def bears_token(self, request: web.Request) -> bool:
        """Whether a request shows the service's token, so that it is the operator's own, or their bot's."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if not self.needed or scheme.lower() != "bearer":
            return False
        right = self._is_token(given.strip())
        if not right:
            self._tell_wrong(request)
        return right

    def granted(self, request: web.Request) -> bool:
        """Whether a request may look."""
        if not self.needed or self.bears_token(request):
            return True
        return self._is_session(request.cookies.get(self.cookie, ""))

    def session_of(self, request: web.Request) -> str:
        """A name for the session by which a request is granted; empty: it needs none, or shows the token."""
        cookie = request.cookies.get(self.cookie, "")
        return cookie.rpartition(".")[0] if self.needed and self._is_session(cookie) else ""

    def check(self, request: web.Request) -> None:
        """Raise ApiError 401 for a request that may not look."""
        if not self.granted(request):
            raise ApiError(
                401,
                "token_needed",
                "This needs the dashboard's token: Authorization: Bearer <token>, or sign in at /.",
                headers={"WWW-Authenticate": 'Bearer realm="phase4"'},
            )

    def is_open_to(self, request: web.Request) -> bool:
        """Whether a request comes from this machine itself, as far as can be told.

        A page of another site could have its own name resolve to the loopback and read along; a proxy on
        this machine passes on what comes from anywhere.
        """
        here = is_loopback(plain_address(request.remote or ""))
        return here and is_loopback(host_name(request.host)) and not is_forwarded(request)

    def may_look(self, request: web.Request) -> bool:
        """Whether to tell a request more than that the service is well."""
        return self.granted(request) if self.needed else self.is_open_to(request)

    def check_name(self, request: web.Request) -> None:
        """Raise ApiError 403 for an open dashboard that is asked for from elsewhere."""
        if not self.needed and not self.is_open_to(request):
            raise ApiError(
                403,
                "loopback_only",
                f"Without a token the dashboard answers this machine only; set {TOKEN_VARIABLE}.",
            )

    def guard(self, handler: Handler) -> Handler:
        """``handler`` behind :meth:`check` and :meth:`check_name`."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            self.check(request)
            self.check_name(request)
            return await handler(request)

        return guarded

    # What the page asks.

    async def tell(self, request: web.Request) -> web.Response:
        """Whether a token is needed, and whether this browser has shown it."""
        return web.json_response(
            {"needed": self.needed, "granted": self.granted(request)}, headers={"Cache-Control": "no-store"}
        )

    async def sign_in(self, request: web.Request) -> web.Response:
        """The token in the body, for a cookie."""
        body = await read_small(request, SIGN_IN_SECONDS, MAX_SIGN_IN)
        try:
            given = msgspec.json.decode(body, type=dict[str, object])["token"]
        except (ValueError, KeyError, RecursionError):
            raise ApiError(400, "bad_request", 'Send {"token": "..."}.') from None
        if not self.needed or not isinstance(given, str) or not self._is_token(given.strip()):
            self._tell_wrong(request)
            raise ApiError(401, "wrong_token", "This is not the token of this service.")
        response = web.Response(status=204)
        response.set_cookie(
            self.cookie,
            self._session(int(self._now()) + SESSION_SECONDS, secrets.token_hex(8)),
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="Strict",
            secure=_by_https(request),
        )
        return response

    async def sign_out(self, request: web.Request) -> web.Response:
        """End the session, so that copies of its cookie open nothing either, and take the cookie back."""
        session = self.session_of(request)
        if session:
            expires = int(session.partition(".")[0])
            if len(self._signed_out) >= MAX_SIGNED_OUT:
                now = self._now()
                live = [(name, end) for name, end in self._signed_out.items() if end >= now]
                self._signed_out = OrderedDict(live)
            if len(self._signed_out) >= MAX_SIGNED_OUT:
                self._signed_out.popitem(last=False)
            self._signed_out[session] = expires
        response = web.Response(status=204)
        response.del_cookie(self.cookie)
        return response

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())

    def _tell_wrong(self, request: web.Request) -> None:
        self._wrong += 1
        now = self._now()
        if not 0.0 <= now - self._told < LOG_SECONDS:
            logger.warning(
                "%d request(s) with a wrong token, the last from %s",
                self._wrong, one_line(client_address(request), 80),
            )  # fmt: skip
            self._told, self._wrong = now, 0

    def _session(self, expires: int, number: str) -> str:
        signed = hmac.new(self.token.encode(), f"dashboard {expires}.{number}".encode(), hashlib.sha256)
        return f"{expires}.{number}.{signed.hexdigest()}"

    def _is_session(self, cookie: str) -> bool:
        session = cookie.rpartition(".")[0]
        text, _, number = session.partition(".")
        if not (text.isascii() and text.isdigit()) or len(text) > 12 or int(text) < self._now():
            return False
        whole = self._session(int(text), number)
        right = hmac.compare_digest(cookie.encode("utf-8", "replace"), whole.encode("utf-8", "replace"))
        return right and session not in self._signed_out


def _by_https(request: web.Request) -> bool:
    """Whether the browser came by https, to a proxy before this service if not to itself.

    A claim that is not true makes the browser drop only its own cookie.
    """
    told = request.headers.get("X-Forwarded-Proto", "").lower()
    return request.secure or told == "https" or request.headers.get("Origin", "").startswith("https://")
