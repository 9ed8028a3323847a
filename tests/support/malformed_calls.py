"""Makes random calls of the raw ops (`malformed.py`) and checks the answer to each.

    python tests/support/malformed_calls.py --mode eager --calls 100000

makes the calls with the seeds 0 to 99999 in processes of their own. It reports every call that
ended its process or had a wrong answer. Right are outputs of the right shapes and types for a valid
call, and an error that names an argument at fault for any other. `--first 4711 --calls 1` repeats
one call.

The modes: `eager`; `inference`, where a graph is built of placeholders with shapes known in part;
`graph` and `jit`, which run functions that learn all shapes at run time, a number of calls each.
"""

import argparse
import collections
import concurrent.futures
import copy
import functools
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import malformed
import numpy as np

#: Calls of one function, which takes long to trace, and longer to compile.
CALLS_PER_FUNCTION = {"graph": 20, "jit": 3}

#: Seeds per process: seconds of work.
CHUNK = {"eager": 10_000, "inference": 10_000, "graph": 500, "jit": 50}

#: Seeds between two graphs, which only grow.
CALLS_PER_GRAPH = 500


class WrongAnswer(Exception):
    pass


@functools.cache
def elements(dtype, fill):
    """As many values as a tensor has at most."""
    import tensorflow as tf

    dtype = tf.dtypes.as_dtype(dtype)
    shape, rng = malformed.MOST_ELEMENTS, np.random.default_rng(0)
    normal, largest = rng.normal(size=shape), float(dtype.max)
    # Half the least normal number.
    subnormal = (
        2.0 ** {"float16": -15, "bfloat16": -127, "float32": -127, "float64": -1023}[dtype.name]
    )
    values = {
        "normal": normal,
        "zeros": np.zeros(shape),
        "nan": np.full(shape, np.nan),
        "inf": np.copysign(np.inf, normal),
        "huge": np.copysign(largest, normal),
        "subnormal": subnormal * normal,
        "mixed": rng.choice([0, 1, -1, np.nan, np.inf, subnormal, largest], shape),
    }
    return values[fill].astype(dtype.as_numpy_dtype)


def make(shape, dtype, fill):
    import tensorflow as tf

    if dtype not in malformed.FLOATS or 0 in shape:
        return tf.zeros(shape, dtype)
    return tf.constant(elements(dtype, fill)[: math.prod(shape)].reshape(shape))


def tensors(call):
    return [make(tensor.shape, tensor.dtype, tensor.fill) for tensor in call.tensors]


def answer(call, attempt, refusals):
    """Makes a call. Returns the argument that its error names, "types", or "accepted".

    Raises:
        WrongAnswer: for every answer but the right one.
    """
    of_types = (TypeError, ValueError) if malformed.type_faults(call) else ()
    try:
        results = attempt()
    except (*refusals, *of_types) as error:
        if of_types:
            return "types"
        at_fault = malformed.faults(call)
        named = re.findall(r"\b(\w{1,20}) must\b", str(error))
        if not at_fault.intersection(named):
            raise WrongAnswer(
                f"the error must name one of {at_fault or 'nothing'}: {error}"
            ) from None
        return next(name for name in named if name in at_fault)
    except Exception as error:
        raise WrongAnswer(f"{type(error).__name__}: {error}") from None
    if of_types or malformed.faults(call):
        raise WrongAnswer(f"accepted in spite of {malformed.faults(call) or 'its types'}")
    expected = malformed.outputs(call)
    results = flat(results)
    # Compatible: in a graph a shape may be known in part.
    right = len(results) == len(expected) and all(
        result.shape.is_compatible_with(shape) and result.dtype.name == dtype
        for result, (shape, dtype) in zip(results, expected, strict=True)
    )
    if not right:
        raise WrongAnswer(f"outputs {results} in place of {expected}")
    return "accepted"


def flat(results):
    return [r for result in results for r in (result if isinstance(result, list) else [result])]


def raw_op_of(call, *inputs):
    return raw_op(call, inputs)


def raw_op(call, inputs):
    import tensorflow_groupnorm as tfgn

    return getattr(tfgn.raw_ops, call.op)(**call.arguments(inputs))


def make_eager(seeds):
    import tensorflow as tf

    for seed in seeds:
        call = malformed.draw(seed)
        if malformed.can_be_made(call):
            made = tensors(call)
            refusals = (tf.errors.InvalidArgumentError,)
            yield (
                seed,
                call,
                functools.partial(answer, call, functools.partial(raw_op, call, made), refusals),
            )


def make_inference(seeds):
    import tensorflow as tf

    for i, seed in enumerate(seeds):
        if i % CALLS_PER_GRAPH == 0:
            graph = tf.Graph()
        call = malformed.draw(seed)
        if not any(malformed.too_large(tensor.shape) for tensor in call.tensors):
            yield seed, call, functools.partial(infer, call, random.Random(f"{seed} known"), graph)


def infer(call, rng, graph):
    """Builds a graph of one call.

    A call has to be refused if it is malformed and all is known, and must not be if it is valid,
    however little is known.
    """
    import tensorflow as tf

    unknown = rng.choice((0, 0, 0.2, 0.7, 1))

    def placeholder(tensor):
        if rng.random() < unknown / 2:
            return tf.compat.v1.placeholder(tensor.dtype)
        shape = [None if rng.random() < unknown else size for size in tensor.shape]
        return tf.compat.v1.placeholder(tensor.dtype, shape)

    with graph.as_default():
        inputs = [placeholder(tensor) for tensor in call.tensors]
        build = functools.partial(raw_op, call, inputs)
        if unknown == 0 or malformed.type_faults(call) or not malformed.faults(call):
            return answer(call, build, (ValueError,))
        try:
            build()
        except ValueError as error:
            # Whatever of it is known may be named, the argument that is wrong by it or another.
            names = {
                *call.inputs,
                *call.attributes,
                malformed.U,
                malformed.TOUT,
                "side_input",
                "num_side_inputs",
                "rest",
                "num_rests",
            }
            if not names.intersection(re.findall(r"\b(\w{1,20}) must\b", str(error))):
                raise WrongAnswer(str(error)) from None
        return "known in part"


def make_function(mode, seeds):
    import tensorflow as tf

    refusals = (tf.errors.InvalidArgumentError, ValueError)
    for seed in seeds:
        base = malformed.draw(seed)
        if malformed.type_faults(base):
            continue
        function = tf.function(
            functools.partial(raw_op_of, base),
            autograph=False,
            jit_compile=mode == "jit",
            input_signature=[tf.TensorSpec(None, tensor.dtype) for tensor in base.tensors],
        )
        for i in range(CALLS_PER_FUNCTION[mode]):
            rng = random.Random(f"{seed} {i}")
            call = copy.deepcopy(base)
            for _ in range(rng.choice((0, 0, 1, 2))):
                rng.choice(malformed.SHAPE_CHANGES)(rng, call)
            shapes = [tensor.shape for tensor in call.tensors]
            if mode == "jit" and any(map(malformed.too_large_for_xla, shapes)):
                continue
            if malformed.can_be_made(call):
                attempt = functools.partial(function, *tensors(call))
                yield seed, call, functools.partial(answer, call, attempt, refusals)


MODES = {
    "eager": make_eager,
    "inference": make_inference,
    "graph": functools.partial(make_function, "graph"),
    "jit": functools.partial(make_function, "jit"),
}


def make_calls(mode, seeds, at=lambda seed: None):
    """Makes calls.

    Args:
        mode: a key of `MODES`.
        seeds: of the calls, or of the functions that make some.
        at: is told each seed before its calls are made.

    Returns:
        How often there was each answer, and a list of seeds, calls and wrong answers.
    """
    answers, wrong = collections.Counter(), []
    for seed, call, check in MODES[mode](seeds):
        at(seed)
        try:
            answers[f"{call.op} {check()}"] += 1
        except WrongAnswer as error:
            wrong.append((seed, repr(call), str(error)))
    return answers, wrong


# Processes of their own.


def work(mode, first, calls, current):
    """Makes calls and prints the outcome, with the current seed in the file `current`."""
    with open(current, "r+b", buffering=0) as file:

        def at(seed):
            file.seek(0)
            file.write(seed.to_bytes(8, "little"))

        answers, wrong = make_calls(mode, range(first, first + calls), at)
    print(json.dumps({"answers": answers, "wrong": wrong}))


def run_chunk(mode, first, calls):
    with tempfile.NamedTemporaryFile() as current:
        current.write(bytes(8))
        current.flush()
        command = [sys.executable, __file__, "--mode", mode, "--first", str(first)]
        command += ["--calls", str(calls), "--work", current.name]
        # Without a line per refusal.
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        process = subprocess.run(command, capture_output=True, text=True, env=environment)
        if process.returncode == 0:
            return json.loads(process.stdout.splitlines()[-1])
        seed = int.from_bytes(Path(current.name).read_bytes(), "little")
        tail = process.stderr[-3000:]
        death = f"the process ended with {process.returncode}: {tail}"
        return {"answers": {}, "wrong": [(seed, repr(malformed.draw(seed)), death)]}


def run(mode, first, calls, jobs, advance=lambda seeds: None):
    """Makes calls in processes of their own; see `make_calls`."""
    answers, wrong = collections.Counter(), []
    chunks = [
        (i, min(CHUNK[mode], first + calls - i)) for i in range(first, first + calls, CHUNK[mode])
    ]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(run_chunk, mode, *chunk): chunk for chunk in chunks}
        try:
            for done in concurrent.futures.as_completed(running):
                answers.update(done.result()["answers"])
                wrong += done.result()["wrong"]
                advance(running[done][1])
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return answers, wrong


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--calls", type=int, default=10_000, metavar="N", help="number of seeds")
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at a time")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.mode, args.first, args.calls, args.work)
        return 0
    from rich.progress import Progress

    start = time.monotonic()
    with Progress() as progress:
        task = progress.add_task(f"{args.mode} calls", total=args.calls)
        try:
            answers, wrong = run(
                *(args.mode, args.first, args.calls, args.jobs),
                lambda seeds: progress.advance(task, seeds),
            )
        except KeyboardInterrupt:
            sys.exit("interrupted")
    for name, count in sorted(answers.items()):
        print(f"{count:9,}  {name}")
    minutes = (time.monotonic() - start) / 60
    print(f"{answers.total():9,}  calls in {minutes:.1f} min; {len(wrong)} wrong answers")
    for seed, call, error in wrong[:20]:
        print(f"\n--first {seed}: {call}\n    {error}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
