"""Read weights from safetensors in Hugging Face's GPT-2 layouts, with and without `transformer.`.

Reading is strict: names and shapes are checked in the headers before any weight is read, and one error lists
all problems.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from explora.core.base.configuration import CONFIG
from explora.core.base.find import Base, weight_files
from explora.core.base.tensor_names import cause, listed, unwrapped
from explora.core.cache import cache_folder
from explora.core.files import write_atomically
from explora.core.model.gpt2 import GPT2
from explora.errors import WeightsError, WriteError

PREFIX = "transformer."
SCORE = "score.weight"
DOES_NOT_FIT = f"are {CONFIG} and the weights of the same model?"
TIED_HEAD = "lm_head.weight"
# Causal masks in old files: the only tensors that are ignored.
MASKS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
STORED_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor in a safetensors file; `name` is canonical, `key` is its name in the file."""

    name: str
    file: Path
    key: str
    dtype: str
    shape: tuple[int, ...]

    def read(self) -> Tensor:
        """Map the tensor from its file; its memory pages are released together with the tensor."""
        with _open(self.file) as handle:
            return handle.get_tensor(self.key)  # type: ignore[no-any-return]


def load_model(
    base: Base,
    *,
    dtype: torch.dtype,
    device: torch.device,
    dropout: float = 0.0,
    seed: int = 0,
    in_fp32: Container[str] = (),
    with_head: bool = False,
) -> GPT2:
    """Return the model of `base` with weights of `dtype` on `device`.

    With `with_head`, it has the `score` head of the files, if they contain one; otherwise the head is
    dropped. The head and the weights named in `in_fp32` are in fp32.

    Tensors that are stored in that dtype are memory-mapped. Others are cast one by one, so that a bf16 model
    never needs memory for all its weights in fp32. A base without files gets random weights by `seed`. Raises
    one WeightsError for everything that is missing, unexpected or misshapen, and one for a weight that is not
    finite in its dtype.
    """
    stored = stored_tensors(base)
    classes = _classes(stored) if with_head else 0
    with torch.device("meta"):
        model = GPT2(base.shape, dropout)
        if classes:
            model.score = nn.Linear(base.shape.n_embd, classes, bias=False)
        else:
            stored.pop(SCORE, None)
    names = [name for name, _ in model.named_parameters()]
    dtypes = {name: torch.float32 if name == SCORE or name in in_fp32 else dtype for name in names}
    if base.folder:
        _check_fit(base, stored, model)
        tensors = _refuse_non_finite(_read_all(list(stored.values()), dtypes), base)
    else:
        tensors = _draw_all(model, dtypes, seed)
    model.load_state_dict({name: tensor.to(device) for name, tensor in tensors}, assign=True)
    model.compute_dtype = dtype
    return model


def read_weights(model: GPT2, base: Base) -> None:
    """Read the weights of `base` into those of `model`, one tensor at a time. Raises WeightsError."""
    stored = stored_tensors(base)
    if model.score is None:
        stored.pop(SCORE, None)
    _check_fit(base, stored, model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(stored[name].read())


def stored_tensors(base: Base) -> dict[str, StoredTensor]:
    """Return the tensors of a base by canonical name, without masks and without a tied head."""
    found: dict[str, StoredTensor] = {}
    for file in weight_files(base):
        with _open(file) as handle:
            for key in handle.keys():  # noqa: SIM118 (not a dict)
                name = unwrapped(key).removeprefix(PREFIX)
                if MASKS.fullmatch(name):
                    continue
                if name in found:
                    raise WeightsError(f"{base.label} has {name} twice, as {found[name].key} and as {key}")
                part = handle.get_slice(key)
                found[name] = StoredTensor(
                    name=name, file=file, key=key, dtype=part.get_dtype(), shape=tuple(part.get_shape())
                )
    if TIED_HEAD in found:
        _check_tied(found.pop(TIED_HEAD), found.get("wte.weight"))
    return found


def head_classes(base: Base) -> int:
    """Return the number of classes of the `score` head in the files of a base, 0 for none."""
    return _classes(stored_tensors(base))


def base_digest(base: Base) -> str:
    """Return the SHA-256 of a base's tensors: names without prefix, types, shapes and bytes.

    It is the same for every layout of the same weights, and is cached by path, size and time of the files.
    For random weights, it is the digest of their name, which determines them.
    """
    if base.folder is None:
        return hashlib.sha256(base.name.encode()).hexdigest()
    remembered = _digest_cache(weight_files(base))
    with suppress(OSError, ValueError):
        if re.fullmatch(r"[0-9a-f]{64}", digest := remembered.read_text(encoding="ascii")):
            return digest
    digest = _digest(stored_tensors(base))
    with suppress(WriteError):
        write_atomically(remembered, digest)
    return digest


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{file}: damaged or cut short: {error}", "fetch or write the file again"
        ) from None


