"""The configuration of a run: exact JSON, precedence, and errors that say what would be right."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest

from explora.core.config.concerns import (
    DataConfig,
    EncodingConfig,
    OptimizerConfig,
    RuntimeConfig,
    TrainingConfig,
)
from explora.core.config.precedence import fit_learning_rate, resolve
from explora.core.config.registry import METHODS, TASKS, Shape, method_class
from explora.core.config.run_config import (
    CONCERNS,
    WHOLE,
    TrainRun,
    all_settings,
    foreign_settings,
    method_settings,
    methods_with,
    settings_in,
    settings_of,
)
from explora.core.config.validation import validate
from explora.core.config.values import Blocks
from explora.core.methods.full import Full
from explora.core.methods.last_linear import LastLinear
from explora.core.methods.lora import LoRA
from explora.errors import UsageError
from tests.tiny_models import ALLOWED, PAIRS

# No field at its default, so that one that is lost on the way is seen.
UNUSUAL = TrainRun(
    task="paraphrase",
    model="gpt2-xl",
    from_run="runs/first",
    tokenizer="words",
    from_scratch=Shape(n_layer=1, n_head=2, n_embd=4, n_positions=8, vocab_size=300),
    method=LoRA(
        rank=3,
        alpha=0.1,
        lora_dropout=0.3,
        targets=("query", "mlp-up"),
        layers=Blocks.parse("0-1"),
        rank_pattern={"attn.c_attn": 2},
        alpha_pattern={"h.1.mlp.c_fc": 0.2},
        bias="lora-only",
    ),
    data=DataConfig(
        data="é.csv", dev="d.csv", columns={"label": "y"}, format="msr", encoding="cp1252", skip_bad=True
    ),
    encoding=EncodingConfig(template='{sentence1}\n"{sentence2}"', label_words=("oui", "non"), max_length=9),
    optimizer=OptimizerConfig(
        optimizer="muon",
        learning_rate=1 / 3,
        weight_decay=0.3,
        beta1=0.8,
        beta2=0.9,
        clip=0.7,
        warmup=0.5,
        schedule="cosine",
    ),
    training=TrainingConfig(
        epochs=7,
        max_steps=9,
        max_minutes=4.5,
        batch_size=3,
        accumulate=4,
        dropout=0.2,
        seed=5,
        eval_every=2,
        save_every=6,
        patience=8,
    ),
    runtime=RuntimeConfig(
        device="cuda:1", amp="fp16", grad_checkpoint=True, threads=3, plain_attention=64, feature_cache=9
    ),
)


# --- the JSON round trip --------------------------------------------------------------------------


def test_the_unusual_run_has_no_default_in_it() -> None:
    usual = settings_of(TrainRun(task="text"))
    assert [name for name, value in settings_of(UNUSUAL).items() if value == usual[name]] == ["method"]


@pytest.mark.parametrize(
    "run", [UNUSUAL, TrainRun(task="text"), *(resolve(t, {"method": m})[0] for t, m in PAIRS)]
)
def test_json_and_back_is_the_same_run(run: TrainRun) -> None:
    text = json.dumps(run.to_json())
    again = TrainRun.from_json(json.loads(text))
    assert again == run
    assert json.dumps(again.to_json()) == text


def test_floats_survive_to_the_last_bit() -> None:
    draw = random.Random(0)
    for _ in range(200):
        rate = draw.random() * 10 ** draw.randint(-12, 3)
        run = TrainRun(task="text", optimizer=OptimizerConfig(learning_rate=rate))
        assert TrainRun.from_json(json.loads(json.dumps(run.to_json()))).optimizer.learning_rate == rate


def test_field_names_are_unique_across_the_concerns() -> None:
    kinds = [*CONCERNS.values()]
    for method in METHODS:
        names = [field.name for kind in [*kinds, method_class(method)] for field in dataclasses.fields(kind)]
        assert len([*WHOLE, "method", "task", *names]) == len({*WHOLE, "method", "task", *names})


def test_methods_agree_on_the_type_of_a_setting_that_they_share() -> None:
    """One option serves them all."""
    for name, setting in method_settings().items():
        for method in methods_with(name):
            own = all_settings(method_class(method))[name]
            assert (own.kind, own.about.parse) == (setting.kind, setting.about.parse)


def test_every_setting_says_what_it_does() -> None:
    for method in METHODS:
        for setting in all_settings(method_class(method)).values():
            assert setting.about.help.endswith(".") and setting.about.help[0].isupper()
            assert setting.about.default or setting.show(setting.default) != "none"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"task": "text", "trainig": {}}, "run has no setting 'trainig'; did you mean training?"),
        (
            {"task": "text", "training": {"epoch": 3}},
            "run.training has no setting 'epoch'; did you mean epochs?",
        ),
        ({"task": "text", "method": {"qqq": 3}}, "run.method has no setting 'qqq'"),
        ({"training": {}}, "run has no value for task"),
        ({"task": "text", "from_scratch": {"n_layer": 2}}, "run.from_scratch has no value for n_head"),
        ({"task": 3}, "run.task should be of type str, not 3"),
        ({"task": "text", "training": 3}, "run.training should be an object, not 3"),
        ({"task": "text", "training": {"epochs": "3"}}, "run.training.epochs should be of type int, not '3'"),
        ({"task": "text", "training": {"epochs": 3.0}}, "run.training.epochs should be of type int, not 3.0"),
        (
            {"task": "text", "training": {"epochs": True}},
            "run.training.epochs should be of type int, not True",
        ),
        (
            {"task": "text", "training": {"epochs": None}},
            "run.training.epochs should be of type int, not None",
        ),
        (
            {"task": "text", "optimizer": {"clip": False}},
            "run.optimizer.clip should be of type float, not False",
        ),
        ({"task": "text", "data": {"skip_bad": 1}}, "run.data.skip_bad should be of type bool, not 1"),
        ({"task": "text", "data": {"columns": ["a"]}}, "run.data.columns should be an object, not ['a']"),
        ({"task": "text", "data": {"columns": {"a": 1}}}, "run.data.columns.a should be of type str, not 1"),
        ({"task": "text", "method": {"targets": "key"}}, "run.method.targets should be a list, not 'key'"),
        ({"task": "text", "method": {"targets": [1]}}, "run.method.targets should be of type str, not 1"),
        ({"task": "text", "method": {"layers": [1]}}, "run.method.layers should be blocks like '0-3,7', not"),
        ({"task": "text", "method": {"layers": [3, 2]}}, "run.method.layers should be blocks like"),
        ({"task": "text", "method": {"method": "full", "rank": 3}}, "run.method has no setting 'rank'"),
        ({"task": "text", "method": {"method": "nosuch"}}, "method 'nosuch' is not one of"),
        ({"task": "text", "method": {"method": 3}}, "run.method.method should be of type str, not 3"),
        ([], "run should be an object, not []"),
    ],
)
def test_what_is_no_run_is_refused_with_the_place(value: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        TrainRun.from_json(value)
    assert caught.value.message.startswith(message)


def test_a_whole_number_is_a_fine_float() -> None:
    run = TrainRun.from_json({"task": "text", "method": {"alpha": 16}})
    assert isinstance(run.method.alpha, float) and run.method.alpha == 16


# --- precedence -----------------------------------------------------------------------------------


def test_options_win_over_the_file_over_the_method_over_the_task_over_the_field() -> None:
    options = {"method": "full", "epochs": 8}
    file = settings_in({"task": "sentiment", "training": {"epochs": 9, "batch_size": 5}})
    run, origins = resolve("sentiment", options, file)
    assert (run.training.epochs, origins["epochs"]) == (8, "option")
    assert (run.training.batch_size, origins["batch_size"]) == (5, "config file")
    row = TASKS["sentiment"]
    rate, length = Full.learning_rate, row.defaults["max_length"]
    assert (run.optimizer.learning_rate, origins["learning_rate"]) == (rate, "sentiment with full")
    assert (run.encoding.max_length, origins["max_length"]) == (length, "sentiment")
    assert (run.optimizer.clip, origins["clip"]) == (1.0, "default")


def test_the_default_of_a_method_wins_over_that_of_the_task() -> None:
    """Nothing else given: last-linear on sentiment has epochs of its own."""
    epochs = LastLinear.defaults("sentiment")["epochs"]
    assert TASKS["sentiment"].defaults["epochs"] != epochs
    run, origins = resolve("sentiment", {"method": "last-linear"})
    assert run.training.epochs == epochs
    assert origins["epochs"] == "sentiment with last-linear"


def test_a_file_that_names_a_default_still_wins_over_the_task() -> None:
    """It is what the file says that counts, not whether it differs from a default."""
    rate = OptimizerConfig().learning_rate
    file = settings_in({"task": "text", "method": {"method": "full"}, "optimizer": {"learning_rate": rate}})
    run, origins = resolve("text", {}, file)
    assert run.method.name == "full"
    assert (run.optimizer.learning_rate, origins["learning_rate"]) == (rate, "config file")


def test_a_file_may_leave_settings_to_the_task() -> None:
    run, origins = resolve("text", {}, settings_in({"task": "text", "method": {"method": "full"}}))
    rate = Full.learning_rate
    assert (run.optimizer.learning_rate, origins["learning_rate"]) == (rate, "text with full")
    assert run.training.batch_size == TASKS["text"].defaults["batch_size"]


def test_a_recorded_run_decides_every_setting() -> None:
    recorded = resolve("sonnet", {"method": "full", "epochs": 4, "seed": 3})[0]
    run, origins = resolve("sonnet", {}, settings_in(recorded.to_json()))
    assert run == recorded
    assert set(origins.values()) == {"config file"}


def test_another_method_than_that_of_the_file_has_its_own_learning_rate() -> None:
    """The recorded rate is LoRA's; the targets, which IA3 has too, stay for a comparison."""
    recorded = resolve("text", {"rank": 4, "targets": ("key",), "epochs": 4})[0]
    file = settings_in(recorded.to_json())
    run, origins = resolve("text", {"method": "ia3"}, file)
    assert run.method == method_class("ia3")(targets=("key",))
    assert run.optimizer.learning_rate == method_class("ia3").learning_rate
    assert (origins["targets"], origins["learning_rate"]) == ("config file", "text with ia3")
    assert (run.training.epochs, origins["epochs"]) == (4, "config file")
    assert resolve("text", {"method": "lora"}, file)[0] == recorded
    given = resolve("text", {"method": "ia3", "learning_rate": 0.5, "targets": ("value",)}, file)[0]
    assert (given.optimizer.learning_rate, given.method.targets) == (0.5, ("value",))


