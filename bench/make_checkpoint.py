"""Write a checkpoint of a released model's shape with random weights, sharded, a tensor at a time.

    python -m bench.make_checkpoint --config fixtures/configs/qwen3-0.6b.json --output DIR --shard-size 300MB

No tensor is constant: matrices keep activations near one, norms spread around the value that they begin with.
"""

import argparse
import json
import math
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from parity.names import numbers, template
from parity.pair import reference as references
from parity.pair.mapped import without_memory
from parity.pair.small_config import shrink

_SPREAD = 0.1
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def shaped(config: dict[str, Any], layers: int | None, hidden: int | None) -> dict[str, Any]:
    """The config with another depth or width; lists with one entry per layer are repeated or cut."""
    made = dict(config)
    names = [name for name in ("num_hidden_layers", "n_layer") if name in config]
    if layers is not None:
        count = config[names[0]]
        for name, value in config.items():
            if isinstance(value, list) and len(value) == count:
                made[name] = [value[layer % count] for layer in range(layers)]
        made |= dict.fromkeys(names, layers)
    if hidden is not None:
        made |= {name: hidden for name in ("hidden_size", "n_embd") if name in config}
    return made


def skeleton(config: Mapping[str, Any]) -> nn.Module:
    """The reference without memory for its weights."""
    return references.build(references.describe(config), promoted=False, watch=without_memory())


def weights(model: nn.Module) -> dict[str, torch.Size]:
    """What a checkpoint stores: names and shapes as they are on disk, where experts are apart; tied parameters once."""
    found: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), name)
    state = model.state_dict()
    stored = revert_weight_conversion(model, {name: state[name].to("meta") for name in found.values()})
    return {name: stored[name].shape for name in sorted(stored, key=numbers)}


def size(config: Mapping[str, Any]) -> int:
    """Bytes of the checkpoint in bfloat16."""
    return sum(2 * math.prod(shape) for shape in weights(skeleton(config)).values())


def deep_enough(config: dict[str, Any], target: int, hidden: int | None) -> int:
    """The layers that it takes to fill a number of bytes."""
    one, two = size(shaped(config, 1, hidden)), size(shaped(config, 2, hidden))
    return max(1, 1 + math.ceil((target - one) / (two - one)))


def bases(config: Mapping[str, Any]) -> dict[str, float]:
    """The values that vectors begin with, by templates of their names."""
    small = shrink(config, references.describe(config).settings).config
    model = references.build(references.describe(small), promoted=False)
    return {template(name): float(value.mean()) for name, value in model.state_dict().items() if value.ndim == 1}


def values(name: str, shape: torch.Size, seed: int, base: Mapping[str, float], input_axes: Mapping[str, int]) -> Tensor:
    """One tensor in bfloat16."""
    generator = torch.Generator().manual_seed(seed ^ zlib.crc32(name.encode()))
    made = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        made /= 1.0 if "embed" in name or name.endswith("wte.weight") else math.sqrt(shape[input_axes.get(name, -1)])
    else:
        made = base.get(template(name), 0.0) + _SPREAD * made
    return made.to(torch.bfloat16)


def write(path: Path, shard: Mapping[str, torch.Size], make: Any) -> None:
    """One safetensors file, a tensor at a time."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shard.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shard.items():
            file.write(make(name, shape).view(torch.int16).numpy().data)


def shards(stored: Mapping[str, torch.Size], limit: int) -> list[dict[str, torch.Size]]:
    """Tensors in files of at most `limit` bytes, but for those that are larger alone."""
    made: list[dict[str, torch.Size]] = [{}]
    filled = 0
    for name, shape in stored.items():
        room = 2 * math.prod(shape)
        if made[-1] and filled + room > limit:
            made.append({})
            filled = 0
        made[-1][name] = shape
        filled += room
    return made


def make(config: dict[str, Any], output: Path, shard_size: int, seed: int = 0) -> int:
    """Write the checkpoint; returns its bytes."""
    output.mkdir(parents=True, exist_ok=True)
    model = skeleton(config)
    base, axes, stored = bases(config), references.input_axes(model), weights(model)
    files = shards(stored, shard_size)
    names = {}
    for number, shard in enumerate(files, 1):
        file = "model.safetensors" if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        write(output / file, shard, lambda name, shape: values(name, shape, seed, base, axes))
        names |= dict.fromkeys(shard, file)
    total = sum(2 * math.prod(shape) for shape in stored.values())
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": names}
        (output / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return total


def in_bytes(text: str) -> int:
    """`300MB` -> 300000000."""
    match = re.fullmatch(r"([\d.]+)\s*([KMG]B)?", text.strip().upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give something like 300MB")
    return int(float(match[1]) * _UNITS.get(match[2] or "", 1))


def main() -> None:
    """Write one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="config.json whose shape is used")
    parser.add_argument("--output", type=Path, required=True, help="directory to write to")
    parser.add_argument("--shard-size", type=in_bytes, default=in_bytes("5GB"))
    parser.add_argument("--layers", type=int, help="another depth")
    parser.add_argument("--hidden", type=int, help="another width of the residual stream")
    parser.add_argument("--target-bytes", type=in_bytes, help="as many layers as it takes, unless --layers says it")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    config = json.loads(given.config.read_text(encoding="utf-8"))
    layers = given.layers
    if layers is None and given.target_bytes:
        layers = deep_enough(config, given.target_bytes, given.hidden)
    config = shaped(config, layers, given.hidden)
    total = make(config, given.output, given.shard_size, given.seed)
    depth = config.get("num_hidden_layers", config.get("n_layer"))
    print(f"{given.output}: {total / 1e9:.2f} GB, {depth} layers")


if __name__ == "__main__":
    main()
