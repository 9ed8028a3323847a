"""The cases and contenders of the benchmarks, as data."""

from __future__ import annotations

import dataclasses
import math

from tests.support import cases as shapes

from .export import contenders as exports

#: Largest input of the op. Beyond, there is no memory for its inputs beside those of the kernels.
OP_BYTES = 1 << 28

ITEM_SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}

#: The worker of each contender. The two copies use ordinary and non-temporal stores.
CONTENDERS = {
    "copy": "kernels",
    "streaming copy": "kernels",
    "kernel": "kernels",
    "op": "tensorflow",
    "op jit": "tensorflow",
    "floor": "tensorflow",
    "keras": "tensorflow",
    "keras jit": "tensorflow",
    "fused bn": "tensorflow",
    "composite": "tensorflow",
    "composite jit": "tensorflow",
    "step": "tensorflow",
    "torch": "pytorch",
    "flax": "flax",
    **{name: contender.worker for name, contender in exports.CONTENDERS.items()},
}
COPIES = ("copy", "streaming copy")


@dataclasses.dataclass(frozen=True)
class Norm:
    """A GroupNorm with its fused operations.

    Attributes:
        axis: the channel axis, 1 or -1.
        backward: whether the gradients of all inputs are computed, too.
        threads: the number of threads; None for one per core.
    """

    shape: tuple[int, ...]
    groups: int = 32
    axis: int = -1
    dtype: str = "float32"
    activation: str = "linear"
    residual: bool = False
    backward: bool = False
    threads: int | None = None

    @property
    def nbytes(self) -> int:
        """The size of one input in bytes."""
        return math.prod(self.shape) * ITEM_SIZES[self.dtype]

    @property
    def traffic(self) -> float:
        """The unavoidable memory traffic, in copies of the input."""
        # A copy moves two tensors. Forward: x, y; backward: x, dy, dx; the residual once and twice.
        tensors = 2 + 3 * self.backward + self.residual * (1 + 2 * self.backward)
        return tensors / 2

    def with_batch(self, batch: int) -> Norm:
        """The case with another number of samples."""
        return dataclasses.replace(self, shape=(batch, *self.shape[1:]))

    @property
    def copied(self) -> Norm:
        """The case whose copy bounds the time of this one."""
        return dataclasses.replace(self, activation="linear", residual=False, backward=False)

    @property
    def inputs(self) -> Norm:
        """The case whose inputs this one uses, so that cases can share them."""
        return dataclasses.replace(self.copied, threads=None, residual=self.residual)


def _norms(*tables: str) -> dict[str, Norm]:
    """The rows of tables of `tests/support/shapes.txt`, by name."""
    return {
        name: Norm(case.shape, case.groups, case.axis)
        for table in tables
        for name, case in shapes.group_norms(table).items()
    }


