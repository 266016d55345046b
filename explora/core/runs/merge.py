"""Merge an adapter into its base, and verify the new Hugging Face folder before it appears.

Weights are merged in fp64, rounded to fp32 and cast last. What was written is checked twice: weights against
the formula of the method (`weight_check`), and logits against those of base and adapter (`logit_check`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from explora.core.base.configuration import CONFIG
from explora.core.config.concerns import RuntimeConfig
from explora.core.files import replacing_folder, settle_folder, write_atomically
from explora.core.model.gpt2 import GPT2
from explora.core.runs.adapter import check_not_inside, is_adapter, read_header, to_peft_tensors
from explora.core.runs.assemble import FULL_HEADER, Session, merge_in_memory, write_trained_model
from explora.core.runs.example_code import example_code, quoted
from explora.core.runs.folder import real_folder
from explora.core.runs.logit_check import make_probe, our_logits, require_equal, transformers_logits
from explora.core.runs.open import open_run
from explora.core.runs.ownership import check_unowned, owning
from explora.core.runs.record import RECORD_FILE
from explora.core.runs.weight_check import check_weights
from explora.core.training.checkpoint import trained_tensors
from explora.errors import AdapterError, UsageError

OUTPUT_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
IN_FP32 = RuntimeConfig(device="cpu", amp="off")


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A merged folder, and how its predictions differ from those of base and adapter.

    `max_difference` is the largest difference of a logit; `argmax_flips` counts the predictions, of the
    `compared` ones, whose most likely token or class changed.
    """

    folder: Path
    max_difference: float
    argmax_flips: int
    compared: int

    def to_json(self) -> dict[str, Any]:
        """Return the object of `merge-lora --json`."""
        return {
            "folder": str(self.folder),
            "max_difference": self.max_difference,
            "argmax_flips": self.argmax_flips,
        }


def merge_run(
    run: Path,
    folder: Path,
    *,
    dtype: str = "fp32",
    task: str | None = None,
    model: str | None = None,
    tokenizer: str | None = None,
    overwrite: bool = False,
) -> Merged:
    """Merge the adapter in `run` and write the model to `folder`, which appears whole or not at all.

    `dtype` is a key of OUTPUT_DTYPES. `task` is needed only for an adapter without an explora header. Every
    weight must be the method's, up to one unit in the last place. In fp32 the logits of the folder must agree
    with those of base and adapter. In bf16 and fp16 they must agree with those of the rounded weights, and
    the result reports what rounding changed. Raises AdapterError if weights or logits do not agree,
    InUseError if a process trains in `run` or works in `folder`, and UsageError for an occupied folder.
    """
    check_unowned(run)
    _check_adapter(run)
    task = task or _recorded_task(run)
    with owning(folder):
        settle_folder(real_folder(folder))
        _check_free(folder, overwrite)
        session = open_run(task, str(run), model=model, tokenizer=tokenizer, runtime=IN_FP32)
        return _merge(run, folder, dtype, session)


def _merge(run: Path, folder: Path, dtype: str, session: Session) -> Merged:
    _check_apart(folder, run, session)
    probe = make_probe(session)
    unmerged = expected = our_logits(session.model, probe)
    adapter = to_peft_tensors(trained_tensors(session.model), session.method)
    merge_in_memory(session, torch.float32)
    if dtype != "fp32":
        require_equal(unmerged, our_logits(session.model, probe), f"merging {run}")
        _round(session.model, dtype)
        expected = our_logits(session.model, probe)
    with replacing_folder(real_folder(folder)) as staged:
        write_trained_model(session, staged, OUTPUT_DTYPES[dtype])
        session.model.to("meta")  # frees its memory for the model that is opened next
        check_weights(staged, session.base, adapter, session.method)
        reopened = transformers_logits(staged, probe, session.model.score is not None)
        require_equal(expected, reopened, f"merging {run}, as transformers reads it,")
        result = _compare(unmerged, reopened, folder)
        _write_header(session, staged)
        _write_card(session, staged, dtype, result)
    return result


