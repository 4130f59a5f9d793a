"""No argument can make the tag of another argument."""

from hypothesis import given
from hypothesis import strategies as st

from bot.core.cache_manager.call_tags import call_tags
from tests.support.searching import searching

TEXTS = st.text(alphabet="ab1-_.:%/ {}3A\n\ud83dé", max_size=6)
VALUES = st.one_of(TEXTS, st.integers(-200, 200))
TEMPLATES = ["u:{a}", "u:{a}:{b}", "u:{a}:posts:{b}", "{a}/{b}", "u-{a} {b}x"]


async def function(a, b=None):
    return a


@given(st.sampled_from(TEMPLATES), VALUES, VALUES, VALUES, VALUES)
@searching(300)
def test_tags_are_equal_only_if_the_texts_of_their_arguments_are(template, a, b, c, d):
    tags = call_tags("cached", function, (template,), None)
    assert callable(tags)
    both = "{b}" in template
    same = str(a) == str(c) and (not both or str(b) == str(d))
    assert (tags((a, b), {}) == tags((c,), {"b": d})) is same


@given(TEXTS, TEXTS)
@searching(200)
def test_no_text_reaches_the_tags_of_a_longer_template(text, other):
    user = call_tags("cached", function, ("u:{a}",), None)
    posts = call_tags("cached", function, ("u:{a}:posts",), None)
    assert callable(user)
    assert callable(posts)
    assert user((text,), {}) != posts((other,), {})
