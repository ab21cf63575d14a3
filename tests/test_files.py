"""Files are written completely or not at all, whatever interrupts the writing, and no other file changes."""

import errno
import os
import stat
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simplenet import files
from simplenet.files import STALE_AFTER, check_writable, remove_stale_files, write_file, write_new_file

OLD, NEW = b"old content", b"new content"


def temporary_files(directory):
    return [path for path in directory.iterdir() if path.name.endswith(files.SUFFIX)]


def age(path):
    """Make a file look stale."""
    past = path.stat().st_mtime - STALE_AFTER - 1
    os.utime(path, (past, past))


@pytest.mark.skipif(not hasattr(os, "kill"), reason="this platform has no SIGKILL")
@pytest.mark.parametrize("function", ["write_file", "write_new_file"])
def test_a_kill_at_any_line_of_a_write_leaves_complete_files(tmp_path, function):
    """The file has the old or the new content; a temporary file that is left is removed when it is stale."""
    killed = 0
    for line in range(1000):
        directory = tmp_path / str(line)
        directory.mkdir()
        path = directory / "file.ckpt"
        path.write_bytes(OLD)
        command = [sys.executable, "-m", "tests.children.killed_write", function, path, NEW.decode(), str(line)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)

        left = temporary_files(directory)
        named = {other.name: other.read_bytes() for other in directory.iterdir() if other not in left}
        allowed = [{"file.ckpt": OLD}]
        allowed += [{"file.ckpt": NEW}] if function == "write_file" else [{"file.ckpt": OLD, "file-v1.ckpt": NEW}]
        assert named in allowed, f"killed before line {line}"
        if process.stdout == "written":
            assert named == allowed[1]
            assert not left
            break
        assert process.returncode == -9, process.stderr
        killed += 1
        for temporary in left:
            age(temporary)
        remove_stale_files(directory)
        assert not temporary_files(directory)
    assert killed > 15


def test_a_recent_temporary_file_is_not_removed_as_stale(tmp_path, monkeypatch):
    """Another run may remove stale files at any time."""
    fsync = os.fsync

    def remove_and_fsync(descriptor):
        remove_stale_files(tmp_path)
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", remove_and_fsync)

    assert write_new_file(tmp_path / "file", NEW).read_bytes() == NEW


def test_a_stale_file_that_cannot_be_removed_is_left(tmp_path):
    """Such as a directory of such a name, or a file on a read-only file system."""
    directory, file = (tmp_path / f".{name}{files.SUFFIX}" for name in "ab")
    directory.mkdir()
    file.write_bytes(OLD)
    age(directory)
    age(file)

    remove_stale_files(tmp_path)

    assert list(tmp_path.iterdir()) == [directory]


@pytest.mark.parametrize("function", [write_file, write_new_file])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, function, error):
    path = tmp_path / "file"
    path.write_bytes(OLD)

    def fail(_):
        raise error

    monkeypatch.setattr(files.os, "fsync", fail)

    with pytest.raises(type(error)) as raised:
        function(path, NEW)

    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]
    if isinstance(error, OSError):
        assert raised.value.filename == str(path)


@pytest.mark.parametrize("function", [write_file, write_new_file, check_writable])
@pytest.mark.parametrize("inside", ["none/file", "text/file"])
def test_a_file_that_cannot_be_written_is_named(tmp_path, function, inside):
    (tmp_path / "text").write_bytes(OLD)

    with pytest.raises(OSError, match=f"{tmp_path / inside}'$"):
        function(tmp_path / inside, *[NEW] * (function is not check_writable))


def test_check_writable_leaves_no_file(tmp_path):
    (tmp_path / "there").write_bytes(OLD)

    for name in ("there", "new"):
        check_writable(tmp_path / name)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"there": OLD}
    with pytest.raises(IsADirectoryError, match="should be a file, but is a directory"):
        check_writable(tmp_path)


@given(count=st.integers(1, 12), stem=st.sampled_from(["run", "epoch=1-step=2", "a.b", "with space", "a::b"]))
def test_write_new_file_replaces_no_file(tmp_path_factory, count, stem):
    directory = tmp_path_factory.mktemp("new")

    names = [write_new_file(directory / f"{stem}.ckpt", bytes([i])).name for i in range(count)]

    assert names == [f"{stem}.ckpt", *(f"{stem}-v{i}.ckpt" for i in range(1, count))]
    assert [(directory / name).read_bytes() for name in names] == [bytes([i]) for i in range(count)]


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_concurrent_writers_get_different_names(tmp_path, monkeypatch, links):
    """Without hard links only one after another, because checking for a name and renaming are two operations."""
    if not links:

        def refuse(*_):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(files.Path, "hardlink_to", refuse)
    contents = [bytes([i]) * 1000 for i in range(20)]
    threads = [threading.Thread(target=write_new_file, args=(tmp_path / "file", content)) for content in contents]
    for thread in threads:
        thread.start()
        if not links:
            thread.join()
    for thread in threads:
        thread.join()

    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == sorted(contents)


def test_symbolic_links_and_devices_are_written_to_and_not_replaced(tmp_path):
    target, link = tmp_path / "target", tmp_path / "elsewhere" / "link"
    target.write_bytes(OLD)
    link.parent.mkdir()
    link.symlink_to(target)

    for path in (link, files.Path(os.devnull)):
        check_writable(path)
        write_file(path, NEW)

    assert link.is_symlink()
    assert target.read_bytes() == NEW
    assert not files.Path(os.devnull).is_file()
    assert [path.name for path in link.parent.iterdir()] == ["link"]


@pytest.mark.skipif(os.name != "posix", reason="only POSIX systems can flush a directory")
@pytest.mark.parametrize("function", [write_file, write_new_file])
def test_the_content_is_flushed_before_it_gets_its_name_and_the_name_before_the_return(tmp_path, monkeypatch, function):
    """So a power failure leaves no empty file, and does not undo what was reported as written."""
    path, flushed, fsync = tmp_path / "file", [], os.fsync

    def record(descriptor):
        what = os.fstat(descriptor)
        flushed.append(("directory" if stat.S_ISDIR(what.st_mode) else what.st_size, path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", record)
    function(path, NEW)

    assert flushed == [(len(NEW), False), ("directory", True)]


@pytest.mark.skipif(not files.Path("/dev/stdout").exists(), reason="no /dev/stdout")
@pytest.mark.parametrize("name", ["/dev/stdout", "out"])
def test_the_file_of_stdout_is_written_to_and_not_replaced(tmp_path, monkeypatch, name):
    """A shell redirects stdout to a file; its other content stays, before and after."""
    monkeypatch.chdir(tmp_path)
    stdout = os.dup(1)
    try:
        with (tmp_path / "out").open("wb") as out:
            os.dup2(out.fileno(), 1)
        os.write(1, b"before\n")
        check_writable(files.Path(name))
        write_file(files.Path(name), b"new\n")
        os.write(1, b"after\n")
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)

    assert (tmp_path / "out").read_bytes() == b"before\nnew\nafter\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_symbolic_link_to_itself_is_replaced(tmp_path):
    """There is no file behind it."""
    link = tmp_path / "link"
    link.symlink_to(link)

    check_writable(link)
    new = write_new_file(link, OLD)
    write_file(link, NEW)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"link": NEW, "link-v1": OLD}
    assert new.name == "link-v1"


def test_a_file_has_the_default_permissions(tmp_path):
    """And not those of a temporary file, which only its owner may read."""
    (tmp_path / "other").write_bytes(OLD)

    write_file(tmp_path / "file", NEW)

    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode
