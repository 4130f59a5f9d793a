"""Where settings come from: modules, the environment and dicts; the later source wins."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Collection, Iterable, Mapping
from types import ModuleType
from typing import Any

import msgspec

from bot.core._shared.masking import mask_secrets
from bot.core.phase4_config.catalog import (
    ALIASES,
    FALLBACKS,
    READABLE,
    SECTIONS,
    SETTINGS,
    describe_allowed,
    unknown,
)
from bot.core.phase4_config.messages import base_type, is_optional, refusal
from bot.core.phase4_config.settings import ConfigError, converted

logger = logging.getLogger(__name__)

CONFIG_MODULES = ("config", "config_enhancements_phase4")
"""Modules read for settings, the later ones winning."""

Source = tuple[str, dict[str, Any], bool]
"""Its name, the values it gives, and whether a name that is no setting is an error."""


def gather(
    overrides: Mapping[str, Any] | None,
    modules: Iterable[str | ModuleType],
    environ: Mapping[str, str],
    only: Collection[str],
    problems: list[str],
) -> list[Source]:
    """Every source with its values, the later ones winning; what is wrong is added to ``problems``."""
    sources: list[Source] = []
    for module in modules:
        found = _import(module) if isinstance(module, str) else module
        if found is not None:
            sources.append((f"{found.__name__}.py", _settings_of(found), False))
    if only:
        environ = {name: environ[name] for name in only if name in environ}
    sources.append(("environment", _decode_environment(environ, problems), False))
    if overrides is not None:
        if not isinstance(overrides, Mapping):
            raise ConfigError(*problems, f"config = {type(overrides).__name__}: expected a dict of settings")
        sources.append(("initialize_phase4_services", dict(overrides), True))
    if only:
        sources = [
            (source, {name: given[name] for name in only if name in given}, strict)
            for source, given, strict in sources
        ]
    return sources


def merge(sources: list[Source], problems: list[str]) -> dict[str, dict[str, Any]]:
    """Section -> field -> value. What is wrong is added to ``problems``, and its section is left out."""
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    wrong: set[str] = set()
    for source, given, strict in sources:
        for name, value in _by_own_name(given, source, strict, problems).items():
            setting = SETTINGS[name]
            try:
                new = converted(setting.hint, name, value, source)
            except ConfigError as error:
                problems += error.problems
                wrong.add(setting.section)
                continue
            if name.startswith("ENABLE_") and new != values.get(name, new) and source.endswith(".py"):
                # The settings file has all flags: a user who sets one in config.py must hear why it is off.
                logger.warning(
                    "%s = %s in %s wins over %s in %s", name, new, source, values[name], origin[name]
                )
            values[name] = new
            origin[name] = source
    for name, fallback in FALLBACKS.items():
        if not values.get(name) and values.get(fallback):
            values[name] = values[fallback]
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS if section not in wrong}
    for name, value in values.items():
        setting = SETTINGS[name]
        if setting.section in sections:
            sections[setting.section][setting.field] = value
    return sections


def _by_own_name(given: Mapping[str, Any], source: str, strict: bool, problems: list[str]) -> dict[str, Any]:
    """The settings of one source without aliases; unknown names are left out, and told if ``strict``."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name not in READABLE:
            if strict:
                problems.append(unknown(name, source))
            continue
        target = ALIASES.get(name, name)
        if target == name or target not in given:
            found[target] = value
    return found


def _settings_of(module: ModuleType) -> dict[str, Any]:
    found = {name: getattr(module, name) for name in READABLE if hasattr(module, name)}
    if module.__name__ == CONFIG_MODULES[-1]:
        # This module is ours alone, so a name we do not know is a slip of the pen.
        for name in vars(module):
            if name.isupper() and name not in READABLE:
                logger.warning("%s", unknown(name, f"{module.__name__}.py"))
    return found


def _import(name: str) -> ModuleType | None:
    if name in sys.modules:
        return sys.modules[name]
    try:
        if importlib.util.find_spec(name) is None:
            return None
        return importlib.import_module(name)
    except Exception as error:
        raise ConfigError(f"{name}.py cannot be imported: {type(error).__name__}: {error}") from error


_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off", ""}


def _decode_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    decoded: dict[str, Any] = {}
    for name in READABLE:
        text = environ.get(name)
        if text is None:
            continue
        target = ALIASES.get(name, name)
        try:
            decoded[name] = _decode_text(target, text, base_type(SETTINGS[target].hint))
        except ConfigError as error:
            problems += error.problems
    return decoded


def _decode_text(name: str, text: str, base: Any) -> Any:
    stripped = text.strip()
    if is_optional(SETTINGS[name].hint) and stripped.lower() in ("", "none"):
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
        try:
            return msgspec.json.decode(stripped or ("{}" if base is dict else "[]"))
        except msgspec.DecodeError as error:
            raise ConfigError(
                f"{name} = {mask_secrets(text)!r:.200} (from environment): expected "
                f"{describe_allowed(name)} as JSON ({error})"
            ) from None
    else:
        return stripped
    raise ConfigError(refusal(name, text, "environment", SETTINGS[name].hint))
