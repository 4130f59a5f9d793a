"""Instances of the service as child processes, to be balanced over, killed and frozen."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.servers import ChildServer

ROOT = Path(__file__).resolve().parents[2]


class BotInstance(ChildServer):
    """The real service on a port of its own; ``fault`` as in ``faulty_instance``."""

    def __init__(self, data_dir: Path, fault: str = "fail:0") -> None:
        super().__init__()
        self.data_dir = data_dir
        self.fault = fault

    def command(self) -> list[str]:
        # From the test's folder, where no settings file of the project lies.
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import runpy; " + (
            "runpy.run_module('tests.support.faulty_instance', run_name='__main__')"
        )
        return [
            sys.executable, "-c", code, self.fault, "--port", str(self.port),
            "--data-dir", str(self.data_dir), "--log-level", "error",
        ]  # fmt: skip

    def begin(self) -> None:
        """Start without waiting; :meth:`wait` follows."""
        import subprocess

        self.process = subprocess.Popen(
            self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.directory
        )

    def wait(self) -> None:
        from tests.support.servers import wait_for_port

        wait_for_port(self.port, 30)
