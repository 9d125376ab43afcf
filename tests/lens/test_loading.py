"""`load` takes a bundled name, a folder or objects in memory, and finds the adapter that belongs to them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import attnlens
from attnlens.errors import AttnLensError
from tests import tiny

OWN = "model_types: [llava]\ngrid: {kind: square}\ndefaults: {layer: 1, window: 50}\n"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_folder_is_loaded_with_the_adapter_for_its_model_type(family: tiny.Family, tmp_path: Path) -> None:
    lens = attnlens.load(tiny.save(family, tmp_path))
    assert lens.spec.name == family
    assert lens.read(tiny.images("square", 1)[0]).answer("what is it?", 2).text is not None


def test_a_folder_may_bring_its_own_adapter_and_an_explicit_one_beats_it(tmp_path: Path) -> None:
    folder = tiny.save("llava", tmp_path)
    (folder / "attnlens.yaml").write_text(OWN)
    assert attnlens.load(folder).spec.defaults.window == 50
    assert attnlens.load(folder, adapter="llava").spec.defaults.window == 336


def test_the_default_layer_is_scaled_to_the_models_depth() -> None:
    model, processor = tiny.build("llava", layers=16)
    lens = attnlens.load(model=model, processor=processor)
    assert (lens.spec.defaults.layer, lens.spec.defaults.layers) == (14, 32)
    assert lens.structure.layers[lens.layer()] == 7
    assert lens.layer("mean") is None
    assert lens.structure.layers[lens.layer(3)] == 3


def test_the_dtype_is_the_one_asked_for(tmp_path: Path) -> None:
    folder = tiny.save("llava", tmp_path)
    lens = attnlens.load(folder, dtype="bfloat16")
    assert lens.model.dtype == torch.bfloat16
    trace = lens.read(tiny.images("square", 1)[0]).trace("what is it?", gradients=True)
    exact = attnlens.load(folder).read(tiny.images("square", 1)[0]).trace("what is it?")
    assert trace.attention.dtype == "float32"
    assert abs(trace.attention - exact.attention).max() < 0.1


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = tiny.save("llava", tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(AttnLensError, match="could not be loaded"):
        attnlens.load(folder)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = tiny.save("llava", tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(AttnLensError, match="could not be loaded"):
        attnlens.load(folder)


def test_a_model_type_without_an_adapter_is_refused() -> None:
    model, processor = tiny.build("llava")
    model.config.model_type = "novel"
    with pytest.raises(AttnLensError, match="novel"):
        attnlens.load(model=model, processor=processor)
