"""Ids of items and batches."""

from bot.core.batch_processor.ids import Ids


def test_each_item_has_an_id_of_its_own():
    ids = Ids("a1")
    assert [ids.new_item(), ids.new_item()] == ["a1-1", "a1-2"]


def test_the_items_of_a_batch_are_numbered_within_it():
    ids = Ids("a1")
    assert ids.of_items_in(7, 3)[:3] == ["a1-b7-1", "a1-b7-2", "a1-b7-3"]
    assert ids.of_items_in(8, 1)[:1] == ["a1-b8-1"]


def test_a_batchs_number_is_read_from_its_id():
    ids = Ids("a1")
    assert ids.batch_number(ids.of_batch(12)) == 12
    for stranger in ("", "a1", "a1-b", "a1-bx", "a1-b1²", "b2-b12", "a1-12"):
        assert ids.batch_number(stranger) is None
    assert ids.batch_number("a1-b" + "9" * 5_000) is not None, "bounded, whatever is asked"
