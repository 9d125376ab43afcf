"""`load` takes a bundled name, a folder or objects in memory, and finds the adapter that belongs to them."""

from __future__ import annotations

import json
import re
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from nnsight import NNsight
from safetensors.torch import load_file, save_file

import attnlens
from attnlens import adapters
from attnlens._upstream import attention_implementation
from attnlens.adapters._library import CONFIG_KEY, from_config
from attnlens.errors import AttnLensError
from tests import tiny

OWN = "model_types: [llava]\ngrid: {kind: square}\ndefaults: {layer: 1, window: 50}\n"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_folder_is_loaded_with_the_adapter_for_its_model_type(family: tiny.Family, tmp_path: Path) -> None:
    lens = attnlens.load(tiny.save(family, tmp_path))
    assert lens.adapter.name == family
    assert lens.read(tiny.images("square", 1)[0]).answer("what is it?", 2).text is not None


def test_a_folder_may_bring_its_own_adapter_and_an_explicit_one_beats_it(tmp_path: Path) -> None:
    folder = tiny.save("llava", tmp_path)
    (folder / "attnlens.yaml").write_text(OWN)
    assert attnlens.load(folder).adapter.defaults.window == 50
    assert attnlens.load(folder, adapter="llava").adapter.defaults.window == 336


def test_the_default_layer_is_scaled_to_the_models_depth() -> None:
    model, processor = tiny.build("llava", layers=16)
    lens = attnlens.load(model=model, processor=processor)
    assert (lens.adapter.defaults.layer, lens.adapter.defaults.layers) == (14, 32)
    assert lens._host.structure.layers[lens.layer_index()] == 7
    assert lens.layer_index("mean") is None
    assert lens._host.structure.layers[lens.layer_index(3)] == 3


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


QUESTION = "what is it?"


def rows(model: Any, processor: Any, **options: Any) -> Any:
    reading = attnlens.load(model=model, processor=processor, **options).read(tiny.images("square", 1)[0])
    return reading.trace(QUESTION).attention


