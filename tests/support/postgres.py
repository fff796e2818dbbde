"""A PostgreSQL server of a test's own, on loopback addresses."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.project import wait_for
from tests.support.browser import cannot_run

ADDRESSES = ("127.0.0.1", "127.0.0.2")


@contextmanager
def postgres() -> Iterator[list[str]]:
    """Start a server and yield the URL of its database at each address; it ends with the block."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    if not programs:
        cannot_run("postgres is missing (on Debian: apt install postgresql)")
    owner: dict[str, Any] = {}  # it refuses to run as root
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        owner = {"user": account.pw_uid, "group": account.pw_gid}
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    with socket.socket() as free:
        free.bind((ADDRESSES[0], 0))
        port = free.getsockname()[1]
    server = None
    try:
        if owner:
            shutil.chown(folder, **owner)
        words = ["-U", "search", "-A", "trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", *words], check=True, capture_output=True, cwd=folder, **owner
        )
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [
                    programs / "postgres", "-D", folder / "data", "-k", folder, "-p", str(port),
                    "-h", ",".join(ADDRESSES), "-c", "fsync=off",
                ],
                stdout=log, stderr=log, cwd=folder, start_new_session=True, **owner,
            )  # fmt: skip
        wait_for(lambda: b"ready to accept connections" in (folder / "log").read_bytes())
        yield [f"postgresql://search@{address}:{port}/postgres" for address in ADDRESSES]
    finally:
        if server:
            server.terminate()
            server.wait(30)
        shutil.rmtree(folder)
