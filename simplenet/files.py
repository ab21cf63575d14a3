"""Write files atomically: completely or not at all.

The content is written to a temporary file in the same directory and flushed to the disk, and only then renamed. If the
process is killed or the disk is full, the previous file of that name is unchanged.
"""

import errno
import itertools
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

# Seconds after its last write from which a temporary file is taken to be that of a killed process.
STALE_AFTER = 60.0

SUFFIX = ".simplenet-tmp"

# The errors of file systems without hard links.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def check_writable(path: Path) -> None:
    """Check that a file can be written later, without leaving a file behind.

    Args:
        path: The file to be created or replaced.

    Raises:
        OSError: If its directory is missing or not writable, or ``path`` is a directory.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "should be a file, but is a directory", str(path))
    if _stream(path) is None:
        _write_temporary(path, b"").unlink()


def unwritable(option: str, path: Path, error: OSError) -> str:
    """Say that the file that an option names cannot be written, and why."""
    return f"{option} is '{path}', which cannot be written: {error.strerror}"


def write_file(path: Path, content: bytes) -> None:
    """Write a file; replace an existing one.

    Raises:
        OSError: If it cannot be written; an existing file is unchanged.
    """
    stream = _stream(path)
    if stream is not None:
        with open(stream, "wb", closefd=stream is path) as file:
            file.write(content)
        return
    temporary = _write_temporary(path, content)
    try:
        temporary.replace(os.path.realpath(path))
    finally:
        temporary.unlink(missing_ok=True)
    _flush_directory(temporary.parent)


def write_new_file(path: Path, content: bytes) -> Path:
    """Write a file under a name that does not exist yet.

    Args:
        path: The name; if it exists, ``-v1``, ``-v2``, ... is inserted before its suffix.
        content: The whole content.

    Returns:
        The name of the new file.

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
    """Remove the temporary files of killed processes from a directory, as far as the system allows it."""
    for path in directory.glob(f".*{SUFFIX}"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_AFTER:
                path.unlink()


def _stream(path: Path) -> Path | int | None:
    """Return what to write to if the path is not one to replace: a device, or the file of stdout or stderr."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
    return path if path.exists() and not path.is_file() else None


def _write_temporary(path: Path, content: bytes) -> Path:
    """Write the content to a temporary file in the directory of ``path``, after resolving symbolic links."""
    temporary = Path(os.path.realpath(path)).parent / f".{secrets.token_hex(8)}{SUFFIX}"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error  # the name that the caller passed
        raise
    return temporary


def _link(temporary: Path, name: Path) -> bool:
    """Link a name to a file atomically; return False if the name exists."""
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
    """Flush a directory's entries to the disk, if the system supports it."""
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some network file systems can only flush files
                raise
        finally:
            os.close(descriptor)