def rewritten(folder: Path, change: Any) -> None:
    """The checkpoint's tensors, by name, as `change` leaves them."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


LACKING = "model.language_model.layers.1.self_attn.q_proj.weight"


def on_disk(folder: Path, name: str) -> str:
    """How the checkpoint itself calls the weight."""
    return next(key for key in load_file(folder / "model.safetensors") if key.endswith(name[-35:]))


def test_a_checkpoint_that_lacks_weights_is_refused_by_their_names(tmp_path: Path) -> None:
    folder = tiny.save("llava", tmp_path)
    rewritten(folder, lambda tensors: tensors.pop(on_disk(folder, LACKING)))
    with pytest.raises(AttnLensError, match=rf"lacks 1 of .*{re.escape(LACKING)}.*allow_missing_weights"):
        attnlens.load(folder)


def test_missing_weights_are_a_warning_where_the_user_says_so(tmp_path: Path, caplog: Any) -> None:
    folder = tiny.save("llava", tmp_path)
    rewritten(folder, lambda tensors: tensors.pop(on_disk(folder, LACKING)))
    assert attnlens.load(folder, allow_missing_weights=True).adapter.name == "llava"
    assert LACKING in caplog.text


def test_a_weight_of_another_shape_is_refused_by_its_name_and_both_shapes(tmp_path: Path, caplog: Any) -> None:
    folder = tiny.save("llava", tmp_path)
    name = on_disk(folder, LACKING)
    rewritten(folder, lambda tensors: tensors.update({name: torch.zeros(3, 5)}))
    with pytest.raises(AttnLensError, match=rf"{re.escape(LACKING)} \(3, 5\), not \(32, 32\)"):
        attnlens.load(folder)
    assert attnlens.load(folder, ignore_mismatched_sizes=True).adapter.name == "llava"
    assert LACKING in caplog.text


def test_weights_that_the_model_has_no_place_for_are_warned_of(tmp_path: Path, caplog: Any) -> None:
    folder = tiny.save("llava", tmp_path)
    rewritten(folder, lambda tensors: tensors.update({"model.language_model.layers.9.novel": torch.zeros(3)}))
    attnlens.load(folder)
    assert "layers.9.novel" in caplog.text


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    model, processor = tiny.build("llava")
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    processor.save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert attnlens.load(tmp_path).adapter.name == "llava"
    shards[0].unlink()
    with pytest.raises(AttnLensError, match=shards[0].name):
        attnlens.load(tmp_path)


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    model, processor = tiny.build("qwen2_5_vl", tie_word_embeddings=True)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert not any("lm_head" in key for key in load_file(tmp_path / "model.safetensors"))
    lens = attnlens.load(tmp_path)
    expected = rows(model, lens.processor)  # torchvision, where it is installed, resizes by other roundings
    assert abs(rows(lens.model, lens.processor) - expected).max() < 1e-5


def test_a_saved_model_keeps_what_its_folders_own_adapter_said(tmp_path: Path) -> None:
    folder = tiny.save("llava", tmp_path / "first")
    (folder / "attnlens.yaml").write_text(OWN)
    lens = attnlens.load(folder)
    lens.model.save_pretrained(tmp_path / "second")
    lens.processor.save_pretrained(tmp_path / "second")
    again = attnlens.load(tmp_path / "second")
    assert (again.adapter.defaults, again.adapter.grid) == (lens.adapter.defaults, lens.adapter.grid)
    assert attnlens.load(model=lens.model, processor=lens.processor).adapter.defaults == lens.adapter.defaults
    assert attnlens.load(tmp_path / "second", adapter="llava").adapter.defaults.window == 336


@pytest.mark.parametrize("name", attnlens.pocket.names())
def test_a_bundled_models_config_says_what_its_adapter_says(name: str) -> None:
    folder = attnlens.pocket.path(name)
    kept = json.loads((folder / "config.json").read_text())[CONFIG_KEY]
    spec = adapters.find(folder / "attnlens.yaml")
    assert from_config(kept).model_copy(update={"name": spec.name}) == spec


@pytest.mark.parametrize("kept", [[], 3, {}, {"grid": {"kind": "novel"}}, {"model_types": ["llava"], "name": "x"}])
def test_what_a_config_keeps_of_an_adapter_is_not_believed(tmp_path: Path, kept: Any) -> None:
    folder = tiny.save("llava", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {CONFIG_KEY: kept}))
    with pytest.raises(AttnLensError, match="'attnlens' in the model's config"):
        attnlens.load(folder)


def test_options_are_those_of_from_pretrained(tmp_path: Path) -> None:
    folder = tiny.save("llava", tmp_path)
    lens = attnlens.load(folder, attn_implementation="eager", device_map={"": "cpu"})
    assert attention_implementation(lens.model.config) == "eager"
    offloaded = attnlens.load(
        folder, device_map={"model": "cpu", "lm_head": "disk"}, offload_folder=str(tmp_path / "offloaded")
    )
    assert set(offloaded.model.hf_device_map.values()) == {"cpu", "disk"}
    assert abs(rows(offloaded.model, offloaded.processor) - rows(lens.model, lens.processor)).max() < 1e-5


def test_options_of_the_hub_go_to_config_processor_and_weights_alike(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tiny.save("llava", tmp_path)
    seen = {}
    for owner in (transformers.AutoConfig, transformers.AutoProcessor, transformers.AutoModelForImageTextToText):
        real = owner.from_pretrained

        def noting(name: Any, *args: Any, real: Any = real, owner: Any = owner, **options: Any) -> Any:
            seen.setdefault(owner.__name__, options)
            return real(name, *args, **options)

        monkeypatch.setattr(owner, "from_pretrained", noting)
    attnlens.load(folder, revision="v2", token="secret", cache_dir=str(tmp_path / "cache"))
    assert len(seen) == 3
    for options in seen.values():
        assert options["revision"] == "v2"
        assert options["token"] == "secret"
        assert options["cache_dir"] == str(tmp_path / "cache")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "cpu", "device_map": "auto"}, "the one or the other"),
        ({"state_dict": {}}, "state_dict"),
        ({"nonsense": 3}, "nonsense"),
        ({"device_map": {"": "nowhere"}}, "could not be loaded"),
        ({"quantization_config": {"quant_method": "novel"}}, "novel"),
    ],
)
def test_options_that_do_not_go_are_refused(tmp_path: Path, options: Any, said: str) -> None:
    with pytest.raises(AttnLensError, match=said):
        attnlens.load(tiny.save("llava", tmp_path), **options)


def test_options_of_loading_do_not_go_with_a_model_in_memory() -> None:
    model, processor = tiny.build("llava")
    for options in ({"revision": "main"}, {"device_map": "auto"}, {"allow_missing_weights": True}):
        with pytest.raises(AttnLensError, match=f"{next(iter(options))}= came with model="):
            attnlens.load(model=model, processor=processor, **options)


class Wrapped(torch.nn.Module):
    """As a PeftModel, where peft is not installed: the rest of its face is the inner model's."""

    def __init__(self, model: Any, *settings: Any) -> None:
        super().__init__()
        self.base_model = torch.nn.Module()
        self.base_model.model = model
        self.peft_config = dict(enumerate(settings))

    def get_base_model(self) -> Any:
        return self.base_model.model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base_model.model, name)


