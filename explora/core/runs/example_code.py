"""Write Python code that opens a trained model with transformers and peft and computes one answer with it.

The code is complete: it runs as it stands where explora found the base and the run. Model cards show it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from explora.core.config.concerns import EncodingConfig
from explora.core.config.registry import EMBEDDED

_EMBEDDED_BASE = 'Path(explora.__file__).parent / "assets" / "base"'
_PAIR = {"sentence1": "The cat sat on the mat.", "sentence2": "A cat was sitting on the mat."}
_TEXT = "A warm and funny film."
_START = "Shall I compare"


def example_code(
    model: str, adapter: str | None, encoding: EncodingConfig, labels: Sequence[str], tokenizer: str | None
) -> str:
    """Return the code for one question to a trained model.

    model: the base of `adapter`, or a merged or fully trained model; adapter: a PEFT folder or None;
    labels: of the linear head in its order, empty if the tied head answers; tokenizer: a folder other than
    that of `model`, or None.
    """
    kind = "AutoModelForSequenceClassification" if labels else "AutoModelForCausalLM"
    is_embedded = model == EMBEDDED
    head = f", num_labels={len(labels)}, pad_token_id=tokenizer.eos_token_id" if labels and adapter else ""
    lines = [
        *(["from pathlib import Path", "import explora"] if is_embedded else []),
        "import torch",
        *(["from peft import PeftModel"] if adapter else []),
        f"from transformers import {kind}, AutoTokenizer",
        "",
        f"base = {_EMBEDDED_BASE if is_embedded else quoted(model)}",
        f"tokenizer = AutoTokenizer.from_pretrained({quoted(tokenizer) if tokenizer else 'base'})",
        f'model = {kind}.from_pretrained(base, dtype="float32"{head})',
        *([f"model = PeftModel.from_pretrained(model, {quoted(adapter)})"] if adapter else []),
        "model.eval()",
        "",
        *_question(encoding, labels),
    ]
    return "\n".join(lines)


def quoted(text: str) -> str:
    """Return a text as a literal of Python and JSON on one line: spaces at its ends are visible."""
    return json.dumps(text, ensure_ascii=False)


def _question(encoding: EncodingConfig, labels: Sequence[str]) -> list[str]:
    """Return the lines that ask and print: class probabilities, P(yes) of a cloze, or a continuation."""
    template = encoding.template
    if template is not None:
        pair = ", ".join(f"{name}={quoted(text)}" for name, text in _PAIR.items())
        asked = [f"template = {quoted(template)}", f"prompt = template.format({pair})"]
    else:
        asked = [f"prompt = {quoted(_TEXT)}"]
    logits = ["with torch.no_grad():", '    logits = model(**tokenizer(prompt, return_tensors="pt")).logits']
    if labels:
        named = f"dict(zip({json.dumps(list(labels), ensure_ascii=False)}, logits[0].softmax(0).tolist()))"
        return [*asked, *logits, f"print({named})"]
    if template is not None:
        return [*asked, *_label_tokens(template, encoding.label_words), *logits, *_P_YES]
    return [
        f'prompt = tokenizer(tokenizer.bos_token + {quoted(_START)}, return_tensors="pt")',
        "ids = model.generate(**prompt, max_new_tokens=60, do_sample=True, top_p=0.9)",
        "print(tokenizer.decode(ids[0], skip_special_tokens=True))",
    ]


_P_YES = ['print("P(yes) =", logits[0, -1, [yes, no]].softmax(0)[0].item())']


def _label_tokens(template: str, words: tuple[str, str] | None) -> list[str]:
    """Return the line that finds the tokens of yes and no: with a space if the template ends without one."""
    space = "" if template[-1:].isspace() else " "
    yes, no = (quoted(space + word) for word in words or ("yes", "no"))
    return [f"yes, no = (tokenizer.encode(word)[0] for word in ({yes}, {no}))"]
