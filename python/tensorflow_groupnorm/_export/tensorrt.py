"""What the ONNX parser of TensorRT takes, from its documentation.

TensorRT runs on GPUs only, and no file was run in it.
"""

from __future__ import annotations

from pathlib import Path

from .errors import ExportError

#: The operators without an importer, as `docs/operators.md` of onnx-tensorrt lists them for
#: TensorRT 10.
UNSUPPORTED = frozenset(
    """
    AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Col2Im
    CenterCropPad Compress ConcatFromSequence ConvInteger DFT Det DynamicQuantizeLinear
    HammingWindow HannWindow ImageDecoder MatMulInteger MaxRoiPool MaxUnpool MelWeightMatrix
    Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement QLinearConv
    QLinearMatMul RegexFullMatch STFT SequenceAt SequenceConstruct SequenceEmpty SequenceErase
    SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringConcat
    StringNormalizer StringSplit TfIdfVectorizer Unique
    """.split()
)


def check(path: Path) -> None:
    """Raises ExportError if an ONNX file has operators that TensorRT's parser does not take."""
    import onnx

    from .onnx_graph import nodes

    kinds = {node.op_type for node in nodes(onnx.load(path, load_external_data=False).graph)}
    missing = sorted(kinds & UNSUPPORTED)
    if missing:
        raise ExportError(f"TensorRT's ONNX parser has no {', '.join(missing)}.")
