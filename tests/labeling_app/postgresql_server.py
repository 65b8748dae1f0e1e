"""A PostgreSQL server of the tests' own, on a free port of this machine, from the binaries of the package."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MISSING = "PostgreSQL's server is missing: apt-get install postgresql"


def server_binaries() -> Path | None:
    """The folder of `initdb` and `postgres`; Debian keeps them out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [
        Path(path) for path in [shutil.which("initdb")] if path
    ]
    return found[-1].parent if found else None


@contextmanager
def running_server(folder: Path, binaries: Path) -> Iterator[str]:
    """Starts a server with its data in the empty `folder`; yields the URL of its first database."""
    # PostgreSQL refuses to run as root.
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)

    def call(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(binaries / program), *arguments],
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            cwd=folder,
            capture_output=program != "pg_ctl",
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    call("initdb", "-D", str(data), "-U", "vidalign", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=60"
    options += (
        " -c fsync=off -c synchronous_commit=off -c full_page_writes=off"  # what a power cut would need
    )
    call("pg_ctl", "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        yield f"postgresql://vidalign@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
