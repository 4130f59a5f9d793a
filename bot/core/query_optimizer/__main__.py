"""``python -m bot.core.query_optimizer FILE.sql ...``: the command ``phase4 sql`` under its older name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bot.core.query_optimizer.command import add_arguments, run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bot.core.query_optimizer")
    add_arguments(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
