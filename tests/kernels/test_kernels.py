"""The kernels alone, without TensorFlow: each CPU target, vector edges, misaligned pointers."""

import itertools

import cases
import ml_dtypes
import numpy as np
import pytest
import reference
from native_module import native
from parameters import named

TYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in cases.ELEMENT_TYPES}
EPSILON = float(np.float32(1e-3))  # as an attribute of an op holds it
ALL = cases.GROUP_NORM | cases.VECTOR_EDGES | cases.LARGE


@pytest.fixture(params=native.cpu_targets(), autouse=True)
def cpu_target(request):
    native.select_cpu_target(request.param)
    assert native.cpu_target() == request.param
    yield request.param
    native.select_cpu_target("")


def misaligned(array):
    """The same values, one element past the alignment of an allocation."""
    room = np.empty(array.size + 1, array.dtype)
    copy = room[1:].reshape(array.shape)
    copy[...] = array
    return copy


class Inputs:
    """Random tensors for a case; what is absent is None."""

    def __init__(self, case, dtype, affine="per_channel", side=True, mean=0.0):
        rng = np.random.default_rng(7)
        self.x, self.side, self.dy = (
            misaligned((rng.standard_normal(case.shape) + offset).astype(TYPES[dtype]))
            for offset in (mean, 0, 0)
        )
        channels = case.shape[case.axis]
        shape = (case.shape[0], channels) if affine == "per_sample" else channels
        self.gamma, self.beta = (
            misaligned(rng.uniform(0.5, 1.5, shape).astype(cases.parameter_dtype(dtype)))
            for _ in range(2)
        )
        if affine == "absent":
            self.gamma = self.beta = None
        if not side:
            self.side = None
        self.options = {"groups": case.groups, "axis": case.axis}

    def forward(self, activation, threads=2, **options):
        return native.group_norm_forward(
            *(self.x, self.gamma, self.beta, self.side),
            **(self.options | {"epsilon": EPSILON, "activation": activation}),
            **({"threads": threads} | options),
        )

    def backward(self, activation, mean, rstd, rest=None, threads=2, **options):
        """The gradients by what they are of, and y or None."""
        *gradients, y = native.group_norm_backward(
            *(self.dy, self.x, self.gamma, self.beta, mean, rstd, self.side, rest),
            **(self.options | {"activation": activation, "threads": threads} | options),
        )
        return dict(zip(("x", "gamma", "beta", "side"), gradients, strict=True)), y

    def expected(self, activation):
        return reference.group_norm(
            *(self.x, self.gamma, self.beta, self.side),
            **(self.options | {"epsilon": EPSILON, "activation": activation, "dy": self.dy}),
        )


def check_group_norm(case, dtype, activation, affine, side=True):
    inputs = Inputs(case, dtype, affine, side)
    expected = inputs.expected(activation)
    y, mean, rstd, rest = inputs.forward(activation)
    offset = reference.offset_in_deviations(expected, case.shape, case.axis)
    # |gamma| <= 1.5; the terms are bounded by x_hat * gamma, beta and side_input.
    terms = 1.5 + (2 * np.abs(reference.wide(inputs.side)) if side else 0)
    reference.assert_values(y, expected.y, dtype, offset=offset, scale=1.5, terms=terms)
    parameters = cases.parameter_dtype(dtype)
    reference.assert_values(
        mean, expected.mean, parameters, offset=np.abs(expected.mean), scale=1.0
    )
    reference.assert_gradient(rstd, expected.rstd, parameters, offset=0)
    check_rest(mean, rstd, rest, expected)

    gradients, none = inputs.backward(activation, mean, rstd)
    check_gradients(gradients, expected, dtype, offset)
    assert none is None
    gradients, again = inputs.backward(activation, mean, rstd, rest, with_y=True)
    check_gradients(gradients, expected, dtype, offset)
    assert again.tobytes() == y.tobytes()
    without_y, _ = inputs.backward(activation, mean, rstd, rest)
    assert bits(without_y) == bits(gradients)


def check_rest(mean, rstd, rest, expected):
    """The sums are exact beyond the precision of the statistics."""
    rest = rest.astype(np.float64)
    if mean.dtype == np.float64:
        assert not rest.any()
        return
    # Of the sums in float32, not of the statistics.
    np.testing.assert_allclose(rest[:, 0], expected.mean - mean, rtol=0, atol=2e-7 / rstd.min())
    for row, statistic in enumerate((mean, rstd)):
        assert (np.abs(rest[:, row]) <= np.spacing(np.abs(statistic)) / 2).all()


def bits(gradients):
    return {name: g is not None and g.tobytes() for name, g in gradients.items()}


def check_gradients(gradients, expected, dtype, offset):
    parameters = cases.parameter_dtype(dtype)
    for source, gradient in gradients.items():
        if source not in expected.gradients:
            assert gradient is None or not gradient.size
            continue
        stored_as = dtype if source in ("x", "side") else parameters
        reference.assert_gradient(
            gradient, expected.gradients[source], dtype, offset=offset.max(), stored_as=stored_as
        )


