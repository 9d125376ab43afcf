"""What a user names as a file: a home folder that is not there, pipes and devices, files that are replaced whole."""

import os
import threading
from pathlib import Path

import pytest

from attnlens import AttnLensError, _files

NOBODY = "~nosuchuser/x"


def test_a_home_folder_is_expanded_and_other_names_are_left(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _files.expanded("~/a.png") == tmp_path / "a.png"
    assert _files.expanded("a/~b.png") == Path("a/~b.png")


@pytest.mark.parametrize(("path", "words"), [(NOBODY, "a user that this system does not know"), ("a\0b", "NUL")])
def test_a_name_that_leads_nowhere_is_refused(path, words):
    with pytest.raises(AttnLensError, match=words):
        _files.expanded(path)


def test_only_a_regular_file_is_opened_and_nothing_waits(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, words in ((tmp_path / "pipe", "named pipe"), (Path("/dev/zero"), "device"), (tmp_path, "a directory")):
        with pytest.raises(OSError, match=words):
            _files.opened(path)
    with pytest.raises(OSError, match="surrogates not allowed|No such file"):
        _files.opened(tmp_path / "\ud800")


def test_no_more_is_read_than_allowed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert _files.read_bytes(path, 100) == b"x" * 100
    with pytest.raises(OSError, match="larger than"):
        _files.read_bytes(path, 99)


def test_json_that_is_nested_too_deep_is_no_json(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match="nested too deep"):
        _files.read_json(tmp_path / "deep.json")


def test_what_is_replaced_stays_as_it_was_until_the_new_is_whole_and_when_it_fails(tmp_path):
    path, link = tmp_path / "report.md", tmp_path / "link.md"
    path.write_text("old")
    link.symlink_to(path)
    with _files.replacing(link) as part:
        part.write_text("half of the ne")
        assert path.read_text() == "old"
        part.write_text("new")
    assert path.read_text() == "new"
    assert link.is_symlink()

    def fails():
        with _files.replacing(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert path.read_text() == "new"
    assert sorted(tmp_path.iterdir()) == [link, path]


def test_a_pipe_and_a_device_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(OSError, match="regular"), _files.replacing(path) as part:
            part.write_text("")


def test_two_threads_that_write_one_file_leave_one_of_theirs(tmp_path):
    def write(text):
        for _ in range(50):
            with _files.replacing(tmp_path / "file") as part:
                part.write_text(text)

    threads = [threading.Thread(target=write, args=(letter * 10_000,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_text() in ("a" * 10_000, "b" * 10_000)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def _of_adapters(path):
    from attnlens import adapters

    adapters.find(f"{path}.yaml")


def _of_a_recipe(path):
    from attnlens import recipes

    recipes.find(f"{path}.yaml")


def _of_a_picture_to_write(path):
    from attnlens import show

    show.writable(f"{path}.png")


def _of_an_adapter_to_write(path):
    from attnlens.adapters import _writing

    _writing.checked_target(f"{path}.yaml")


def _of_a_data_set(path):
    from attnlens import evaluate

    evaluate.read(path)


def _of_a_data_set_to_write(path):
    from attnlens import evaluate

    evaluate.write(path, [])


def _of_records(path):
    from attnlens.evaluate._records import Records

    Records(path, {})


def _of_a_report(path):
    from attnlens.evaluate import _report

    _report.read(Path(path))


def _of_a_run(path):
    from attnlens.evaluate import _reproduce

    _reproduce.writable(Path(path))


def _of_an_image(path):
    from attnlens._images import open_image

    open_image(path)


def _of_frames(path):
    from attnlens import frames

    frames(path)


def _of_a_model(path):
    from attnlens import load

    load(path)


def _of_checks(path):
    from attnlens.conformance._table import read

    read(Path(path))


@pytest.mark.parametrize(
    "use",
    [
        _of_adapters, _of_a_recipe, _of_a_picture_to_write, _of_an_adapter_to_write, _of_a_data_set,
        _of_a_data_set_to_write, _of_records, _of_a_report, _of_a_run, _of_an_image, _of_frames, _of_a_model,
        _of_checks,
    ],
    ids=lambda use: use.__name__,
)  # fmt: skip
def test_the_home_of_nobody_is_one_error_wherever_a_path_is_taken(use, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AttnLensError, match="a user that this system does not know"):
        use(NOBODY)
    assert not list(tmp_path.iterdir())  # and no folder of that name is made


@pytest.mark.parametrize(
    "use",
    [_of_a_data_set, _of_a_report, _of_an_image, _of_frames, _of_checks, _of_records],
    ids=lambda use: use.__name__,
)
def test_a_pipe_and_an_endless_device_are_refused_wherever_a_file_is_read(use, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "/dev/zero"):
        with pytest.raises(AttnLensError, match="a named pipe|a device"):
            use(path)


def test_no_module_but_this_one_expands_a_home_folder_by_itself():
    package = Path(_files.__file__).parent
    found = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "expanduser" in path.read_text(encoding="utf-8")
    ]
    # The doctor looks where Hugging Face's library would, and the user's own folder may be missing.
    assert sorted(found) == ["_files.py", "adapters/_library.py", "doctor/_folders.py"]