def test_a_file_that_names_no_method_goes_with_every_method() -> None:
    run, origins = resolve("text", {"method": "ia3"}, {"learning_rate": 0.5, "targets": ("value",)})
    assert (run.optimizer.learning_rate, run.method.targets) == (0.5, ("value",))
    assert origins["targets"] == "config file"


def test_a_pattern_is_cleared_by_none() -> None:
    run, origins = resolve("text", {"rank_pattern": "none"}, {"rank_pattern": {"attn.c_attn": 2}})
    assert (run.method.rank_pattern, origins["rank_pattern"]) == ({}, "option")


@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_every_origin_tells_the_truth(task: str, method: str) -> None:
    run, origins = resolve(task, {"method": method})
    row, flat = TASKS[task], settings_of(run)
    fields = settings_of(TrainRun(task=task, method=method_class(method)()))
    own = method_class(method).defaults(task) | {"learning_rate": run.method.usual_learning_rate(task)}
    sources = {task: row.defaults, f"{task} with {method}": own, "default": fields}
    assert origins.pop("method") == "option"
    assert origins.keys() == flat.keys() - {"method"}
    for name, origin in origins.items():
        assert sources[origin][name] == flat[name], name


@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_every_method_has_a_learning_rate_of_its_own(task: str, method: str) -> None:
    assert resolve(task, {"method": method})[1]["learning_rate"] == f"{task} with {method}"


