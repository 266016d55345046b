"""The adapter folder: a PEFT adapter whose header, ours, is readable without torch.

    adapter_config.json         only old, stable PEFT fields (peft >= 0.5 reads them); only for LoRA
    adapter_model.safetensors   PEFT's key names; one metadata value `explora`: the header as sorted JSON

Separate adapters on the query, key and value parts of `c_attn` are written as PEFT's one adapter on the
whole: rank P r, A stacked, B block-structured with zeros elsewhere. The header lets them be read back as
what they are. Nothing here depends on time, path or machine: the same run gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explora.core.config import EncodingConfig, MethodConfig
from explora.core.registry import TARGETS, TASKS, Shape
from explora.errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
FORMAT = 1
PREFIX = "base_model.model."
MODULES = tuple(dict.fromkeys(path for path, _ in TARGETS.values()))


@dataclass(frozen=True, kw_only=True)
class Header:
    """What an adapter is for; enforced when it is used. `base` is a name, empty for a local folder."""

    task: str
    method: MethodConfig
    base: str
    base_digest: str
    encoding: EncodingConfig
    labels: tuple[str, ...] = ()
    best_step: int = 0
    format: int = FORMAT

    def to_json(self) -> str:
        """Return sorted JSON: the same header, the same bytes."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> Header:
        """The inverse; raises AdapterError for a newer format or a header that is not one."""
        try:
            value = json.loads(text)
            if value["format"] > FORMAT:
                raise AdapterError(
                    f"{where} has format {value['format']}, this explora reads up to {FORMAT}",
                    "update explora: pip install -U explora",
                )
            method, encoding = value["method"], value["encoding"]
            layers, words = method["layers"], encoding["label_words"]
            method |= {"targets": tuple(method["targets"]), "layers": tuple(layers) if layers else None}
            encoding |= {"label_words": tuple(words) if words else None}
            return cls(
                **{
                    **value,
                    "method": MethodConfig(**method),
                    "encoding": EncodingConfig(**encoding),
                    "labels": tuple(value["labels"]),
                }
            )
        except (ValueError, KeyError, TypeError) as error:
            raise AdapterError(f"{where}: the explora header is damaged: {error}") from None


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter."""
    return (folder / ADAPTER_FILE).is_file() or (folder / CONFIG_FILE).is_file()


def write_adapter(
    folder: Path, trained: Mapping[str, Tensor], header: Header, shape: Shape, base: str
) -> None:
    """Write an adapter atomically, file by file; `trained` has the model's own names."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in trained.items()}
    content = save(to_peft(tensors, header.method), metadata={"explora": header.to_json()})
    _replace(folder / ADAPTER_FILE, content)
    if header.method.method == "lora":
        config = peft_config(header, shape, base)
        _replace(folder / CONFIG_FILE, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def _replace(file: Path, content: bytes) -> None:
    partial = file.with_name(file.name + ".partial")
    partial.write_bytes(content)
    partial.replace(file)


def attention_parts(method: MethodConfig) -> tuple[int, ...]:
    """Return the parts of c_attn (query 0, key 1, value 2) that have adapters of their own."""
    return tuple(part for name, (_, part) in TARGETS.items() if part is not None and name in method.targets)


def peft_config(header: Header, shape: Shape, base: str) -> dict[str, Any]:
    """Return adapter_config.json for PEFT."""
    method, parts = header.method, attention_parts(header.method)
    modules = [path for path in MODULES if any(TARGETS[target][0] == path for target in method.targets)]
    stacked = len(parts) or 1
    mixed = stacked > 1 and modules != ["attn.c_attn"]
    alpha, rank = method.scale * method.rank, method.rank
    whole = 1 if mixed else stacked
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS"
        if header.labels and TASKS[header.task].label and not _is_cloze(header)
        else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": whole * rank,
        "lora_alpha": whole * alpha,
        "rank_pattern": {"attn.c_attn": stacked * rank} if mixed else {},
        "alpha_pattern": {"attn.c_attn": stacked * alpha} if mixed else {},
        "lora_dropout": method.lora_dropout,
        "target_modules": modules,
        "layers_to_transform": list(range(method.layers[0], method.layers[1] + 1)) if method.layers else None,
        "layers_pattern": "h" if method.layers else None,
        "fan_in_fan_out": True,
        "bias": "none",
        "modules_to_save": None if _is_cloze(header) or not header.labels else ["score"],
        "inference_mode": True,
        "init_lora_weights": True,
    }


