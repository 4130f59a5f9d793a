"""What the application holds for its handlers and for the server that runs it."""

from __future__ import annotations

from aiohttp import web

from bot.core.phase4_admin.access import Access
from bot.core.phase4_admin.connections import Connections
from bot.core.phase4_admin.mount import Mounted
from bot.service.drain import Drain

DRAIN: web.AppKey[Drain] = web.AppKey("drain", Drain)
CONNECTIONS: web.AppKey[Connections] = web.AppKey("connections", Connections)
ACCESS: web.AppKey[Access] = web.AppKey("access", Access)
MOUNTED: web.AppKey[Mounted] = web.AppKey("mounted", Mounted)
