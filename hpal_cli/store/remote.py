"""Files on object storage: `s3://`, `gs://`, `az://`, `http(s)://` (read only) and `memory://` (within one process).

A `RemotePath` can stand wherever a `Path` can. Its methods ask the object store. Everything else that needs a file of
the operating system fails with an error of one line, which `__fspath__` raises. docs/formats.md section 1.8 is the rule
for stores there, and `objects.py` follows it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PosixPath
from typing import IO, TYPE_CHECKING, Any, TypeVar

from hpal_cli.errors import HpalError

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from obstore.store import ObjectStore

In = TypeVar("In")
Out = TypeVar("Out")

_ADDRESS = re.compile(r"(s3|gs|az|https?|memory):/{1,2}([^/].*)")
"""A `Path` of an address has only one of its two slashes."""

RETRY_TIMEOUT = 60.0
"""Seconds for which a request that fails is tried again. A server that does not answer is waited for half as long."""

_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}


def located(given: str | os.PathLike[str]) -> Path:
    """What a person typed, as a path: a `RemotePath` for an address of object storage, else a `Path`.

    A local folder that is called `s3:` can be given by its absolute path.
    """
    if isinstance(given, RemotePath):
        return given
    match = _ADDRESS.fullmatch(os.fspath(given))
    return Path(given) if match is None else RemotePath(f"{match[1]}:/{match[2]}")


class RemotePath(PosixPath):
    """An object, or a folder: all objects whose names begin with this path and a slash."""

    __slots__ = ()

    @property
    def scheme(self) -> str:
        return self.parts[0].removesuffix(":")

    @property
    def read_only(self) -> bool:
        """Whether it is on a web server, which can neither be written to nor say what it holds."""
        return self.scheme in ("http", "https")

    @property
    def key(self) -> str:
        """The name of the object within its bucket."""
        return "/".join(self.parts[2:])

    @property
    def objects(self) -> ObjectStore:
        """The bucket.

        Raises:
            HpalError: obstore is not installed, or the environment has settings for the bucket that cannot be used.
        """
        with reached(self):
            return bucket(self.scheme, self.parts[1])

    def __str__(self) -> str:
        return f"{self.scheme}://{'/'.join(self.parts[1:])}"

    def __fspath__(self) -> str:
        raise HpalError(
            self, "is on object storage, and this needs a file or folder on a disk", "copy it, or name a local one"
        )

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        # A web server also answers a request for a folder, but what it answers is no object.
        return bool(self.key) and not (self.read_only and self.is_dir()) and self._has(self.key)

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        if self.read_only:
            return self._has(f"{self.key}/zarr.json".lstrip("/"))
        with reached(self):
            return any(self.objects.list(f"{self.key}/" if self.key else None, chunk_size=1))

    def _has(self, key: str) -> bool:
        with reached(self):
            try:
                self.objects.head(key)
            except FileNotFoundError as error:
                require_bucket(self, error)
                return False
        return True

    def read_bytes(self) -> bytes:
        """Raises:
        FileNotFoundError: there is none.
        """
        begun = _begun.pop(self, None)
        if begun is not None:
            with contextlib.suppress(HpalError, FileNotFoundError):
                return begun.result()
        return self._read_now()

    def _read_now(self) -> bytes:
        with reached(self):
            try:
                return bytes(self.objects.get(self.key).bytes())
            except FileNotFoundError as error:
                raise _missing(self, error) from None

    def read_head(self, count: int) -> bytes:
        """The first `count` bytes; all, if there are fewer.

        Raises:
            FileNotFoundError: there is none.
        """
        with reached(self):
            try:
                return bytes(self.objects.get_range(self.key, start=0, length=count))
            except FileNotFoundError as error:
                raise _missing(self, error) from None

    def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(self, mode: str = "r", *args: Any, **options: Any) -> IO[Any]:  # type: ignore[override]
        """Opens the object for reading from its beginning to its end.

        Raises:
            FileNotFoundError: there is none.
        """
        if mode not in ("r", "rb"):
            # For writing there is `uploaded`.
            os.fspath(self)
        with reached(self):
            try:
                found = self.objects.get(self.key)
            except FileNotFoundError as error:
                raise _missing(self, error) from None
        raw = io.BufferedReader(_Download(self, iter(found.stream())), 1 << 20)
        return raw if mode == "rb" else io.TextIOWrapper(raw, encoding=options.get("encoding", "utf-8"))

    def iterdir(self) -> Iterator[RemotePath]:  # type: ignore[override]
        """The objects and folders directly below it.

        Raises:
            HpalError: it is on a web server, which does not say what it holds.
        """
        require_listing(self)
        with reached(self):
            found = self.objects.list_with_delimiter(f"{self.key}/" if self.key else None)
        for key in [*found["common_prefixes"], *(one["path"] for one in found["objects"])]:
            yield self / key.rstrip("/").rpartition("/")[2]

    def unlink(self, missing_ok: bool = False) -> None:
        """Raises:
        FileNotFoundError: there is none, and `missing_ok` is not set.
        """
        if not missing_ok and not self._has(self.key):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        with reached(self), contextlib.suppress(FileNotFoundError):
            self.objects.delete(self.key)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: object storage has no folders, but names with slashes.

        Raises:
            HpalError: it is on a web server.
        """
        require_writable(self)

    def as_uri(self) -> str:
        return str(self)

    def resolve(self, strict: bool = False) -> RemotePath:
        return self

    def absolute(self) -> RemotePath:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self.scheme == "memory":
            raise HpalError(self, "is in the memory of one process", "use --jobs 1, or a store on a disk")
        return type(self), self.parts


