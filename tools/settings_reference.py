"""Writes what lists every setting: two files for users, and the names for the start.

``python -m tools.settings_reference`` writes them; a test checks that they are current.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from bot.core.phase4_config import ALIASES, FALLBACKS, SETTING_NAMES, Phase4Config, describe, describe_allowed
from bot.core.phase4_config.catalog import SECTIONS, settings_class

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
    ("Redis, for all services", ("PHASE4_KEY_PREFIX", "PHASE4_REDIS_")),
    ("Dashboard", ("PHASE4_DASHBOARD_",)),
)
ORDER = ("Services", "Query optimizer", "Cache manager", "Connection pools", "Rate limiter")

PRECEDENCE = """\
Times are in seconds. A value out of bounds is an error that names the setting, the value, its source (for a
file, with the line) and what is allowed. Then no service is started.

## Where settings come from

If several sources have a value for a setting, the last one in this list wins:

1. the defaults of this page;
2. the bot's own `config.py`, or its package `config/` (`config/__init__.py`, then `config/main_config.py`);
3. `config_enhancements_phase4.py`;
4. the file or module that the environment variable `PHASE4_CONFIG` names (`deploy/phase4.py`,
   `mybot.phase4`);
5. `initialize_phase4_services(from_host=Config)`: a class, a module, an object or a dict in which the bot
   keeps its settings;
6. environment variables of the same name; dicts and lists are JSON, flags `true` or `false`;
7. the dict `PHASE4_CONFIG` of `bot.core.enhanced_startup_phase4` (not the environment variable of item 4),
   and then the dict given to `initialize_phase4_services`, which wins over it.

If your settings are in a database (MongoDB), pass its dict, or the class that it is loaded into, as
`from_host`. Strings in it are read like environment variables (`"True"`, `"10"`); None or an empty string
means that the setting is not set. See [Settings from your bot's
Config](embedding.md#settings-from-your-bots-config).

Names that are not settings:

- A name that looks like a setting (`CACHE_L1_MAX_SIZ_MB`) causes a warning with the correct name. In the
  dict of item 7 it is an error.
- A name from the design that this library is based on (`RATE_LIMIT_STRATEGY`, `ENABLE_BATCH_DOWNLOADS`)
  causes a warning.
- All other names belong to the bot and are ignored in files, `from_host` and the environment. In
  `config_enhancements_phase4.py`, in the file of `PHASE4_CONFIG` and in the dict of item 7 they cause a
  warning.

The warnings are in the log, and under `warnings` in the report of `initialize_phase4_services`."""


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
        '"""Phase 4 settings of this bot. All settings are listed; a commented line shows the default.',
        "",
        "Environment variables of the same name win over this file, and the dict given to",
        "``initialize_phase4_services`` wins over both. This file wins over the bot's ``config.py`` and",
        "``config/main_config.py``. The minimal profile is on: query optimizer and rate limiter.",
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


def names_module() -> str:
    """The module that has the names of all settings without importing what declares them."""
    lines = [
        '"""The names of all settings, by section (pure).',
        "",
        "Written by ``python -m tools.settings_reference``, so that a start need not import the sections.",
        '"""',
        "",
        "NAMES: dict[str, tuple[str, ...]] = {",
    ]
    for section in SECTIONS:
        names = settings_class(section).setting_names().values()
        lines += [f'    "{section}": (', *(f'        "{name}",' for name in names), "    ),"]
    return "\n".join([*lines, "}"]) + "\n"


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
        f"- If `{name}` is not set, it has the value of `{fallback}`." for name, fallback in FALLBACKS.items()
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
    ROOT / "bot" / "core" / "phase4_config" / "names.py": names_module,
    ROOT / "config_enhancements_phase4.py": config_file,
    ROOT / "docs" / "configuration.md": reference,
}

if __name__ == "__main__":
    for path, content in FILES.items():
        path.write_text(content(), encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
