"""A small Debian in a folder, with its own systemd booted in it: what an edge device is to these tests.

Needs root, debootstrap and systemd-nspawn; `unmet` says what is missing. No engine, registry or network
namespace is used: the machine shares this one's network. QZD_SUITE is Debian's suite in it: bookworm.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from support.waiting import until

__all__ = ["SUITE", "Machine", "make_debian", "run", "unmet"]

SUITE = os.environ.get("QZD_SUITE", "bookworm")
AUTHORITIES = Path("usr/local/share/ca-certificates")
PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3")
PROPAGATED = Path("/run/systemd/nspawn/propagate")
BOOTED = ("running", "degraded")
SHUT_DOWN = signal.SIGRTMIN + 4  # systemd(1)


def unmet(*commands: str) -> str:
    """Why a test that needs root on Debian 12 and these commands cannot run here; empty when it can."""
    release = Path("/etc/os-release")
    if not release.exists() or 'VERSION_ID="12"' not in release.read_text():
        return "needs Debian 12"
    if os.geteuid() != 0:
        return "needs root"
    missing = [command for command in commands if shutil.which(command) is None]
    return f"needs {', '.join(missing)}: see .ci/run" if missing else ""


def run(*command: object, check: bool = True, timeout: float = 600, **options: Any) -> str:
    """Run a command; returns its output, which is shown when it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )
    assert not check or done.returncode == 0, f"{command} exits {done.returncode}: {done.stdout}"
    return str(done.stdout)


def make_debian(directory: Path) -> Path:
    """Install the smallest Debian there is, which trusts what this machine trusts."""
    run("debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, directory)
    for certificate in (Path("/") / AUTHORITIES).glob("*.crt"):
        shutil.copy(certificate, directory / AUTHORITIES)
    run("chroot", directory, "update-ca-certificates")
    return directory


class Machine:
    """A booted machine.

    Parameters
    ----------
    debian : Path
        From `make_debian`.
    root : Path
        Where the machine's own files will be.
    """

    def __init__(self, debian: Path, root: Path) -> None:
        self.root = root
        run("cp", "-a", "--reflink=auto", debian, root)
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *PACKAGES)
        run("chroot", root, "apt-get", "update", "--quiet", env=environment)
        run("chroot", root, *install, env=environment)

    def boot(self) -> Machine:
        """Start its systemd, and wait until it is up."""
        shutil.rmtree(PROPAGATED / self.root.name, ignore_errors=True)  # left by one that was killed
        command = ("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=passive")
        self._console = (self.root.parent / f"{self.root.name}.console").open("wb")
        self._nspawn = subprocess.Popen(
            [*command, "--resolv-conf=copy-host", "--boot", "-D", self.root],
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=self._console,
            start_new_session=True,
            env={**os.environ, "UNIFIED_CGROUP_HIERARCHY": "1"},  # newer systemds know no other
        )
        try:
            until(lambda: self.leader)
            until(lambda: self.run("systemctl", "is-system-running", check=False).strip() in BOOTED)
        except BaseException:
            self.down()
            raise
        return self

    @property
    def leader(self) -> int | None:
        """Its process 1, as this machine numbers it."""
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def inside(self, path: str) -> Path:
        """Return a path of the machine, as this one sees it; its /run too."""
        return Path(f"/proc/{self.leader}/root{path}")

    def run(self, *command: object, check: bool = True, timeout: float = 120) -> str:
        """Run a command in the machine."""
        enter = ("nsenter", "-t", self.leader, "-m", "-u", "-i", "-p", "-C", "--")
        return run(*enter, *command, check=check, timeout=timeout)

    def show(self, name: str, unit: str = "qzd") -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()

    def down(self) -> None:
        """Shut down; kill what does not end."""
        if (leader := self.leader) is not None:
            os.kill(leader, SHUT_DOWN)
        try:
            self._nspawn.wait(60)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        self._console.close()
