"""The networks and contenders of the section `export`, as data."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that is exported.

    Attributes:
        text: the name shown in the report.
        inputs: from the names of the inputs to their shapes without the batch, channels last.
    """

    text: str
    inputs: dict[str, tuple[int, ...]]


NETWORKS = {
    "unet": Network("Diffusion U-Net, 64x64", {"images": (64, 64, 3), "time": (1,)}),
    "bit": Network("BiT-R50x1, 224x224", {"images": (224, 224, 3)}),
}
BATCHES = (1, 8)

#: The channels of the levels of the U-Net; each level halves the sides of the one before.
UNET_WIDTHS = (64, 128, 256)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A file and what runs it.

    Attributes:
        worker: a module of `benchmarks.frameworks`.
        file: one of `KERAS_FILES`, `FROM_TORCH`, or None for PyTorch's own modules.
    """

    worker: str
    file: str | None


FUSED, PORTABLE = "SavedModel, fused", "SavedModel, portable"
#: The same without Python.
FUSED_CPP = "SavedModel, fused, C++"
LITERT = "LiteRT"
TORCH, TORCH_COMPILED = "PyTorch", "PyTorch, compiled"
#: The runtimes of ONNX files, with the target that is written for each.
OWN_TARGETS = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}
#: The names of other ONNX files: the target for runtimes with the operator, the portable form in
#: primitive operators, and the file of PyTorch's exporter.
ANY, PRIMITIVE, FROM_TORCH = "onnx", "primitive", "torch"


def in_runtime(runtime: str, file: str) -> str:
    """Returns the contender that runs an ONNX file in a runtime."""
    return f"{runtime}, {file}"


CONTENDERS = {
    FUSED: Contender("tensorflow", "saved_model"),
    FUSED_CPP: Contender("tensorflow_cpp", "saved_model"),
    PORTABLE: Contender("tensorflow", "saved_model_portable"),
    LITERT: Contender("litert", "litert"),
    **{
        in_runtime(runtime, file): Contender(runtime.replace(" ", "").lower(), file)
        for runtime, own in OWN_TARGETS.items()
        for file in (own, *[ANY] * (runtime == "ONNX Runtime"), PRIMITIVE, FROM_TORCH)
    },
    TORCH: Contender("pytorch", None),
    TORCH_COMPILED: Contender("pytorch", None),
}

#: The files that are written from the Keras model: targets of `tensorflow_groupnorm.export`, and
#: the portable form as ONNX.
KERAS_FILES = (
    "saved_model",
    "saved_model_portable",
    "litert",
    *OWN_TARGETS.values(),
    ANY,
    PRIMITIVE,
)
