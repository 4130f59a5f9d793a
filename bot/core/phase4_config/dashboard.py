"""Settings of the dashboard that a bot's own process serves (pure)."""

from typing import Annotated

from msgspec import Meta

from bot.core.phase4_config.fields import doc, starting
from bot.core.phase4_config.settings import Settings


class DashboardSettings(Settings, frozen=True, rename=starting("PHASE4_DASHBOARD_")):
    """Where it is served, and what it asks for."""

    port: Annotated[
        int, Meta(ge=0, le=65_535), doc("port of the dashboard, /health and /metrics; 0: not served")
    ] = 0
    host: Annotated[
        str,
        Meta(
            pattern=r"^[!-~]+\Z",
            title="an address such as 127.0.0.1, 0.0.0.0 or ::",
            description="address to listen on; one that other machines can reach needs the token",
        ),
    ] = "127.0.0.1"
    token: Annotated[
        str, doc("token for the dashboard and /metrics, at least 16 characters; empty: this machine only")
    ] = ""
    name: Annotated[
        str, Meta(max_length=80), doc("name of this bot on the dashboard; empty: the folder that it runs in")
    ] = ""