@pytest.mark.parametrize(
    ("task", "targets", "rate"),
    [
        ("paraphrase", ("key", "value"), LoRA.learning_rate_on_key_and_value),
        ("paraphrase", ("value",), LoRA.learning_rate_on_key_and_value),
        ("paraphrase", ("key", "value", "mlp-up"), LoRA.learning_rate),
        ("sonnet", ("key", "value"), LoRA.learning_rate_on_key_and_value),
        ("sentiment", ("key", "value"), 6e-4),  # a new head learns at the same rate
    ],
)
def test_adapters_on_key_and_value_alone_have_a_higher_default(
    task: str, targets: tuple[str, ...], rate: float
) -> None:
    assert resolve(task, {"targets": targets})[0].optimizer.learning_rate == rate
    assert resolve(task, {"targets": targets, "learning_rate": 0.5})[0].optimizer.learning_rate == 0.5


def test_registry_defaults_are_settings() -> None:
    for task, method in PAIRS:
        known = all_settings(method_class(method))
        assert {*TASKS[task].defaults, *method_class(method).defaults(task)} <= known.keys()


# --- the learning rate of a narrow base -----------------------------------------------------------


def rate_for(width: int, options: dict[str, Any], file: dict[str, Any] | None = None) -> tuple[float, str]:
    run, origins = fit_learning_rate(*resolve("text", options, file), width)
    return run.optimizer.learning_rate, origins["learning_rate"]


