"""Operators of PostgreSQL and the usual extensions; any other one is defined by the user (pure).

As PostgreSQL reads them: the longest run of their characters is one, without what begins a comment, and
without a + or - at its end unless it has one of ``~ ! @ # % ^ & | ` ?``.
"""

from __future__ import annotations

import re

_RUN = re.compile(
    r"""'(?:[^']|'')*+'|"[^"]*+"|--[^\n]*+|/\*.*?\*/|([-+*/<>=~!@#%^&|`?]{2,})(?=(.?))""", re.DOTALL
)
_SPECIAL = frozenset("~!@#%^&|`?")
_KNOWN = frozenset(
    (
        # pg_operator of version 15, and what the grammar has
        "!! !~ !~* !~~ !~~* ## #- #> #>> && &< &<| &> *< *<= *<> *= *> *>= -> ->> -|- <-> << <<= <<| <= "
        "<> <@ <^ >= >> >>= >^ ?# ?& ?- ?-| ?| ?|| @-@ @> @? @@ @@@ ^@ |&> |/ |>> || ||/ ~* ~<=~ ~<~ ~= "
        "~>=~ ~>~ ~~ ~~* != => "
        # pg_trgm, hstore, ltree, vector, intarray, cube, PostGIS
        "<% %> <<% %>> <<-> <->> <<<-> <->>> #= %% %# ?@> ?<@ ?~ ?@ @>> <<@ ^@> ^<@ <#> <=> <+> <~> ~> "
        "~== |=| &&& <<->> <<#>> |>>| "
    ).split()
)


def unknown_operator(text: str) -> str:
    """The first operator in a text that is not known; "" if there is none.

    Operators without a special character that the parser reads as two cannot be defined by a user.
    """
    if not (
        "@" in text or "~" in text or "#" in text or "&" in text or "|" in text or "!" in text
        or "%" in text or "^" in text or "?" in text or "`" in text
    ):  # fmt: skip
        return ""
    for match in _RUN.finditer(text):
        run = match.group(1)
        if run is None or run in _KNOWN:
            continue
        for comment in ("--", "/*"):
            run = run.partition(comment)[0]
        if match.group(2) in ("s", "d", "(") or run.endswith("?"):
            run = run[:-1] if run[-1:] in ("%", "?") else run  # a parameter: id=%s, id=?
        run = run.replace("%%", "%")  # as drivers require it
        while len(run) > 1 and run[-1] in "+-" and _SPECIAL.isdisjoint(run):
            run = run[:-1]
        if len(run) > 1 and run not in _KNOWN:
            return run
    return ""
