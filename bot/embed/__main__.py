"""``python -m bot.embed HOST``: the command ``phase4 embed`` from a checkout, with no package installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    if sys.version_info < (3, 11):  # noqa: UP036  (anybody may run this)
        print(f"Phase 4 needs Python 3.11 or later; this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    from bot.embed.command import add_arguments, run

    parser = argparse.ArgumentParser(prog="python -m bot.embed")
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except KeyboardInterrupt:
        return 130  # the next run ends what this one began


if __name__ == "__main__":
    sys.exit(main())
