"""``python -m bot``: the runnable bot service."""

import sys

SERVICE_MODULES = ("aiohttp", "aiosqlite")
"""What the service alone needs; the rest stands in the requirements file."""
SERVICE_PACKAGES = "aiohttp aiosqlite prometheus-client"
"""The extra ``service``. Without the last the service starts, and ``/metrics`` says so."""


def run() -> int:
    """The command line; a package that is missing is one sentence, and exit status 1."""
    try:
        from bot.service.cli import main

        return main()
    except ModuleNotFoundError as error:
        missing = (error.name or "bot").split(".")[0]
        if missing == "bot":
            raise  # our own mistake, which no package mends
        install = SERVICE_PACKAGES if missing in SERVICE_MODULES else "-r requirements-phase4.txt"
        print(
            f"{missing} is missing: pip install {install} (or `make run`, which installs all into .venv)",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(run())