def test_a_default_rate_grows_as_the_base_gets_narrower() -> None:
    default = LoRA.learning_rate
    assert rate_for(768, {}) == (default, "text with lora")
    assert rate_for(256, {}) == (pytest.approx(3 * default), "text with lora, for a width of 256")
    assert rate_for(1600, {})[0] == float(f"{0.48 * default:.2g}")
    assert rate_for(7, {})[0] == float(f"{default * 768 / 7:.2g}")  # two digits are told and used


def test_a_rate_that_was_given_stays() -> None:
    assert rate_for(256, {"learning_rate": 0.123}) == (0.123, "option")
    assert rate_for(256, {}, {"learning_rate": 0.123}) == (0.123, "config file")


def test_fitting_changes_the_rate_alone() -> None:
    run, origins = resolve("text", {"epochs": 4})
    fitted, told = fit_learning_rate(run, origins, 32)
    assert {n for n, v in settings_of(fitted).items() if v != settings_of(run)[n]} == {"learning_rate"}
    assert {n for n in told if told[n] != origins[n]} == {"learning_rate"}


# --- options that cannot be, or would be ignored --------------------------------------------------


@pytest.mark.parametrize(
    ("task", "method"),
    [(task, method) for task in TASKS for method in METHODS if (task, method) not in ALLOWED],
)
def test_a_refused_method_is_refused_with_the_reason(task: str, method: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(task, {"method": method})
    assert TASKS[task].refuses(method_class(method)) in caught.value.message


def test_some_method_is_refused_by_some_task() -> None:
    assert TASKS["sonnet"].refuses(method_class("last-linear"))


LORA_OPTIONS = {
    "alpha": 4.0,
    "lora_dropout": 0.1,
    "targets": ("key",),
    "layers": Blocks.parse("0-1"),
    "rank": 4,
    "rank_pattern": {"attn.c_attn": 2},
    "alpha_pattern": {"h.1.attn.c_attn": 3.0},
    "bias": "all",
}
FOREIGN = [(method, name) for method in METHODS for name in LORA_OPTIONS if method not in methods_with(name)]


@pytest.mark.parametrize(("method", "name"), FOREIGN)
def test_an_option_of_another_method_is_refused(method: str, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve("sentiment", {"method": method, name: LORA_OPTIONS[name]})
    users = ", ".join(methods_with(name))
    option = f"--{name.replace('_', '-')}"
    assert caught.value.message == f"{method} does not take {option}, an option of {users}"
    assert settings_of(resolve("sentiment", {name: LORA_OPTIONS[name]})[0])[name] == LORA_OPTIONS[name]


def test_every_setting_of_lora_is_tried_above() -> None:
    assert LORA_OPTIONS.keys() == {field.name for field in dataclasses.fields(LoRA)}
    assert [*foreign_settings(Full, [*LORA_OPTIONS, "epochs"])] == [*LORA_OPTIONS]
    assert [*foreign_settings(LoRA, LORA_OPTIONS)] == []


def test_what_a_recorded_run_says_of_lora_is_no_obstacle_to_another_method() -> None:
    file = settings_in(resolve("sentiment", LORA_OPTIONS)[0].to_json())
    assert resolve("sentiment", {"method": "full"}, file)[0].method == Full()


def test_an_option_for_lora_with_a_recorded_full_run_is_refused() -> None:
    file = settings_in(resolve("sentiment", {"method": "full"})[0].to_json())
    with pytest.raises(UsageError, match="full does not take --alpha"):
        resolve("sentiment", {"alpha": 4.0}, file)


@pytest.mark.parametrize("task", [task for task in TASKS if task != "paraphrase"])
@pytest.mark.parametrize(("name", "value"), [("template", "{sentence}"), ("label_words", ("a", "b"))])
def test_only_paraphrase_has_a_template(task: str, name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{task} does not take --{name.replace('_', '-')}"):
        resolve(task, {name: value})


def test_an_unknown_option_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean learning_rate"):
        resolve("text", {"learning_rat": 1.0})


# --- values outside their range -------------------------------------------------------------------

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("method", "lorra", "method 'lorra' is not one of lora, full, last-linear"),
        ("optimizer", "sgd", "--optimizer 'sgd' is not one of adamw, muon"),
        (
            "schedule",
            "cosin",
            "--schedule 'cosin' is not one of linear, cosine, constant; did you mean cosine?",
        ),
        ("amp", "fp8", "--amp 'fp8' is not one of auto, off, bf16, fp16"),
        ("format", "xml", "--format 'xml' is not one of auto, msr"),
        ("rank", 0, "--rank must be at least 1, not 0"),
        ("epochs", 0, "--epochs must be at least 1, not 0"),
        ("batch_size", -1, "--batch-size must be at least 1, not -1"),
        ("accumulate", 0, "--accumulate must be at least 1, not 0"),
        ("max_length", 7, "--max-length must be at least 8, not 7"),
        ("max_steps", 0, "--max-steps must be at least 1, not 0"),
        ("eval_every", 0, "--eval-every must be at least 1, not 0"),
        ("save_every", 0, "--save-every must be at least 1, not 0"),
        ("patience", 0, "--patience must be at least 1, not 0"),
        ("threads", 0, "--threads must be at least 1, not 0"),
        ("weight_decay", -0.1, "--weight-decay must be at least 0, not -0.1"),
        ("weight_decay", NAN, "--weight-decay must be at least 0, not nan"),
        ("weight_decay", INFINITY, "--weight-decay must be at least 0, not inf"),
        ("clip", -1.0, "--clip must be at least 0, not -1.0"),
        ("clip", NAN, "--clip must be at least 0, not nan"),
        ("seed", -1, "--seed must be at least 0 and below 2^63, not -1"),
        ("seed", 2**63, "--seed must be at least 0 and below 2^63"),
        ("lora_dropout", 1.0, "--lora-dropout must be in [0, 1), not 1.0"),
        ("dropout", -0.1, "--dropout must be in [0, 1), not -0.1"),
        ("dropout", NAN, "--dropout must be in [0, 1), not nan"),
        ("warmup", 1.0, "--warmup must be in [0, 1), not 1.0"),
        ("beta1", 1.0, "--beta1 must be in [0, 1), not 1.0"),
        ("beta2", 1.5, "--beta2 must be in [0, 1), not 1.5"),
        ("learning_rate", 0.0, "--learning-rate must be a positive number, not 0.0"),
        ("learning_rate", NAN, "--learning-rate must be a positive number, not nan"),
        ("learning_rate", INFINITY, "--learning-rate must be a positive number, not inf"),
        ("alpha", -2.0, "--alpha must be a positive number, not -2.0"),
        ("targets", (), "--targets must be distinct and at least one: ''"),
        ("targets", ("key", "key"), "--targets must be distinct and at least one: 'key,key'"),
        ("targets", ("keys",), "--targets: no target 'keys'; did you mean key?"),
        ("targets", ("c_attn", "key"), "--targets: c_attn is one adapter on query, key and value together"),
        ("layers", Blocks([]), "layers none is not a list of blocks"),
        ("layers", Blocks([-1, 2]), "layers -1,2 is not a list of blocks"),
        ("rank_pattern", {"mlp.c_fc": 4}, "--rank-pattern: no adapter on 'mlp.c_fc'"),
        ("rank_pattern", {"h.0.attn.c_attn": 0}, "--rank-pattern: h.0.attn.c_attn must be positive, not 0"),
        ("alpha_pattern", {"attn.c_attn": NAN}, "--alpha-pattern: attn.c_attn must be positive, not nan"),
        ("label_words", ("yes", "yes"), "label words must be two different words"),
    ],
)
def test_a_value_outside_its_range_is_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve("paraphrase", {name: value})
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clip", 0.0),
        ("weight_decay", 0.0),
        ("seed", 0),
        ("seed", 2**63 - 1),
        ("dropout", 0.0),
        ("warmup", 0.0),
    ],
)
def test_the_ends_of_the_ranges_are_fine(name: str, value: object) -> None:
    assert settings_of(resolve("paraphrase", {name: value})[0])[name] == value


