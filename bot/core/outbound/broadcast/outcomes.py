"""How a message to one recipient of a broadcast ended, told from what the framework raised (pure).

Errors are known by their class's name, their code and their text, so that no framework need be installed:
aiogram, python-telegram-bot, pyrogram and its forks, Telethon, pyTelegramBotAPI.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from bot.core._shared.errors import message_of
from bot.core.outbound.refusals import code_of


class Outcome(Enum):
    """How it ended for a recipient, for good."""

    SENT = "sent"
    BLOCKED = "blocked"
    """The user has blocked the bot."""
    DEACTIVATED = "deactivated"
    """The account was deleted."""
    NOT_FOUND = "not_found"
    """No such chat, or the bot is not in it (any more), or the user has never written to the bot."""
    FAILED = "failed"
    """Anything else; :meth:`BroadcastReport.failures` tells what."""


class Advice(Enum):
    """What an error means for the broadcast."""

    OVER = "over"
    """This recipient is done."""
    NETWORK = "network"
    """Nobody knows what became of it; the connection or the server is at fault. Again later."""
    RETRY = "retry"
    """Unknown. Again later, a bounded number of times."""
    STOP = "stop"
    """No recipient can be written to: the token is wrong or revoked."""


class Verdict(NamedTuple):
    """What to do after an error, and, for ``Advice.OVER``, how it ended."""

    advice: Advice
    outcome: Outcome = Outcome.FAILED


# Texts of the Bot API and identifiers of MTProto, in lower case. The first that is found decides.
_TEXTS: tuple[tuple[str, Outcome], ...] = (
    ("blocked by the user", Outcome.BLOCKED),
    ("user_is_blocked", Outcome.BLOCKED),
    ("you were blocked by this user", Outcome.BLOCKED),
    ("user is deactivated", Outcome.DEACTIVATED),
    ("input_user_deactivated", Outcome.DEACTIVATED),
    ("can't initiate conversation", Outcome.NOT_FOUND),
    ("can't send messages to bots", Outcome.NOT_FOUND),
    ("can't send messages to the user", Outcome.NOT_FOUND),
    ("bot was kicked", Outcome.NOT_FOUND),
    ("bot is not a member", Outcome.NOT_FOUND),
    ("group chat was deleted", Outcome.NOT_FOUND),
    ("chat was deleted", Outcome.NOT_FOUND),
    ("chat not found", Outcome.NOT_FOUND),
    ("user not found", Outcome.NOT_FOUND),
    ("chat_id is empty", Outcome.NOT_FOUND),
    ("peer_id_invalid", Outcome.NOT_FOUND),
    ("peer id invalid", Outcome.NOT_FOUND),
    ("chat_id_invalid", Outcome.NOT_FOUND),
    ("user_id_invalid", Outcome.NOT_FOUND),
    ("user_is_bot", Outcome.NOT_FOUND),
    ("channel_private", Outcome.NOT_FOUND),
    ("channel_invalid", Outcome.NOT_FOUND),
    ("channel_banned", Outcome.NOT_FOUND),
    ("chat_forbidden", Outcome.NOT_FOUND),
    ("username_not_occupied", Outcome.NOT_FOUND),
    ("username_invalid", Outcome.NOT_FOUND),
)
# Telethon's errors say it in sentences; their names end in Error.
_NAMES = {
    "UserIsBlocked": Outcome.BLOCKED,
    "InputUserDeactivated": Outcome.DEACTIVATED,
    "PeerIdInvalid": Outcome.NOT_FOUND,
    "ChatIdInvalid": Outcome.NOT_FOUND,
    "UserIdInvalid": Outcome.NOT_FOUND,
    "UserIsBot": Outcome.NOT_FOUND,
    "ChannelPrivate": Outcome.NOT_FOUND,
    "ChannelInvalid": Outcome.NOT_FOUND,
    "UsernameNotOccupied": Outcome.NOT_FOUND,
    "UsernameInvalid": Outcome.NOT_FOUND,
}
_STOP_NAMES = frozenset({"TelegramUnauthorized", "TelegramNotFound", "InvalidToken", "Unauthorized"})
_NETWORK_NAMES = frozenset(
    """TelegramNetwork TelegramServer RestartingTelegram Network TimedOut Timeout OSError TimeoutError
    ClientError TransportError InternalServer ServiceUnavailable Server""".split()
)
_REFUSED_NAMES = frozenset({"TelegramBadRequest", "BadRequest", "TelegramForbidden", "Forbidden"})


def verdict_of(error: BaseException) -> Verdict:
    """What an error of a send means, other than a refusal that tells a time to wait."""
    text = message_of(error)[:2_000].lower()
    code = code_of(error)
    names = {cls.__name__ for cls in type(error).__mro__}
    names |= {name.removesuffix("Error") for name in names}
    # Before the texts: MTProto's USER_DEACTIVATED with 401 is the bot's own account.
    # A ``status`` is that of some other server, which the send asks something of.
    another = hasattr(error, "status") or hasattr(error, "status_code")
    if (code in (401, 404) and not another) or names & _STOP_NAMES:
        return Verdict(Advice.STOP)
    for name in names & _NAMES.keys():
        return Verdict(Advice.OVER, _NAMES[name])
    for words, outcome in _TEXTS:
        if words in text:
            return Verdict(Advice.OVER, outcome)
    # Before the network: python-telegram-bot's BadRequest is a NetworkError.
    if code in (400, 403) or names & _REFUSED_NAMES:
        return Verdict(Advice.OVER, Outcome.FAILED)
    if (isinstance(code, int) and code >= 500) or names & _NETWORK_NAMES:
        return Verdict(Advice.NETWORK)
    if "migrated to supergroup" in text or "migrated to a supergroup" in text:
        return Verdict(Advice.OVER, Outcome.FAILED)
    return Verdict(Advice.RETRY)