def _classes(stored: Mapping[str, StoredTensor]) -> int:
    return stored[SCORE].shape[0] if SCORE in stored and stored[SCORE].shape else 0


def _check_tied(head: StoredTensor, embedding: StoredTensor | None) -> None:
    alike = embedding is not None and (head.dtype, head.shape) == (embedding.dtype, embedding.shape)
    if not alike or embedding is None or not torch.equal(head.read(), embedding.read()):
        raise WeightsError(
            f"{head.file} has an {TIED_HEAD} that differs from wte.weight", "GPT-2's head is the embedding"
        )


def _check_fit(base: Base, stored: Mapping[str, StoredTensor], model: GPT2) -> None:
    """Compare the headers with the parameters of `model`. Raises one WeightsError for all problems."""
    expected = {name: tuple(value.shape) for name, value in model.named_parameters()}
    missing = [f"missing {name}" for name in expected.keys() - stored.keys()]
    unexpected = [f"unexpected {stored[name].key}" for name in stored.keys() - expected.keys()]
    misshapen = [
        f"{name} is {stored[name].dtype} {stored[name].shape}, not floating-point {shape}"
        for name, shape in expected.items()
        if name in stored and (stored[name].shape != shape or stored[name].dtype not in STORED_DTYPES)
    ]
    if problems := [*sorted(missing), *sorted(unexpected), *misshapen]:
        raise WeightsError(
            f"{base.label} does not fit its {CONFIG}: {listed(problems)}", cause(stored) or DOES_NOT_FIT
        )


def _read_all(
    stored: Sequence[StoredTensor], dtypes: Mapping[str, torch.dtype]
) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor in its dtype of `dtypes`: memory-mapped if it is stored so, else cast.

    The pages of a file stay in memory as long as it is mapped. Each tensor to cast therefore has a mapping of
    its own, and the largest comes first, while memory use is still low.
    """
    mapped = [item for item in stored if STORED_DTYPES[item.dtype] is dtypes[item.name]]
    for file in {item.file: None for item in mapped}:
        with _open(file) as handle:
            for item in mapped:
                if item.file == file:
                    yield item.name, handle.get_tensor(item.key)
    to_cast = [item for item in stored if STORED_DTYPES[item.dtype] is not dtypes[item.name]]
    for item in sorted(to_cast, key=lambda item: prod(item.shape), reverse=True):
        yield item.name, item.read().to(dtypes[item.name])


def _refuse_non_finite(tensors: Iterator[tuple[str, Tensor]], base: Base) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors. Raises WeightsError for the first that contains NaN or infinity.

    The extremes are NaN if any number is. On GPT-2's 124M in fp32 they take 0.13 s on one core; a mask of all
    numbers takes 2.1 s.
    """
    for name, tensor in tensors:
        if not all(end.isfinite() for end in tensor.aminmax()):
            raise WeightsError(
                f"{base.label}: {name} has NaN or infinity as {str(tensor.dtype).removeprefix('torch.')}",
                "fetch or write the file again; a training that diverged can write such weights",
            )
        yield name, tensor


def _draw_all(model: GPT2, dtypes: Mapping[str, torch.dtype], seed: int) -> Iterator[tuple[str, Tensor]]:
    """Yield random weights with GPT-2's initialisation, the same for every dtype.

    They are normal with standard deviation 0.02. The projections into the residual stream are scaled by 1 /
    sqrt(2 n_layer) (Radford et al. 2019, section 2.3).
    """
    generator = torch.Generator().manual_seed(seed)
    residual = 0.02 / (2 * model.shape.n_layer) ** 0.5
    for name, parameter in model.named_parameters():
        dtype = dtypes[name]
        if name.endswith("bias"):
            yield name, torch.zeros(parameter.shape, dtype=dtype)
        elif parameter.ndim == 1:
            yield name, torch.ones(parameter.shape, dtype=dtype)
        else:
            deviation = residual if name.endswith("c_proj.weight") else 0.02
            yield name, torch.empty(parameter.shape).normal_(0, deviation, generator=generator).to(dtype)


# Digest


def _digest(stored: Mapping[str, StoredTensor]) -> str:
    total = hashlib.sha256()
    for name, item in sorted(stored.items()):
        total.update(f"{name} {item.dtype} {list(item.shape)}\n".encode())
        total.update(item.read().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _digest_cache(files: Sequence[Path]) -> Path:
    facts = [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return cache_folder() / "digests" / key