@pytest.mark.parametrize("dtype", cases.ELEMENT_TYPES)
@pytest.mark.parametrize("case", named(ALL))
def test_group_norm(case, dtype):
    check_group_norm(case, dtype, case.activation, case.affine)


@pytest.mark.parametrize("side", [False, True], ids=["", "side"])
@pytest.mark.parametrize("affine", cases.AFFINE)
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("layout", ["image_last", "image_first", "image_middle"])
def test_every_form_of_group_norm(layout, activation, affine, side):
    check_group_norm(cases.GROUP_NORM[layout], "float32", activation, affine, side)


@pytest.mark.parametrize("mean", [1e2, 1e4])
@pytest.mark.parametrize("name", ["image_last", "image_first", "last_c17_gc", "deep_features"])
def test_values_far_from_zero(name, mean):
    case = ALL[name]
    inputs = Inputs(case, "float32", mean=mean)
    expected = inputs.expected("linear")
    offset = reference.offset_in_deviations(expected, case.shape, case.axis)
    y, saved_mean, rstd, rest = inputs.forward("linear")
    reference.assert_values(y, expected.y, "float32", offset=offset, scale=1.5)
    check_rest(saved_mean, rstd, rest, expected)
    assert rest[:, 0].any() and rest[:, 1].any()
    # The forward pass does not inherit the rounding of the float mean either.
    reference.assert_values(y, expected.y, "float32", offset=1, scale=1.5, terms=4)


def test_a_shift_unlike_the_rest():
    """Zero padding first, then values far from zero: the worst place to take a shift from."""
    x = np.full((1, 1 << 14, 8), 9999.37, np.float32)
    x[:, :64] = 0
    case = cases.GroupNormCase(x.shape, -1, 2)
    inputs = Inputs(case, "float32")
    inputs.x, inputs.side = x, None
    expected = reference.group_norm(
        x, inputs.gamma, inputs.beta, None, **inputs.options, epsilon=EPSILON
    )
    y, *_ = inputs.forward("linear")
    offset = reference.offset_in_deviations(expected, case.shape, -1)
    reference.assert_values(y, expected.y, "float32", offset=offset, scale=1.5, terms=1.5)


def check_standardize_weights(case, dtype, mode, ddof, has_gain=True):
    rng = np.random.default_rng(3)
    w = misaligned(rng.normal(0.02, 0.1, case.shape).astype(TYPES[dtype]))
    outputs = int(np.prod([case.shape[i] for i in case.axis]))
    gain = rng.uniform(0.5, 1.5, outputs).astype(cases.parameter_dtype(dtype))
    gain = gain if has_gain else None
    # With clamp_variance, this epsilon lies among the variances.
    epsilon = float(np.float32(1e-2 if mode == "clamp_variance" else 1e-5))
    attributes = {"axis": case.axis, "epsilon": epsilon, "epsilon_mode": mode}
    attributes |= {"ddof": ddof, "scale": 0.5}
    narrow = {"float32": "bfloat16"}.get(dtype, dtype)  # mixed precision
    w_hat, mean, rstd = native.standardize_weights_forward(
        w, gain, **attributes, dtype=TYPES[narrow], threads=2
    )
    dy = rng.standard_normal(case.shape).astype(TYPES[narrow])
    dw, dgain = native.standardize_weights_backward(
        dy, w, gain, mean, rstd, **attributes, threads=2
    )

    expected = reference.standardize_weights(w, gain, **attributes, dy=dy)
    offset = np.abs(expected.mean * expected.rstd).max()
    assert w_hat.dtype == TYPES[narrow]
    reference.assert_values(w_hat, expected.y, narrow, offset=offset, scale=0.75)
    gradients = expected.gradients
    reference.assert_gradient(dw, gradients["w"], dtype, offset=offset)
    if has_gain:
        stored_as = cases.parameter_dtype(dtype)
        reference.assert_gradient(
            dgain, gradients["gain"], dtype, offset=offset, stored_as=stored_as
        )
    else:
        assert dgain is None or not dgain.size


@pytest.mark.parametrize("dtype", cases.ELEMENT_TYPES)
@pytest.mark.parametrize("case", named(cases.KERNELS))
def test_standardize_weights(case, dtype):
    check_standardize_weights(case, dtype, case.epsilon_mode, case.ddof)


@pytest.mark.parametrize("has_gain", [False, True], ids=["", "gain"])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("mode", cases.EPSILON_MODES)
@pytest.mark.parametrize("layout", ["conv2d", "conv2d_oihw", "interleaved"])
def test_every_form_of_standardize_weights(layout, mode, ddof, has_gain):
    check_standardize_weights(cases.KERNELS[layout], "float32", mode, ddof, has_gain)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_16_bit_number_is_read_and_rounded_as_numpy_does(dtype):
    """Instance norm of one element is `beta + x`, with x as the side input."""
    numbers = np.arange(1 << 16, dtype=np.uint16).view(TYPES[dtype])
    x = np.zeros((numbers.size, 1), TYPES[dtype])
    nan_of_ones = np.array(0xFFFFFFFF, np.uint32).view(np.float32)  # rounding up makes it 0
    for shift in (0.0, 1.0, 1e-4, -3e4, nan_of_ones):
        beta = np.full(1, shift, np.float32)
        y, *_ = native.group_norm_forward(
            x, None, beta, numbers[:, None], groups=1, epsilon=1.0, threads=2
        )
        with np.errstate(all="ignore"):
            expected = (numbers.astype(np.float32) + beta).astype(TYPES[dtype])
        nan = np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(y[:, 0]), nan)
        np.testing.assert_array_equal(y[:, 0][~nan].view(np.uint16), expected[~nan].view(np.uint16))


