"""``phase4 check`` and ``python -m bot check``: what would go wrong, before a deployment."""

from bot.core.phase4_admin.check.command import add_arguments, add_service_arguments, run, run_service

__all__ = ["add_arguments", "add_service_arguments", "run", "run_service"]
