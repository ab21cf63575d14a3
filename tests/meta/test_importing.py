"""Importing the object to check by its path."""

import os
import re
import sys
from pathlib import Path

import pytest

from simplenet.testing.importing import import_object

CODE = """
class Outer:
    class Inner: pass
value = 7
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Change to a directory with modules; another directory, earlier in the path, has one of the same name."""
    other = tmp_path / "other"
    other.mkdir()
    for path, code in (
        (tmp_path / "to_import.py", CODE),
        (other / "to_import.py", "value = 'of another directory'"),
        (tmp_path / "to_raise.py", "import to_raise_later\nto_raise_later.now()"),
        (tmp_path / "to_raise_later.py", "def now():\n    raise RuntimeError('not today')"),
        (tmp_path / "to_exit.py", "raise SystemExit(3)"),
        (tmp_path / "to_lack.py", "import there_is_no_such_module"),
    ):
        path.write_text(code, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(other), *sys.path])
    yield tmp_path
    for name in ("to_import", "to_raise", "to_raise_later", "to_exit", "to_lack"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("here")
def test_the_current_directory_is_searched_first_and_only_while_importing():
    before = [*sys.path]

    assert import_object("to_import:value", callable_=False) == 7
    assert sys.path == before


@pytest.mark.usefixtures("here")
def test_a_name_may_be_an_attribute_of_an_attribute():
    assert import_object("to_import:Outer.Inner").__qualname__ == "Outer.Inner"


@pytest.mark.parametrize("directory", ["", "other", ".."])
def test_a_file_may_be_named_in_any_directory(here, monkeypatch, directory):
    """Its own directory is searched for it and for what it imports."""
    (here / "to_import_from.py").write_text("from to_import import value as Value", "utf-8")
    (here / directory).mkdir(exist_ok=True)
    monkeypatch.chdir(here / directory)
    before = [*sys.path]

    path = os.path.relpath(here / "to_import_from.py")
    assert import_object(f"{path}:Value", callable_=False) == 7
    assert sys.modules.pop("to_import_from").__file__ == str(here / "to_import_from.py")
    assert sys.path == before


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nowhere:Net", "No module named 'nowhere'"),
        ("nowhere.py:Net", "there is no file 'nowhere.py'"),
        ("to_import.py:Net", "module 'to_import' has no attribute 'Net'"),
        ("to_lack:Net", "No module named 'there_is_no_such_module' [to_lack.py, line 1]"),
        ("to_import:Net", "module 'to_import' has no attribute 'Net'"),
        ("to_import:Outer.Net", "type object 'Outer' has no attribute 'Net'"),
        ("to_import:Outer:Inner", "module 'to_import' has no attribute 'Outer:Inner'"),
        ("to_raise:Net", "RuntimeError: not today [to_raise_later.py, line 2]"),
        ("to_exit:Net", "SystemExit: 3 [to_exit.py, line 1]"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_the_reason(path, reason, here):
    """And with the line that raised it, if that is a module's."""
    before = [*sys.path]

    with pytest.raises(ValueError, match=r"^'") as caught:
        import_object(path)
    message = f"'{path}' should be the pkg.mod:name or file.py:name of an object to check: {reason}"
    assert str(caught.value).replace(f"{here}{os.sep}", "") == message
    assert sys.path == before


@pytest.mark.parametrize("path", ["", ":", "to_import", "to_import:", ":Net"])
def test_a_path_without_a_module_or_a_name_is_refused(path):
    message = f"{path!r} should be the pkg.mod:name or file.py:name of an object to check"
    with pytest.raises(ValueError, match=f"^{message}$"):
        import_object(path)


@pytest.mark.usefixtures("here")
def test_what_a_module_prints_goes_to_stderr(capsys):
    Path("to_import.py").write_text("print('importing')\n" + CODE, "utf-8")

    import_object("to_import:Outer")

    assert capsys.readouterr() == ("", "importing\n")


@pytest.mark.usefixtures("here")
def test_what_is_not_callable_is_refused_with_its_type():
    message = "'to_import:value' is of type int, but should be a class or a function"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        import_object("to_import:value")