@dataclass(frozen=True)
class RemoteFile:
    """An object. size: in bytes; version: another one if the object was written again."""

    path: RemotePath
    size: int
    version: str


def objects_below(path: RemotePath) -> list[RemoteFile]:
    """The object `path`, or else all objects below it, sorted; [] if there is none. On a web server, which does not say
    what it holds, only an object is found."""
    with reached(path):
        if path.key:
            try:
                return [_remote_file(path, path.objects.head(path.key))]
            except FileNotFoundError as error:
                require_bucket(path, error)
        if path.read_only:
            return []
        home = RemotePath(*path.parts[:2])
        listed = path.objects.list(f"{path.key}/" if path.key else None, chunk_size=1000)
        found = [_remote_file(home / one["path"], one) for batch in listed for one in batch]
    return sorted(found, key=lambda file: file.path.parts)


def _remote_file(path: RemotePath, about: Any) -> RemoteFile:
    return RemoteFile(path, about["size"], str(about["e_tag"] or about["last_modified"]))


def download(path: RemotePath, local: Path) -> None:
    """Copies an object to a file.

    Raises:
        FileNotFoundError: there is none.
    """
    with path.open("rb") as source, local.open("wb") as file:
        while piece := source.read(1 << 22):
            file.write(piece)


class _Download(io.RawIOBase):
    """An object that arrives in pieces, as a file."""

    def __init__(self, path: RemotePath, pieces: Iterator[Any]) -> None:
        self._path, self._pieces, self._left = path, pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        with reached(self._path):
            while not self._left:
                piece = next(self._pieces, None)
                if piece is None:
                    return 0
                self._left = memoryview(piece)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


IN_FLIGHT = 32
"""Requests at a time."""


def in_flight(function: Callable[[In], Out], items: Sequence[In]) -> list[Out]:
    """`map(function, items)` in threads, for a function that waits for an object store."""
    if len(items) < 2:
        return list(map(function, items))
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(IN_FLIGHT, len(items))) as pool:
        return list(pool.map(function, items))


def for_each(path: Path, function: Callable[[In], Out], items: Sequence[In]) -> list[Out]:
    """`map(function, items)`, for a function that reads something small of `path`, or of what is beside or below it:
    from object storage for many items at the same time."""
    return in_flight(function, items) if isinstance(path, RemotePath) else list(map(function, items))


_begun: dict[RemotePath, Future[bytes]] = {}
"""Objects whose reading was begun before they are needed."""

_MAX_BEGUN = 4 * IN_FLIGHT
"""Objects that are kept until they are needed, at most. If there are more, the oldest are dropped, and read again when
they are needed."""