WRAPPERS = {
    "DataParallel": torch.nn.DataParallel,
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "nnsight": NNsight,
    "peft's interface": Wrapped,
    "two": lambda model: torch.nn.DataParallel(Wrapped(model)),
}


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_model_is_the_model_inside(family: tiny.Family, name: str) -> None:
    model, processor = tiny.build(family, layers=2)
    expected = rows(model, processor)
    assert (rows(WRAPPERS[name](model), processor) == expected).all()


def test_an_adapter_of_virtual_tokens_is_refused() -> None:
    model, processor = tiny.build("llava")
    settings = types.SimpleNamespace(is_prompt_learning=True, peft_type="PROMPT_TUNING")
    with pytest.raises(AttnLensError, match="PROMPT_TUNING.*virtual tokens"):
        attnlens.load(model=Wrapped(model, settings), processor=processor)


def _without_weights(model: Any) -> Any:
    with torch.device("meta"):
        return type(model)(model.config)


@pytest.mark.parametrize(
    ("handed", "said"),
    [
        (lambda model: model.model, "no language-model head"),
        (lambda model: transformers.LlamaForCausalLM(model.config.text_config), "reads text alone"),
        (lambda model: "my/model", r"a str; .*attnlens.load\('my/model'\)"),
        (lambda model: [model], "is a list; expected a transformers model"),
        (lambda model: torch.nn.Linear(2, 2), "is a Linear"),
        (_without_weights, "on the device meta"),
    ],
)
def test_what_is_no_model_that_answers_about_images_is_refused_in_words(handed: Any, said: str) -> None:
    model, processor = tiny.build("llava")
    with pytest.raises(AttnLensError, match=said):
        attnlens.load(model=handed(model), processor=processor)


@pytest.mark.parametrize(
    "handed",
    [
        lambda processor: processor.tokenizer,
        lambda processor: processor.image_processor,
        lambda processor: [processor],
        lambda processor: "my/model",
        lambda processor: None,
    ],
)
def test_what_is_no_processor_of_images_and_text_is_refused_in_words(handed: Any) -> None:
    model, processor = tiny.build("llava")
    with pytest.raises(AttnLensError, match="processor"):
        attnlens.load(model=model, processor=handed(processor))


def test_a_quantised_model_is_left_where_it_is_and_not_cast() -> None:
    model, processor = tiny.build("llava")
    expected = rows(model, processor)
    model.quantization_method, model.is_loaded_in_8bit = "bitsandbytes", True  # as transformers marks one
    assert (rows(model, processor, device="cpu", dtype="float32") == expected).all()
    with pytest.raises(AttnLensError, match="quantised"):
        attnlens.load(model=model, processor=processor, dtype="bfloat16")


def test_a_model_that_is_spread_over_devices_is_not_moved() -> None:
    model, processor = tiny.build("llava")
    model.hf_device_map = {"model": "cpu", "lm_head": "disk"}
    assert attnlens.load(model=model, processor=processor, device="cpu").model is model
    with pytest.raises(AttnLensError, match="spread it over cpu, disk"):
        attnlens.load(model=model, processor=processor, device="meta")


def test_a_processor_that_does_not_fit_the_model_is_one_error() -> None:
    model, _ = tiny.build("llava")
    _, other = tiny.build("llava", side=112)
    with pytest.raises(AttnLensError, match="LlavaForConditionalGeneration fails on .*processor belong to the model"):
        attnlens.load(model=model, processor=other).read(tiny.images("square", 1)[0]).answer(QUESTION, 2)
