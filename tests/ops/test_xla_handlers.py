"""Custom calls that only a StableHLO module can make: the handlers validate every one."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_groupnorm as tfgn
from tensorflow.compiler.tf2xla.python import xla

MODULE = """
module attributes {{mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 1 : i32}} {{
  func.func public @main({parameters}) -> tensor<{y}> {{
    %results:{count} = stablehlo.custom_call @tfgn.GroupNorm({arguments})
      {{api_version = 4 : i32, backend_config = {{{attrs}}}}} : ({operands}) -> ({results})
    return %results#0 : tensor<{y}>
  }}
}}
"""
# GroupNorm of x [2, 3, 8] without gamma and beta, the call and its results as XLA writes them.
OPERANDS = ("2x3x8xf32", "0xf32", "0xf32")
RESULTS = ("2x3x8xf32", "2x2xf32", "2x2xf32", "4096xui8")
ATTRS = {
    "groups": "2 : i64",
    "axis": "-1 : i64",
    "epsilon": "1.0e-3 : f32",
    "with_rest": "0 : i64",
    "activation": '"linear"',
    "num_side_inputs": "0 : i64",
    "T": f"{tf.float32.as_datatype_enum} : i32",
    "U": f"{tf.float32.as_datatype_enum} : i32",
}
DTYPES = {"f16": tf.float16, "f32": tf.float32, "i32": tf.int32}


def call(operands=OPERANDS, results=RESULTS, attrs=None, values=None):
    """Runs a custom call on random tensors, or on `values`, one per operand."""
    tensors = [f"tensor<{operand}>" for operand in operands]
    names = [f"%{i}" for i in range(len(operands))]
    module = MODULE.format(
        parameters=", ".join(map("{}: {}".format, names, tensors)),
        arguments=", ".join(names),
        operands=", ".join(tensors),
        results=", ".join(f"tensor<{result}>" for result in results),
        attrs=", ".join(f"{name} = {value}" for name, value in (ATTRS | (attrs or {})).items()),
        count=len(results),
        y=results[0],
    )
    *shape, dtype = results[0].split("x")

    @tf.function(jit_compile=True, autograph=False)
    def run(*inputs):
        (y,) = xla.call_module(
            list(inputs),
            version=10,
            module=module,
            Tout=[DTYPES[dtype]],
            Sout=[list(map(int, shape))],
            platforms=["CPU"],
        )
        return y

    return run(*([random(operand) for operand in operands] if values is None else values))


def random(operand):
    *shape, dtype = operand.split("x")
    return tf.cast(tf.random.normal(list(map(int, shape))), DTYPES[dtype])


def test_the_call_that_the_others_spoil():
    values = [random(operand) for operand in OPERANDS]
    np.testing.assert_array_equal(call(values=values), tfgn.group_norm(values[0], groups=2))


@pytest.mark.parametrize(
    "spoiled, message",
    [
        ({"attrs": {"groups": "3 : i64"}}, "groups must divide the 8 channels"),
        ({"attrs": {"groups": "2.0 : f32"}}, "expected S64 but got F32"),
        ({"attrs": {"axis": "5 : i64"}}, "axis must be"),
        ({"attrs": {"num_side_inputs": "-5 : i64"}}, "num_side_inputs must be 0 or 1"),
        ({"attrs": {"num_side_inputs": "1 : i64"}}, "must have 4 operands, but has 3"),
        ({"attrs": {"with_rest": "2 : i64"}}, "with_rest must be 0 or 1"),
        ({"attrs": {"with_rest": "1 : i64"}}, "must have 5 results, but has 4"),
        ({"attrs": {"T": "99 : i32"}}, "Operand 0 .* must be unknown dtype"),
        ({"operands": ("2x3x8xf16", *OPERANDS[1:])}, "Operand 0 .* must be float"),
        ({"operands": OPERANDS[:2]}, "must have 3 operands, but has 2"),
        ({"operands": OPERANDS * 2}, "must have 3 operands, but has 6"),
        ({"operands": (*OPERANDS, "0xf32")}, "expected S32 but got F32"),
        ({"results": RESULTS[:2]}, "must have 4 results, but has 2"),
        ({"results": ("2x3x7xf32", *RESULTS[1:])}, "Result 0 .* must be 48 elements of float"),
        ({"results": ("2x3x8xf16", *RESULTS[1:])}, "Result 0 .* must be 48 elements of float"),
        ({"results": (*RESULTS[:3], "3xui8")}, "workspace must have .* bytes, but has 3"),
    ],
)
def test_a_spoiled_call_is_refused(spoiled, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call(**spoiled)


@pytest.mark.parametrize("batch", [-1, 3, 2**31 - 1])
def test_a_batch_beyond_its_bound_is_refused(batch):
    operands = (*OPERANDS, "i32")
    values = [*(random(operand) for operand in OPERANDS), tf.constant(batch)]
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"batch of {batch} samples"):
        call(operands, values=values)