def begin_reading(paths: Sequence[RemotePath]) -> None:
    """Begins to read objects that never change and are needed soon: their next `read_bytes` waits for what was
    begun. An error is raised when the object is needed."""
    for path in paths:
        if path not in _begun:
            _begun[path] = _reading().submit(path._read_now)
    while len(_begun) > _MAX_BEGUN:
        with contextlib.suppress(KeyError, StopIteration, RuntimeError):
            del _begun[next(iter(_begun))]


@cache
def _reading() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="read-ahead")


@cache
def bucket(scheme: str, name: str) -> ObjectStore:
    """The bucket, account or server of that name, opened once in a process. Credentials come from the environment.

    Raises:
        ValueError: HPAL_REMOTE_PATIENCE is no number of seconds.
        HpalError: there are no credentials for S3.
    """
    from datetime import timedelta

    from obstore.store import HTTPStore, MemoryStore, from_url

    if scheme == "memory":
        return MemoryStore()
    if scheme == "s3":
        _require_credentials(name)
    patience = float(os.environ.get("HPAL_REMOTE_PATIENCE", RETRY_TIMEOUT))
    plain = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", "")).startswith("http://")
    # `from_url` would take the web address of a bucket of S3 or Azure for a bucket, which needs credentials.
    make: Any = HTTPStore.from_url if scheme in ("http", "https") else from_url
    made: ObjectStore = make(
        f"{scheme}://{name}",
        client_options={
            "allow_http": plain or scheme == "http",
            "connect_timeout": timedelta(seconds=min(5.0, patience)),
            "read_timeout": timedelta(seconds=patience / 2),
            # Of a whole request, since a large object on a slow line takes long.
            "timeout": timedelta(hours=1),
        },
        retry_config={"max_retries": 10, "retry_timeout": timedelta(seconds=patience)},
    )
    return made


_SIGNED_BY = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
"""The variables that say how requests to S3 are signed. If none is set, obstore asks the metadata service that Amazon's
computers have."""


def _require_credentials(name: str) -> None:
    """Checks that requests to S3 can be signed: a variable of `_SIGNED_BY` is set, or there is a metadata service.
    obstore itself would try for minutes to reach a service that does not exist.

    Raises:
        HpalError: neither is the case.
    """
    if any(os.environ.get(variable) for variable in _SIGNED_BY):
        return
    import socket
    from urllib.parse import urlsplit

    service = urlsplit(os.environ.get("AWS_METADATA_ENDPOINT", "http://169.254.169.254"))
    try:
        socket.create_connection((service.hostname or "", service.port or 80), timeout=2).close()
    except OSError as error:
        remedy = f"set {_CREDENTIALS['s3']} in the environment"
        raise HpalError(f"s3://{name}", "needs credentials, and none are set", remedy) from error


@contextlib.contextmanager
def reached(path: RemotePath) -> Iterator[None]:
    """Turns the errors of an object store into an HpalError. FileNotFoundError is passed on."""
    try:
        # The package comes first: this import waits until another thread has imported all of it, whereas a module of
        # the package may be there already before the functions of the package are.
        import obstore  # noqa: F401
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
    except ImportError as error:
        raise HpalError(path, "needs obstore, which is not installed", "pip install 'hpal[remote]'") from error
    try:
        yield
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise HpalError(path, f"access is refused ({_reason(error)})", _check(path)) from error
    except FileNotFoundError:
        raise
    except (BaseError, ValueError) as error:
        if "NoSuchBucket" in str(error):
            raise no_bucket(path) from error
        if "169.254.169.254" in str(error):
            raise HpalError(path, "needs credentials, and none are set", _check(path)) from error
        problem = f"the object store does not do what it is asked ({_reason(error)})"
        raise HpalError(path, problem, "check the address and the network, and try again") from error


def require_bucket(path: RemotePath, missing: FileNotFoundError) -> None:
    """Raises:
    HpalError: the object is missing because its bucket is.
    """
    if "NoSuchBucket" in str(missing):
        raise no_bucket(path) from missing


