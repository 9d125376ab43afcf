"""LoRA and its like by peft: in memory, in a folder, merged or not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

import attnlens
from attnlens.errors import AttnLensError
from tests import tiny

QUESTION = "what is it?"


@pytest.fixture(scope="module")
def peft() -> Any:
    return pytest.importorskip("peft")


def rows(lens: Any) -> Any:
    return lens.read(tiny.images("square", 1)[0]).trace(QUESTION).attention


def tuned(peft: Any, model: Any, **settings: Any) -> Any:
    """A PeftModel with LoRA layers that are not zero."""
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **settings)
    torch.manual_seed(0)
    return peft.get_peft_model(model, lora)


def saved(peft: Any, family: tiny.Family, folder: Path) -> tuple[Any, Any]:
    """The PeftModel of a base model in `folder`/base, itself in `folder`/adapter; and the processor."""
    model, processor = tiny.build(family)
    model.save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    whole = tuned(peft, AutoModelForImageTextToText.from_pretrained(folder / "base"))
    whole.save_pretrained(folder / "adapter")
    return whole, processor


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_peft_model_is_read_as_its_merged_model_and_differs_from_its_base(peft: Any, family: tiny.Family) -> None:
    model, processor = tiny.build(family)
    without = rows(attnlens.load(model=model, processor=processor))
    whole = tuned(peft, model).eval()
    found = rows(attnlens.load(model=whole, processor=processor))
    merged = rows(attnlens.load(model=whole.merge_and_unload(), processor=processor))
    assert abs(found - merged).max() < 1e-4
    assert abs(found - without).max() > 1e-2


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_folder_with_an_adapter_is_its_base_model_with_it(peft: Any, family: tiny.Family, tmp_path: Path) -> None:
    whole, processor = saved(peft, family, tmp_path)
    expected = rows(attnlens.load(model=whole.eval(), processor=processor))
    assert abs(rows(attnlens.load(tmp_path / "adapter")) - expected).max() < 1e-5


def test_the_adapters_folder_may_bring_a_processor_and_an_attnlens_yaml(peft: Any, tmp_path: Path) -> None:
    _, processor = saved(peft, "llava", tmp_path)
    processor.image_processor.crop_size = {"height": 70, "width": 70}
    processor.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "attnlens.yaml").write_text("model_types: [llava]\ngrid: {kind: square}\n")
    lens = attnlens.load(tmp_path / "adapter")
    assert lens.processor.image_processor.crop_size["height"] == 70
    assert lens.adapter.name == "attnlens"


def test_an_adapter_that_lacks_weights_or_has_others_is_refused_by_name(peft: Any, tmp_path: Path) -> None:
    saved(peft, "llava", tmp_path)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    whole = load_file(path)
    some = dict(whole)
    gone = next(key for key in some if "layers.1" in key)
    del some[gone]
    save_file(some, path)
    with pytest.raises(AttnLensError, match=f"LORA adapter.*lacks weights: 1 of.*{gone.split('.lora_')[0]}"):
        attnlens.load(tmp_path / "adapter")
    save_file({"other": torch.zeros(1)}, path)
    with pytest.raises(AttnLensError, match="LORA adapter"):
        attnlens.load(tmp_path / "adapter")
    save_file(whole | {"base_model.model.novel.lora_A.weight": torch.zeros(4, 4)}, path)
    with pytest.raises(AttnLensError, match="no place for: 1 of .*novel"):
        attnlens.load(tmp_path / "adapter")


def test_layers_that_a_lora_has_no_weights_for_change_nothing_and_are_warned_of(
    peft: Any, tmp_path: Path, caplog: Any
) -> None:
    whole, processor = saved(peft, "llava", tmp_path)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({key: one for key, one in load_file(path).items() if "language_model.layers.1" in key}, path)
    found = rows(attnlens.load(tmp_path / "adapter"))
    assert "lacks" in caplog.text
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if ".lora_B." in name and "language_model.layers.1" not in name:
                parameter.zero_()
    assert abs(found - rows(attnlens.load(model=whole.eval(), processor=processor))).max() < 1e-5


@pytest.mark.parametrize("change", [{"base_model_name_or_path": None}, {"peft_type": 7}, {"target_modules": ["novel"]}])
def test_an_adapter_that_does_not_say_enough_is_refused(peft: Any, tmp_path: Path, change: Any) -> None:
    saved(peft, "llava", tmp_path)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AttnLensError, match="adapter"):
        attnlens.load(tmp_path / "adapter")


def test_without_peft_the_error_names_the_extra(monkeypatch: Any, tmp_path: Path) -> None:
    settings = {"peft_type": "LORA", "base_model_name_or_path": "some/model"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(AttnLensError, match=r"LORA for 'some/model'.*attnlens\[peft\]"):
        attnlens.load(tmp_path)
