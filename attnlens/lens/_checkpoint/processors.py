"""Loads a model's processor, with or without torchvision, with or without the files of its video processor.

Some processors (Qwen2.5-VL and its relatives) cannot be made without a video processor, which exists for
torchvision only and has settings of its own. Where either is missing, they are put together from their image processor
and tokenizer.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Sequence
from typing import Any

from transformers import ProcessorMixin, is_torchvision_available

from attnlens import _upstream
from attnlens.errors import AttnLensError, first_line
from attnlens.lens._checkpoint.folder import check_settings

_log = logging.getLogger("attnlens")


def load_processor(name_or_folder: str | os.PathLike[str], **kwargs: Any) -> Any:
    """The processor of the model in a folder or on the Hugging Face hub.

        processor = load_processor("llava-hf/llava-1.5-7b-hf")
        processor = load_processor("my_models/qwen2.5-vl", local_files_only=True)

    It is transformers' own (`AutoProcessor`, which gets the keyword arguments). Where that needs a video processor, and
    torchvision or the files for one are missing, the same class without it is loaded, and one line of the log says why.

    Raises AttnLensError when the files are not there, or hold no processor of images and text.
    """
    from transformers import AutoProcessor

    name = os.fspath(name_or_folder)
    try:
        processor = AutoProcessor.from_pretrained(name, **kwargs)
    except Exception as error:  # noqa: BLE001 - files that anybody made, read by code of every processor's own
        processor = _load_image_only(name, kwargs, error)
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise AttnLensError(
            f"{name!r} holds a {type(processor).__name__}, which does not process images and text together. A folder "
            "needs preprocessor_config.json (or processor_config.json) and the tokenizer's files beside config.json."
        )
    if not processor.tokenizer.encode("a", add_special_tokens=False):  # what transformers makes of missing files
        raise AttnLensError(
            f"{type(processor.tokenizer).__name__}, the tokenizer of {name!r}, knows no words: its files are missing. "
            "Put tokenizer.json (or vocab.json and merges.txt, or tokenizer.model) beside config.json."
        )
    check_settings(processor, name)
    return processor


class _Fewer(ProcessorMixin):
    """Stands behind a processor's class in the order of its bases, and takes away the parts that it lacks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        there = {key: value for key, value in kwargs.items() if value is not None or key == "chat_template"}
        super().__init__(*(one for one in args if one is not None), **there)


def image_only(processor_class: type[Any], without: Sequence[str] = ("video",)) -> type[Any]:
    """`processor_class` without its video processor: images and text are processed by the very same code.

    The class keeps its name, so that what it saves can be loaded by transformers where torchvision is there. `without`:
    words in the names of the parts that it is to do without.
    """
    signature = inspect.signature(processor_class.__init__)
    left_out = {name for name in signature.parameters if any(word in name for word in without)}
    parameters = [parameter for name, parameter in signature.parameters.items() if name not in left_out]

    @functools.wraps(processor_class.__init__)
    def initialise(self: Any, *args: Any, **kwargs: Any) -> None:
        named = inspect.signature(initialise).bind(self, *args, **kwargs)
        named.apply_defaults()
        others = named.arguments.pop("kwargs", {})
        processor_class.__init__(**named.arguments, **dict.fromkeys(left_out), **others)

    def from_args_and_dict(cls: type[Any], /, args: list[Any], processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        settings = {key: value for key, value in (processor_dict | kwargs).items() if key in names}
        return cls(**settings | dict(zip(cls.get_attributes(), args, strict=True)))

    names = {parameter.name for parameter in parameters}
    initialise.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    members = {
        "__init__": initialise,
        "from_args_and_dict": classmethod(from_args_and_dict),
        "apply_chat_template": ProcessorMixin.apply_chat_template,  # some ask the video processor in theirs
        "__module__": processor_class.__module__,
        "__doc__": processor_class.__doc__,
    }
    return type(processor_class.__name__, (processor_class, _Fewer), members)


def fill_in(processor: Any, config: Any) -> None:
    """What old folders do not say where transformers looks for it now.

    LLaVA's processor writes image tokens by the tower's patches, which folders without processor_config.json (2024)
    leave to the model's config. Qwen2-VL's fine-tunes state the limits of a size under the names of the time.
    """
    size: Any = getattr(processor.image_processor, "size", None)
    least, most = (getattr(size, name, None) for name in ("min_pixels", "max_pixels"))
    if least and most and not getattr(size, "longest_edge", None):
        processor.image_processor.size = type(size)(shortest_edge=least, longest_edge=most)
    if getattr(processor, "patch_size", 0) is not None:
        return
    tower = getattr(config, "vision_config", None)
    processor.patch_size = getattr(tower, "patch_size", None)
    processor.vision_feature_select_strategy = getattr(config, "vision_feature_select_strategy", None)
    if getattr(tower, "model_type", "") == "clip_vision_model":
        processor.num_additional_image_tokens = 1  # CLIP's CLS token


def _load_image_only(name: str, kwargs: dict[str, Any], reason: Exception) -> Any:
    processor_class = _processor_class(name, kwargs, reason)
    wants_video = "video_processor" in inspect.signature(processor_class.__init__).parameters
    lack = _lack_of_video(name, kwargs, reason) if wants_video or _upstream.is_copied(processor_class) else None
    if lack is None:
        raise _cannot_load(name, reason) from reason
    failed: Exception = reason
    for without in (("video",), ("video", "feature_extractor")):
        try:
            processor = image_only(processor_class, without).from_pretrained(name, **kwargs)
        except Exception as error:  # noqa: BLE001 - as above
            failed = error
            continue
        _log.info("%s: %s of %r is loaded for images only.", lack, processor_class.__name__, name)
        return processor
    raise _cannot_load(name, failed) from failed


def _lack_of_video(name: str, kwargs: dict[str, Any], reason: Exception) -> str | None:
    """Why there can be no video processor; None where the files state one that torchvision can run, right or wrong."""
    from transformers import AutoVideoProcessor

    if not is_torchvision_available():
        return "torchvision is not installed"
    if isinstance(reason, ImportError):  # such as num2words, which SmolVLM writes times of frames with
        return first_line(reason)
    if _upstream.states_video_processor(name, **kwargs):
        return None
    try:  # older repositories state one for images and video together
        AutoVideoProcessor.from_pretrained(name, **kwargs)
    except (ImportError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return "There are no settings of a video processor"
    return None


def _processor_class(name: str, kwargs: dict[str, Any], reason: Exception) -> type[Any]:
    """The class that the files name, or that transformers has for the model's type."""
    import transformers

    named = _upstream.stated_processor_class(name, **kwargs)
    if named is None:
        try:
            config = transformers.AutoConfig.from_pretrained(name, **kwargs)
        except (OSError, ValueError) as error:
            raise _cannot_load(name, error) from error
        named = _upstream.processor_names().get(config.model_type)
    found = getattr(transformers, named, None) if named else None
    if (named and isinstance(reason, ImportError)) or _upstream.needs_torchvision(found):
        found = _upstream.copied_processor(str(named)) or found
    if not (inspect.isclass(found) and issubclass(found, transformers.ProcessorMixin)):
        raise _cannot_load(name, reason) from reason
    return found


def _cannot_load(name: str, error: Exception) -> AttnLensError:
    return AttnLensError(
        f"No processor could be loaded from {name!r} ({type(error).__name__}: {first_line(error)}). It needs "
        "preprocessor_config.json (or processor_config.json) and the tokenizer's files: in that folder, in the hub's "
        "cache, or on the hub when there is a network. Or make the processor yourself: attnlens.load(model=..., "
        "processor=..., adapter=...)."
    )
