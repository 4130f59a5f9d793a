"""Writes what lists every setting: ``config_enhancements_phase4.py`` and ``docs/configuration.md``.

``python -m tools.settings_reference`` writes them; a test checks that they are current.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from bot.core.phase4_config import ALIASES, FALLBACKS, SETTING_NAMES, Phase4Config, describe, describe_allowed

ROOT = Path(__file__).resolve().parent.parent
MINIMAL_PROFILE = ("ENABLE_QUERY_OPTIMIZER", "ENABLE_RATE_LIMITER")

# A setting belongs to the first group one of whose prefixes it has.
GROUPS = (
    ("Cache manager", ("CACHE_", "ENABLE_CACHE_WARMING")),
    ("Services", ("ENABLE_",)),
    ("Query optimizer", ("QUERY_",)),
    ("Connection pools", ("POOL_", "DATABASE_", "MONGODB_", "REDIS_")),
    ("Rate limiter", ("RATE_",)),
    ("Batch processor", ("BATCH_",)),
    ("Load balancer", ("LOAD_",)),
    ("Outbound", ("OUTBOUND_",)),
)
ORDER = ("Services", "Query optimizer", "Cache manager", "Connection pools", "Rate limiter")


def grouped() -> dict[str, list[str]]:
    """Setting names by group, each setting once."""
    titles = (*ORDER, *(title for title, _ in GROUPS if title not in ORDER))
    groups: dict[str, list[str]] = {title: [] for title in titles}
    for name in SETTING_NAMES:
        title = next(title for title, prefixes in GROUPS if name.startswith(prefixes))
        groups[title].append(name)
    return groups


def config_file() -> str:
    """The user's settings file: the flags, with the minimal profile on, and every other setting commented."""
    defaults = Phase4Config()
    lines = [
        '"""Phase 4 settings of this bot. Every setting is listed; a commented one has the default shown.',
        "",
        "The environment variable of the same name wins over this file, and the dict given to",
        "``initialize_phase4_services`` over both; this file wins over the bot's ``config.py``. On is the",
        "minimal profile: optimizer and limiter.",
        '"""',
    ]
    for title, names in grouped().items():
        lines += ["", f"# {title}", ""]
        for name in names:
            about = f"{describe(name)} ({describe_allowed(name)})"
            lines += textwrap.wrap(about, 104, initial_indent="# ", subsequent_indent="# ")
            if title == "Services":
                # All of them: code that imports this module reads them by name, as the guide's Option B does.
                lines.append(f"{name} = {name in MINIMAL_PROFILE}")
            else:
                lines.append(f"# {name} = {shown(getattr(defaults, name))}")
    return "\n".join(lines) + "\n"


def reference() -> str:
    """The configuration reference in Markdown."""
    defaults = Phase4Config()
    lines = [
        "# Configuration reference",
        "",
        "Generated from `Phase4Config` by `python -m tools.settings_reference`.",
        "",
        "Precedence, low to high: defaults, `config.py`, `config_enhancements_phase4.py`, environment",
        "variables of the same name (dicts and lists as JSON), the dict given to",
        "`initialize_phase4_services`. Times are seconds. A value out of bounds is an error that names",
        "the setting, the value, where it came from and what is allowed; nothing is started then.",
    ]
    for title, names in grouped().items():
        lines += ["", f"## {title}", "", "| setting | default | allowed | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{name}` | `{shown(getattr(defaults, name))}` | {describe_allowed(name)} | {describe(name)} |"
            for name in names
        ]
    lines += ["", "## Other names", ""]
    lines += [f"- `{alias}` is accepted for `{name}`." for alias, name in ALIASES.items()]
    lines += [
        f"- `{name}` takes the value of `{fallback}` when it is not set."
        for name, fallback in FALLBACKS.items()
    ]
    return "\n".join(lines) + "\n"


def shown(value: object) -> str:
    """A default as a user writes it."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


FILES = {
    ROOT / "config_enhancements_phase4.py": config_file,
    ROOT / "docs" / "configuration.md": reference,
}

if __name__ == "__main__":
    for path, content in FILES.items():
        path.write_text(content(), encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