def _is_cloze(header: Header) -> bool:
    return header.encoding.label_words is not None and header.method.method != "last-linear"


def to_peft(trained: Mapping[str, Tensor], method: MethodConfig) -> dict[str, Tensor]:
    """Rename the trained tensors as PEFT does, and fuse the parts of c_attn."""
    import torch

    parts, tensors = attention_parts(method), {}
    for name, value in trained.items():
        module, _, kind = name.rpartition(".")
        if kind == "lora_B":
            fused = value[0]
            if parts and module.endswith("attn.c_attn"):
                _, span, rank = value.shape
                fused = torch.zeros(3 * span, len(parts) * rank)
                for index, part in enumerate(parts):
                    fused[part * span : (part + 1) * span, index * rank : (index + 1) * rank] = value[index]
            tensors[f"{PREFIX}transformer.{module}.lora_B.weight"] = fused.contiguous()
        elif kind == "lora_A":
            tensors[f"{PREFIX}transformer.{module}.lora_A.weight"] = value
        else:
            tensors[PREFIX + name] = value
    return tensors


def from_peft(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], method: MethodConfig, where: str
) -> dict[str, Tensor]:
    """Return the trained tensors by the model's own names, strictly.

    `expected` has the names and shapes that this model trains. Raises one AdapterError that lists every
    missing, unexpected or misshapen tensor, every non-finite one, and numbers where only zeros belong.
    """
    import torch

    wanted = to_peft({name: torch.zeros(value.shape) for name, value in expected.items()}, method)
    faults = [f"missing {name}" for name in wanted if name not in tensors]
    faults += [f"unexpected {name}" for name in tensors if name not in wanted]
    for name in wanted.keys() & tensors.keys():
        found, shape = tensors[name], tuple(wanted[name].shape)
        if tuple(found.shape) != shape:
            faults.append(f"{name} has shape {tuple(found.shape)}, not {shape}")
        elif not bool(torch.isfinite(found).all()):
            faults.append(f"{name} holds a number that is not finite")
    if faults:
        shown = "; ".join(sorted(faults)[:20]) + ("; ..." if len(faults) > 20 else "")
        raise AdapterError(
            f"{where} does not fit: {shown}", "is it an adapter for this base, task and method?"
        )
    trained = {}
    for name, value in expected.items():
        module, _, kind = name.rpartition(".")
        if kind not in ("lora_A", "lora_B"):
            trained[name] = tensors[PREFIX + name].float()
            continue
        stored = tensors[f"{PREFIX}transformer.{module}.{kind}.weight"].float()
        trained[name] = (
            stored if kind == "lora_A" else _unfuse(stored, tuple(value.shape), module, method, where)
        )
    return trained


def _unfuse(stored: Tensor, shape: tuple[int, ...], module: str, method: MethodConfig, where: str) -> Tensor:
    import torch

    parts = attention_parts(method)
    if not (parts and module.endswith("attn.c_attn")):
        return stored.unsqueeze(0)
    _, span, rank = shape
    blocks = [
        stored[part * span : (part + 1) * span, index * rank : (index + 1) * rank]
        for index, part in enumerate(parts)
    ]
    if sum(int(block.count_nonzero()) for block in blocks) != int(stored.count_nonzero()):
        raise AdapterError(
            f"{where}: {module}.lora_B has numbers outside the blocks of {','.join(method.targets)}"
        )
    return torch.stack(blocks)