@pytest.mark.parametrize("name", ["deep_features", "large_image_last", "large_image_first"])
@pytest.mark.parametrize("dtype", cases.ELEMENT_TYPES)
def test_the_number_of_threads_changes_no_bit(name, dtype):
    inputs = Inputs(cases.LARGE[name], dtype)
    results = []
    for threads in (1, 2, 3, 8):
        saved = inputs.forward("silu", threads)
        gradients, y = inputs.backward("silu", *saved[1:], threads, with_y=True)
        assert y.tobytes() == saved[0].tobytes()
        results.append([a.tobytes() for a in (*saved, *gradients.values())])
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("name", ["image_last", "image_first", "deep_features"])
def test_y_may_be_x(name):
    inputs = Inputs((cases.GROUP_NORM | cases.LARGE)[name], "float32")
    expected, *_ = inputs.forward("relu")
    y, *_ = inputs.forward("relu", out=inputs.x)
    assert y is inputs.x
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", ["image_last", "image_first", "image_middle"])
def test_gradients_and_y_may_take_the_memory_of_inputs(name, dtype, activation):
    case = cases.GROUP_NORM[name]
    inputs = Inputs(case, dtype)
    y, *saved = inputs.forward(activation)
    expected = bits(inputs.backward(activation, *saved)[0])
    names = (None, "dy", "side", "x")
    places = {p for p in itertools.product(names, names[:3], names) if are_distinct(p)}
    assert len(places) == 27
    for places_of in sorted(places, key=str):
        for with_y in (False, True):
            inputs = Inputs(case, dtype)
            dx, dside, y_out = (name and getattr(inputs, name) for name in places_of)
            options = {"out": dx, "side_out": dside, "y_out": y_out, "threads": 1}
            actual, again = inputs.backward(activation, *saved, with_y=with_y, **options)
            assert bits(actual) == expected, f"dx, dside and y in {places_of}"
            if with_y:
                assert again.tobytes() == y.tobytes(), f"dx, dside and y in {places_of}"


def are_distinct(names):
    taken = [name for name in names if name]
    return len(taken) == len(set(taken))


@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
def test_nan_and_infinity_stay_in_their_group(activation):
    for case in (cases.GROUP_NORM["image_last"], cases.GROUP_NORM["image_first"]):
        inputs = Inputs(case, "float32")
        clean, *_ = inputs.forward(activation)
        for bad in (np.nan, np.inf):
            channel = [slice(None)] * 4
            channel[case.axis] = 0
            inputs.x[(0, *channel[1:])].flat[0] = bad
            y, *_ = inputs.forward(activation)
            groups = [np.moveaxis(a, case.axis, 1).reshape(2, 3, -1) for a in (y, clean)]
            assert np.isnan(groups[0][0, 0]).all()
            np.testing.assert_array_equal(groups[0][0, 1:], groups[1][0, 1:])
            np.testing.assert_array_equal(groups[0][1], groups[1][1])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("size", [0, 1, 63, 100_001])
def test_copy(size, streaming):
    source = misaligned(np.arange(size, dtype=np.float32))
    target = misaligned(np.full(size, -1, np.float32))
    native.copy(source, target, threads=native.ThreadPool(3), streaming=streaming)
    np.testing.assert_array_equal(target, source)
    with pytest.raises(ValueError, match=f"must have the {4 * size} bytes of source, but has 20"):
        native.copy(source, np.zeros(5, np.float32))


def test_refusals_name_the_argument(cpu_target):
    x = np.zeros((2, 4, 6), np.float32)
    for arguments, options, words in (
        ((x,), {"groups": 4}, "groups must divide the 6 channels of x, but is 4"),
        ((x, x[0, 0, :5].copy()), {"groups": 2}, r"gamma must have shape \[C\] = \[6\]"),
        ((x,), {"groups": 2, "threads": 0}, "threads must be at least 1, but is 0"),
        ((x, np.zeros(6)), {"groups": 2}, "gamma must be of type float32, but is of type float64"),
        ((x[:, ::2],), {"groups": 2}, "x must be C-contiguous"),
        ((x,), {"groups": 2, "out": x[:1]}, "out must have the shape of x"),
    ):
        with pytest.raises(ValueError, match=words):
            native.group_norm_forward(*arguments, **options)
    with pytest.raises(ValueError, match="must be one of cpu_targets"):
        native.select_cpu_target("MMX")
    assert native.cpu_target() == cpu_target
