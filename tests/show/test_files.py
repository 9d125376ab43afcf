"""Claims about where figures may be written."""

import pytest
from PIL import Image

from attnlens import show
from attnlens.errors import AttnLensError

FIGURE = Image.new("RGB", (8, 8), "white")


@pytest.mark.parametrize("name", ["out.png", "deep/er/out.png", "out.JPG", "out.webp"])
def test_a_figure_is_written_and_folders_are_made(name, tmp_path):
    path = show.save(FIGURE, tmp_path / name)
    with Image.open(path) as image:
        assert image.size == (8, 8)


@pytest.mark.parametrize("name", ["out", "out.xyz", "out.txt"])
def test_a_name_that_says_no_picture_format_is_refused(name, tmp_path):
    with pytest.raises(AttnLensError, match="ends in .png"):
        show.writable(tmp_path / name)


def test_a_folder_and_a_file_in_place_of_a_folder_are_refused(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(AttnLensError, match="it is a folder"):
        show.save(FIGURE, tmp_path / "folder.png")
    with pytest.raises(AttnLensError, match="cannot be made"):
        show.save(FIGURE, tmp_path / "file" / "out.png")
