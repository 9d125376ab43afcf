"""What attnlens takes from transformers' private side, in one place: the file to open when transformers moves.

Public is what `import transformers` itself exports, and the methods that its documentation describes. Private is the
rest: whatever lies in its submodules (`transformers.x.y`, the files of single models included), imported by name, named
in a string or found through `sys.modules`; every attribute with a leading underscore of its models, configs, processors
and caches; and, though they are exported, the layers of its KV caches and how it finds a processor's files. Each of
these stands here with a line on what for. No other module reaches for one: a test reads the source.
"""

from __future__ import annotations

import builtins
import copy
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import transformers
from numpy.typing import NDArray
from transformers import GenerationMixin
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, LinearAttentionCacheLayerMixin
from transformers.masking_utils import eager_mask, sdpa_mask

from attnlens import _files
from attnlens.errors import AttnLensError, first_line

__all__ = [
    "CacheLayerMixin",  # what every layer of a KV cache is, to annotate it
    "DynamicLayer",  # plain keys and values: a cache of these alone can be cut and shared
    "LinearAttentionCacheLayerMixin",  # a recurrent state: it takes one token at a time
    "eager_mask",  # the mask that a connector's own eager attention adds
    "sdpa_mask",  # the boolean mask, written out, from which rows are taken
]

Size = tuple[int, int]
"""(height, width) in pixels, as transformers' image processors count; (rows, cols) in tiles."""

PREPROCESS, PREPROCESS_ONE = "_preprocess", "_preprocess_image"
"""The methods of an image processor that cut and place pixels: their file tells whose code does."""

_CACHE_NAMES = ("cache", "past_key_values")  # since transformers 5.24, and before


class OwnCacheLayer(DynamicLayer):
    """The base for cache layers of attnlens, which transformers is not to build by itself for a type of layer."""

    _layer_type = None


def cache_name(call: Callable[..., Any]) -> str:
    """The name under which `call`, such as a model's forward, takes a KV cache.

    What names none hands its keyword arguments on, to what the installed transformers expects.
    """
    for function in (call, GenerationMixin.prepare_inputs_for_generation):
        accepted = inspect.signature(function).parameters
        for name in _CACHE_NAMES:
            if name in accepted:
                return name
    raise AttnLensError(
        f"transformers {transformers.__version__} takes a KV cache under none of the names {', '.join(_CACHE_NAMES)}. "
        "Install a version that attnlens was tested with."
    )


def prepared_inputs(model: Any, ids: Any, cache: Any, **inputs: Any) -> dict[str, Any]:
    """The arguments of `model.forward` that its `prepare_inputs_for_generation` makes for these tokens on `cache`."""
    return _prepared(model.prepare_inputs_for_generation, model.forward, ids, cache, inputs)


@contextmanager
def generating(model: Any) -> Iterator[str]:
    """The name under which `model.generate` takes a cache, while it hands it to `forward` under the name known there.

    A model of remote code may know the one name, and the installed transformers' generation the other.
    """
    name = cache_name(model.generate)
    if name == cache_name(model.forward):
        yield name
        return

    prepare = model.prepare_inputs_for_generation

    # `generate` looks for the word `kwargs` before it allows what `forward` names.
    def prepared(input_ids: Any, cache: Any = None, past_key_values: Any = None, **kwargs: Any) -> dict[str, Any]:
        held = past_key_values if cache is None else cache
        return _prepared(prepare, model.forward, input_ids, held, kwargs)

    model.prepare_inputs_for_generation = prepared
    try:
        yield name
    finally:
        del model.prepare_inputs_for_generation


def processed_scores(model: Any, config: Any, ids: Any, encoder_ids: Any, scores: Any) -> Any:
    """`scores` of the next token, [1, vocabulary], as `generate` sees them after its logits processors.

    `ids`: what is generated from, [1, tokens]; `encoder_ids`: an encoder's, where there is one. Not what hangs on the
    length of the answer, nor a second pass without the prompt.
    """
    config = copy.deepcopy(config)
    config.forced_eos_token_id = config.guidance_scale = None
    model._prepare_special_tokens(config, True, device=ids.device)
    processors = model._get_logits_processor(
        config, ids.shape[1], encoder_ids, device=str(ids.device), model_kwargs={}, logits_processor=None
    )
    return processors(ids, scores)


