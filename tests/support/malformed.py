"""Random calls of the raw ops, most of them malformed, and what is wrong with each."""

import dataclasses
import math
import random

from cases import ACTIVATIONS, ELEMENT_TYPES, EPSILON_MODES

# Valid types come several times, so that most calls get beyond TensorFlow's own checks.
FLOATS = ELEMENT_TYPES
TYPES = (*FLOATS * 3, "int32", "int64", "uint8", "bool", "complex64", "string", "qint8")
FILLS = ("normal", "zeros", "nan", "inf", "huge", "subnormal", "mixed")
SIZES = (0, 0, 1, 2, 3, 4, 7, 8, 64, 2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1)
INTEGERS = (0, -1, 1, 2, 3, 7, 8, 9, -2, -8, -9, 2**31, -(2**31), 2**62, -(2**63), 2**63 - 1)
NUMBERS = (-1e-3, 0.0, -0.0, 1e-45, 1e-3, 1.0, 3e38, 1e39, math.inf, -math.inf, math.nan)
STRINGS = ("", "relu", "Relu", "relu\0", "gelu", "silu ", "\N{GREEK SMALL LETTER BETA}", "x" * 9999)

#: The most elements of a tensor that is made, and of the statistics of one without elements.
MOST_ELEMENTS = 2**14

T, U, TOUT = "T", "U", "Tout"
#: Inputs in their order, and the attribute that is their type.
INPUTS = {
    "GroupNorm": {"x": T, "gamma": U, "beta": U},
    "GroupNormGrad": {"dy": T, "x": T, "gamma": U, "beta": U, "mean": U, "rstd": U},
    "StandardizeWeights": {"w": T, "gain": U},
    "StandardizeWeightsGrad": {"dw_hat": TOUT, "w": T, "gain": U, "mean": U, "rstd": U},
}


@dataclasses.dataclass
class Tensor:
    shape: tuple[int, ...]
    dtype: str
    fill: str = "normal"


@dataclasses.dataclass
class Call:
    op: str
    inputs: dict[str, Tensor]
    attributes: dict
    side_inputs: list[Tensor] = dataclasses.field(default_factory=list)
    rests: list[Tensor] = dataclasses.field(default_factory=list)

    @property
    def tensors(self):
        return [*self.inputs.values(), *self.side_inputs, *self.rests]

    def arguments(self, tensors):
        """The call's arguments, with `tensors` for its tensors."""
        tensors = list(tensors)
        arguments = dict(zip(self.inputs, tensors, strict=False)) | self.attributes
        if self.op.startswith("GroupNorm"):
            end = len(self.inputs) + len(self.side_inputs)
            arguments["side_input"] = tensors[len(self.inputs) : end]
        if self.op == "GroupNormGrad":
            arguments["rest"] = tensors[end:]
        return arguments


# Valid calls.


def draw(seed: int) -> Call:
    """A valid call and a few changes to it; the same for the same seed."""
    rng = random.Random(seed)
    call = draw_valid(rng)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 5))):
        rng.choice(CHANGES)(rng, call)
    return call


def draw_valid(rng) -> Call:
    op = rng.choice(tuple(INPUTS))
    t = rng.choice(FLOATS)
    types = {T: t, U: "float64" if t == "float64" else "float32"}
    types[TOUT] = t if t == "float64" else rng.choice(FLOATS[:3])
    shapes, attributes = (group_norm if op.startswith("Group") else standardize)(rng)
    attributes["epsilon"] = rng.choice((0.0, 1e-10, 1e-3, 1.0))
    if op == "GroupNormGrad":
        del attributes["epsilon"]
    if op == "StandardizeWeights":
        attributes[TOUT] = "float64" if t == "float64" else types[TOUT]
    fill = rng.choice(FILLS)
    inputs = {
        name: Tensor(shapes[name], types[attribute], fill) for name, attribute in INPUTS[op].items()
    }
    sides = []
    if op.startswith("Group") and rng.random() < 0.3:
        sides = [Tensor(shapes["x"], t, fill)]
    call = Call(op, inputs, attributes, sides)
    if op == "GroupNorm":
        attributes["with_rest"] = rng.randrange(2)
    elif op == "GroupNormGrad":
        attributes["with_y"] = rng.randrange(2)
        if rng.random() < 0.5:
            call.rests = [Tensor(shapes["rest"], types[U], fill)]
    return call


def draw_shape(rng, least):
    shape = []
    for _ in range(rng.choice((1, 2, 3, 4, 4, 4, 5, 6, 8))):
        left = MOST_ELEMENTS // max(math.prod(shape), 1)
        shape.append(min(left, rng.choice((0, 1, 2, 3, 4, 5, 8, 8, 16, 33))))
    while len(shape) < least:
        shape.append(2)
    return tuple(shape)


def group_norm(rng):
    x = draw_shape(rng, least=2)
    axis = rng.randrange(1, len(x))
    n, c = x[0], x[axis]
    groups = rng.choice([g for g in range(1, max(c, 1) + 1) if c % g == 0])
    affine = [(c,), (n, c), (0,)]
    shapes = {"x": x, "dy": x, "gamma": rng.choice(affine), "beta": rng.choice(affine)}
    shapes |= dict.fromkeys(("mean", "rstd"), (n, groups)) | {"rest": (n, 2, groups)}
    attributes = {"groups": groups, "axis": rng.choice((axis, axis - len(x)))}
    return shapes, attributes | {"activation": rng.choice(ACTIVATIONS)}


def standardize(rng):
    w = draw_shape(rng, least=1)
    axes = rng.sample(range(len(w)), rng.choice((1, 1, 1, min(2, len(w)))))
    outputs = math.prod(w[axis] for axis in axes)
    fan_in = math.prod(size for axis, size in enumerate(w) if axis not in axes)
    shapes = {"w": w, "dw_hat": w, "gain": rng.choice([(outputs,), (0,)])}
    shapes |= dict.fromkeys(("mean", "rstd"), (outputs,))
    attributes = {"axis": [rng.choice((axis, axis - len(w))) for axis in axes]}
    attributes |= {"ddof": 0 if fan_in == 1 else rng.randrange(2), "scale": rng.choice((1.0, -2.5))}
    return shapes, attributes | {"epsilon_mode": rng.choice(EPSILON_MODES)}


# Changes.


def random_shape(rng, call):
    tensor = rng.choice(call.tensors)
    tensor.shape = tuple(rng.choice(SIZES) for _ in range(rng.randrange(9)))


def another_size(rng, call):
    tensor = rng.choice(call.tensors)
    if tensor.shape:
        i = rng.randrange(len(tensor.shape))
        size = rng.choice((*SIZES, tensor.shape[i] + 1, max(tensor.shape[i] - 1, 0)))
        tensor.shape = (*tensor.shape[:i], size, *tensor.shape[i + 1 :])


def another_rank(rng, call):
    tensor = rng.choice(call.tensors)
    if tensor.shape and rng.random() < 0.5:
        tensor.shape = tensor.shape[1:] if rng.random() < 0.5 else tensor.shape[:-1]
    else:
        tensor.shape = (1, *tensor.shape) if rng.random() < 0.5 else (*tensor.shape, 1)


def shape_of_another(rng, call):
    one, other = rng.choice(call.tensors), rng.choice(call.tensors)
    one.shape, other.shape = other.shape, one.shape


def another_type(rng, call):
    rng.choice(call.tensors).dtype = rng.choice(TYPES)


def another_fill(rng, call):
    rng.choice(call.tensors).fill = rng.choice(FILLS)


def another_attribute(rng, call):
    name = rng.choice(list(call.attributes))
    values = {
        "groups": INTEGERS,
        "ddof": INTEGERS,
        "epsilon": NUMBERS,
        "scale": NUMBERS,
        "activation": STRINGS,
        "epsilon_mode": (*STRINGS, *EPSILON_MODES),
        TOUT: FLOATS,
        "axis": INTEGERS,
        "with_rest": (0, 1, 2, 7),
        "with_y": (0, 1, 2, 7),
    }[name]
    value = rng.choice(values)
    if name == "axis" and call.op.startswith("Standardize"):
        value = [rng.choice((*range(-9, 9), *values)) for _ in range(rng.choice((0, 1, 2, 3, 9)))]
    call.attributes[name] = value


def another_side_input(rng, call):
    if call.op.startswith("Group"):
        like = rng.choice(call.tensors)
        new = dataclasses.replace(like)
        call.side_inputs = [new] * rng.choice((0, 1, 1, 2, 9))


def another_rest(rng, call):
    if call.op == "GroupNormGrad":
        new = dataclasses.replace(rng.choice([*call.tensors, *call.rests * 4]))
        call.rests = [new] * rng.choice((0, 1, 1, 2, 9))


SHAPE_CHANGES = (random_shape, another_size, another_rank, shape_of_another)
CHANGES = (
    *SHAPE_CHANGES,
    *(another_type, another_fill, another_attribute, another_attribute, another_side_input),
    another_rest,
)


# What is wrong with a call.


def type_faults(call: Call) -> bool:
    """Whether TensorFlow refuses the types before any code of ours runs."""
    found = {T: set(), U: set(), TOUT: set()}
    for name, attribute in INPUTS[call.op].items():
        found[attribute].add(call.inputs[name].dtype)
    found[T].update(tensor.dtype for tensor in call.side_inputs)
    found[U].update(tensor.dtype for tensor in call.rests)
    if call.op == "StandardizeWeights":
        found[TOUT] = {call.attributes[TOUT]}
    allowed = {T: FLOATS, U: FLOATS[2:], TOUT: FLOATS}
    return any(len(types) > 1 or not types <= {*allowed[a]} for a, types in found.items())


def faults(call: Call) -> set[str]:
    """The arguments that an error may name; none if the call is valid. Types are as they may be."""
    main = call.inputs["x" if call.op.startswith("Group") else "w"]
    of_params = call.inputs["gamma" if call.op.startswith("Group") else "gain"].dtype
    found = {U} if (main.dtype == "float64") != (of_params == "float64") else set()
    epsilon = float32(call.attributes.get("epsilon", 0.0))
    if not (math.isfinite(epsilon) and epsilon >= 0):
        found.add("epsilon")
    check = group_norm_faults if call.op.startswith("Group") else standardize_faults
    return found | check(call, main.shape)


def float32(value):
    return math.copysign(math.inf, value) if 3.4028236e38 <= abs(value) < math.inf else value


def group_norm_faults(call, x):
    attributes, found = call.attributes, set()
    groups, axis = attributes["groups"], attributes["axis"]
    if groups < 1:
        found.add("groups")
    if attributes["activation"] not in ACTIVATIONS:
        found.add("activation")
    if len(call.side_inputs) > 1:
        found.add("num_side_inputs")
    if len(call.rests) > 1:
        found.add("num_rests")
    found |= {name for name in ("with_rest", "with_y") if attributes.get(name, 0) > 1}
    if len(x) < 2:
        return found | {"x"}
    if not (-len(x) < axis < len(x) and axis % len(x) != 0):
        return found | {"axis"}
    n, c = x[0], x[axis]
    if groups > 0 and c % groups:
        found.add("groups")
    expected = {"gamma": {(c,), (n, c), (0,)}, "mean": {(n, groups)}, "dy": {x}}
    expected |= {"beta": expected["gamma"], "rstd": expected["mean"]}
    found |= {
        name for name in call.inputs if call.inputs[name].shape not in expected.get(name, {x})
    }
    if any(rest.shape != (n, 2, groups) for rest in call.rests):
        found.add("rest")
    return found | ({"side_input"} if any(side.shape != x for side in call.side_inputs) else set())


def standardize_faults(call, w):
    attributes, found = call.attributes, set()
    if (call.inputs["w"].dtype == "float64") != (tout(call) == "float64"):
        found.add(TOUT)
    if attributes["epsilon_mode"] not in EPSILON_MODES:
        found.add("epsilon_mode")
    if attributes["ddof"] not in (0, 1):
        found.add("ddof")
    if not math.isfinite(float32(attributes["scale"])):
        found.add("scale")
    axes = attributes["axis"]
    within = all(-len(w) <= axis < len(w) for axis in axes)
    if not axes or not within or len({axis % len(w) for axis in axes}) < len(axes):
        return found | {"axis"}
    outputs = outputs_of(call)
    kept = {axis % len(w) for axis in axes}
    if attributes["ddof"] == 1 and math.prod(s for i, s in enumerate(w) if i not in kept) == 1:
        found.add("ddof")
    expected = {"gain": {(outputs,), (0,)}, "w": {w}, "dw_hat": {w}}
    expected |= dict.fromkeys(("mean", "rstd"), {(outputs,)})
    return found | {n for n in call.inputs if call.inputs[n].shape not in expected[n]}


def tout(call):
    return call.attributes[TOUT] if TOUT in call.attributes else call.inputs["dw_hat"].dtype


def outputs_of(call):
    w = call.inputs["w"].shape
    return math.prod(w[axis] for axis in call.attributes["axis"])


def outputs(call: Call) -> list[tuple[tuple[int, ...], str]]:
    """Shapes and types of the outputs of a valid call."""

    def like(name):
        return call.inputs[name].shape, call.inputs[name].dtype

    if call.op == "GroupNorm":
        x, t = like("x")
        statistic = ((x[0], call.attributes["groups"]), like("gamma")[1])
        rest = ((x[0], 2, call.attributes["groups"]), statistic[1])
        return [(x, t), statistic, statistic, *[rest] * call.attributes["with_rest"]]
    if call.op == "GroupNormGrad":
        like_x = len(call.side_inputs) + call.attributes["with_y"]
        return [like("x"), like("gamma"), like("beta"), *[like("x")] * like_x]
    if call.op == "StandardizeWeights":
        statistic = ((outputs_of(call),), like("gain")[1])
        return [(like("w")[0], tout(call)), statistic, statistic]
    return [like("w"), like("gain")]


def too_large(shape) -> bool:
    """Whether TensorFlow counts more elements than 64 bits do, 0 left out of the factors."""
    return math.prod(size for size in shape if size) >= 2**63


def too_large_for_xla(shape) -> bool:
    """Whether TensorFlow 2.21 dies of a shape under `jit_compile=True`, whatever the ops are.

    `tf.zeros([2**62, 0]) + 1` is enough: it counts the bytes before it comes to the 0.
    """
    return math.prod(size for size in shape if size) >= 2**60


def can_be_made(call: Call) -> bool:
    """Whether a call can be made without harm: it needs little memory.

    Large sizes are for tensors without elements, whose statistics may have many.
    """
    shapes = [tensor.shape for tensor in call.tensors]
    if any(too_large(shape) or math.prod(shape) > MOST_ELEMENTS for shape in shapes):
        return False
    if type_faults(call) or faults(call):
        return True
    return all(math.prod(shape) <= MOST_ELEMENTS for shape, _ in outputs(call))
