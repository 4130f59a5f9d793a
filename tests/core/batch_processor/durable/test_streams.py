"""The scripts lie beside the module, and are what the wheel has to hold."""

from importlib.resources import files

import pytest

from bot.core.batch_processor.durable import streams

NAMES = sorted(
    path.name.removesuffix(".lua")
    for path in files(streams.__package__).iterdir()
    if path.name.endswith(".lua")
)


def test_every_script_is_there():
    assert NAMES == [
        "add", "cancel", "claim", "gate", "give_back", "lane_of", "lanes", "later", "leave", "look",
        "look_later", "move", "pending", "pick_up", "plan", "refresh", "replay", "settle", "skip", "submit",
        "tick", "tidy",
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_script_names_the_group_that_the_module_names(name):
    source = streams.script_source("pending", name)
    assert "GROUP_NAME" not in source
    assert f"'{streams.GROUP}'" in source
