"""Tests never reach for the network, and tiny models run on one thread: more of them only wait for each other."""

import os

import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
torch.set_num_threads(1)
