"""Launches of the tests of several processes."""

import pytest

from tests.alignment.trainers.launching import launched

MODULE = "tests.alignment.trainers.crashing_run"


def test_a_launch_that_crashes_outside_python_begins_anew_and_says_where(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "given").touch()
    with pytest.warns(UserWarning, match=r"(?s)as a process crashed.*frame #.*Segmentation fault"):
        launched("multi_gpu", MODULE, "native", tmp_path / "first", folder, folder=folder)
    assert sorted(path.name for path in folder.iterdir()) == ["given", "written"]
    assert (folder / "written").read_text() == "['given']"


def test_a_launch_that_crashes_twice_fails(tmp_path):
    crashed = pytest.raises(AssertionError, match="Segmentation fault")
    with crashed, pytest.warns(UserWarning, match="as a process crashed"):
        launched("multi_gpu", MODULE, "native", "always", tmp_path, folder=tmp_path)


def test_a_crash_of_a_thread_that_runs_python_fails_at_once(tmp_path, recwarn):
    with pytest.raises(AssertionError, match="Segmentation fault"):
        launched("multi_gpu", MODULE, "python", tmp_path / "first", tmp_path, folder=tmp_path)
    assert not recwarn.list
    assert (tmp_path / "half").exists()
