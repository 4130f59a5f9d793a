"""The files that list every setting are what the generator writes now."""

import pytest

from tools.settings_reference import FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_is_current(path):
    assert path.read_text(encoding="utf-8") == FILES[path](), "run: python -m tools.settings_reference"