def _prepared(
    prepare: Callable[..., Any], forward: Callable[..., Any], ids: Any, cache: Any, inputs: dict[str, Any]
) -> dict[str, Any]:
    prepared = prepare(ids, **{cache_name(prepare): cache}, **inputs)
    name = cache_name(forward)
    return {name if key in _CACHE_NAMES else key: value for key, value in prepared.items()}


def position_ids(model: Any, ids: Any, inputs: dict[str, Any]) -> Any:
    """The positions that `generate` would give a whole prompt: m-rope counts them by the images' sizes."""
    return model._prepare_position_ids_for_generation(ids, inputs)


class Recorder(NamedTuple):
    """Whose output transformers records: modules of the class `kind`, with `name` in their path, if one is given."""

    kind: type
    output: int
    """Which element of what such a module returns."""
    name: str | None

    def records(self, path: str, module: Any) -> bool:
        return isinstance(module, self.kind) and (self.name is None or self.name in path)


def recorders(decoder: Any, key: str) -> list[Recorder]:
    """Where the weights come out that `decoder` would return as `key`: "attentions" or "cross_attentions"."""
    found = (getattr(decoder, "_can_record_outputs", None) or {}).get(key)
    listed = found if isinstance(found, list | tuple) else [found]
    made = []
    for one in listed:  # a class, or what says of which class and under which name
        kind = getattr(one, "target_class", one)
        if isinstance(kind, type):
            made.append(Recorder(kind, getattr(one, "index", 1), getattr(one, "layer_name", None)))
    return made


def attention_implementation(config: Any) -> str | None:
    """The attention implementation that the modules of `config` run under, to put it back."""
    return config._attn_implementation


def set_attention_implementation(config: Any, name: str | None) -> None:
    """Of this config alone: the public setter changes those of its parts, too, and is the model's, not a module's."""
    config._attn_implementation_internal = name


@contextmanager
def without_compiled_code(model: Any) -> Iterator[None]:
    """What `module.compile()` has put in the place of modules' own code is set aside in here."""
    compiled = [(module, module._compiled_call_impl) for module in model.modules()]
    compiled = [(module, code) for module, code in compiled if code is not None]
    try:
        for module, _ in compiled:
            module._compiled_call_impl = None
        yield
    finally:
        for module, code in compiled:
            module._compiled_call_impl = code


def eager_attention(module: Any) -> Callable[..., Any]:
    """The eager attention of the file that `module`'s class was written in: with its soft-capping, its sinks."""
    for cls in type(module).__mro__:
        function = getattr(sys.modules.get(cls.__module__), "eager_attention_forward", None)
        if function is not None:
            return function
    raise AttnLensError(
        f"{type(module).__module__} has no eager_attention_forward, so the attention weights of "
        f"{type(module).__name__} cannot be computed. Use a model written for transformers' attention interface."
    )


def is_hooked(model: Any) -> bool:
    """Whether accelerate moves the model's parts, or what goes into them, between devices."""
    return any(hasattr(module, "_hf_hook") for module in model.modules())


COMMON_IMAGE_CODE = "common"
"""What `image_code` calls the code of the steps which all image processors share."""


def image_code(processor: type[Any], method: str) -> str:
    """The model type in whose folder a method of an image processor is written, to know whose code places pixels;
    `COMMON_IMAGE_CODE` of what all share, "" of code from elsewhere. A copy of a module is of its package, too."""
    module = sys.modules.get(getattr(getattr(processor, method, None), "__module__", ""))
    package = str(getattr(module, "__package__", "")).split(".")
    if package[:2] == ["transformers", "models"]:
        return package[2]
    stem = str(getattr(module, "__name__", "")).rpartition(".")[2]
    common = package == ["transformers"] and stem in ("image_processing_backends", "image_processing_utils")
    return COMMON_IMAGE_CODE if common else ""


