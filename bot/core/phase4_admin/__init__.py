"""What an operator sees and does in a bot's own process: dashboard, ``/health``, ``/metrics``, status.

Served from any bot, the demonstration service included. aiohttp is imported by the modules that
need it, and those are imported only where it is mounted.
"""

TOKEN_VARIABLE = "PHASE4_DASHBOARD_TOKEN"  # noqa: S105 - the name of a variable
HOSTS_VARIABLE = "PHASE4_ALLOWED_HOSTS"
NAME_VARIABLE = "PHASE4_DASHBOARD_NAME"
