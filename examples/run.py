"""Run one of the bots against a test server, with users who write to it.

python examples/run.py [aiogram|ptb|mirror|thanks]
"""

from __future__ import annotations

import asyncio
import importlib
import sys

SCENES = {"aiogram": "demo.polls", "ptb": "demo.board", "mirror": "demo.mirror", "thanks": "demo.thanks"}


def main() -> None:
    """Play the bot that the command line names."""
    bots = sys.argv[1:] or ["aiogram"]
    if len(bots) != 1 or bots[0] not in SCENES:
        raise SystemExit(f"usage: python examples/run.py {'|'.join(SCENES)}")
    asyncio.run(importlib.import_module(SCENES[bots[0]]).play())


if __name__ == "__main__":
    main()