def reads_step(processor: type[Any], step: str) -> bool:
    """Whether the code that processes images may run a step such as "do_pad".

    It may not where it is code of a family's own that never says that name, and the name is one of the common code's: a
    setting that some file states, and nothing reads.
    """
    module = sys.modules.get(getattr(getattr(processor, PREPROCESS, None), "__module__", ""))
    if module is None or step not in image_backends().path.read_text(encoding="utf-8"):
        return True
    try:
        return step in inspect.getsource(module)
    except OSError:  # written where there is no file
        return True


def size_called(processor: Any, name: str, size: Any) -> Any:
    """What an image processor takes `size`, a number or a mapping, for, where its `name` is called with it."""
    from transformers.image_processing_utils import get_size_dict

    square = name == "crop_size" or getattr(processor, "default_to_square", True)
    return None if size is None else get_size_dict(size, default_to_square=square)


def _beside(processor: Any) -> Any:
    """The module of the code that cuts the images, for the functions that stand beside the class."""
    return sys.modules[getattr(processor, PREPROCESS).__module__]


def optimal_tiled_canvas(processor: Any, image: Size, tile: Size) -> Size:
    """(cols, rows) of the sheet on which a GOT-OCR2, Cohere2 Vision or Ovis2 processor cuts an image."""
    found = _beside(processor).get_optimal_tiled_canvas(image, tile, processor.min_patches, processor.max_patches)
    return int(found[0]), int(found[1])


def undistorted_size(processor: Any, image: Size, limits: Size) -> Size:
    """How large Llama 4's processor makes an image within `limits`."""
    found = _beside(processor).get_max_res_without_distortion(image, limits)
    return int(found[0]), int(found[1])


def supported_aspect_ratios(processor: Any, tiles: int) -> list[Size]:
    """What Mllama's numbers of an aspect ratio stand for, from number 1 on."""
    return list(_beside(processor).get_all_supported_aspect_ratios(tiles))


def size_fit_to_canvas(processor: Any, image: Size, canvas: Size, tile: int) -> Size:
    """How large Mllama's processor makes an image on its canvas."""
    found = _beside(processor).get_image_size_fit_to_canvas(*image, *canvas, tile)
    return int(found[0]), int(found[1])


def fitting_sheet(processor: Any, image: Size, tile: int) -> Size:
    """(cols, rows) of Perception LM's sheet: one on which the image fits, else the closest in aspect ratio."""
    asked = {"img_width": image[1], "img_height": image[0], "tile_size": tile}
    found: Size = processor._fit_image_to_canvas(**asked) or processor._find_closest_aspect_ratio(**asked)
    return found


def planned_windows(processor: Any, image: Size) -> tuple[int, int, bool]:
    """(cols, rows, squared) of Step 3.7's windows; `squared`: padded to a square before."""
    *_, cols, rows, squared = processor._plan_patches(*image[::-1], processor.size["height"], processor.patch_size)
    return cols, rows, squared


def padding_before(processor: Any, image: Size, canvas: Size) -> Size:
    """(above, left): where Aria's processor puts an image on its canvas."""
    (above, _), (left, _) = processor._get_padding_size(image, canvas)
    return above, left


def best_resolution(image: Size, resolutions: Sequence[Sequence[int]]) -> Size:
    """Which of several sheets suits an image (LLaVA-NeXT and its relatives, Aria), as processor and model choose it."""
    from transformers.image_processing_utils import select_best_resolution

    found = select_best_resolution(image, resolutions)
    return int(found[0]), int(found[1])


def size_on_sheet(image: Size, sheet: Size) -> Size:
    """How large an image becomes that is fitted into such a sheet without distortion, rounded as transformers does."""
    from transformers.image_processing_utils import get_patch_output_size
    from transformers.image_utils import ChannelDimension

    blank = np.broadcast_to(np.uint8(0), (3, *image))
    found = get_patch_output_size(blank, sheet, ChannelDimension.FIRST)
    return int(found[0]), int(found[1])


