"""Claims about model types that transformers itself breaks: they are refused, by that release alone, before weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

import attnlens
from attnlens.errors import AttnLensError
from attnlens.lens._model.broken import KNOWN_BROKEN, broken
from tests import tiny


@pytest.mark.parametrize(("version", "fails"), [("5.23.0", False), ("5.24.0", True), ("5.24.1", False)])
def test_llama4_is_broken_by_one_release(version: str, fails: bool) -> None:
    said = broken("llama4", version)
    assert (said is not None) == fails
    if said is not None:
        assert "transformers 5.24.0 cannot run models of the type 'llama4'" in said
        assert "pip install 'transformers>=5.23,!=5.24.0'" in said


def test_other_types_are_not_broken() -> None:
    assert broken("llava") is None


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN_BROKEN, "llava", ((transformers.__version__,), "it is empty"))


@pytest.mark.usefixtures("here")
def test_a_broken_type_is_refused_before_its_weights_are_loaded(tmp_path: Path) -> None:
    folder = tiny.save("llava", tmp_path)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(AttnLensError, match="a plain forward fails, with or without an image \\(it is empty\\)"):
        attnlens.load(folder)


@pytest.mark.usefixtures("here")
def test_a_broken_type_is_refused_in_memory() -> None:
    model, processor = tiny.build("llava")
    with pytest.raises(AttnLensError, match="cannot run models of the type 'llava'"):
        attnlens.load(model=model, processor=processor)
