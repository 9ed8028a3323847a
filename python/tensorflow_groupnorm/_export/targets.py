"""What each target of an export asks for, and the runtime that its files are checked in."""

from __future__ import annotations

import dataclasses
from types import ModuleType

from . import onnxruntime, openvino, saved_model, tflite

_BOTH = frozenset({"GroupNorm", "StandardizeWeights"})

# The converters to ONNX and TFLite write GroupNorm themselves.
_WEIGHTS = frozenset({"StandardizeWeights"})

#: The first opset in which GroupNormalization has a scale per channel.
_SCALE_PER_CHANNEL = 21


@dataclasses.dataclass(frozen=True)
class Target:
    """A runtime, and the form of the files for it.

    Attributes:
        stock: the custom ops that stock ones replace.
        module: what loads and runs the files. `load(path)` returns the call of a file, from inputs
            to outputs by name; for ONNX files, `execution(path)` returns what is executed.
        runtime: the name of what the module runs them in.
        node: in ONNX files, the kind of node that normalizes.
        opset: of ONNX files.
        is_asserted: whether each normalization must be in what the runtime executes.
        note: a restriction of the check, or an empty string.
    """

    stock: frozenset[str]
    module: ModuleType
    runtime: str
    node: str = ""
    opset: int = _SCALE_PER_CHANNEL
    is_asserted: bool = False
    note: str = ""


#: By the names in `tfgn_base.names.TARGETS`.
#:
#: ONNX Runtime has no kernel of GroupNormalization on CPUs: it expands the operator into primitive
#: ones, some eight passes over the tensor, and computes the variance as E[x^2] - E[x]^2. It has a
#: kernel of InstanceNormalization, which computes the same of a tensor with a channel for each
#: group, from differences to the mean.
#:
#: OpenVINO executes either as its operation MVN. GroupNormalization takes a dozen operations on
#: shapes besides if the batch size is not known. OpenVINO 2026.4 crashes if the output of one, of
#: known sizes, is multiplied by the sum of a tensor and a constant.
#:
#: TensorRT's parser makes one normalization layer of either. It took only the GroupNormalization of
#: opset 18, with a scale per group, until 10.15 (TensorRT issue 4336), and in 10.16 it still
#: normalizes each channel if there is one group (issue 4756). InstanceNormalization, of groups as
#: channels, is not affected. TensorRT 10 takes opsets 9 to 20, and 11 up to 25.
TARGETS = {
    "saved_model": Target(frozenset(), saved_model, "TensorFlow"),
    "saved_model_portable": Target(_BOTH, saved_model, "TensorFlow"),
    "litert": Target(_WEIGHTS, tflite, "TFLite"),
    "onnx": Target(_WEIGHTS, onnxruntime, "ONNX Runtime", "GroupNormalization"),
    "onnxruntime": Target(
        _WEIGHTS, onnxruntime, "ONNX Runtime", "InstanceNormalization", is_asserted=True
    ),
    "openvino": Target(
        _WEIGHTS, openvino, "OpenVINO", "InstanceNormalization", opset=18, is_asserted=True
    ),
    "tensorrt": Target(
        _WEIGHTS,
        onnxruntime,
        "ONNX Runtime",
        "InstanceNormalization",
        opset=18,
        note="not run in TensorRT: written for its documented parser, and run in ONNX Runtime",
    ),
}
