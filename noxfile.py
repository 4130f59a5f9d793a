"""The tests with other Pythons, on uvloop, and with the oldest and newest libraries: ``make matrix``.

Each session has an environment of its own, in .nox/. What follows ``--`` goes to pytest.
"""

import tomllib
from pathlib import Path

import nox

VARIED = ("redis", "aiohttp", "sqlglot")
"""Packages whose oldest and newest allowed versions are tried."""

nox.options.sessions = ["locked", "uvloop", "oldest", "newest"]
nox.options.reuse_existing_virtualenvs = True


def bounds() -> list[str]:
    """Each of these packages, with its extras, as pyproject.toml has it: ``redis[hiredis]>=6.0``."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    found = [
        *project["dependencies"],
        *(one for each in project["optional-dependencies"].values() for one in each),
    ]
    return sorted({one for one in found if one.partition(">=")[0].partition("[")[0] in VARIED})


def install(session: nox.Session, *others: str) -> None:
    """What the lock file names, then ``others`` instead."""
    session.install("--require-hashes", "--requirement", "requirements/dev.txt")
    session.install("--no-deps", "--editable", ".")
    if others:
        session.install("--upgrade", *others)


def test(session: nox.Session, **environment: str) -> None:
    session.run(
        "python", "-m", "pytest", "-n", "2", "--dist", "worksteal", "-q", *session.posargs, env=environment
    )


@nox.session(python=["3.11", "3.12", "3.13"])
def locked(session: nox.Session) -> None:
    """What the lock file names."""
    install(session)
    test(session)


@nox.session(python=["3.11", "3.13"])
def uvloop(session: nox.Session) -> None:
    """The same on uvloop."""
    install(session)
    test(session, PHASE4_TEST_LOOP="uvloop")


@nox.session(python="3.13")
def eager(session: nox.Session) -> None:
    """The same with eager tasks; not among those that run by default."""
    install(session)
    test(session, PHASE4_TEST_LOOP="eager")


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """The lower bounds of pyproject.toml."""
    install(session, *(one.replace(">=", "==") for one in bounds()))
    test(session)


@nox.session(python="3.13")
def newest(session: nox.Session) -> None:
    """What the package index has now, within the bounds."""
    install(session, *bounds())
    test(session)
