"""Files are written completely or not at all, and nothing temporary stays for good."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tfdatafree.files import require_writable_name, temporary_folder, write_atomically


def test_names_as_long_as_the_system_takes_can_be_written(tmp_path):
    for name in ("o" * 248 + ".tflite", "é" * 120 + ".tflite"):
        write_atomically(tmp_path / name, b"content")
        assert (tmp_path / name).read_bytes() == b"content"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*out\.tflite'"):
        write_atomically(tmp_path / "out.tflite", b"content")
    assert list(tmp_path.iterdir()) == []


def test_names_that_cannot_be_written_are_told_before_the_work(tmp_path):
    require_writable_name(tmp_path / "a.tflite")
    with pytest.raises(ValueError, match="holds the character NUL"):
        require_writable_name(tmp_path / "a\0.tflite")
    with pytest.raises(OSError, match="File name too long"):
        require_writable_name(tmp_path / ("a" * 300 + ".tflite"))
    with pytest.raises(FileNotFoundError, match="folder does not exist.*none"):
        require_writable_name(tmp_path / "none" / "a.tflite")


def test_folders_of_killed_processes_are_removed_later(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    left, young = tmp_path / f"tfdatafree-{done.pid}-a", tmp_path / f"tfdatafree-{done.pid}-b"
    running = tmp_path / f"tfdatafree-{os.getpid()}-c"
    for folder in (left, young, running):
        folder.mkdir()
    for folder in (left, running):
        os.utime(folder, (0, 0))
    with temporary_folder() as name:
        assert Path(name).is_dir()
        assert not left.exists() and young.exists() and running.exists()
    assert not Path(name).exists()
