"""Read and write adapter folders: PEFT adapters with an explora header, readable without torch.

|raw|    adapter_config.json         PEFT fields that old versions have (peft >= 0.5), if PEFT has the method
    adapter_model.safetensors   PEFT's key names; one metadata value `explora`: the header as sorted JSON, and
                                a digest of header and tensors

The method converts its tensors to PEFT's and back (`to_file`, `from_file`). The files do not depend on time,
path or machine: the same run gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explora.core.base.tensor_names import cause, listed
from explora.core.config.concerns import EncodingConfig
from explora.core.config.method import Method
from explora.core.config.plain_json import to_plain
from explora.core.config.registry import TASKS, task_row
from explora.core.config.run_config import TrainRun, method_to_json
from explora.core.config.validation import validate
from explora.core.estimate.parameters import HEAD, PEFT_PREFIX
from explora.core.files import write_atomically
from explora.errors import AdapterError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
# 1: every method had LoRA's settings, and layers were a first and a last block; 2: there was no digest
FORMAT = 3
FIRST_WITH_DIGEST = 3
DIGEST = "sha256"  # the key of the digest, beside the keys of the header


@dataclass(frozen=True, kw_only=True)
class Header:
    """The task, method, base and encoding that an adapter was trained for. Opening the adapter checks them.

    `base` is a name, empty for a local folder; `base_digest` identifies its weights.
    """

    task: str
    method: Method
    base: str
    base_digest: str
    encoding: EncodingConfig
    labels: tuple[str, ...] = ()
    best_step: int = 0
    format: int = FORMAT

    def to_json(self) -> str:
        """Return JSON with sorted keys, so that equal headers give equal bytes."""
        return json.dumps(to_plain(self) | {"method": method_to_json(self.method)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> Header:
        """Parse the text of `to_json`. Raises AdapterError for a newer format or a damaged header."""
        try:
            value = json.loads(text)
            value.pop(DIGEST, None)  # `read_adapter` compares it
            if value["format"] > FORMAT:
                raise AdapterError(
                    f"{where} has format {value['format']}, this explora reads up to {FORMAT}",
                    "update explora: pip install -U explora",
                )
            run = TrainRun.from_json({name: value.pop(name) for name in ("task", "method", "encoding")})
            task_row(run.task)
            validate(run)
            value["labels"] = tuple(value["labels"])
            value["format"] = FORMAT  # the header is written in the newest format
            return cls(task=run.task, method=run.method, encoding=run.encoding, **value)
        except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
            raise AdapterError(f"{where}: the explora header is damaged: {error}") from None


def is_adapter(folder: Path) -> bool:
    """Return whether a folder has an adapter."""
    return (folder / ADAPTER_FILE).is_file() or (folder / CONFIG_FILE).is_file()


def adapters_in(folder: Path) -> list[Path]:
    """Return the folders directly inside `folder` that have an adapter, such as checkpoint-500, in order."""
    return [inner for inner in sorted(folder.glob("[!.]*"), key=_natural) if is_adapter(inner)]


def check_not_inside(folder: Path) -> None:
    """Raise AdapterError if folders inside `folder` have adapters: the user probably means one of these."""
    if inner := adapters_in(folder):
        raise AdapterError(
            f"{folder} has no adapter itself, but folders in it have one: "
            f"{', '.join(path.name for path in inner)}",
            f"name that folder: {inner[-1]}",
        )


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort numbers by their value: checkpoint-500 comes before checkpoint-1000."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part) if part.isdecimal() else 0, part) for part in parts]


def write_adapter(folder: Path, trained: Mapping[str, Tensor], header: Header, base: str) -> None:
    """Write an adapter, each file atomically; `trained` has the model's own names."""
    from safetensors.torch import save

    tensors = {name: value.detach().float().cpu().contiguous() for name, value in trained.items()}
    stored = to_peft_tensors(tensors, header.method)
    content = save(stored, metadata={"explora": with_digest(header.to_json(), stored)})
    write_atomically(folder / ADAPTER_FILE, content)
    if (config := peft_config(header, base)) is not None:
        write_atomically(folder / CONFIG_FILE, json.dumps(config, indent=2, sort_keys=True) + "\n")


def with_digest(header: str, stored: Mapping[str, Tensor]) -> str:
    """Return a header's JSON with a SHA-256 of the header and of its file's tensors.

    An older digest is replaced.
    """
    value = json.loads(header)
    value.pop(DIGEST, None)
    total = hashlib.sha256(json.dumps(value, sort_keys=True).encode())
    for name, tensor in sorted(stored.items()):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(_bytes_of(tensor))
    return json.dumps(value | {DIGEST: total.hexdigest()}, sort_keys=True)


def _bytes_of(tensor: Tensor) -> memoryview:
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def peft_config(header: Header, base: str) -> dict[str, Any] | None:
    """Return the content of adapter_config.json, or None if PEFT has no such method."""
    own = header.method.peft_config()
    if own is None:
        return None
    has_head = TASKS[header.task].head_classes(header.method.needs_head, len(header.labels)) > 0
    return own | {
        "task_type": "SEQ_CLS" if has_head else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "modules_to_save": [HEAD] if has_head else None,
        "inference_mode": True,
    }