def read_adapter(folder: Path) -> tuple[dict[str, Tensor], Header | None]:
    """Return the tensors of an adapter folder and our header, None for a foreign adapter.

    Raises AdapterError for a missing, truncated or lying file.
    """
    from safetensors import SafetensorError, safe_open

    file = folder / ADAPTER_FILE
    if not file.is_file():
        raise AdapterError(f"{folder} has no {ADAPTER_FILE}", _pickle_hint(folder))
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterError(f"{file} is not a readable safetensors file: {error}") from None
    header = metadata.get("explora")
    return tensors, None if header is None else Header.from_json(header, str(file))


def read_header(folder: Path) -> Header | None:
    """Return our header alone, without torch; None for a foreign adapter. Raises AdapterError."""
    file = folder / ADAPTER_FILE
    try:
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            if size > 100_000_000:
                raise ValueError("its header is longer than any real one")
            metadata = json.loads(opened.read(size)).get("__metadata__", {})
    except (OSError, ValueError) as error:
        raise AdapterError(f"{file} is not a readable safetensors file: {error}") from None
    header = metadata.get("explora")
    return None if header is None else Header.from_json(header, str(file))


def _pickle_hint(folder: Path) -> str:
    if (folder / "adapter_model.bin").is_file():
        return "explora reads no pickles; load it with peft and call save_pretrained(..., safe_serialization=True)"
    return "a run folder or a PEFT adapter has one"


def foreign_method(folder: Path) -> MethodConfig:
    """Return the method of an adapter that PEFT wrote. Raises AdapterError for what explora cannot represent."""
    file = folder / CONFIG_FILE
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{file} is not readable: {error}", "PEFT adapters have one") from None
    if "peft_type" not in config:
        raise AdapterError(f"{file} has no peft_type: it is no PEFT adapter", "mlx-lm adapters are not read")
    unsupported = {
        "peft_type": config["peft_type"] != "LORA",
        "use_dora": bool(config.get("use_dora")),
        "bias": config.get("bias", "none") != "none",
        "rank_pattern": bool(config.get("rank_pattern")),
        "alpha_pattern": bool(config.get("alpha_pattern")),
        "modules_to_save": not set(config.get("modules_to_save") or ()) <= {"score", "classifier"},
        "exclude_modules": bool(config.get("exclude_modules")),
        "target_parameters": bool(config.get("target_parameters")),
        "trainable_token_indices": bool(config.get("trainable_token_indices")),
        "lora_bias": bool(config.get("lora_bias")),
        "layer_replication": bool(config.get("layer_replication")),
    }
    reasons = [f"{name} {config[name]!r}" for name, refused in unsupported.items() if refused]
    if reasons:
        raise AdapterError(f"{file}: explora does not read adapters with {', '.join(reasons)}")
    rank, alpha = int(config["r"]), float(config.get("lora_alpha", 8))
    if config.get("use_rslora"):
        alpha *= rank**0.5
    return MethodConfig(
        method="lora",
        rank=rank,
        alpha=alpha,
        lora_dropout=float(config.get("lora_dropout", 0.0)),
        targets=_foreign_targets(config.get("target_modules"), file),
        layers=_foreign_layers(config.get("layers_to_transform"), file),
    )


def _foreign_targets(wanted: Any, file: Path) -> tuple[str, ...]:
    names = {"c_attn" if path == "attn.c_attn" else name: path for name, (path, _) in TARGETS.items()}
    if not isinstance(wanted, list):
        raise AdapterError(f"{file}: target_modules {wanted!r} is not a list of module names")
    for item in wanted:
        if not any(("." + path).endswith("." + item) for path in names.values()):
            raise AdapterError(f"{file}: target_modules has {item!r}, which explora's GPT-2 does not adapt")
    return tuple(
        name for name, path in names.items() if any(("." + path).endswith("." + item) for item in wanted)
    )


def _foreign_layers(wanted: Any, file: Path) -> tuple[int, int] | None:
    if wanted is None:
        return None
    layers = sorted([wanted] if isinstance(wanted, int) else wanted)
    if not layers or layers != list(range(layers[0], layers[-1] + 1)):
        raise AdapterError(f"{file}: layers_to_transform {wanted!r} is not one range of blocks")
    return layers[0], layers[-1]
