"""``python -m bot check``: what the guide has verified before a deployment, as one command."""

from bot.service.check.command import add_arguments, run

__all__ = ["add_arguments", "run"]