def size_with_aspect_ratio(image: Size, shortest: int, longest: int) -> Size:
    """How large an image becomes between a shortest and a longest edge, rounded as transformers does."""
    from transformers.image_transforms import get_size_with_aspect_ratio

    found = get_size_with_aspect_ratio(image, shortest, longest)
    return int(found[0]), int(found[1])


def unpadded(numbers: NDArray[Any], image: Size) -> NDArray[Any]:
    """[1, rows, cols] without the rows or columns that LLaVA-NeXT's model cuts off as padding."""
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    found: NDArray[Any] = unpad_image(numbers, list(image))
    return found


def image_text_types() -> list[str]:
    """Every model type of transformers' image-text-to-text mapping; the public one names classes, and loads them."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return list(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


@functools.cache
def text_types() -> frozenset[str]:
    """Every model type whose models generate text from text alone."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - frozenset(image_text_types())


def processor_names() -> Mapping[str, str]:
    """The processor's class of each model type by name, also where that class cannot be imported here."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    return PROCESSOR_MAPPING_NAMES


def image_processor_names() -> Mapping[str, Mapping[str, str]]:
    """The image processor's class of each model type by backend, "pil" or "torchvision", likewise."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    return IMAGE_PROCESSOR_MAPPING_NAMES


def stated_processor_class(name: str, **kwargs: Any) -> str | None:
    """The processor's class that a repository's or folder's files name, to put it together without video."""
    for read in (
        transformers.ProcessorMixin.get_processor_dict,
        transformers.ImageProcessingMixin.get_image_processor_dict,
    ):
        try:
            found = read(name, **kwargs)[0].get("processor_class")
        except (OSError, ValueError):  # a repository has one of the two files, or none
            continue
        if found is not None:
            return str(found)
    return None


def copied_processor(name: str) -> type[Any] | None:
    """The processor's class of that name from a private copy of its file, None where there is no such file.

    For files that want torchvision, or a package for videos, though images need neither."""
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    for model_type in (one for one, named in processor_names().items() if named == name):
        folder = model_type_to_module_name(model_type)
        path = _home() / "models" / folder / f"processing_{folder}.py"
        if path.exists() and f"class {name}(" in (source := path.read_text(encoding="utf-8")):
            found: type[Any] | None = vars(_copy(Source(path, f"transformers.models.{folder}"), source)).get(name)
            return found
    return None


def is_copied(processor_class: type[Any]) -> bool:
    """Whether a class is of `copied_processor`."""
    return processor_class.__module__.startswith(f"{__name__}.")


def _copy(source: Source, text: str) -> ModuleType:
    """Runs a copy of a processor's file, in which PIL's image processors stand for torchvision's and nothing is asked
    of the installation."""

    def own_import(name: str, of: Any = None, local: Any = None, wanted: Any = (), level: int = 0) -> Any:
        if level == 1 and name.startswith("image_processing_"):
            name = name.replace("image_processing_", "image_processing_pil_")
        found = builtins.__import__(name, of, local, wanted, level)
        if name == "utils.import_utils" and "requires" in (wanted or ()):
            return SimpleNamespace(**{word: getattr(found, word) for word in wanted} | {"requires": lambda **_: _same})
        return found

    module = ModuleType(f"{__name__}.{source.path.stem}")
    sys.modules[module.__name__] = module
    module.__dict__.update(
        __file__=str(source.path), __package__=source.package, __builtins__={**vars(builtins), "__import__": own_import}
    )
    exec(compile(text, str(source.path), "exec"), module.__dict__)
    if vars(module).get("num2words", _same) is None:
        vars(module)["num2words"] = _same  # for times of a video's frames
    return module


def _same(value: Any) -> Any:
    return value


