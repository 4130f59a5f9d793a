"""The request handler that is used when none is set: JSON over HTTP, by aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

from bot.core._shared.errors import BackendError
from bot.core._shared.tasks import run_on_loop
from bot.core.load_balancer.errors import InstanceFailure, RequestRejected
from bot.core.load_balancer.instances import Instance

if TYPE_CHECKING:
    from aiohttp import ClientSession

EXECUTE_PATH = "/api/execute"


class MissingClientError(BackendError, ImportError):
    """aiohttp is not installed, and no request handler of your own is set."""


class HttpHandler:
    """POSTs the request as JSON to ``{url}/api/execute`` and returns the JSON that is answered.

    2xx with JSON: the result. 4xx: RequestRejected, which is not tried elsewhere. All else, a redirect
    or a body that is no JSON included: InstanceFailure. One session for each event loop, shared by all
    requests; the time limit is the balancer's.
    """

    def __init__(self) -> None:
        # Changed by _session and close.
        self._sessions: dict[asyncio.AbstractEventLoop, ClientSession] = {}

    async def __call__(self, instance: Instance, data: Any) -> Any:
        try:
            body = json.dumps(data).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestRejected(f"the request is no JSON: {error}") from error
        session = self._sessions.get(asyncio.get_running_loop()) or self._session()
        async with session.post(
            instance.get_url() + EXECUTE_PATH,
            data=body,
            headers={"Content-Type": "application/json"},
            allow_redirects=False,
        ) as response:
            status = response.status
            text = await response.read()
            answer: Any = None
            with contextlib.suppress(ValueError):
                answer = json.loads(text)
                if 200 <= status < 300:
                    return answer
            if 400 <= status < 500:
                raise RequestRejected(f"HTTP {status}: {text[:200]!r}", status=status, body=answer)
            if 200 <= status < 300:
                raise InstanceFailure(f"HTTP {status} with a body that is no JSON", status=status)
            raise InstanceFailure(f"HTTP {status}", status=status)

    def _session(self) -> ClientSession:
        aiohttp = require_aiohttp()
        session: ClientSession = aiohttp.ClientSession(
            # The balancer limits what is in progress, and how long it may take.
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._sessions[asyncio.get_running_loop()] = session
        return session

    async def close(self) -> None:
        """Close every session, each on the event loop that it belongs to."""
        while self._sessions:
            loop, session = self._sessions.popitem()
            if not await run_on_loop(loop, session.close):
                # Its loop runs no more: there is nothing left to wait for.
                with contextlib.suppress(RuntimeError):
                    await session.close()


def require_aiohttp() -> Any:
    """The aiohttp module; MissingClientError says what to install."""
    try:
        import aiohttp
    except ImportError as error:
        raise MissingClientError(
            "aiohttp is missing: pip install aiohttp, or set request_handler to your own"
        ) from error
    return aiohttp
