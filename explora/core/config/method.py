"""What a method is: the whole of what someone who adds one must supply. Light: torch is loaded by `apply`.

A method is a frozen dataclass. Its fields are its settings (`setting`): the options of `train`, `params` and
`bench`, the keys of config files, validation and the dry run are made from them. Its methods answer all that
the rest of the program asks. Tensor names are those of Hugging Face's GPT2Model: `h.0.attn.c_attn.weight`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from explora.core.config.registry import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from explora.core.model.gpt2 import GPT2

Tensors = dict[str, tuple[int, ...]]  # shapes by name
Place = tuple[int, str]  # a block, and a module of it: (3, "mlp.c_fc")
ModuleNames = Mapping[str, Place]  # by the full name that PEFT knows it under


@dataclass(frozen=True, kw_only=True)
class Product:
    """One matrix product of a block in a training step, for the prediction of memory.

    `module` is its name in the block (`attn.c_attn`), `rows` how many rows of `fan_in` numbers it reads and
    `number_bytes` the size of a number. `input_is_kept`: its input is held until the backward pass where a
    gradient needs it; elsewhere the input is recomputed, or held by another operation. `output_is_kept`: what
    follows holds the output, whatever the method.
    """

    layer: int
    module: str
    rows: int
    fan_in: int
    fan_out: int
    number_bytes: int
    input_is_kept: bool
    output_is_kept: bool

    @property
    def input_bytes(self) -> int:
        """Bytes of the input."""
        return self.rows * self.fan_in * self.number_bytes


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way to train. The class attributes say what holds for every run of the method:

    name             how the command line, files and tables call it
    summary          what it does, in one line
    learning_rate    the default for a base of GPT-2's width, 768
    task_defaults    defaults of any setting for some tasks, by the task's name
    trains_base      every weight of the base is trained, and the result is a model folder
    needs_head       it trains nothing but the task's linear head, so the task must have one
    untrained        how to see that an adapter leaves the base as it is; see `is_untrained`
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    learning_rate: ClassVar[float]
    task_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    trains_base: ClassVar[bool] = False
    needs_head: ClassVar[bool] = False
    untrained: ClassVar[str] = ""

    @classmethod
    def defaults(cls, task: str) -> dict[str, Any]:
        """Return the defaults of any setting for a task, learning rate included, by setting name."""
        return {"learning_rate": cls.learning_rate, **cls.task_defaults.get(task, {})}

    @property
    def label(self) -> str:
        """The method in a few words, for tables: `lora r=8`."""
        return self.name

    @property
    def description(self) -> str:
        """The method with its settings in one phrase: `lora r=8 (scale 2) on key, value`."""
        return self.label

    def validate(self) -> None:  # noqa: B027 (most methods have nothing to check)
        """Raise UsageError for settings that exclude each other; ranges are checked elsewhere."""

    def check_fit(self, shape: Shape) -> None:  # noqa: B027
        """Raise UsageError where a base of this shape lacks what the settings ask for."""

    def check_use(self, shape: Shape) -> None:  # noqa: B027
        """Raise UsageError for settings of a new run that make no sense on a base of this shape."""

    @abstractmethod
    def trained_shapes(self, shape: Shape) -> Tensors:
        """Return the shapes of what is trained, by names that begin like the module's; without the head."""

    @abstractmethod
    def file_shapes(self, shape: Shape) -> Tensors:
        """Return the shapes of what its file holds, by the names in it without prefix; without the head."""

    @abstractmethod
    def first_trained_block(self, shape: Shape) -> int:
        """Return the lowest block that trains anything; `shape.n_layer` where none does."""

    def kept_bytes(self, product: Product) -> dict[str, int]:
        """Return the bytes that autograd holds for what the method adds to a product, by tensor.

        Empty where the method adds nothing. What autograd holds for trained weights and biases of the base
        follows from `trained_shapes`.
        """
        return {}

    def backward_bytes(self, product: Product) -> int:
        """Return what the backward pass of the method's part of a product takes beside a frozen product's."""
        return 0

    @property
    def reads_norms(self) -> bool:
        """Whether gradients need the norms' outputs, which are then recomputed instead of held."""
        return True

    def decays(self, name: str, dimensions: int) -> bool:
        """Return whether weight decay applies to a trained tensor: to the base's own matrices alone."""
        return False

    def rate_factor(self, name: str) -> float:
        """Return what the learning rate is multiplied by for a trained tensor."""
        return 1.0

    @abstractmethod
    def apply(self, model: GPT2) -> None:
        """Prepare a model for training: freeze what stays, add what is new; the task's head is trained."""

    @abstractmethod
    def merge(self, model: GPT2) -> None:
        """Fold what was trained into the base's weights, so that a plain model computes the same.

        Raises AdapterError, with the reason, where that is impossible.
        """

    def merged_weight(self, name: str, weight: Tensor, stored: Mapping[str, Tensor]) -> Tensor:
        """Return a weight of the base as it must be after merging: what `merge` is checked against.

        `name` is the base's, `weight` its fp32 tensor, `stored` holds the adapter's tensors by the names in
        its file. It is the formula of the source, computed in fp64, and must not call what `merge` calls.
        """
        return stored.get(name, weight)

    def to_file(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return trained tensors by the names in the file, in the form that PEFT gives them."""
        return dict(trained)

    def from_file(self, stored: Mapping[str, Tensor], shapes: Tensors) -> dict[str, Tensor]:
        """Return the tensors of a file by the model's own names; `shapes` are those that the model trains.

        Names and shapes have been checked. What a file holds beyond what this returns is found by the caller,
        which writes the result again and compares.
        """
        return dict(stored)

    def is_untrained(self, trained: Mapping[str, Tensor]) -> bool:
        """Return whether these tensors leave the base as it is, so that they cannot have been trained."""
        return False

    def peft_config(self) -> dict[str, Any] | None:
        """Return the method's fields of `adapter_config.json`; None where PEFT has no such method."""
        return None

    @classmethod
    def from_peft(cls, config: Mapping[str, Any], modules: ModuleNames) -> Self | None:
        """Return the method that an `adapter_config.json` of PEFT describes; None where it is another.

        `modules` are the modules of the base that can have an adapter. The method has adapters at least where
        PEFT's has them. Raises UsageError, naming the fields, for an adapter of this method that cannot be
        represented.
        """
        return None

    def peer_config(self) -> dict[str, Any] | None:
        """Return PEFT's configuration for the same method as its users write it.

        Empty where transformers alone trains the base; None where neither has such a method.
        """
        return None
