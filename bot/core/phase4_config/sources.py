"""Where settings come from: files, the host, the environment and a dict; the later source wins."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum
from types import ModuleType
from typing import Any, NamedTuple

from bot.core._shared.masking import mask_secrets
from bot.core.phase4_config import hosts
from bot.core.phase4_config.catalog import (
    ALIASES,
    FALLBACKS,
    READABLE,
    RETIRED,
    SECTION_OF,
    SECTIONS,
    Setting,
    describe_allowed,
    ignored,
    nearest,
    setting_of,
    settings_class,
    unknown,
)
from bot.core.phase4_config.errors import ConfigError
from bot.core.phase4_config.messages import base_type, is_optional, refusal

OURS = "config_enhancements_phase4"
CONFIG_MODULES = ("config", "config.main_config", OURS)
"""Modules read for settings, the later ones winning."""

CONFIG_VARIABLE = "PHASE4_CONFIG"
"""The environment variable that names one more file or module, which wins over those."""

MOST_NAMED = 20
"""Names of somebody else's settings that a warning lists."""

MOST_COMPARED = 1_000
"""Names of a source that are held against ours; each takes a fraction of a millisecond."""


class Names(Enum):
    """What to make of names that are no settings."""

    ALL_OURS = "all ours"
    """Each is an error."""
    GIVEN = "given"
    """One that looks like ours is an error, any other a warning."""
    OUR_FILE = "our file"
    """Each is a warning."""
    HOST = "host"
    """One that looks like ours, or was one, is a warning; the others are the host's own."""
    NONE = "none"


class Source(NamedTuple):
    """One place that settings come from."""

    name: str
    """As messages call it."""
    values: Mapping[str, Any]
    names: Names = Names.NONE
    others: Collection[str] = ()
    """Names it has besides those of settings."""
    is_file: bool = False
    has_texts: bool = False
    """Whether numbers, flags and the like may be texts, as in the environment."""
    has_blanks: bool = False
    """Whether None, and an empty text for what is no text, mean that nobody set it."""
    place: Callable[[tuple[str, ...]], str] | None = None
    """Where it has the value of a setting that goes by these names, by file and line."""

    def told(self, name: str) -> str:
        """The source of one setting, as precisely as it can be had."""
        names = (name, *(alias for alias, target in ALIASES.items() if target == name))
        return self.name if self.place is None else self.place(names)


