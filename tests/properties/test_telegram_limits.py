"""Any sequence of requests against the naive reading of the limits."""

import hypothesis.strategies as st
from hypothesis import given

from bot.testing.telegram_limits import ServerLimits, TelegramLimits

LIMITS = ServerLimits(
    group=(4, 10.0), chat=(1, 1.0), chat_burst=2, bulk=(6, 1.0), paid=(9, 1.0), actions=((3, 2.0), (5, 9.0)),
    penalty_free=1, penalty_growth=3.0, penalty_most=50.0,
)  # fmt: skip
STEPS = st.lists(
    st.tuples(
        st.integers(0, 40).map(lambda tenths: tenths / 10),
        st.sampled_from([-1, -2, 1, 2, 3]),
        st.sampled_from(["message", "message", "edit", "action", "other"]),
        st.integers(1, 5),
        st.booleans(),
        st.booleans(),
    ),
    max_size=80,
)


def counted(admitted, seconds, now):
    return sum(count for at, count in admitted if now - seconds + 1e-9 < at)


@given(STEPS, st.sampled_from(["shared", "separate"]))
def test_no_window_is_ever_exceeded_and_each_wait_is_enough(steps, edits):
    given = {field: getattr(LIMITS, field) for field in LIMITS.__struct_fields__}
    limits = TelegramLimits(ServerLimits(**{**given, "edits": edits}))
    now, admitted, until = 0.0, {}, {}
    for pause, chat, kind, cost, paid, album in steps:
        now += pause
        verdict = limits.admit(chat, kind, now, cost=cost, paid=paid, album=album)
        limits.check_invariants()
        assert 0 <= verdict.admitted <= cost
        assert (verdict.retry_after == 0) == (verdict.admitted == cost)
        if kind == "other":
            assert verdict.admitted == cost
            continue
        lane = "message" if kind == "edit" and edits == "shared" else kind
        if now < until.get((chat, lane), 0.0) - 1e-9:
            assert verdict.in_penalty
            assert verdict.admitted == 0
        if verdict.retry_after:
            # Told in whole seconds: never less than what is left, and at most one more.
            assert 1 <= verdict.retry_after <= 50
            continue
        admitted.setdefault((chat, lane), []).append((now, cost))
        if kind != "action":
            admitted.setdefault("paid" if paid else "bulk", []).append((now, cost))
        if chat < 0 and lane != "action":
            assert counted(admitted[chat, lane], 10.0, now) <= max(4, cost)
        if lane == "action":
            assert counted(admitted[chat, lane], 2.0, now) <= max(3, cost)
            assert counted(admitted[chat, lane], 9.0, now) <= max(5, cost)
    for chat in (-1, -2, 1, 2, 3):
        for kind in ("message", "edit", "action"):
            told = limits.admit(chat, kind, now).retry_after
            now += told
            assert told == 0 or limits.admit(chat, kind, now).admitted == 1
