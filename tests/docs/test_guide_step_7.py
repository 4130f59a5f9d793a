"""The guide's Step 7, rate limiting, as written."""

from bot.core.phase4_service import Phase4Service
from bot.core.rate_limiter import RateLimiter
from tests.docs.guide import blocks, run


async def test_the_sixth_upload_in_a_moment_is_refused(clock):
    Phase4Service._instances[RateLimiter] = RateLimiter(clock=clock)  # for it, the moment does not pass
    await RateLimiter.get_instance().enable()
    done = []

    async def process_upload(user_id, file):
        done.append(file)
        return {"status": 200}

    [block] = blocks("Step 7")
    guide = await run(block, {"process_upload": process_upload})
    answers = [await guide["handle_upload_request"](42, f"file-{n}") for n in range(7)]
    assert [answer["status"] for answer in answers] == [200] * 5 + [429] * 2
    assert done == [f"file-{n}" for n in range(5)]
    assert 0 < answers[5]["retry_after"] <= 0.5
    assert answers[5]["message"] == f"Rate limited. Retry after {answers[5]['retry_after']}s"
    assert (await guide["handle_upload_request"](43, "other"))["status"] == 200
