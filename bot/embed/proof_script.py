"""Runs in the bot's interpreter, in the bot's folder: imports what was put there and uses it once.

It is handed to that interpreter as text and runs nothing of the bot's: the packages ``bot``, ``bot.core`` and
``bot.integrations`` are made here, with the bot's folders as their path, because the bot's own
``__init__.py`` may connect, start processes or exit.
"""

import asyncio
import importlib
import importlib.metadata
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any


def main() -> None:
    asked = json.load(sys.stdin)
    host = Path(asked["host"])
    found: dict[str, Any] = {"missing": {}, "failed": {}, "versions": {}, "used": "", "hidden_by": ""}
    for package in asked["packages"]:
        try:
            found["versions"][package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found["versions"][package] = None
    sys.path.insert(0, str(host))  # as `python -m bot` has it
    found["hidden_by"] = _what_hides_the_bot(host)
    for name in ("bot", "bot.core", "bot.integrations"):
        package = types.ModuleType(name)
        package.__path__ = [str(host.joinpath(*name.split(".")))]
        sys.modules[name] = package
    for module in asked["modules"]:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            root = (error.name or "").split(".")[0]
            if root in ("", "bot"):
                found["failed"][module] = str(error)
            else:
                found["missing"].setdefault(root, []).append(module)
        except BaseException as error:
            found["failed"][module] = f"{type(error).__name__}: {error}"
    if not found["failed"]:
        try:
            asyncio.run(_use())
        except ModuleNotFoundError as error:
            found["used"] = f"{error.name} is missing"
        except Exception as error:
            found["used"] = f"{type(error).__name__}: {error}"
    print("\n" + asked["mark"] + json.dumps(found))


def _what_hides_the_bot(host: Path) -> str:
    """What ``import bot`` finds in the bot's folder, if that is not the bot's own package."""
    try:
        spec = importlib.util.find_spec("bot")
    except (ImportError, ValueError, AttributeError) as error:
        return str(error)
    if spec is None:
        return "nothing: the folder is not on the path"
    places = list(spec.submodule_search_locations or [])
    if any(Path(place).resolve() == (host / "bot").resolve() for place in places):
        return ""
    return spec.origin or ", ".join(places)


async def _use() -> None:
    from bot.core.query_optimizer import QueryOptimizer
    from bot.core.rate_limiter import RateLimiter

    limiter = RateLimiter()
    await limiter.enable()
    allowed, _ = await limiter.is_allowed("a client")
    await limiter.disable()
    optimizer = QueryOptimizer()
    await optimizer.enable()
    advice = await optimizer.analyze_query("SELECT * FROM files WHERE id = 1")
    await optimizer.disable()
    if not allowed or advice.tables != ["files"]:
        raise RuntimeError(f"allowed = {allowed}, tables = {advice.tables}")


if __name__ == "__main__":
    main()