def states_video_processor(name: str, **kwargs: Any) -> bool:
    """Whether a model's files hold settings of a video processor, to leave out none that is stated and broken."""
    from transformers.utils import VIDEO_PROCESSOR_NAME, cached_file

    with suppress(OSError, ValueError):
        if "video_processor" in transformers.ProcessorMixin.get_processor_dict(name, **kwargs)[0]:
            return True
    with suppress(OSError):
        return cached_file(name, VIDEO_PROCESSOR_NAME, **kwargs) is not None
    return False


class Source(NamedTuple):
    """A file of transformers' own source, and the package that its relative imports start from."""

    path: Path
    package: str


def image_backends() -> Source:
    """The base of image processors for torchvision, whose code runs on stand-ins where torchvision is missing."""
    return Source(_home() / "image_processing_backends.py", "transformers")


def use_functions(backends: Any, functions: Any, resamplings: Mapping[Any, Any]) -> None:
    """Let a copy of that base, run without torchvision, find `functions` and its own filters in torchvision's place."""
    vars(backends).update(tvF=functions, pil_torch_interpolation_mapping=resamplings)


def torchvision_processors(name: str) -> Iterator[Source]:
    """The files that may hold transformers' image processor `name` for torchvision, to run it likewise."""
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    for model_type, names in image_processor_names().items():
        folder = model_type_to_module_name(model_type)
        path = _home() / "models" / folder / f"image_processing_{folder}.py"
        if name == names.get("torchvision") and path.exists():
            yield Source(path, f"transformers.models.{folder}")


def needs_torchvision(processor_class: Any) -> bool:
    """Whether a class of transformers is a placeholder that asks for torchvision, or one that runs on it."""
    return "torchvision" in getattr(processor_class, "_backends", ())


@functools.cache
def _home() -> Path:
    return Path(str(transformers.__file__)).parent


@contextmanager
def timm_models_by(build: Callable[..., Any]) -> Iterator[None]:
    """While it lasts, transformers' wrapper of timm's models gets them from `build(config)`, timm or not."""
    from unittest import mock

    from transformers.models.timm_wrapper import modeling_timm_wrapper

    with mock.patch.multiple(
        modeling_timm_wrapper,
        requires_backends=lambda *_: None,
        _create_timm_model_with_error_handling=build,
    ):
        yield


def rotated(query: Any, key: Any, cosines: Any, sines: Any) -> tuple[Any, Any]:
    """Queries and keys turned by their places as in Qwen2.5-VL's vision tower, to train that of pocket/qwen2_5_vl."""
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

    query, key = apply_rotary_pos_emb_vision(query, key, cosines, sines)
    return query, key


def chat_template_environment() -> Any:
    """The Jinja environment of chat templates, with transformers' own filters and functions, to render as it does."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return _compile_jinja_template("").environment


def has_file(name: str, file: str, **hub: Any) -> bool:
    """Whether a model's folder or repository (its cache, where there is no network) holds a file of that name."""
    return _stored(name, file, **hub) is not None


def stated_adapter(name: str, **hub: Any) -> dict[str, Any] | None:
    """What adapter_config.json says, where a folder or repository is peft's, not a model's own; else None."""
    path = _stored(name, "adapter_config.json", **hub)
    if path is None:
        return None
    try:
        found = _files.read_json(Path(path))
    except (OSError, ValueError) as error:
        raise AttnLensError(
            f"{path} cannot be read: {first_line(error)}. Expected the settings of an adapter."
        ) from error
    if not isinstance(found, dict):
        raise AttnLensError(f"{path} holds a {type(found).__name__}; expected the settings of an adapter, a mapping.")
    return found


def _stored(name: str, file: str, **hub: Any) -> str | None:
    from transformers.utils import cached_file

    if Path(name).is_dir():
        path = Path(name, hub.get("subfolder") or "", file)
        return str(path) if path.is_file() else None
    quiet = ("gated_repo", "missing_entries", "connection_errors")
    return cached_file(name, file, **{f"_raise_exceptions_for_{what}": False for what in quiet}, **hub)
