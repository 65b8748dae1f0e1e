"""Launches of the tests of several processes."""

import pytest

from tests.alignment.trainers.launching import launched


def test_a_launch_that_crashes_begins_anew_and_says_where(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "given").touch()
    words = ("multi_gpu", "tests.alignment.trainers.crashing_run", tmp_path / "first", folder)
    with pytest.warns(UserWarning, match=r"(?s)as a process crashed.*frame #.*Segmentation fault"):
        launched(*words, folder=folder)
    assert sorted(path.name for path in folder.iterdir()) == ["given", "written"]
    assert (folder / "written").read_text() == "['given']"


def test_a_launch_that_crashes_twice_fails(tmp_path):
    crashed = pytest.raises(AssertionError, match="Segmentation fault")
    with crashed, pytest.warns(UserWarning, match="as a process crashed"):
        launched("multi_gpu", "tests.alignment.trainers.crashing_run", "always", tmp_path, folder=tmp_path)