def to_peft_tensors(trained: Mapping[str, Tensor], method: Method) -> dict[str, Tensor]:
    """Rename the trained tensors, of the method and of the head, to PEFT's names."""
    own = {name: value for name, value in trained.items() if not _is_head(name)}
    head = {PEFT_PREFIX + name: value for name, value in trained.items() if _is_head(name)}
    return {f"{PEFT_PREFIX}transformer.{name}": value for name, value in method.to_file(own).items()} | head


def _is_head(name: str) -> bool:
    return name.startswith(f"{HEAD}.")


def from_peft_tensors(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    method: Method,
    where: str,
    kept: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Rename the tensors of a file to the model's own names, and check them strictly.

    `expected` has the names and shapes that this model trains. `kept` are tensors that the file must not
    have, with their values. Raises one AdapterError for all missing, unexpected, misshapen or non-finite
    tensors, and for values that the method cannot represent.
    """
    kept = kept or {}
    zeros = {name: value.new_zeros(value.shape) for name, value in expected.items()}
    wanted = {name: value for name, value in to_peft_tensors(zeros, method).items() if name not in kept}
    faults = [f"missing {name}" for name in wanted if name not in tensors]
    faults += [f"unexpected {name}" for name in tensors if name not in wanted]
    found = {name: _fault(tensors[name], wanted[name]) for name in wanted if name in tensors}
    faults += [f"{name} {fault}" for name, fault in found.items() if fault]
    if not faults:
        stored = {name: value.float() for name, value in {**kept, **tensors}.items()}
        trained = _by_own_names(stored, expected, method)
        again = to_peft_tensors(trained, method)
        beyond = f"has nonzero numbers outside the adapters {method.description}"
        faults = [f"{name} {beyond}" for name, value in stored.items() if not again[name].equal(value)]
    if faults:
        hint = cause(tensors) or "is it an adapter for this base, task and method?"
        raise AdapterError(f"{where} does not fit: {listed(sorted(faults))}", hint)
    return trained


def _by_own_names(
    stored: Mapping[str, Tensor], expected: Mapping[str, Tensor], method: Method
) -> dict[str, Tensor]:
    shapes = {name: tuple(value.shape) for name, value in expected.items() if not _is_head(name)}
    prefix = f"{PEFT_PREFIX}transformer."
    own = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    head = {name: stored[PEFT_PREFIX + name] for name in expected if _is_head(name)}
    return method.from_file(own, shapes) | head


def _fault(found: Tensor, wanted: Tensor) -> str:
    """Return what is wrong with a tensor, or an empty string."""
    if found.shape != wanted.shape:
        return f"has shape {tuple(found.shape)}, not {tuple(wanted.shape)}"
    if not found.is_floating_point():
        return f"has type {found.dtype}, not a floating-point type"
    if not bool(found.float().isfinite().all()):
        return "has a number that is not finite"
    return ""


def read_adapter(folder: Path) -> tuple[dict[str, Tensor], Header | None]:
    """Return the tensors of an adapter folder and its explora header, None for a foreign adapter.

    Raises AdapterError for a missing, truncated or inconsistent file, and for tensors or a header that
    changed since explora wrote them.
    """
    from safetensors import SafetensorError, safe_open

    file = _adapter_file(folder)
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterError(f"{file} is not a readable safetensors file: {error}") from None
    if (text := metadata.get("explora")) is None:
        _check_foreign(metadata, file)
        return tensors, None
    header = Header.from_json(text, str(file))
    _check_digest(text, tensors, file)
    return tensors, header


def _check_digest(text: str, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Raise AdapterError if header and tensors do not match their digest. Formats before 3 have none."""
    value = json.loads(text)
    if DIGEST not in value and value["format"] < FIRST_WITH_DIGEST:
        return
    if value.get(DIGEST) != json.loads(with_digest(text, tensors))[DIGEST]:
        raise _damaged(file, "its header or its tensors changed since explora wrote them")


def _check_foreign(metadata: Mapping[str, str], file: Path) -> None:
    """Raise AdapterError for an explora header under another key: a bit of the key has flipped."""
    if any('"base_digest"' in value for value in metadata.values()):
        raise _damaged(file, "it has an explora header under another key")


def _damaged(file: Path, reason: str) -> AdapterError:
    return AdapterError(
        f"{file} is damaged: {reason}",
        "copy or fetch the file again; to use tensors that you changed on purpose, save them without the "
        "metadata: explora then reads them as an adapter of PEFT",
    )


def read_header(folder: Path) -> Header | None:
    """Return the explora header without loading torch; None for a foreign adapter. Raises AdapterError."""
    file = _adapter_file(folder)
    try:
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            if size > 100_000_000:
                raise ValueError("its header is longer than 100 MB")
            header = json.loads(opened.read(size)).get("__metadata__", {}).get("explora")
    except (OSError, ValueError, AttributeError) as error:
        raise AdapterError(f"{file} is not a readable safetensors file: {error}") from None
    return None if header is None else Header.from_json(header, str(file))


def _adapter_file(folder: Path) -> Path:
    file = folder / ADAPTER_FILE
    if file.is_file():
        return file
    hint = "a run folder or a PEFT adapter has one"
    if (pickled := folder / "adapter_model.bin").is_file():
        hint = (
            "pickles can run code and are not read; convert its tensors alone: python -c "
            '"import torch; from safetensors.torch import save_file; '
            f"t = torch.load({str(pickled)!r}, weights_only=True); "
            f'save_file({{k: v.clone().contiguous() for k, v in t.items()}}, {str(file)!r})"'
        )
    raise AdapterError(f"{folder} has no {ADAPTER_FILE}", hint)