def _check_adapter(run: Path) -> None:
    if is_adapter(run):
        return
    if (run / CONFIG).is_file():
        raise AdapterError(
            f"{run} is a whole model, not an adapter: there is nothing to merge",
            "use the folder as it is; transformers opens it",
        )
    check_not_inside(run)
    raise AdapterError(f"{run} holds no adapter", "the run folder of train --lora or --last-linear does")


def _recorded_task(run: Path) -> str:
    header = read_header(run)
    if header is None:
        raise UsageError(f"{run} does not record its task: explora did not train it", "add --task TASK")
    return header.task


def _check_free(folder: Path, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise UsageError(
            f"{folder} already holds something",
            f"replace it with --overwrite, or choose another: -o {folder}-2",
        )
    is_run = is_adapter(folder) or (folder / RECORD_FILE).is_file()
    if is_run or not (folder / CONFIG).is_file():
        raise UsageError(
            f"{folder} is not a merged model, so --overwrite leaves it alone", "choose another: -o"
        )


def _check_apart(folder: Path, run: Path, session: Session) -> None:
    """Refuse to replace a folder that holds the adapter or its base."""
    for source in filter(None, (run, session.base.folder)):
        if folder.resolve() in (source.resolve(), *source.resolve().parents) and folder.exists():
            raise UsageError(
                f"{folder} holds {source}, which is an input of the merge", "choose another folder: -o"
            )


def _round(model: GPT2, dtype: str) -> None:
    """Round every weight to `dtype`. Raises AdapterError for a weight beyond its range."""
    rounded = {
        name: value.detach().to(OUTPUT_DTYPES[dtype]).float() for name, value in model.state_dict().items()
    }
    beyond = [name for name, value in rounded.items() if not bool(value.isfinite().all())]
    if beyond:
        raise AdapterError(
            f"too large for {dtype}: {', '.join(beyond)}", "--dtype bf16 has the range of fp32"
        )
    model.load_state_dict(rounded, assign=True)


def _compare(unmerged: Tensor, reopened: Tensor, folder: Path) -> Merged:
    return Merged(
        folder=folder,
        max_difference=float((unmerged - reopened).abs().max()),
        argmax_flips=int((unmerged.argmax(dim=-1) != reopened.argmax(dim=-1)).sum()),
        compared=len(unmerged),
    )


# Files beside the weights


def _write_header(session: Session, staged: Path) -> None:
    """Write the explora header, with task, template and label words, if the adapter has one."""
    if session.header is not None:
        write_atomically(staged / FULL_HEADER, session.header.to_json() + "\n")


def _write_card(session: Session, staged: Path, dtype: str, result: Merged) -> None:
    """Write the model card. Text from the user is indented, so that Markdown shows it unchanged."""
    labels = session.task.labels if session.model.score is not None else ()
    answer = "class" if labels else "token"
    template = None if labels else session.encoding.template
    sections = {
        f"# {session.task_name}, merged by explora": [
            f"merged      {session.label}, trained by {session.method.name}",
            f"stored as   {dtype}",
            f"difference  {result.max_difference:.2g} in a logit at most; the most likely {answer} "
            f"changed in {result.argmax_flips} of {result.compared}",
        ],
        "## Use, with Python started in this folder": example_code(
            ".", None, session.encoding, labels, None
        ).splitlines(),
    }
    if template is not None:
        sections["## Prompt"] = [quoted(template)]
        sections["## Label words"] = [quoted(word) for word in session.encoding.label_words or ()]
    lines = ["---", "library_name: transformers", f"tags: [gpt2, {session.task_name}, explora]", "---"]
    for title, content in sections.items():
        lines += ["", title, "", *(f"    {line}".rstrip() for line in content)]
    write_atomically(staged / "README.md", "\n".join(lines) + "\n")
