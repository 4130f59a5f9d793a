"""Runs in the bot's interpreter, as text: imports modules of settings and tells what they set.

The packages ``bot`` and ``bot.core`` are made here, so that the bot's own ``__init__.py``, which may connect
or start it, is not run. What the modules print does not matter: the answer stands behind a mark.
"""

import importlib
import importlib.util
import json
import os
import sys
import types
from typing import Any


def main() -> None:
    asked = json.load(sys.stdin)
    host = asked["host"]
    os.chdir(host)
    sys.path.insert(0, host)
    for name in ("bot", "bot.core"):
        package = types.ModuleType(name)
        package.__path__ = [os.path.join(host, *name.split("."))]
        sys.modules[name] = package
    sys.modules["bot"].core = sys.modules["bot.core"]  # type: ignore[attr-defined]
    found: dict[str, Any] = {}
    try:
        place: Any = importlib.import_module(asked["module"]) if asked["module"] else _by_path(asked["path"])
        for part in asked["within"].split(".") if asked["within"] else ():
            place = getattr(place, part)
        values, others = {}, []
        for name in dir(place):
            if name in asked["names"]:
                values[name] = _plain(getattr(place, name))
            elif name.isupper():
                others.append(name)
        found = {"values": values, "others": others}
    except BaseException as error:  # also SystemExit: some exit when a setting is missing
        found = {"error": f"{type(error).__name__}: {error}"}
    print("\n" + asked["mark"] + json.dumps(found), flush=True)
    os._exit(0)  # not held up by threads that a module started


def _by_path(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("phase4_settings", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


if __name__ == "__main__":
    main()
