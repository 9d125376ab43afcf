"""Claims about the folders of the bundled models: what is missing or damaged is told before it is loaded."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import attnlens
from attnlens import pocket
from attnlens.errors import AttnLensError
from attnlens.pocket import _library

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The folder of a copy of pocket/llava, which stands in for the bundled one."""
    folder = tmp_path / "llava"
    shutil.copytree(pocket.path("llava"), folder)
    monkeypatch.setattr(_library, "_MODELS", tmp_path)
    return folder


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(AttnLensError, match="llava"):
        pocket.path("lava")


def test_missing_weights_are_named_with_the_way_to_get_them_again(copied):
    (copied / _library.WEIGHTS).unlink()
    with pytest.raises(AttnLensError, match=r"lacks model.safetensors. Install attnlens again \(pip install"):
        attnlens.load("pocket/llava")


@pytest.mark.parametrize("damage", ["one byte", "cut short"])
def test_damaged_weights_are_not_loaded(copied, damage):
    weights = copied / _library.WEIGHTS
    data = bytearray(weights.read_bytes())
    if damage == "one byte":
        data[len(data) // 2] ^= 1
    else:
        del data[-1000:]
    weights.write_bytes(data)
    with pytest.raises(AttnLensError, match=r"are damaged: .* sha256 .* Install attnlens again"):
        attnlens.load("pocket/llava")


def test_a_missing_checksum_is_named(copied):
    (copied / _library.CHECKSUM).unlink()
    with pytest.raises(AttnLensError, match=f"lacks {_library.CHECKSUM}"):
        pocket.path("llava")


def test_a_sealed_folder_is_whole(copied):
    (copied / _library.WEIGHTS).write_bytes(b"other weights")
    _library.seal(copied)
    assert pocket.path("llava") == copied


@pytest.mark.slow
def test_the_wheel_has_the_three_models_and_the_clip_and_stays_under_30_megabytes(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, timeout=600)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 30e6
    packed = set(zipfile.ZipFile(wheel).namelist())
    for folder in (*map(pocket.path, pocket.names()), pocket.cropper_path("clip")):
        files = {file.relative_to(ROOT).as_posix() for file in folder.rglob("*.*")}
        assert len(files) >= 7
        assert files <= packed
