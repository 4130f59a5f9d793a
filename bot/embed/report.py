"""What a run says: the clashes before anything is touched, what was done, what is left to do."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from bot.embed.apply import Removal
from bot.embed.clashes import Clash
from bot.embed.host import Interpreter
from bot.embed.importers import Import
from bot.embed.manifest import EDITED, REPLACED
from bot.embed.merging import Merge
from bot.embed.payload import SETTINGS, TESTS
from bot.embed.plan import Plan
from bot.embed.proof import Proof

SHOWN = 12
"""The most lines of one list; the rest is counted."""


def listed(lines: Sequence[str], indent: str = "  ") -> list[str]:
    shown = [f"{indent}{line}" for line in lines[:SHOWN]]
    return shown + ([f"{indent}and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else [])


def count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def clash_report(
    clashes: Sequence[Clash],
    imports: Sequence[Import],
    offered: Mapping[str, Collection[str] | None],
    *,
    by_hand: bool,
) -> list[str]:
    """``offered``: module -> the names that Phase 4's module of that name has."""
    lines = [f"{count(len(clashes), 'name')} that both the bot and Phase 4 have:"]
    for clash in clashes:
        lines += ["", f"  {clash.name}: {clash.reason}"]
        if len(clash.paths) > 1:
            lines += listed(clash.paths, "    with ")
        users = [each for each in imports if each.module == clash.module]
        lines += listed([f"{each.file}:{each.line} imports {_what(each)}" for each in users], "    ")
        if not users and clash.name.endswith((".py", "/")):
            lines.append("    no file of the bot imports it")
        lines += [f"    {sentence}" for sentence in lacking(clash, users, offered)]
        lines.append(f"    {_way_out(clash)}")
    lines.append("")
    if by_hand:
        lines.append("An earlier copy of Phase 4, made by hand, seems to lie here: --replace renews it.")
    lines.append(
        "Or run this again with --replace: Phase 4 takes these names, and the lines above import Phase "
        "4. What it "
        f"replaces is kept in {REPLACED}/; --remove puts it back."
    )
    return lines


def lacking(
    clash: Clash, imports: Sequence[Import], offered: Mapping[str, Collection[str] | None]
) -> list[str]:
    """A sentence if the bot imports names that Phase 4's module has not: with --replace that fails."""
    names = offered.get(clash.module)
    users = [each for each in imports if each.module == clash.module]
    wanted = sorted(
        {name for each in users for name in each.names if names is not None and name not in names}
    )
    return [f"Phase 4's {clash.module} has no {', '.join(wanted)}"] if wanted else []


def _way_out(clash: Clash) -> str:
    if clash.name == TESTS:
        return "to keep it: --no-tests"
    folder, _, last = clash.name.rstrip("/").rpartition("/")
    other = f"{folder}/own_{last}" if folder else f"own_{last}"
    return f"to keep it: git mv {clash.name.rstrip('/')} {other}" + (
        ", and change its imports" if clash.name.endswith((".py", "/")) else ""
    )


def _what(found: Import) -> str:
    return f"{', '.join(found.names)} from {found.module}" if found.names else found.module


def plan_report(plan: Plan, replace: bool) -> list[str]:
    lines = []
    for paths, word in (
        (plan.add, "new"),
        (plan.upgrade, "upgraded"),
        (plan.put_back, "put back, deleted by hand"),
        (plan.delete, "deleted, not part of this version"),
        (plan.same, "as they are"),
    ):
        if paths:
            lines.append(f"  {count(len(paths), 'file')} {word}")
    if own := [path for path in plan.bots_own if path == SETTINGS]:
        lines.append(f"  {own[0]}: the bot's own settings, kept as they are")
    edited = [path for path in plan.edited if path != SETTINGS]
    if SETTINGS in plan.edited:
        lines.append(f"  {SETTINGS}: your settings, kept as they are")
    if edited and replace:
        lines += [
            f"  changed by hand, now replaced; your versions are in {EDITED}/:",
            *listed(edited, "    "),
        ]
    elif edited:
        lines += [
            "  changed by hand and left as they are (--replace takes the new ones):",
            *listed(edited, "    "),
        ]
    if plan.left:
        lines += ["  changed by hand and no longer part of Phase 4, left:", *listed(plan.left, "    ")]
    return lines


def requirements_report(merge: Merge, host: Path) -> list[str]:
    lines = []
    if merge.edited:
        lines.append(f"  {merge.file}: Phase 4's lines were changed by hand and are left as they are")
    elif merge.file is not None and merge.changes(host):
        number = max(0, merge.block.count("\n") - 2)
        lines.append(f"  {merge.file}: Phase 4's block has {count(number, 'line')}")
    elif merge.file is None and merge.elsewhere is None:
        lines.append("  the bot has no requirements file: requirements-phase4.txt lists what to install")
    if merge.elsewhere is not None and merge.missing_there:
        lines += [f"  {merge.elsewhere} is not written to. Add to its dependencies:"]
        lines += listed(merge.missing_there, "    ")
    return lines + conflict_report(merge)


def conflict_report(merge: Merge) -> list[str]:
    return [
        f"  conflict: {each.where} asks for {each.theirs}, Phase 4 needs {each.ours}: raise the bot's "
        f"version; pip refuses to install both"
        for each in merge.conflicts
    ]


def proof_report(proof: Proof, python: Interpreter) -> list[str]:
    if proof.hidden_by:
        return [
            f"NOT PROVEN: in the bot's folder {python.path} imports `bot` from {proof.hidden_by}.",
            "If it is an installed bot-phase4: pip uninstall bot-phase4",
        ]
    if proof.failed:
        lines = [f"NOT PROVEN: {count(len(proof.failed), 'module')} cannot be imported by {python}:"]
        return lines + listed([f"{module}: {why}" for module, why in sorted(proof.failed.items())])
    if proof.error:
        return [f"NOT PROVEN: {python}: {proof.error}"]
    if proof.to_install:
        return [
            f"NOT PROVEN YET: {python} lacks:",
            *listed(proof.to_install),
            "Install them, and run this command again to prove the result:",
            f"  {python.path} -m pip install -r requirements-phase4.txt",
        ]
    lines = [
        f"Proven: {python} imports all {proof.modules} modules, and the limiter and the optimizer answer."
    ]
    if proof.optional:
        lines.append(f"Only for some bots, and not installed here: {', '.join(proof.optional)}.")
    return lines


def removal_report(done: Removal) -> list[str]:
    lines = [f"{count(len(done.deleted), 'file')} taken out, {count(len(done.restored), 'file')} put back."]
    if done.left:
        lines += ["Changed by hand, and left:", *listed(done.left)]
    if done.not_restored:
        lines += ["Not put back, because something has its name now:"]
        lines += listed([f"{REPLACED}/{path}" for path in done.not_restored])
    if done.requirements_left:
        lines.append(f"{done.requirements_left}: Phase 4's lines were changed by hand and are left")
    if done.kept:
        lines.append(f"{done.kept}/ stays: it has files of yours")
    return lines