def _missing(path: RemotePath, error: FileNotFoundError) -> FileNotFoundError:
    require_bucket(path, error)
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _check(path: RemotePath) -> str:
    known = _CREDENTIALS.get(path.scheme)
    return "check who may read it" if known is None else f"check {known} in the environment, and who may use the bucket"


def no_bucket(path: RemotePath) -> HpalError:
    return HpalError(path, f"there is no bucket {path.parts[1]}", "make it, or check the name and AWS_ENDPOINT_URL")


def _reason(error: Exception) -> str:
    """The part of a long error message that a person needs: the server's status and code, or the first line."""
    text = str(error)
    code = re.search(r"<Code>([^<]{1,60})</Code>", text)
    status = re.search(r"status code: (\d+ [A-Za-z ]+)", text)
    if code or status:
        return ", ".join(found[1].strip() for found in (status, code) if found)
    line = (text.splitlines() or [type(error).__name__])[0]
    return re.sub(r"^Generic \w+ error: ", "", line)[:200].strip()


def require_writable(path: RemotePath) -> None:
    """Raises:
    HpalError: it is on a web server.
    """
    if path.read_only:
        problem = "cannot be written: a web server is for reading"
        raise HpalError(path, problem, "give a local name, or s3://, gs://, az://")


def require_listing(path: RemotePath) -> None:
    """Raises:
    HpalError: it is on a web server.
    """
    if path.read_only:
        problem = "cannot be listed: a web server does not say what it holds"
        raise HpalError(path, problem, "copy it to a disk, or add consolidated metadata to the store")


def may_write(folder: Path) -> bool:
    """Whether this user may write to a folder, as far as can be known without trying."""
    return not folder.read_only if isinstance(folder, RemotePath) else os.access(folder, os.W_OK)


@contextlib.contextmanager
def uploaded(path: RemotePath, *, overwrite: bool) -> Iterator[Path]:
    """Yields an empty local file, which is written to `path` when the block ends without an error.

    Raises:
        HpalError: another process has written `path` meanwhile, and `overwrite` is not set.
    """
    import tempfile

    with tempfile.TemporaryDirectory(prefix="hpal-") as folder:
        local = Path(folder) / (path.name or "object")
        local.touch()
        yield local
        # The object store can refuse a name that is taken only if the object is put in one piece.
        pieces = overwrite or local.stat().st_size > _MAX_ONE_PIECE
        if pieces and not overwrite and path.exists():
            raise already_exists(path)
        from obstore.exceptions import AlreadyExistsError

        with reached(path):
            try:
                path.objects.put(path.key, local, mode="overwrite" if pieces else "create")
            except AlreadyExistsError as error:
                raise already_exists(path) from error
            except FileNotFoundError as error:
                raise no_bucket(path) from error


_MAX_ONE_PIECE = 1 << 30
"""Bytes of an object that is put in one piece and is held in memory for this. S3 accepts 5 GiB."""


def is_unfinished(path: RemotePath) -> bool:
    """Whether there is a store at `path` that is being written, or whose writer was killed."""
    try:
        return json.loads((path / "zarr.json").read_bytes())["attributes"]["hpal"]["complete"] is False
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def already_exists(path: Path) -> HpalError:
    return HpalError(path, "exists already", "give --overwrite to replace it, or another name")


_copies: dict[tuple[RemotePath, object], Path] = {}
"""The local copies of this process, by object and version."""


def local_copy(path: Path) -> Path:
    """The file itself or, if it is on object storage, a copy on the local disk, for formats that are not read from the
    beginning to the end. The copy is removed when the program ends.

    Raises:
        FileNotFoundError: there is none.
    """
    if not isinstance(path, RemotePath):
        return path
    import atexit
    import tempfile

    with reached(path):
        try:
            found = path.objects.head(path.key)
        except FileNotFoundError as error:
            raise _missing(path, error) from None
    version = path, found["e_tag"] or found["last_modified"]
    if version not in _copies:
        folder = tempfile.TemporaryDirectory(prefix="hpal-")
        atexit.register(folder.cleanup)
        copy = Path(folder.name) / path.name
        download(path, copy)
        _copies[version] = copy
    return _copies[version]
