"""``python -m bot``: the runnable bot service."""

import sys

from bot.service.cli import main

if __name__ == "__main__":
    sys.exit(main())
