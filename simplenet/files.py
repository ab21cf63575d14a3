"""Files that are written whole or not at all.

Content goes into a temporary file in the same directory, is flushed to the disk, and only then gets its
name. A process that is killed, or that meets a full disk, leaves under that name what was there before.
"""

import errno
import itertools
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

# A temporary file that was not written to for so many seconds was left by a process that was killed.
STALE_AFTER = 60.0

SUFFIX = ".simplenet-tmp"

# The errors of file systems that have no hard links.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def check_writable(path: Path) -> None:
    """Find out before the work whether a file can be written after it; leave nothing behind.

    Args:
        path: The file to be written later, new or replaced.

    Raises:
        OSError: If its directory is missing or not writable, or ``path`` is a directory.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "should be a file, but is a directory", str(path))
    if not _is_special(path):
        _write_temporary(path, b"").unlink()


def write_file(path: Path, content: bytes) -> None:
    """Write a file, and replace what is there.

    Raises:
        OSError: If it cannot be written; what is there stays.
    """
    if _is_special(path):
        path.write_bytes(content)
        return
    temporary = _write_temporary(path, content)
    try:
        temporary.replace(path.resolve())
    finally:
        temporary.unlink(missing_ok=True)
    _flush_directory(temporary.parent)


def write_new_file(path: Path, content: bytes) -> Path:
    """Write a file under a name that no file has yet.

    Args:
        path: The name; if it is taken, ``-v1``, ``-v2``, ... is put before its suffix.
        content: The whole content.

    Returns:
        The name that the file got.

    Raises:
        OSError: If it cannot be written.
    """
    numbered = (path.with_name(f"{path.stem}-v{i}{path.suffix}") for i in itertools.count(1))
    temporary = _write_temporary(path, content)
    try:
        name = next(name for name in itertools.chain([path], numbered) if _link(temporary, name))
    finally:
        temporary.unlink(missing_ok=True)
    _flush_directory(temporary.parent)
    return name


def remove_stale_files(directory: Path) -> None:
    """Remove the temporary files that killed processes have left in a directory, as far as this user may."""
    for path in directory.glob(f".*{SUFFIX}"):
        with suppress(FileNotFoundError, PermissionError):
            if time.time() - path.stat().st_mtime > STALE_AFTER:
                path.unlink()


def _is_special(path: Path) -> bool:
    """Whether there is something that is written to but not replaced, such as ``/dev/stdout``."""
    return path.exists() and not path.is_file()


def _write_temporary(path: Path, content: bytes) -> Path:
    """Write the content of ``path`` beside it, or beside the file that a symbolic link stands for."""
    temporary = path.resolve().parent / f".{secrets.token_hex(8)}{SUFFIX}"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error  # the name that the user knows
        raise
    return temporary


def _link(temporary: Path, name: Path) -> bool:
    """Give a file a further name, in one operation; return False if another file has it."""
    try:
        name.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if name.exists():
            return False
        temporary.rename(name)
    return True


def _flush_directory(directory: Path) -> None:
    """Have the disk keep the names, where the system can be asked to."""
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some network file systems flush files alone
                raise
        finally:
            os.close(descriptor)
