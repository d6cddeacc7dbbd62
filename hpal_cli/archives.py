"""Opens zip archives that may be damaged or hostile: `.npz` files and models."""

from __future__ import annotations

import contextlib
import math
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

MAX_UNCHECKED_BYTES = 1 << 26
"""Members of up to so many bytes in all are read from an archive, however well it is compressed."""

MAX_COMPRESSION = 100
"""Larger members are refused if they are more than this many times as large as the archive. Positions and weights can
hardly be compressed; an archive that is a thousand times smaller than its members was made to exhaust memory."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens the archive at `path` for reading, if its directory is whole.

    Raises:
        OSError: the file cannot be read.
        zipfile.BadZipFile: it is no archive, it promises more than `MAX_COMPRESSION` times its size, or a member is
            compressed in a way in which NumPy, torch and hpal compress none.
    """
    try:
        archive = zipfile.ZipFile(path)
    # A damaged directory can hold a name that is no text, a place before the file, or a version from the future.
    except (ValueError, OverflowError, NotImplementedError, struct.error) as error:
        raise zipfile.BadZipFile(str(error)) from error
    with archive:
        members = archive.infolist()
        promised, held = sum(member.file_size for member in members), path.stat().st_size
        if promised > max(MAX_UNCHECKED_BYTES, MAX_COMPRESSION * held):
            raise zipfile.BadZipFile(f"its {held:,} bytes promise {promised:,}, which no whole file does")
        # The errors of the other methods have no class in common.
        unknown = next((member for member in members if member.compress_type not in _METHODS), None)
        if unknown is not None:
            raise zipfile.BadZipFile(f"{unknown.filename!r} is compressed by method {unknown.compress_type}")
        yield archive


def check_shape(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Checks the header of an array (`.npy`) in an archive before memory is allocated for it.

    Raises:
        ValueError: the header promises more numbers than the member holds. A damaged header has further errors, for
            NumPy parses it as Python.
    """
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read_header.get(version, np.lib.format.read_array_header_2_0)(file)
        if math.prod(shape) * dtype.itemsize > member.file_size:
            raise ValueError(f"{member.filename} promises {' x '.join(map(str, shape))} numbers, and holds fewer")
