"""Sources of the raw files: folders, file, http and https URLs, and the Debian package. All content is verified."""

import gzip
import hashlib
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

from classifier.prepare.registry import RawFile
from classifier.progress import progress_bar

DEBIAN = "debian:"
RETRIES = 2  # of each file, with a growing pause, after failures that may be temporary
CONNECT_SECONDS = 2  # a firewall that drops packets must not cost more, for each source


class SourceError(Exception):
    """Why a source did not deliver a file; ``again`` says whether a retry may succeed."""

    def __init__(self, reason: str, again: bool = False):
        super().__init__(reason)
        self.again = again


@contextmanager
def opened(source: str) -> Iterator[str]:
    """The folder or URL that holds a source's files; the Debian package is unpacked into a temporary folder.

    Raises:
        SourceError: apt-get is missing or failed.
    """
    if source.startswith(DEBIAN):
        with tempfile.TemporaryDirectory() as folder:
            yield str(_unpack_debian(source.removeprefix(DEBIAN), Path(folder)))
    else:
        yield source


def fetch(base: str, raw: RawFile, timeout_seconds: float) -> bytes:
    """One raw file's verified, uncompressed content.

    Raises:
        SourceError: the source has no such file, does not answer, or its content is not the published one.
    """
    for attempt in range(RETRIES):
        try:
            return verified(raw, _read_either(base, raw.name, timeout_seconds))
        except SourceError as error:
            if not error.again:
                raise
        time.sleep(2**attempt)
    return verified(raw, _read_either(base, raw.name, timeout_seconds))


def verified(raw: RawFile, content: bytes) -> bytes:
    """The uncompressed content, if it or its .gz has a published digest.

    Raises:
        SourceError: neither matches; the message describes the content instead.
    """
    got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    is_published = got == raw.gzip_md5
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise SourceError(f"{raw.name}: truncated or damaged gzip ({error})", again=True) from None
        got = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if is_published or got == raw.content_md5:
        return content
    if content.lstrip()[:1] == b"<":
        raise SourceError(f"{raw.name}: an HTML or XML page came instead of the file (a login or proxy page?)")
    wanted = f"{raw.content_md5}" if raw.content_md5 else f"{raw.gzip_md5} (as .gz)"
    raise SourceError(f"{raw.name}: wrong content: {len(content):,} bytes with MD5 {got}; published is {wanted}")


def _read_either(base: str, name: str, timeout_seconds: float) -> bytes:
    """The bytes of ``NAME.gz`` or, where there is none, of ``NAME``."""
    for file in (f"{name}.gz", name):
        with suppress(FileNotFoundError):
            return _read(f"{base.rstrip('/')}/{file}", timeout_seconds)
    raise SourceError(f"{name}: not found there, with or without .gz")


def _read(url: str, timeout_seconds: float) -> bytes:
    """The bytes at a path or URL.

    Raises:
        FileNotFoundError: there is nothing.
        SourceError: it does not answer.
    """
    if "://" not in url:
        url = Path(url).absolute().as_uri()
    name, through = url.rpartition("/")[2], _check_reachable(url)
    content = bytearray()
    try:
        # The timeout limits silence, not the total time, so a slow connection is fine.
        with urllib.request.urlopen(url, timeout=timeout_seconds) as response:
            total = int(response.headers.get("Content-Length", 0))
            with progress_bar(description=name, total=total, unit="B", unit_scale=True) as bar:
                while part := response.read(1 << 16):
                    content += part
                    bar.update(len(part))
    except HTTPError as error:
        if error.code == 404:
            raise FileNotFoundError from None
        raise SourceError(f"{name}: HTTP status {error.code} {error.reason}{through}", error.code >= 500) from None
    except TimeoutError:
        raise SourceError(f"{name}: no answer in {timeout_seconds:g} s{through}", again=True) from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, FileNotFoundError):
            raise reason from None
        raise SourceError(f"{name}: {reason}{through}", again=isinstance(reason, Exception)) from None
    return bytes(content)


def _check_reachable(url: str) -> str:
    """Refuse a host, or a proxy, that does not answer at once; ends the messages of a URL that goes through a proxy."""
    target = urlsplit(url)
    if target.scheme not in ("http", "https"):
        return ""
    proxy = "" if urllib.request.proxy_bypass(target.hostname or "") else urllib.request.getproxies().get(target.scheme)
    met = urlsplit(proxy if "://" in proxy else f"//{proxy}") if proxy else target
    host = f"the proxy {met.hostname}:{met.port}" if proxy else "the host"
    try:
        port = met.port or (443 if met.scheme == "https" else 80)
        socket.create_connection((met.hostname or "", port), CONNECT_SECONDS).close()
    except OSError as error:  # not worth a second try: other sources follow
        raise SourceError(f"{host} cannot be reached ({error.strerror or error})") from None
    except ValueError as error:
        raise SourceError(f"{host}: {error}") from None
    return f" through {host}" if proxy else ""


def _unpack_debian(package: str, folder: Path) -> Path:
    """Fetch a package with apt-get, keeping its lists and cache in ``folder``, so that it does not need root."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise SourceError("no apt-get and dpkg-deb on this machine")
    for name in ("lists/partial", "archives/partial", "unpacked"):
        (folder / name).mkdir(parents=True)
    own = [f"Dir::State::Lists={folder}/lists", f"Dir::Cache={folder}", "APT::Sandbox::User=root"]
    apt = ["apt-get", "-qq", *(word for option in own for word in ("-o", option))]
    for command in ([*apt, "update"], [*apt, "download", package]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise SourceError(f"apt-get {command[-1]} failed: {reason}")
    (archive,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, folder / "unpacked"], check=True)
    found = sorted((folder / "unpacked").rglob("*images-idx3-ubyte*"))
    if not found:
        raise SourceError(f"the package {package} has no IDX files in it")
    return found[0].parent
