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

from explora.core.config.registry import TARGETS, TASKS, Shape
from explora.core.config.run_config import EncodingConfig, MethodConfig, TrainRun, validate
from explora.core.files import write_atomically
from explora.errors import AdapterError, UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
FORMAT = 1
PREFIX = "base_model.model."
MODULES = tuple(dict.fromkeys(path for path, _ in TARGETS.values()))

# Fields of PEFT's LoraConfig that may have any value: they are read, or say nothing about the function.
FREE = {
    *("r", "lora_alpha", "use_rslora", "lora_dropout", "target_modules", "layers_to_transform"),
    *("task_type", "base_model_name_or_path", "auto_mapping", "peft_version", "inference_mode"),
    *("fan_in_fan_out", "megatron_core", "qalora_group_size", "runtime_config", "eva_config"),
}
# Those that may have these values alone; the ways to initialise that are not here change the base.
READABLE: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "layers_pattern": (None, [], "h", ["h"]),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}


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
            run = TrainRun.from_json({name: value.pop(name) for name in ("task", "method", "encoding")})
            validate(run)
            if run.task not in TASKS:
                raise UsageError(f"no task {run.task!r}{did_you_mean(run.task, TASKS)}")
            value["labels"] = tuple(value["labels"])
            return cls(task=run.task, method=run.method, encoding=run.encoding, **value)
        except (ValueError, KeyError, TypeError, UsageError) as error:
            raise AdapterError(f"{where}: the explora header is damaged: {error}") from None


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter."""
    return (folder / ADAPTER_FILE).is_file() or (folder / CONFIG_FILE).is_file()


def write_adapter(
    folder: Path, trained: Mapping[str, Tensor], header: Header, shape: Shape, base: str
) -> None:
    """Write an adapter atomically, file by file; `trained` has the model's own names."""
    from safetensors.torch import save

    tensors = {name: value.detach().float().cpu().contiguous() for name, value in trained.items()}
    content = save(to_peft(tensors, header.method), metadata={"explora": header.to_json()})
    write_atomically(folder / ADAPTER_FILE, content)
    if header.method.method == "lora":
        config = peft_config(header, shape, base)
        write_atomically(folder / CONFIG_FILE, json.dumps(config, indent=2, sort_keys=True) + "\n")


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

    wanted = to_peft({name: torch.ones(value.shape) for name, value in expected.items()}, method)
    faults = [f"missing {name}" for name in wanted if name not in tensors]
    faults += [f"unexpected {name}" for name in tensors if name not in wanted]
    found = {name: _fault(tensors[name], wanted[name], method) for name in wanted if name in tensors}
    faults += [f"{name} {fault}" for name, fault in found.items() if fault]
    if faults:
        listed = "; ".join(sorted(faults))
        raise AdapterError(
            f"{where} does not fit: {listed}", "is it an adapter for this base, task and method?"
        )
    trained = {}
    for name, value in expected.items():
        module, _, kind = name.rpartition(".")
        if kind not in ("lora_A", "lora_B"):
            trained[name] = tensors[PREFIX + name].float()
            continue
        stored = tensors[f"{PREFIX}transformer.{module}.{kind}.weight"].float()
        trained[name] = stored if kind == "lora_A" else _unfuse(stored, tuple(value.shape), module, method)
    return trained


def _fault(found: Tensor, belongs: Tensor, method: MethodConfig) -> str:
    """Say what is wrong with a tensor, if anything; `belongs` is 1 where it may hold a number, else 0."""
    if found.shape != belongs.shape:
        return f"has shape {tuple(found.shape)}, not {tuple(belongs.shape)}"
    if not found.is_floating_point():
        return f"holds {found.dtype}, not floating-point numbers"
    if not bool(found.float().isfinite().all()):
        return "holds a number that is not finite"
    if bool(found[belongs == 0].any()):
        return f"holds numbers outside the blocks of {','.join(method.targets)}"
    return ""


def _unfuse(stored: Tensor, shape: tuple[int, ...], module: str, method: MethodConfig) -> Tensor:
    import torch

    parts = attention_parts(method)
    if not (parts and module.endswith("attn.c_attn")):
        return stored.unsqueeze(0)
    _, span, rank = shape
    blocks = [
        stored[part * span : (part + 1) * span, index * rank : (index + 1) * rank]
        for index, part in enumerate(parts)
    ]
    return torch.stack(blocks)


def read_adapter(folder: Path) -> tuple[dict[str, Tensor], Header | None]:
    """Return the tensors of an adapter folder and our header, None for a foreign adapter.

    Raises AdapterError for a missing, truncated or lying file.
    """
    from safetensors import SafetensorError, safe_open

    file = _adapter_file(folder)
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
    file = _adapter_file(folder)
    try:
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            if size > 100_000_000:
                raise ValueError("its header is longer than any real one")
            header = json.loads(opened.read(size)).get("__metadata__", {}).get("explora")
    except (OSError, ValueError, AttributeError) as error:
        raise AdapterError(f"{file} is not a readable safetensors file: {error}") from None
    return None if header is None else Header.from_json(header, str(file))


def _adapter_file(folder: Path) -> Path:
    file = folder / ADAPTER_FILE
    if file.is_file():
        return file
    hint = "a run folder or a PEFT adapter has one"
    if (folder / "adapter_model.bin").is_file():
        hint = "explora reads no pickles; load it with peft and save_pretrained(..., safe_serialization=True)"
    raise AdapterError(f"{folder} has no {ADAPTER_FILE}", hint)


def foreign_method(folder: Path) -> MethodConfig:
    """Return the method of an adapter that PEFT wrote. Raises AdapterError for what explora does not have."""
    file = folder / CONFIG_FILE
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{file} is not readable: {error}", "PEFT adapters have one") from None
    if not isinstance(config, dict) or "peft_type" not in config:
        raise AdapterError(f"{file} has no peft_type: it is no PEFT adapter", "mlx-lm adapters are not read")
    try:
        refused = [f"{name} {value!r}" for name, value in config.items() if not _is_readable(name, value)]
        if refused:
            listed = ", ".join(sorted(refused))
            raise AdapterError(f"{file}: explora does not read adapters with {listed}")
        rank = int(config.get("r", 8))
        alpha = float(config.get("lora_alpha", 8))
        method = MethodConfig(
            method="lora",
            rank=rank,
            alpha=alpha * rank**0.5 if config.get("use_rslora") else alpha,
            lora_dropout=float(config.get("lora_dropout", 0.0)),
            targets=_foreign_targets(config.get("target_modules"), file),
            layers=_foreign_layers(config.get("layers_to_transform"), file),
        )
        validate(TrainRun(task="text", method=method))
    except (ValueError, TypeError, UsageError) as error:
        raise AdapterError(f"{file}: {error}") from None
    return method


def _is_readable(name: str, value: Any) -> bool:
    """Tell whether a field of PEFT's LoRA is read here or changes nothing; an unknown one must be empty."""
    if name in READABLE:
        return value in READABLE[name]
    if name == "modules_to_save":
        return set(value or ()) <= {"score", "classifier"}
    return name in FREE or not value


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
    if not layers or layers[0] < 0 or layers != list(range(layers[0], layers[-1] + 1)):
        raise AdapterError(f"{file}: layers_to_transform {wanted!r} is not one range of blocks")
    return layers[0], layers[-1]
