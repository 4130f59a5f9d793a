"""Texts as Telegram reads them: HTML markup and bot commands become entities (pure)."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

Json = dict[str, Any]

_TAGS = {
    "b": "bold",
    "strong": "bold",
    "i": "italic",
    "em": "italic",
    "u": "underline",
    "ins": "underline",
    "s": "strikethrough",
    "strike": "strikethrough",
    "del": "strikethrough",
    "code": "code",
    "pre": "pre",
    "a": "text_link",
    "blockquote": "blockquote",
    "tg-spoiler": "spoiler",
    "span": "spoiler",
    "tg-emoji": "custom_emoji",
}
_COMMAND = re.compile(r"(?<!\S)/[A-Za-z0-9_]{1,64}(?:@\w{3,32})?")


class MarkupError(ValueError):
    """HTML that Telegram does not take; the message says where."""


def units(text: str) -> int:
    """Length in UTF-16 code units, in which Telegram counts."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def from_html(markup: str) -> tuple[str, list[Json]]:
    """The text without its tags, and the entities that they say. Raises MarkupError."""
    reader = _Reader()
    reader.feed(markup)
    reader.close()
    if reader.open:
        raise MarkupError(f'can\'t find end tag corresponding to start tag "{reader.open[-1][0]}"')
    return "".join(reader.texts), sorted(reader.entities, key=lambda entity: entity["offset"])


def commands_in(text: str) -> list[Json]:
    """The entities of the bot commands in a user's text."""
    return [
        {"type": "bot_command", "offset": units(text[: found.start()]), "length": units(found[0])}
        for found in _COMMAND.finditer(text)
    ]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.entities: list[Json] = []
        self.open: list[tuple[str, int, Json]] = []
        self._at = 0

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        self._at += units(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kind = _TAGS.get(tag)
        if kind is None:
            raise MarkupError(f'unsupported start tag "{tag}" at byte offset {self._at}')
        entity: Json = {"type": kind}
        given = dict(attrs)
        if kind == "text_link":
            entity["url"] = given.get("href") or ""
        elif kind == "custom_emoji":
            entity["custom_emoji_id"] = given.get("emoji-id") or ""
        elif kind == "blockquote" and "expandable" in given:
            entity["type"] = "expandable_blockquote"
        self.open.append((tag, self._at, entity))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1][0] != tag:
            raise MarkupError(f'unmatched end tag at byte offset {self._at}, found "</{tag}>"')
        _, began, entity = self.open.pop()
        if self._at > began and entity.get("url") != "":
            self.entities.append({**entity, "offset": began, "length": self._at - began})
