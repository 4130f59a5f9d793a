"""Tags: a random token in Redis for each, and in each value the tokens that its tags had.

A value is valid only while each of its tags has the token that it had before the value's load began. To drop
a tag is to delete its token: one command, however many values have the tag, and none of them is touched. So
it is also safe if a token vanishes for another reason (evicted, flushed, expired, not yet on the replica that
took over): the next token is another random number, and the value is a miss. There is no list of a tag's
members, and a token expires with the longest-lived value that has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bot.core.cache_manager.codec import TOKEN

ANY_TAG = ""
"""The tag that changes whenever any tag is dropped, for tags that are known only after the load."""


# For each key: its token, made where there is none, to live for so many milliseconds at least. An
# argument is these and the token to be, after a colon. What another program wrote there is replaced.
OPEN = """
local tokens = {}
for i, key in ipairs(KEYS) do
  local colon = string.find(ARGV[i], ':', 1, true)
  local milliseconds = tonumber(string.sub(ARGV[i], 1, colon - 1))
  local token = redis.pcall('GET', key)
  if type(token) ~= 'string' or #token ~= TOKEN then
    token = string.sub(ARGV[i], colon + 1)
    redis.call('SET', key, token, 'PX', string.format('%.0f', milliseconds))
  elseif redis.call('PTTL', key) < milliseconds then
    redis.call('PEXPIRE', key, string.format('%.0f', milliseconds))
  end
  tokens[i] = token
end
return tokens
""".replace("TOKEN", str(TOKEN))

# A token lives for so many milliseconds at least.
EXTEND = """
local left = redis.call('PTTL', KEYS[1])
if left >= 0 and left < tonumber(ARGV[1]) then return redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return 0
"""


def decode_tokens(answer: Any, count: int) -> Sequence[bytes]:
    """The tokens in an answer of ``OPEN``; raises ValueError for anything else."""
    if not isinstance(answer, list) or len(answer) != count:
        raise ValueError(f"expected {count} tokens")
    if not all(isinstance(token, bytes) and len(token) == TOKEN for token in answer):
        raise ValueError(f"expected tokens of {TOKEN} bytes")
    return answer


def same(carried: dict[str, bytes], found: dict[str, bytes | None]) -> bool:
    """Whether every tag of a value still has the token that the value was stored with."""
    return all(found.get(tag) == token for tag, token in carried.items())
