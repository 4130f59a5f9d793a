"""Where items are, and the ledger of them."""

import math

from bot.core.batch_processor.backlog import Backlog
from bot.core.batch_processor.ids import Ids
from bot.core.batch_processor.models import BatchItem


def pending(*numbers, withdrawn=()):
    """A backlog of items submitted at these times; a future that is True counts as withdrawn."""
    backlog = Backlog(bool)
    for number in numbers:
        backlog.queue.push(BatchItem(number, _Future(number in withdrawn), float(number)))
    return backlog


class _Future:
    def __init__(self, done):
        self._done = done

    def __bool__(self):
        return self._done

    def done(self):
        return self._done


def formed(backlog, size, now=10.0):
    items, _ = backlog.take(size)
    return backlog.batch_of(items, now, Ids("x"))


def test_what_is_taken_is_in_flight_until_it_has_ended():
    backlog = pending(1, 2, 3)
    batch = formed(backlog, 2)
    assert [item.data for item in batch.items] == [1, 2]
    assert (backlog.unfinished, backlog.in_flight, backlog.submitted) == (3, 2, 3)
    backlog.ready.append(batch)
    backlog.check_invariants(ended=0)
    backlog.ready.clear()
    batch.state = "completed"
    assert backlog.ended(batch.items) == 0
    backlog.check_invariants(ended=2)
    assert (backlog.unfinished, backlog.submitted) == (1, 3)


def test_withdrawn_items_end_when_they_are_met_or_swept():
    backlog = pending(1, 2, 3, 4, withdrawn={1, 4})
    items, withdrawn = backlog.take(2)
    assert ([item.data for item in items], withdrawn) == ([2, 3], 1)
    assert backlog.sweep() == 1
    assert backlog.submitted == 4
    assert backlog.unfinished == 2


def test_the_oldest_is_found_wherever_it_is():
    backlog = pending(5, 6)
    assert backlog.oldest() == 5.0
    batch = formed(backlog, 1)
    for place in (backlog.ready.append, backlog.running.add):
        place(batch)
        assert backlog.oldest() == 5.0
        backlog.ready.clear()
        backlog.running.clear()
    backlog.retrying[batch] = object()
    assert backlog.oldest() == 5.0
    backlog.retrying.clear()
    backlog.ended(batch.items[:1])
    assert backlog.oldest() == 6.0
    assert Backlog(bool).oldest() == math.inf


def test_a_batch_whose_task_has_gone_is_ready_again_and_one_that_ended_is_not():
    backlog = pending(1, 2, 3)
    running, retrying, ended = (formed(backlog, 1) for _ in range(3))
    running.state, retrying.state, ended.state = "running", "retrying", "completed"
    backlog.running |= {running, ended}
    backlog.retrying[retrying] = object()
    backlog.take_from_tasks()
    assert set(backlog.ready) == {running, retrying}
    assert {batch.state for batch in backlog.ready} == {"pending"}
    assert not backlog.running
    assert not backlog.retrying
    assert backlog.pending_batches(10) == 2


def test_a_batch_is_split_into_halves_that_hold_all_of_it():
    backlog = pending(1, 2, 3, 4, 5)
    batch = formed(backlog, 5)
    rest = backlog.split(batch)
    assert [item.data for item in batch.items] == [1, 2]
    assert [item.data for item in rest.items] == [3, 4, 5]
    assert rest.number != batch.number
    backlog.ready += [batch, rest]
    assert backlog.find(rest.number) is rest
    backlog.check_invariants(ended=0)


def test_batches_that_the_queue_would_make_are_counted_too():
    assert pending(1, 2, 3).pending_batches(2) == 2
    assert pending(1, 2).pending_batches(2) == 1
    assert Backlog(bool).pending_batches(2) == 0
