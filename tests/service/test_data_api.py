"""Which cached answers a new file drops."""

from hypothesis import example, given
from hypothesis import strategies as st

from bot.service.data_api import MAX_SEARCH_LENGTH, MIN_SEARCH_LENGTH, search_tag, tags_of_name


@given(st.text(min_size=MIN_SEARCH_LENGTH, max_size=128), st.data())
@example("xßa", None)
def test_a_file_drops_every_search_that_finds_it(name, data):
    if data is None:
        found = ["ßa", "xß", "XSS"]
    else:
        start = data.draw(st.integers(0, len(name) - MIN_SEARCH_LENGTH))
        end = data.draw(st.integers(start + MIN_SEARCH_LENGTH, min(len(name), start + MAX_SEARCH_LENGTH)))
        found = [name[start:end], name[start:end].lower()]
    for text in found:
        # lower() maps some letters to several; a search is for letters that the name then really holds.
        if text.casefold() in name.casefold():
            assert search_tag(text) in tags_of_name(name)


def test_and_leaves_the_others():
    dropped = tags_of_name("linux.mint.2024.iso")
    assert search_tag("Linux") in dropped
    assert search_tag("debian") not in dropped
    assert search_tag("linux.debian") not in dropped
    assert len(tags_of_name("a" * 128)) == 7