SCRATCH = Shape(n_layer=1, n_head=2, n_embd=8, n_positions=8, vocab_size=300)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("text", {"method": "lora"}, "--from-scratch trains every weight on plain text"),
        ("sentiment", {"method": "full"}, "--from-scratch trains every weight on plain text"),
    ],
)
def test_only_full_training_on_text_starts_from_scratch(
    task: str, options: dict[str, Any], message: str
) -> None:
    assert resolve("text", {"method": "full", "from_scratch": SCRATCH})[0].from_scratch == SCRATCH
    with pytest.raises(UsageError, match=message):
        resolve(task, options | {"from_scratch": SCRATCH})


@pytest.mark.parametrize(
    ("size", "message"), [({"n_embd": 9}, "2 heads"), ({"n_layer": 0}, "n_layer must be")]
)
def test_a_shape_that_cannot_be_is_refused(size: dict[str, int], message: str) -> None:
    shape = dataclasses.replace(SCRATCH, **size)
    with pytest.raises(UsageError, match=message):
        resolve("text", {"method": "full", "from_scratch": shape})


OLD_LORA = {
    "method": "lora",
    "rank": 3,
    "alpha": None,
    "lora_dropout": 0.0,
    "targets": ["key"],
    "layers": [1, 3],
}


def test_files_of_format_1_open() -> None:
    """Every run had LoRA's settings, and layers were a first and a last block."""
    run = TrainRun.from_json({"task": "text", "method": OLD_LORA})
    assert run.method == LoRA(rank=3, targets=("key",), layers=Blocks([1, 2, 3]))
    assert TrainRun.from_json({"task": "text", "method": OLD_LORA | {"method": "full"}}).method == Full()


