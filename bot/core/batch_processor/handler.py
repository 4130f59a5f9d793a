"""The handler of batches: called with a time limit, its answer checked and put in order."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from bot.core._shared.errors import invalid
from bot.core.batch_processor.errors import HandlerAnswerError, HandlerTimeoutError, MissingResultError
from bot.core.batch_processor.models import BatchItem, Handler
from bot.core.phase4_config.batch_processor import DEFAULTS

logger = logging.getLogger(__name__)


class HandlerCaller:
    """A user's function of a list of items, and what was said about it in the log."""

    def __init__(self) -> None:
        self.function: Handler | None = None
        """None: items wait until there is one."""
        self.timeout = DEFAULTS.handler_timeout
        """Seconds that one call may take; 0: any."""
        self._warned_missing = False
        self._warned_unknown = False

    def warn_missing(self) -> None:
        """Say once that items wait for a handler."""
        if not self._warned_missing:
            self._warned_missing = True
            logger.warning("Batch processor: items wait, but there is no handler: set process_handler")

    async def values_for(self, items: list[BatchItem]) -> Sequence[Any]:
        """Call the handler: a value for each item, or an exception where the item failed.

        Raises what the handler raises, HandlerTimeoutError, or HandlerAnswerError.
        """
        return self._checked(items, await self._call(items))

    async def _call(self, items: list[BatchItem]) -> Any:
        function = self.function
        assert function is not None
        # A list of its own: what the handler does to it must not change which caller gets which result.
        if not self.timeout:
            answer: Any = function(list(items))
            return await answer if inspect.isawaitable(answer) else answer
        try:
            async with asyncio.timeout(self.timeout) as deadline:
                answer = function(list(items))
                return await answer if inspect.isawaitable(answer) else answer
        except TimeoutError as error:
            if not deadline.expired():
                raise  # its own
            raise HandlerTimeoutError(f"the handler took longer than {self.timeout:g} s") from error

    def _checked(self, items: list[BatchItem], answer: Any) -> Sequence[Any]:
        """A value for each item; an exception where the item failed. Raises HandlerAnswerError."""
        values = self._in_order(items, answer)
        if any(hasattr(kind, "__await__") for kind in set(map(type, values))):
            at = next(n for n, value in enumerate(values) if hasattr(type(value), "__await__"))
            what = type(values[at]).__name__
            for value in values:
                if inspect.iscoroutine(value):
                    value.close()  # it would only be complained of
            raise HandlerAnswerError(
                f"the handler returned a {what} for item {items[at].item_id}: an await is missing"
            )
        return values

    def _in_order(self, items: list[BatchItem], answer: Any) -> Sequence[Any]:
        if isinstance(answer, Mapping):
            ids = [item.item_id for item in items]
            if list(answer) == ids and len(in_order := list(answer.values())) == len(ids):
                return in_order  # as handlers mostly answer
            return self._by_id(ids, answer)
        if isinstance(answer, Sequence) and not isinstance(answer, str | bytes | bytearray):
            # Copied here, where an answer that is computed as it is read may fail as the handler may.
            if len(answer) == len(items) and len(values := list(islice(answer, len(items) + 1))) == len(
                items
            ):
                return values
            raise HandlerAnswerError(
                f"the handler returned {len(answer)} result(s) for {len(items)} item(s): a list must have "
                "one for each, in order"
            )
        if inspect.iscoroutine(answer):
            answer.close()
        missing = ", and an await is missing" if hasattr(type(answer), "__await__") else ""
        raise HandlerAnswerError(
            f"the handler returned a {type(answer).__name__}: expected a dict by item_id, or a list in order"
            f"{missing}"
        )

    def _by_id(self, ids: list[str], answer: Mapping[Any, Any]) -> list[Any]:
        """The values in the order of the ids; an error where there is none."""
        if type(answer) is dict and len(answer) == len(ids):
            with contextlib.suppress(KeyError):
                return list(map(answer.__getitem__, ids))
        values = [
            answer[item_id]
            if item_id in answer
            else MissingResultError(f"the handler's answer holds nothing for item {item_id}")
            for item_id in ids
        ]
        if not self._warned_unknown and not set(ids).issuperset(answer):
            self._warned_unknown = True
            logger.warning("The batch handler returned results for ids that are not in its batch")
        return values


def valid_handler(handler: object) -> Handler:
    """What is called with a batch; raises InvalidArgumentError for what cannot be."""
    if not callable(handler):
        raise invalid("process_handler", handler, "an async function of a list of items")
    try:
        inspect.signature(handler).bind([])
    except ValueError:
        pass  # a callable without a signature to be read
    except TypeError as error:
        raise invalid("process_handler", handler, f"a function of one list of items ({error})") from None
    return handler
