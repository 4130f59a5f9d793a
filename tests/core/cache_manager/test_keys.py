"""Keys, namespaces and patterns cannot reach into one another."""

import fnmatch

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from bot.core.cache_manager.keys import (
    are_stored_as_they_are,
    compile_glob,
    namespace_prefix,
    parse_redis_key,
    redis_key,
    redis_pattern,
    valid_key,
    valid_name,
)
from tests.support.servers import RedisServer, running

names = st.text(min_size=1, max_size=20)


@given(names, names, names, names)
def test_each_namespace_and_key_has_a_place_of_its_own(namespace, key, other_namespace, other_key):
    same = redis_key(namespace, key) == redis_key(other_namespace, other_key)
    assert same == ((namespace, key) == (other_namespace, other_key))
    assert parse_redis_key(redis_key(namespace, key)) == (namespace, key)


@given(names, names, names)
def test_no_key_of_one_namespace_starts_like_another_namespace(namespace, other, key):
    if namespace != other:
        assert not redis_key(namespace, key).startswith(namespace_prefix(other))


@pytest.mark.parametrize(
    ("pattern", "matches", "misses"),
    [
        ("user:*", ["user:", "user:1", "user:1:x\ny"], ["users:1", "a user:1"]),
        ("user:?", ["user:1"], ["user:", "user:12"]),
        ("h[ae]llo", ["hello", "hallo"], ["hillo", "h[ae]llo"]),
        ("h[^e]llo", ["hallo"], ["hello"]),
        ("h[a-c]llo", ["hbllo"], ["hdllo"]),
        (r"a\*b", ["a*b"], ["axb"]),
        ("a.b+", ["a.b+"], ["axb", "a.bb"]),
        (r"h[a\-z]llo", ["hallo", "h-llo", "hzllo"], ["hbllo", "h\\llo"]),
        (r"h[\]]", ["h]"], ["h\\", "h"]),
        ("h[z-a]", ["hb"], ["h-"]),
        ("h[&^~|[]", ["h&", "h^", "h~", "h|", "h["], ["h]"]),
        ("h[ae", ["ha", "he"], ["h[ae", "h"]),
        ("h[]a", [], ["ha", "h]a"]),
        ("h[^]a", ["hxa", "h]a"], ["ha"]),
        ("[", [], ["[", "x"]),
        ("user:?", ["user:é", "user:€", "user:😀"], ["user:éé"]),
        ("user:[é]", ["user:é"], ["user:e"]),
        ("a*b*c", ["abc", "abxbcc", "a*b*c"], ["acb", "ab"]),
        ("\\", ["\\"], [""]),
        ("***", ["", "anything"], []),
    ],
)
def test_globs_are_read_as_redis_reads_them(pattern, matches, misses):
    found = compile_glob(pattern)
    assert all(found.fullmatch(text) for text in matches)
    assert not any(found.fullmatch(text) for text in misses)


@pytest.fixture(scope="module")
def server():
    with running(RedisServer()) as server, redis.Redis.from_url(server.url) as client:
        yield client


@given(
    st.text(alphabet="ab-^[]*?\\", max_size=10),
    st.lists(st.text(alphabet="ab-^[]*?\\", max_size=5), min_size=1, max_size=8),
)
@example("[", ["[", ""])
@example("[a-", ["a", "-"])
@example("a[b-]", ["a]", "a^", "ab"])
def test_globs_are_read_as_a_server_reads_them(server, pattern, keys):
    server.flushall()
    server.mset({f"n{key}": "" for key in keys})
    found = {key.decode() for key in server.keys(f"n{pattern}")}
    assert found == {f"n{key}" for key in keys if compile_glob(pattern).fullmatch(key)}


@given(
    st.text(alphabet="aé€*?[]\\-^", max_size=8),
    st.lists(st.text(alphabet="aé€*[", min_size=1, max_size=5), min_size=1, max_size=8),
)
def test_redis_finds_every_key_that_a_glob_means(server, pattern, keys):
    server.flushall()
    server.mset({redis_key("n", key): "" for key in keys})
    found = {parse_redis_key(at)[1] for at in server.scan_iter(redis_pattern("n", pattern))}
    assert found >= {key for key in keys if compile_glob(pattern).fullmatch(key)}


def test_a_glob_of_many_stars_takes_no_longer_for_it():
    assert not compile_glob("*a" * 200 + "b").fullmatch("a" * 1000)


@given(st.text(alphabet="ab*?", max_size=8), st.text(alphabet="ab", max_size=8))
def test_globs_agree_with_fnmatch(pattern, text):
    assert bool(compile_glob(pattern).fullmatch(text)) == fnmatch.fnmatchcase(text, pattern)


def test_what_is_no_key_is_refused():
    with pytest.raises(ValueError, match="key = ''"):
        valid_key("")
    with pytest.raises(TypeError, match="expected a string"):
        valid_key(5)
    for name in ("", "x" * 1025, "a \ud83d"):
        with pytest.raises(ValueError, match="namespace = "):
            valid_name(name, "namespace")


@pytest.mark.parametrize("key", ["k", "x" * 1024, "ключ", "😀" * 1024, "~" + "a" * 63, "a~b"])
def test_a_key_is_stored_as_it_is(key):
    assert valid_key(key) is key


def test_a_long_key_and_one_that_cannot_be_encoded_are_hashed_and_stay_readable():
    long, surrogate = "message:" + "слово " * 700, "hi \ud83d!"
    keys = [long, long + " ", surrogate, "hi \ud83e!", "hi ?!", "x" * 1025, "\ud83d" * 5000]
    stored = [valid_key(key) for key in keys]
    assert len(set(stored)) == len(keys)
    for key in stored:
        assert len(key) <= 1024
        key.encode()
    assert stored[0].startswith("message:слово слово")
    assert stored[2].startswith("hi ?!~")
    assert stored == [valid_key(key) for key in keys]


def test_nobody_can_write_what_another_key_is_stored_as():
    stored = valid_key("x" * 5000)
    assert valid_key(stored) != stored


@given(st.lists(st.one_of(st.text(max_size=3), st.sampled_from(["", "x" * 64, "x" * 65, "~" * 70, "é", 5]))))
def test_keys_looked_at_together_are_those_looked_at_one_by_one(keys):
    def as_it_is(key):
        try:
            return valid_key(key) is key
        except (TypeError, ValueError):
            return False

    short = all(isinstance(key, str) and key.isascii() and len(key) < 65 for key in keys)
    assert are_stored_as_they_are(keys) == (short and all(map(as_it_is, keys)))
    if are_stored_as_they_are(keys):
        assert [valid_key(key) for key in keys] == keys
