"""Which headers a front passes on, and which it passes back."""

from multidict import CIMultiDict, CIMultiDictProxy

from bot.service.forwarded_headers import of_answer, of_request


def headers(*pairs):
    return CIMultiDictProxy(CIMultiDict(pairs))


def test_what_is_for_the_other_end_is_passed_on():
    passed = of_request(
        headers(
            ("Host", "front:8000"), ("Authorization", "Bearer x"), ("Cookie", "a=b"), ("traceparent", "00-1"),
            ("Accept-Encoding", "gzip"), ("Content-Encoding", "br"), ("Content-Length", "5"),
        ),
        "203.0.113.5", "https", "id-1",
    )  # fmt: skip
    assert dict(passed) == {
        "Authorization": "Bearer x",
        "Cookie": "a=b",
        "traceparent": "00-1",
        "Accept-Encoding": "gzip",
        "Content-Encoding": "br",
        "X-Request-Id": "id-1",
        "X-Forwarded-For": "203.0.113.5",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "front:8000",
    }


def test_what_is_about_one_connection_is_not():
    passed = of_request(
        headers(
            ("Connection", "keep-alive, X-Mine"), ("Keep-Alive", "5"), ("X-Mine", "1"), ("TE", "trailers"),
            ("Transfer-Encoding", "chunked"), ("Upgrade", "h2c"), ("Proxy-Authorization", "Basic x"),
            ("Expect", "100-continue"),
        ),
        "203.0.113.5", "http", "id-1",
    )  # fmt: skip
    assert {name.lower() for name in passed} == {"x-request-id", "x-forwarded-for", "x-forwarded-proto"}


def test_what_a_client_claims_of_itself_is_replaced():
    passed = of_request(
        headers(
            ("x-forwarded-for", "1.1.1.1"), ("X-Forwarded-For", "2.2.2.2"), ("Forwarded", "for=1.1.1.1"),
            ("X-Real-IP", "1.1.1.1"), ("X-Request-Id", "forged"),
        ),
        "203.0.113.5", "http", "id-1",
    )  # fmt: skip
    assert passed.getall("X-Forwarded-For") == ["203.0.113.5"]
    assert passed.getall("X-Request-Id") == ["id-1"]
    assert "Forwarded" not in passed
    assert "X-Real-IP" not in passed


def test_an_answer_keeps_each_of_its_cookies_and_its_encoding():
    passed = of_answer(
        headers(
            ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Content-Encoding", "gzip"), ("ETag", "x"),
            ("Connection", "close"), ("Transfer-Encoding", "chunked"),
        )
    )  # fmt: skip
    assert passed.getall("Set-Cookie") == ["a=1", "b=2"]
    assert set(passed) == {"Set-Cookie", "Content-Encoding", "ETag"}
