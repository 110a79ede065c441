"""The least that a comparison costs: import, build both models, run each once."""

import json
from pathlib import Path

import torch
from parity_models.gemma3 import Config, Model
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

config = json.loads(Path(__file__).with_name("small.json").read_text(encoding="utf-8"))
ids = torch.randint(0, config["vocab_size"], (3, 41))
with torch.no_grad():
    Gemma3ForCausalLM(Gemma3TextConfig.from_dict(config)).eval()(ids)
    Model(Config.from_hf(config)).eval()(ids)
