"""Unpacks an archive that nobody vouches for: files and folders, inside their place, up to a stated size."""

import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from gzip import BadGzipFile
from pathlib import Path
from typing import IO, NamedTuple

from tqdm import tqdm

from flgc_lib.files import first_line

LARGEST = 4 * 2**30
"""Bytes that an archive may unpack to: twenty times CIFAR-10. A few megabytes can be made to hold terabytes."""
OF_A_MEMBER = 4096
"""Bytes that each member counts at least: what an empty file takes on a disk."""


class _Member(NamedTuple):
    name: str
    is_folder: bool
    is_file: bool
    size: int  # bytes, as the archive says
    open: Callable[[], IO[bytes] | None]


_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, BadGzipFile, EOFError, zlib.error, lzma.LZMAError, RuntimeError)
"""What Python's readers of archives raise."""


def unpack(archive: Path, target: Path) -> None:
    """Writes the files of a tar or zip archive into an empty folder.

    Args:
        archive: of any compression that Python's tarfile or zipfile reads.
        target: the folder.

    Raises:
        ValueError: if the archive is damaged or cut off; if a member is a link or a device, or would be written outside
            the folder; if it unpacks to more than `LARGEST`.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                _write(archive, target, _of_zip(file))
        else:
            with tarfile.open(archive) as tar:
                _write(archive, target, _of_tar(tar))
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, BadGzipFile) and error.errno is not None:
            raise  # of the disk, not of the archive
        raise ValueError(
            f"{archive} is truncated, altered or not a tar or zip archive ({first_line(error)}): "
            "delete it and get it again."
        ) from error


def _of_zip(file: zipfile.ZipFile) -> Iterator[_Member]:
    for info in file.infolist():
        kind = info.external_attr >> 28  # of a Unix mode: 8 is a file, 4 a folder, 0 not told
        is_folder = info.is_dir()
        yield _Member(
            info.filename,
            is_folder,
            not is_folder and kind in (0, 8),
            info.file_size,
            partial(file.open, info),
        )


def _of_tar(tar: tarfile.TarFile) -> Iterator[_Member]:
    for info in tar:
        yield _Member(info.name, info.isdir(), info.isreg(), info.size, partial(tar.extractfile, info))
    end = tar.fileobj
    if end is None:
        return
    end.seek(tar.offset)
    if end.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes the end of the file for the end
        raise tarfile.ReadError("the mark of its end is missing")
    while end.read(1 << 20):  # gzip's checksum comes after it
        pass


def _write(archive: Path, target: Path, members: Iterator[_Member]) -> None:
    room, inside = LARGEST, target.resolve()
    for member in tqdm(members, desc="extract"):
        path = (inside / member.name).resolve()
        if not path.is_relative_to(inside):
            raise ValueError(f"{archive} was refused: its member {member.name!r} would be written outside its folder.")
        if not member.is_folder and not member.is_file:
            raise ValueError(
                f"{archive} was refused: its member {member.name!r} is a link or a device, and only files and folders "
                "are unpacked; make the archive again without it."
            )
        room -= max(member.size, OF_A_MEMBER)
        if room < 0:
            raise ValueError(
                f"{archive} was refused: it unpacks to more than {LARGEST / 2**30:g} GiB; unpack it yourself if you "
                "trust it, and give the folder."
            )
        if member.is_folder:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        content = member.open()
        if content is not None:
            with content, path.open("wb") as file:
                shutil.copyfileobj(content, file)