RESNET50 = _norms("resnet50")
LADDER = _norms("resnet50", "ladder")
OTHER_SHAPES = _norms("other")
SIZES = _norms("sizes")
SCALING = _norms("scaling")
LARGE_IMAGES = _norms("large_images")
CHAINS = _norms("chains")


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weight standardization of all kernels of a ResNet-50."""

    backward: bool = False

    @property
    def nbytes(self) -> int:
        """The size of all kernels in bytes."""
        return 4 * sum(math.prod(shape) for shape in RESNET50_KERNELS)

    @property
    def traffic(self) -> float:
        """See `Norm.traffic`."""
        return (2 + 3 * self.backward) / 2

    @property
    def copied(self) -> Weights:
        """See `Norm.copied`."""
        return Weights()

    inputs = copied


@dataclasses.dataclass(frozen=True)
class Network:
    """A network whose training step is measured.

    Attributes:
        text: the name shown in the report.
        side: of the images or volumes, in pixels or voxels.
        rank: the number of sides.
        channels: of the images.
        classes: of an image, or of each voxel of a volume; 0 if the labels are images.
        embedding: the size of a second input, or 0.
        batches: of which the peak memory is measured.
        timed: the batch whose step is timed.
    """

    text: str
    side: int
    rank: int
    channels: int
    classes: int
    embedding: int
    batches: tuple[int, ...]
    timed: int

    def shape(self, side: int) -> tuple[int, ...]:
        """The shape of an image with another side."""
        return (side,) * self.rank + (self.channels,)


NETWORKS = {
    "resnet50v2": Network("ResNet50V2", 224, 2, 3, 1000, 0, batches=(2, 8, 24), timed=8),
    "unet3d": Network("3-D U-Net", 64, 3, 4, 3, 0, batches=(1,), timed=1),
    "diffusion": Network("Block of a diffusion U-Net", 64, 2, 320, 0, 1280, batches=(4,), timed=4),
}


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step of a network.

    Attributes:
        norm: a key of `STEP_NORMS`, or `"saving"`.
        jit: whether XLA compiles the step.
        network: a key of `NETWORKS`.
        dtype: the dtype policy of Keras.
    """

    norm: str
    batch: int = 2
    side: int = 224
    jit: bool = False
    network: str = "resnet50v2"
    dtype: str = "float32"

    @property
    def text(self) -> str:
        """The name shown in the report."""
        return STEP_NORMS[self.norm] + ", jit" * self.jit

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the images."""
        return (self.batch, *NETWORKS[self.network].shape(self.side))

    @property
    def nbytes(self) -> int:
        """The size of the images in bytes."""
        return 4 * math.prod(self.shape)

    @property
    def inputs(self) -> Step:
        """See `Norm.inputs`."""
        return dataclasses.replace(self, norm="none", jit=False, dtype="float32")


@dataclasses.dataclass(frozen=True)
class Inference:
    """One call of an exported network.

    Attributes:
        network: a key of `export.contenders.NETWORKS`.
    """

    network: str
    batch: int

    @property
    def text(self) -> str:
        """The name shown in the report."""
        return f"{exports.NETWORKS[self.network].text}, batch {self.batch}"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the inputs, by their names."""
        inputs = exports.NETWORKS[self.network].inputs
        return {name: (self.batch, *shape) for name, shape in inputs.items()}

    @property
    def nbytes(self) -> int:
        """The size of the inputs in bytes."""
        return 4 * sum(map(math.prod, self.shapes.values()))

    @property
    def inputs(self) -> Inference:
        """See `Norm.inputs`."""
        return self


@dataclasses.dataclass(frozen=True)
class Calls:
    """Ops in one graph, each on the output of the one before, which is in the cache.

    Attributes:
        backward: whether the ops are those of the gradient.
        length: how many ops.
        shape: of the tensor, channels last; by default one of 1 KB.
    """

    backward: bool = False
    length: int = 1000
    shape: tuple[int, ...] = next(iter(SIZES.values())).shape

    @property
    def nbytes(self) -> int:
        """Of the tensor."""
        return self.inputs.nbytes

    @property
    def inputs(self) -> Norm:
        """As `Norm.inputs`."""
        return Norm(self.shape)


STEP_NORMS = {
    "none": "no norm",
    "bn": "BN",
    "gn": "Keras GN",
    "gn+ws": "Keras GN + WS",
    "ours": "ours GN + WS",
    "saving": "ours GN + WS, save_memory",
}
STEPS = (
    *(Step(norm) for norm in STEP_NORMS if norm != "saving"),
    *(Step(norm, jit=True) for norm in ("bn", "gn+ws", "ours")),
)
MEMORY_NORMS = ("bn", "gn+ws", "ours", "saving")
MEMORY_DTYPES = ("float32", "mixed_bfloat16")

Case = Norm | Weights | Step | Inference | Calls


def case_from_dict(kind: str, fields: dict) -> Case:
    """The inverse of `dataclasses.asdict`, from JSON, which has no tuples."""
    fields = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
    kinds = {type_.__name__: type_ for type_ in (Norm, Weights, Step, Inference, Calls)}
    return kinds[kind](**fields)


def _resnet50_kernels() -> tuple[tuple[int, ...], ...]:
    kernels, inputs = [(7, 7, 3, 64)], 64
    for width, blocks in zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True):
        for block in range(blocks):
            if block == 0:
                kernels.append((1, 1, inputs, 4 * width))
            kernels += [(1, 1, inputs, width), (3, 3, width, width), (1, 1, width, 4 * width)]
            inputs = 4 * width
    return tuple(kernels)


RESNET50_KERNELS = _resnet50_kernels()


def channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the same tensor with the channels behind the batch."""
    return (shape[0], shape[-1], *shape[1:-1])
