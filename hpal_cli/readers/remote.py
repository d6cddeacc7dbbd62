"""Scans on object storage. Readers need files on a disk. So while scans are looked for, there are files with the names
of the objects, and while a scene is read, copies of its objects. Both are in the folder for temporary files, and are
removed afterwards."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hpal_cli.errors import HpalError
from hpal_cli.readers import nuscenes, text
from hpal_cli.readers.cloud import Source
from hpal_cli.store.files import inside
from hpal_cli.store.remote import RemoteFile, RemotePath, download, in_flight, objects_below

_TABLES = re.compile(r"(?:.*/)?v1\.0-[^/]+/(?:lidarseg|sample_data)\.json")
"""Tables of nuScenes, which say which labels belong to a scene."""


class Scans:
    """Where scans are looked for.

    path: what the readers search: the given path if it is on a disk, else a local path with files that have the names
    of the objects.
    """

    def __init__(self, path: Path, folder: Path, found: Sequence[RemoteFile]) -> None:
        """folder: the local folder that stands for a bucket; found: the objects."""
        self.path = path
        self._folder = folder
        self._found = {file.path: file for file in found}
        self._below: dict[RemotePath, list[RemoteFile]] = {}
        for file in found:
            for above in file.path.parents[:-2]:
                self._below.setdefault(above, []).append(file)

    def sources(self, sources: Sequence[Source]) -> list[Source]:
        """The scenes that a reader has found in `path`, with their addresses and objects if they have any."""
        return in_flight(self._source, sources) if self._found else list(sources)

    def _source(self, source: Source) -> Source:
        path = self._address(source.path)
        own = [self._found[path]] if path in self._found else self._below[path]
        beside = [file for other in source.beside for file in self._object(self._address(other))]
        return replace(source, path=path, beside=tuple(file.path for file in beside), objects=(*own, *beside))

    def _address(self, local: Path) -> RemotePath:
        scheme = next(iter(self._found)).parts[0]
        return RemotePath(scheme, *local.relative_to(self._folder).parts)

    def _object(self, path: RemotePath) -> list[RemoteFile]:
        """The object, if it exists: it may lie outside of what was listed, as labels in a folder beside that of the
        scans do."""
        return (
            [self._found[path]] if path in self._found else [file for file in objects_below(path) if file.path == path]
        )


@contextlib.contextmanager
def looked_for(root: Path) -> Iterator[Scans]:
    """Yields where the scans under `root` are looked for. Of objects it fetches only what readers look into to find
    scenes: the first lines of text, and tables of nuScenes.

    Raises:
        HpalError: `root` is on object storage, and there is nothing, or only a part of a data set of nuScenes.
    """
    if not isinstance(root, RemotePath):
        yield Scans(root, root, ())
        return
    found = objects_below(root)
    if not found:
        raise HpalError(root, "does not exist", "check the path")
    for file in found:
        home = file.path.parents[2] if len(file.path.parts) > 4 else file.path.parent
        if (
            file.path.name.endswith(nuscenes.SUFFIX)
            and file.path.parent.name == "LIDAR_TOP"
            and root not in (home, *home.parents)
        ):
            problem = "is a part of a data set of nuScenes, whose tables say which labels belong to its scans"
            raise HpalError(root, problem, f"give the whole of it: {home}")
    # Some programs make an empty object for each folder.
    folders = {above for file in found for above in file.path.parents}
    found = [file for file in found if file.path not in folders]
    with tempfile.TemporaryDirectory(prefix="hpal-") as scratch, _as_addresses(Path(scratch), root):
        folder = Path(scratch)

        def stand_in(file: RemoteFile) -> None:
            local = _local(folder, file.path)
            local.parent.mkdir(parents=True, exist_ok=True)
            if _TABLES.fullmatch(file.path.key):
                download(file.path, local)
            elif file.path.suffix.lower() in text.SUFFIXES and file.size and file.path != root:
                local.write_bytes(file.path.read_head(text.HEAD))
            else:
                local.touch()

        in_flight(stand_in, found)
        yield Scans(_local(folder, root), folder, found)


@contextlib.contextmanager
def fetched(source: Source) -> Iterator[Source]:
    """Yields the scene with its files on a disk. Copies of objects are removed at the end of the block."""
    if not source.objects:
        yield source
        return
    assert isinstance(source.path, RemotePath)
    with tempfile.TemporaryDirectory(prefix="hpal-") as scratch, _as_addresses(Path(scratch), source.path):
        folder = Path(scratch)

        def fetch(file: RemoteFile) -> None:
            local = _local(folder, file.path)
            local.parent.mkdir(parents=True, exist_ok=True)
            download(file.path, local)

        in_flight(fetch, source.objects)
        beside = tuple(_local(folder, path) for path in source.beside if isinstance(path, RemotePath))
        yield replace(source, path=_local(folder, source.path), beside=beside, objects=())


def _local(folder: Path, path: RemotePath) -> Path:
    # With all folders above, since the names of some scenes are those of folders.
    return inside(folder, "/".join(path.parts[1:]))


@contextlib.contextmanager
def _as_addresses(folder: Path, root: RemotePath) -> Iterator[None]:
    """Errors name the objects, and not the files in `folder` that stand for them."""
    try:
        yield
    except HpalError as error:
        words = (error.subject, error.problem, error.remedy)
        if not any(str(folder) in word for word in words):
            raise
        raise type(error)(*(word.replace(f"{folder}/", f"{root.scheme}://") for word in words)) from error