def test_blocks_have_a_text_form() -> None:
    for text in ("0", "0-3", "0-1,3", "2,4,6-8"):
        assert str(Blocks.parse(text)) == text


@pytest.mark.parametrize("layers", [(0, 2), [2, 0], "0,2", Blocks([0, 2])])
def test_settings_from_python_are_brought_into_their_form(layers: Any) -> None:
    run = resolve("text", {"layers": layers, "targets": "key,value", "feature_cache": "1kB"})[0]
    assert run.method == LoRA(layers=Blocks([0, 2]), targets=("key", "value"))
    assert run.runtime.feature_cache == 1000
    assert TrainRun.from_json(run.to_json()) == run


def test_scale_is_alpha_by_rank_and_two_by_default() -> None:
    assert LoRA(rank=5).scale == 2
    assert LoRA(rank=4, alpha=1.0).scale == 0.25


def test_every_default_is_valid() -> None:
    for task, method in PAIRS:
        validate(resolve(task, {"method": method})[0])


class TestFittingTheLearningRate:
    def test_a_default_goes_as_one_over_the_width(self) -> None:
        run, origins = resolve("sentiment", {"method": "full"})
        fitted, now = fit_learning_rate(run, origins, 256)
        assert fitted.optimizer.learning_rate == pytest.approx(3 * run.optimizer.learning_rate)
        assert now["learning_rate"] == "sentiment with full, for a width of 256"
        assert dataclasses.replace(fitted, optimizer=run.optimizer) == run

    def test_at_gpt2s_own_width_nothing_changes(self) -> None:
        run, origins = resolve("paraphrase", {})
        assert fit_learning_rate(run, origins, 768) == (run, origins)

    def test_a_rate_that_somebody_gave_stays(self) -> None:
        for given, recorded in (({"learning_rate": 2e-4}, {}), ({}, {"learning_rate": 2e-4})):
            run, origins = resolve("paraphrase", given, recorded)
            assert fit_learning_rate(run, origins, 256) == (run, origins)


