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
    ("Dashboard", ("PHASE4_DASHBOARD_",)),
)
ORDER = ("Services", "Query optimizer", "Cache manager", "Connection pools", "Rate limiter")

PRECEDENCE = """\
Times are seconds. A value out of bounds is an error that names the setting, the value, where it came from
(of a file, the line) and what is allowed; nothing is started then.

## Where settings come from

The later wins, setting by setting:

1. the defaults of this page;
2. the bot's own `config.py`, or its package `config/` (`config/__init__.py`, then `config/main_config.py`);
3. `config_enhancements_phase4.py`;
4. the file or module that the environment variable `PHASE4_CONFIG` names (`deploy/phase4.py`,
   `mybot.phase4`);
5. `initialize_phase4_services(from_host=Config)`: a class, a module, an object or a dict in which the bot
   keeps its settings;
6. environment variables of the same name; dicts and lists are JSON, flags `true` or `false`;
7. the dict given to `initialize_phase4_services`, and before it what code has put into the dict
   `PHASE4_CONFIG` of `bot.core.enhanced_startup_phase4` (not the environment variable of 4).

A database that has settings in it (MongoDB) is a host as well: give its dict, or the class that it is
loaded into, as `from_host`. A text there is read as one of the environment is (`"True"`, `"10"`), and None
or an empty text is no value. See [Settings from your bot's
Config](embedding.md#settings-from-your-bots-config).

Names that are no settings:

- One that looks like a setting (`CACHE_L1_MAX_SIZ_MB`) is a warning that names the setting. In the dict of
  7 it is an error.
- One of the design that this library comes from (`RATE_LIMIT_STRATEGY`, `ENABLE_BATCH_DOWNLOADS`) is a
  warning.
- Any other is the bot's own: files, `from_host` and environment may be full of them. In
  `config_enhancements_phase4.py`, in the file of `PHASE4_CONFIG` and in the dict of 7 it is a warning.

Warnings are in the log and under `warnings` in what `initialize_phase4_services` returns."""


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
        "``initialize_phase4_services`` over both; this file wins over the bot's ``config.py`` and",
        "``config/main_config.py``. On is the minimal profile: optimizer and limiter.",
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
        *PRECEDENCE.splitlines(),
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
