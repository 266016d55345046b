"""Write README.md of a run folder: a model card of measured facts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from explora.core.config.run_config import TrainRun
from explora.core.files import write_atomically

_LOAD_CAUSAL = """\
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE, dtype="float32"), "{folder}")
"""
_LOAD_CLASSES = """\
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification
    base = AutoModelForSequenceClassification.from_pretrained(BASE, num_labels={classes}, pad_token_id=EOS_ID)
    model = PeftModel.from_pretrained(base, "{folder}")
"""
_LOAD_OWN = """\
This folder is in explora's own format, and peft cannot open it. A model that transformers opens:

    explora merge-lora {folder} -o {folder}-merged
"""
_LOAD_FULL = """\
    from transformers import {model}
    model = {model}.from_pretrained("{folder}")
"""


def write_card(folder: Path, run: TrainRun, result: Mapping[str, Any], classes: int) -> None:
    """Write the card; text from the user is quoted as code. `classes` is the width of the head, or 0."""
    method = run.method
    lines = [
        "---",
        f"library_name: {'explora' if method.peft_config() is None else 'peft'}",
        f"tags: [gpt2, {run.task}, {method.name}, explora]",
        "---",
        "",
        f"# {run.task}, {method.name}",
        "",
        f"Trained by explora on {_code(str(result['model']))} ({method.description}).",
        "",
        "| | |",
        "|---|---|",
        *([f"| starts from | {_code(run.from_run)} |"] if run.from_run else []),
        f"| data | {_code(run.data.data or 'the sample data of the package')} |",
        f"| examples | {result['examples']:,} |",
        f"| trained parameters | {result['trainable']:,} of {result['total']:,} ({result['share']:.2%}) |",
        f"| steps (best) | {result['steps']:,} ({result['best_step']:,}) |",
        f"| learning rate | {run.optimizer.learning_rate:g} |",
        f"| batch | {run.training.batch_size} x {run.training.accumulate} |",
        f"| precision | {'fp32' if run.runtime.amp == 'off' else run.runtime.amp} |",
        f"| seed | {run.training.seed} |",
        f"| training time | {result['seconds']:.0f} s, {result['tokens_per_second']:,.0f} tokens/s |",
        f"| peak memory | {result['peak_memory_bytes'] / 1e6:,.0f} MB |",
        "",
        "## Scores on dev",
        "",
        "| score | better | value | 95 % interval | best trivial answer |",
        "|---|---|---|---|---|",
    ]
    for name, value in (result["scores"] or {}).items():
        low, high = result["intervals"].get(name, (None, None))
        interval = "unknown" if low is None or math.isnan(low) else f"{low:.4g} to {high:.4g}"
        better = "higher" if result["higher_is_better"][name] else "lower"
        floor = result["floors"].get(name)
        trivial = "" if floor is None else f"{floor:.4g} ({_code(result['trivial_answers'][name])})"
        lines.append(f"| {name} | {better} | {value:.4g} | {interval} | {trivial} |")
    if run.encoding.template and not method.needs_head:
        words = ", ".join(run.encoding.label_words or ())
        lines += ["", "## Prompt", "", _code(run.encoding.template), ""]
        if run.encoding.template.endswith(" "):  # Markdown hides it; without it the scores are useless
            lines += ["The prompt ends with a space.", ""]
        lines += [f"Label words: {_code(words)}"]
    lines += ["", "## Use", "", f"    explora eval {run.task} {folder}", "", _loading(run, folder, classes)]
    write_atomically(folder / "README.md", "\n".join(lines))


def _loading(run: TrainRun, folder: Path, classes: int) -> str:
    if run.method.trains_base:
        model = "AutoModelForSequenceClassification" if classes else "AutoModelForCausalLM"
        return _LOAD_FULL.format(folder=folder, model=model)
    if run.method.peft_config() is None:
        return _LOAD_OWN.format(folder=folder)
    if classes:
        return _LOAD_CLASSES.format(folder=folder, classes=classes)
    return _LOAD_CAUSAL.format(folder=folder)


def _code(text: str) -> str:
    """Quote text from the user as code, so that it cannot become Markdown or HTML."""
    return "`" + " ".join(text.replace("`", "'").split()) + "`"
