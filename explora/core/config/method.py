"""The interface of a training method: everything that a new method must supply.

A method is a frozen dataclass. Its fields are its settings (`setting`). The options of `train`, `params` and
`bench`, the keys of config files, validation and the dry run are all generated from them. The rest of the
program calls its methods. Tensor names are those of Hugging Face's GPT2Model: `h.0.attn.c_attn.weight`.
Importing this module does not load torch; `apply` does.
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
Place = tuple[int, str]  # the number of a block, and a module in it: (3, "mlp.c_fc")
ModuleNames = Mapping[str, Place]  # by the full name of the module in PEFT


@dataclass(frozen=True, kw_only=True)
class Product:
    """One matrix product of a block in a training step, as input to the prediction of memory.

    `module` is its name in the block (`attn.c_attn`). The product reads `rows` rows of `fan_in` numbers of
    `number_bytes` bytes each. `input_is_kept`: the input stays in memory until the backward pass if a
    gradient needs it; otherwise it is recomputed, or another operation keeps it. `output_is_kept`: a later
    operation keeps the output, whatever the method.
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
        """Size of the input in bytes."""
        return self.rows * self.fan_in * self.number_bytes


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way to train. The class attributes hold for every run of the method:

    name             its name on the command line, in files and in tables
    summary          what it does, in one line
    learning_rate    the default for a base of GPT-2's width, 768
    task_defaults    defaults of any setting for some tasks, by the task's name
    trains_base      every weight of the base is trained, and the result is a model folder
    needs_head       it trains only the task's linear head, so the task must have one
    untrained        how to recognise an adapter that leaves the base unchanged; see `is_untrained`
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

    def usual_learning_rate(self, task: str) -> float:
        """Return the default learning rate for a task, for a base of GPT-2's width."""
        rate: float = self.defaults(task)["learning_rate"]
        return rate

    @property
    def label(self) -> str:
        """Short name of the method with its main setting, for tables: `lora r=8`."""
        return self.name

    @property
    def description(self) -> str:
        """One phrase with the method and its settings: `lora r=8 (scale 2) on key, value`."""
        return self.label

    def validate(self) -> None:  # noqa: B027 (most methods have nothing to check)
        """Raise UsageError for settings that exclude each other; `setting` checks the ranges."""

    def check_fit(self, shape: Shape) -> None:  # noqa: B027
        """Raise UsageError if the settings need a part that a base of this shape does not have."""

    def check_use(self, shape: Shape) -> None:  # noqa: B027
        """Raise UsageError for settings of a new run that are pointless on a base of this shape."""

    @abstractmethod
    def trained_shapes(self, shape: Shape) -> Tensors:
        """Return the shapes of all trained tensors but the head, by names that begin like the module's."""

    @abstractmethod
    def file_shapes(self, shape: Shape) -> Tensors:
        """Return the shapes of the tensors in the adapter file by name, without prefix and head."""

    @abstractmethod
    def first_trained_block(self, shape: Shape) -> int:
        """Return the lowest block with trained parameters; `shape.n_layer` if no block has any."""

    def kept_bytes(self, product: Product) -> dict[str, int]:
        """Return the bytes that autograd keeps for the method's part of a product, by tensor.

        Empty if the method adds nothing to the product. The bytes for trained weights and biases of the base
        follow from `trained_shapes`.
        """
        return {}

    def backward_bytes(self, product: Product) -> int:
        """Return the temporary bytes that the method adds to the backward pass of a product."""
        return 0

    @property
    def reads_norms(self) -> bool:
        """Whether gradients need the outputs of the norms, which are recomputed instead of kept."""
        return True

    def decays(self, name: str, dimensions: int) -> bool:
        """Return whether weight decay applies to a trained tensor; adapters have none."""
        return False

    def rate_factor(self, name: str) -> float:
        """Return the factor on the learning rate of a trained tensor."""
        return 1.0

    @abstractmethod
    def apply(self, model: GPT2) -> None:
        """Freeze what is not trained and add the method's parameters. The task's head is always trained."""

    @abstractmethod
    def merge(self, model: GPT2) -> None:
        """Merge the trained parameters into the base's weights, so that a plain model computes the same.

        Raises AdapterError, with the reason, if that is impossible.
        """

    def merged_weight(self, name: str, weight: Tensor, stored: Mapping[str, Tensor]) -> Tensor:
        """Return a weight of the base as it must be after merging, to check `merge` against it.

        `name` is the base's name of the weight, `weight` its fp32 tensor, and `stored` holds the adapter's
        tensors by their names in the file. The formula is that of the paper, computed in fp64. It must not
        call the code that `merge` uses.
        """
        return stored.get(name, weight)

    def to_file(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the trained tensors by their names in the file, in PEFT's form."""
        return dict(trained)

    def from_file(self, stored: Mapping[str, Tensor], shapes: Tensors) -> dict[str, Tensor]:
        """Return the tensors of a file by the model's own names; `shapes` are the model's trained shapes.

        The caller has checked names and shapes. To find data in the file that this function ignores, the
        caller writes the result with `to_file` and compares.
        """
        return dict(stored)

    def is_untrained(self, trained: Mapping[str, Tensor]) -> bool:
        """Return whether these tensors leave the base unchanged, so that they cannot have been trained."""
        return False

    def peft_config(self) -> dict[str, Any] | None:
        """Return the method's fields of `adapter_config.json`; None if PEFT has no such method."""
        return None

    @classmethod
    def from_peft(cls, config: Mapping[str, Any], modules: ModuleNames) -> Self | None:
        """Return the method that PEFT's `adapter_config.json` describes; None if it is another method.

        `modules` are the modules of the base that can have an adapter. The result has adapters on at least
        the modules that PEFT's has. Raises UsageError, naming the fields, for an adapter of this method that
        cannot be represented.
        """
        return None

    def peer_config(self) -> dict[str, Any] | None:
        """Return the configuration with which a PEFT user trains the same method.

        Empty if transformers alone trains the base; None if neither library has such a method.
        """
        return None
