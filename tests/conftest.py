"""Tests never reach for the network, and tiny models run on one thread: more of them only wait for each other.

No example of a property test has a deadline: how long it takes says what else the machine does.
"""

import os

import hypothesis
import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
torch.set_num_threads(1)
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


@pytest.fixture
def no_eager_attention(monkeypatch):
    """Call it with a model: from then on its eager attention raises."""

    def never(*_, **__):
        raise AssertionError("eager attention was run")

    def forbid(model):
        for module in {type(part).__module__ for part in model.modules()}:
            monkeypatch.setattr(f"{module}.eager_attention_forward", never, raising=False)

    return forbid