@pytest.mark.parametrize(
    "template",
    [
        "Is {sentence1} this?",
        "{sentence1} {sentence2} {sentence3} ",
        "{} {sentence1} {sentence2}",
        "{sentence1} {sentence2",
        "{sentence1} }{sentence2}",
        "{sentence1} {sentence2.x}",
        "{sentence1[0]} {sentence2}",
        "{sentence1:d} {sentence2}",
        "{sentence1:{width}} {sentence2}",
        "{sentence1!r} {sentence2}",
        "",
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(template: str) -> None:
    with pytest.raises(UsageError, match="template"):
        resolve("paraphrase", {"template": template})


@pytest.mark.parametrize(
    ("asked", "meant"),
    [("lora+", "lora-plus"), ("LoRA+", "lora-plus"), ("LoRA", "lora"), ("DoRA", "dora")],
)
def test_a_method_as_its_paper_writes_it_is_suggested(asked: str, meant: str) -> None:
    with pytest.raises(UsageError, match=rf"did you mean {meant}\?$"):
        resolve("sentiment", {"method": asked})


def test_a_choice_may_have_underscores() -> None:
    run, _ = resolve("sentiment", {"bias": "lora_only"})
    assert settings_of(run)["bias"] == "lora-only"


def test_a_value_out_of_range_names_the_option_and_a_way_out() -> None:
    with pytest.raises(UsageError) as caught:
        resolve("sentiment", {"method": "top", "blocks": 0})
    assert caught.value.message == "--blocks must be at least 1, not 0"
    assert caught.value.hint == "leave --blocks out for the default"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rank", "8", "rank is of type int, not '8' of type str"),
        ("rank", 8.0, "rank is of type int, not 8.0 of type float"),
        ("rank", True, "rank is of type int, not True of type bool"),
        ("learning_rate", "1e-3", "learning_rate is of type float, not '1e-3' of type str"),
        ("skip_bad", 1, "skip_bad is of type bool, not 1 of type int"),
        ("model", 5, "model is of type str, not 5 of type int"),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve("sentiment", {name: value})
    assert caught.value.message == message


def test_a_whole_number_and_a_path_are_taken_where_they_are_clear() -> None:
    run, _ = resolve("sentiment", {"learning_rate": 1, "data": Path("rows.csv")})
    assert (run.optimizer.learning_rate, run.data.data) == (1, "rows.csv")
