"""What leaves the process: no secret, one line, bounded, whatever the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core._shared.masking import LINE, MAX_MASKED, mask_secrets, mask_url, masked_traceback, one_line


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("redis://user:hidden@host/0", "redis://***@host/0"),
        ("redis://:h3c@r/et@host:1/0", "redis://***@host:1/0"),
        ("postgresql://h/db?user=u&password=hidden", "postgresql://h/db?user=u&password=***"),
        ("redis://:it's-hidden\"s@host:1/0 is away", "redis://***@host:1/0 is away"),
        ("URL = 'user:hidden@host/db': no", "URL = '***@host/db': no"),
        ("user:p@hidden@host", "***@host"),
        ("redis//:hidden@host", "***@host"),
        ("postgresql://u:hidden@h1,h2/db", "postgresql://***@h1,h2/db"),
        ("amqp://a:hidden@b c://d:hidden@e", "amqp://***@b c://***@e"),
        ("{'user': 'u', 'db_password': 'a hidden'}", "{'user': 'u', 'db_password': '***'}"),
        ("{'token': b'hidden'}", "{'token': '***'}"),
        ('{"password":"hid\\"den","a":1}', '{"password":\'***\',"a":1}'),
        ('"{\\"password\\": \\"hidden\\"}"', '"{\\"password\\": \\"***\\"}"'),
        ('{"api_key": 12345, "a": 1}', '{"api_key": \'***\', "a": 1}'),
        ("PGPASSWORD=hidden psql", "PGPASSWORD=*** psql"),
        ("sslpassword=hidden&x=1", "sslpassword=***&x=1"),
        ("client_secret=hidden", "client_secret=***"),
        ("BOT_TOKEN = 'hid den'", "BOT_TOKEN = ***"),
        ('password="hidden', "password=***"),
        (
            "https://api.telegram.org/bot123:AAFhidden_-x/sendMessage: 404",
            "https://api.telegram.org/bot***/sendMessage: 404",
        ),
        ("token 123456789:AAFhiddenhiddenhidden is revoked", "token *** is revoked"),
        ("Authorization: Bearer hiddenhidden", "Authorization: ***"),
        ("{'Authorization': 'Basic hidden'}", "{'Authorization': '***'}"),
        ("sent bearer hidden.hidden", "sent bearer ***"),
        ("Cookie: session=hidden; a=b\nnext line", "Cookie: ***\nnext line"),
    ],
)
def test_secrets_are_masked(text, masked):
    assert mask_secrets(text) == masked
    assert "hidden" not in mask_secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "at 12:30 write to me@example.com", "http://plain/path", "tokens_required = 5: expected less",
        "SELECT password FROM users WHERE id = 1", "5 of 7: bot-1:8001", "secretary=anna",
    ],
)  # fmt: skip
def test_what_is_no_secret_is_left_as_it_is(text):
    assert mask_secrets(text) == text


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://:a hidden@host:1/0", "redis://***@host:1/0"),
        ("postgresql://u:hidden#x@host/db", "postgresql://***@host/db"),
        ("hidden@host", "***@host"),
        ("postgresql://host/db?password=hidden", "postgresql://host/db?password=***"),
    ],
)
def test_of_one_url_all_before_the_last_at_is_masked(url, masked):
    assert mask_url(url) == masked


PIECES = [
    "a@", "://", "=:a", "'", '"', "password=", '"password":"', ":a@ ", "=:a@", '\\"password\\":\\"', "token",
    "bot1:", "1234:", "basic ", "cookie:", "-", "hunter", "\\", "=", "{", "secret = '", "\n",
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_a_text_of_any_length_costs_no_more_than_its_beginning(piece):
    long = piece * (10 * MAX_MASKED // len(piece))
    assert len(mask_secrets(long)) <= 4 * MAX_MASKED
    assert len(one_line(long)) <= LINE


@given(st.lists(st.sampled_from([*PIECES, " ", "x", "\x1b[31m", "\ud83d", "\u202e", "\u2028"])).map("".join))
def test_a_line_is_one_line_that_any_log_can_take(text):
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= LINE
    line.encode()


@given(
    st.text(alphabet="abc:/@. =", max_size=2_000),
    st.sampled_from(["redis://u:%s@h", "password=%s", "u:%s@h"]),
)
def test_a_secret_does_not_come_out_of_a_long_text(around, shape):
    secret = "hunter2hunter2"
    assert secret not in one_line(f"{around} {shape % secret} {around}")


def test_an_error_is_told_with_its_type():
    assert one_line(ValueError("no\nway")) == "ValueError: no way"
    assert one_line(TimeoutError()) == "TimeoutError"


def test_an_error_whose_text_cannot_be_had_is_told_by_its_type():
    class Unspeakable(Exception):
        def __str__(self):
            raise ValueError

    assert one_line(Unspeakable()) == "Unspeakable"


def test_no_text_of_an_error_passes_for_a_line_of_the_log():
    forged = "2026-01-01 12:00:00 INFO root: all is well"
    try:
        raise ValueError(f"no\n{forged}\r{forged}\x85{forged}\u2028{forged}\x1b[2J password=hunter2")
    except ValueError as error:
        told = masked_traceback(error)
    assert all(line.startswith("  | ") for line in told.splitlines())
    assert "\x1b" not in told
    assert "hunter2" not in told
    assert "ValueError: no" in told
