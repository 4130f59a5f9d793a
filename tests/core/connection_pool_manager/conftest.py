"""A pool on virtual time, over a server that the test plays."""

import pytest

from tests.support.scripted_driver import scripted_pool


@pytest.fixture
async def pool_of(clock):
    made = []

    async def make(**options):
        runner = scripted_pool(clock, **options)
        made.append(runner)
        await runner.start()
        return runner, runner.driver

    yield make
    for runner in made:
        runner.pool.check_invariants()
        await runner.stop(drain=0.0)