class Faults:
    """What is wrong in the sources: what stops the start, and what does not."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []


def gather(
    overrides: Mapping[str, Any] | None,
    host: Any,
    modules: Iterable[str | ModuleType],
    environ: Mapping[str, str],
    only: Collection[str],
    faults: Faults,
) -> list[Source]:
    """Every source with its values, the later ones winning."""
    sources = [_of_module(module) for module in _modules(modules, environ)]
    if host is not None:
        sources.append(_of_host(host, faults))
    sources.append(_of_environment(environ))
    if overrides is not None:
        if not isinstance(overrides, Mapping):
            raise ConfigError(
                *faults.problems, f"config = {type(overrides).__name__}: expected a dict of settings"
            )
        sources.append(of_dict(overrides, "initialize_phase4_services", Names.GIVEN))
    if not only:
        return sources
    return [
        source._replace(
            values={name: source.values[name] for name in only if name in source.values}, others=()
        )
        for source in sources
    ]


def of_dict(values: Mapping[str, Any], name: str, names: Names) -> Source:
    """A dict as a source."""
    known = {key: value for key, value in values.items() if key in READABLE}
    return Source(name, known, names, [key for key in values if key not in READABLE])


def merge(sources: list[Source], faults: Faults) -> dict[str, dict[str, Any]]:
    """Section -> field -> value; a section in which something is wrong is left out."""
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    wrong: set[str] = set()
    for source in sources:
        _look_at_others(source, faults)
        for name, value in _by_own_name(source.values).items():
            if source.has_blanks and _is_unset(value, name):
                continue
            try:
                new = _converted(setting_of(name), name, value, source)
            except ConfigError as error:
                faults.problems += error.problems
                wrong.add(SECTION_OF[name])
                continue
            if name.startswith("ENABLE_") and new != values.get(name, new) and source.is_file:
                # The settings file has all flags: a user who sets one in config.py must hear why it is off.
                faults.warnings.append(
                    f"{name} = {new} in {source.name} wins over {values[name]} in {origin[name]}"
                )
            values[name] = new
            origin[name] = source.name
    for name, fallback in FALLBACKS.items():
        if not values.get(name) and values.get(fallback):
            values[name] = values[fallback]
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS if section not in wrong}
    for name, value in values.items():
        setting = setting_of(name)
        if setting.section in sections:
            sections[setting.section][setting.field] = value
    return sections


def _by_own_name(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one source without aliases."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        target = ALIASES.get(name, name)
        if target == name or target not in given:
            found[target] = value
    return found


def _is_unset(value: Any, name: str) -> bool:
    """Whether a host has the setting without a value: None, or an empty text for what is no text."""
    if value is None:
        return not is_optional(setting_of(name).hint)
    return isinstance(value, str) and not value.strip() and base_type(setting_of(name).hint) is not str


def _converted(setting: Setting, name: str, value: Any, source: Source) -> Any:
    base = base_type(setting.hint)

    def convert(told: str) -> Any:
        given = value
        if source.has_texts and isinstance(value, str):
            given = _decode_text(name, value, base, told)
        if base is bool and isinstance(given, bool):
            return given
        from bot.core.phase4_config.settings import converted  # here: flags that are right do without

        given = settings_class(setting.section).prepared(setting.field, name, given, told)
        return converted(setting.hint, name, given, told)

    try:
        return convert(source.name)
    except ConfigError:
        if source.place is None:
            raise
    return convert(source.told(name))


def _look_at_others(source: Source, faults: Faults) -> None:
    """Names of a source that are no settings."""
    others = list(source.others)[:MOST_COMPARED]
    if source.names is Names.ALL_OURS:
        faults.problems += [unknown(name, source.name) for name in others]
    elif source.names is Names.OUR_FILE:
        faults.warnings += [ignored(name, source.name) or unknown(name, source.name) for name in others]
    elif source.names is Names.HOST:
        told = [warning for name in others if (warning := ignored(name, source.name))]
        if source.has_blanks and not source.values and not told:
            told = [f"from_host: {source.name} has no setting of this library; names are in upper case"]
        faults.warnings += told
    elif source.names is Names.GIVEN:
        foreign = []
        for name in map(str, others):
            if name in RETIRED:
                faults.warnings.append(ignored(name, source.name))
            elif nearest(name):
                faults.problems.append(unknown(name, source.name))
            else:
                foreign.append(name)
        if foreign:
            more = f" and {len(foreign) - MOST_NAMED} more" if len(foreign) > MOST_NAMED else ""
            listed = ", ".join(foreign[:MOST_NAMED]) + more
            faults.warnings.append(f"no settings of this library, and ignored (from {source.name}): {listed}")


# Files.


def _modules(modules: Iterable[str | ModuleType], environ: Mapping[str, str]) -> list[ModuleType]:
    """The modules there are, in their order, each once."""
    found: dict[str, ModuleType] = {}
    for module in modules:
        made = _import(module) if isinstance(module, str) else module
        if made is not None:
            found[made.__name__] = made
    named = environ.get(CONFIG_VARIABLE, "").strip()
    if named:
        made = _named(named)
        found.pop(made.__name__, None)
        found[made.__name__] = made
    return list(found.values())


def _of_module(module: ModuleType) -> Source:
    from bot.core.phase4_config import (
        places,  # here, not above, as below: the start-up's import is kept short
    )

    values, others, _ = hosts.values_of(module, READABLE)
    is_ours = module.__name__ == OURS or module.__name__.startswith(_FILE)
    path = getattr(module, "__file__", None)
    return Source(
        places.shown_path(path) if path else f"{module.__name__}.py",
        values,
        Names.OUR_FILE if is_ours else Names.HOST,
        sorted(others),
        is_file=True,
        place=lambda names: places.in_module(module, names),
    )


_FILE = "phase4_settings:"
"""The module of a file that is named by its path is this and the path."""


def _named(named: str) -> ModuleType:
    """The file or module that PHASE4_CONFIG names."""
    if not named.endswith(".py") and not named.startswith(".") and os.sep not in named and "/" not in named:
        module = _import(named)
        if module is None or not getattr(module, "__file__", None):
            raise ConfigError(
                f"{CONFIG_VARIABLE} = {named!r} (from environment): expected a file, or a module that can be "
                "imported"
            )
        return module
    path = os.path.abspath(os.path.expanduser(named))
    name = _FILE + path
    if name in sys.modules:
        return sys.modules[name]
    if not os.path.isfile(path):
        raise ConfigError(f"{CONFIG_VARIABLE} = {named!r} (from environment): there is no file {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{CONFIG_VARIABLE} = {named!r} (from environment): expected a Python file, *.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _cannot_import(name, path, error) from error
    sys.modules[name] = module
    return module


def _import(name: str) -> ModuleType | None:
    """A module of that name; None if there is none."""
    if name in sys.modules:
        return sys.modules[name]
    package = name.rpartition(".")[0]
    if package and not hasattr(_import(package), "__path__"):
        return None
    path = None
    try:
        spec = importlib.util.find_spec(name)
        if spec is None:
            return None
        path = spec.origin
        return importlib.import_module(name)
    except Exception as error:
        raise _cannot_import(name, path, error) from error


def _cannot_import(name: str, path: str | None, error: Exception) -> ConfigError:
    from bot.core.phase4_config import places

    place = places.of_error(error, path) if path else f"{name}.py"
    return ConfigError(f"{place} cannot be imported: {type(error).__name__}: {mask_secrets(str(error))}")


# The host.


def _of_host(host: Any, faults: Faults) -> Source:
    values, others, unread = hosts.values_of(host, READABLE)
    name = hosts.name_of(host)
    faults.warnings += [
        f"{each} (from {name}) is ignored: it is a property or a function, and nothing of the host is called"
        for each in unread
    ]

    def place(names: tuple[str, ...]) -> str:
        from bot.core.phase4_config import places

        if isinstance(host, Mapping):
            return name
        if isinstance(host, ModuleType):
            return places.in_module(host, names)
        return places.in_class(host if isinstance(host, type) else type(host), names)

    return Source(name, values, Names.HOST, sorted(others), has_texts=True, has_blanks=True, place=place)


# The environment.

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off", ""}

_FAMILIES = {name.partition("_")[0] for name in SECTION_OF}
"""What the names of settings begin with: of the environment, no other names are looked at."""


def _of_environment(environ: Mapping[str, str]) -> Source:
    values: dict[str, Any] = {}
    others = []
    for name, text in environ.items():
        if name in READABLE:
            values[name] = text
        elif name.partition("_")[0] in _FAMILIES:
            others.append(name)
    return Source("environment", values, Names.HOST, others, has_texts=True)


def _decode_text(name: str, text: str, base: Any, source: str) -> Any:
    """The value that a text stands for, of a setting of type ``base``."""
    stripped = text.strip()
    hint = setting_of(name).hint
    if is_optional(hint) and stripped.lower() in ("", "none"):
        return None
    if base is bool:
        if stripped.lower() in _TRUE:
            return True
        if stripped.lower() in _FALSE:
            return False
    elif base in (int, float):
        try:
            return base(stripped)
        except ValueError:
            pass  # refused below, with the text as it was written
    elif base in (dict, list, tuple):
        import msgspec  # here, not above: most starts have no such text

        try:
            return msgspec.json.decode(stripped or ("{}" if base is dict else "[]"))
        except msgspec.DecodeError as error:
            raise ConfigError(
                f"{name} = {mask_secrets(text)!r:.200} (from {source}): expected "
                f"{describe_allowed(name)} as JSON ({error})"
            ) from None
    else:
        return stripped
    raise ConfigError(refusal(name, text, source, hint))
