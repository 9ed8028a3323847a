"""Takes one model through all the steps, and says what came of each.

    python -m third_party.check NAME [--folder FOLDER] [--original] [--traceback]

With `--original` the model is trained, saved, loaded and exported as it is: what fails then is not
the conversion's doing.
"""

import argparse
import collections
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_groupnorm as tfgn

from . import oracle, walk
from .cases import all_cases

SEED = 20180322
# Of outputs of the same model, in this process and in a fresh one.
SAME = 1e-6
# Of gradients: where two roundings of a number lie on both sides of a ReLU's kink, they jump.
GRADIENT = 5e-2
LEARNING_RATE = 1e-3


class Check:
    """One model on its way: what the earlier steps made, the later ones use."""

    def __init__(self, case, folder, original=False, export=True):
        self.case = case
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.as_it_is = original
        self.export = export
        self.results = {}
        self.report = None

    def steps(self):
        after = ["train", "save", "load"] + ["saved_model", "tflite", "onnx"] * self.export
        if self.as_it_is:
            return ["build", *after]
        compare = ["same_class", "kept", "weights", "values", "gradients"]
        return ["build", "copy", "norms_alone", "convert", *compare, *after]

    def run(self, say=print, trace=False):
        """Runs all steps that can be run.

        Returns:
            A dict from step to a dict: `error`, None where it went well; `impossible`, why it
            cannot go well, or None; `seconds`.
        """
        for step in self.steps():
            begin = time.monotonic()
            error = self._run(step, trace)
            seconds = round(time.monotonic() - begin, 1)
            impossible = self.case.impossible.get(step, (None, None))[1]
            self.results[step] = {"error": error, "impossible": impossible, "seconds": seconds}
            outcome = f"FAILED: {error}" if error else "impossible" if impossible else "ok"
            say(f"{self.case.name} {step}: {outcome} ({seconds} s)")
            # What fails as the case says has made nothing to go on with either.
            if step in ("build", "convert") and (error or impossible):
                break
        return self.results

    def _run(self, step, trace):
        pattern, reason = self.case.impossible.get(step, (None, None))
        try:
            getattr(self, step)()
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            if pattern and re.search(pattern, text, re.DOTALL):
                return None
            if trace:
                traceback.print_exc()
            return text
        return f"is possible, in spite of what is said of it: {reason}" if pattern else None

    def build(self):
        self.original = self._made()
        self.expected = oracle.run(self.original, self.batch)
        require(self.expected, "the model has no outputs of a floating-point type")
        require(all(np.isfinite(t).all() for t in self.expected), "not finite")
        self.norms = count(self.original, keras.layers.BatchNormalization)
        self.stock = sum(
            type(layer) is keras.layers.GroupNormalization for layer in walk.layers(self.original)
        )
        require(self.norms + self.stock, "the model has no normalization to convert")
        if self.as_it_is:
            self.converted = self.original

    def _made(self):
        keras.utils.set_random_seed(SEED)
        model = self.case.build()
        self.batch = (self.case.batch or random_batch)(model)
        oracle.run(model, self.batch)
        oracle.randomize(model)
        return model

    def copy(self):
        """A conversion of nothing changes nothing."""
        copied = self._convert(norm=None, weight_standardization=None)
        self._same(self.expected, oracle.run(copied, self.batch), SAME)
        # A class that Keras cannot make again is replaced by a subclass of the same name.
        names = [[path.split(".")[-1] for path in walk.classes(m)] for m in (self.original, copied)]
        require_equal(*names)

    def convert(self):
        self.converted = self._convert(report=self._keep_report)
        oracle.run(self.converted, self.batch)
        self._same(self.expected, oracle.run(self.original, self.batch), 0, "of the original")

    def norms_alone(self):
        """Without standardized kernels too; stock GroupNormalization computes what it did."""
        converted = self._convert(weight_standardization=None)
        actual = oracle.run(converted, self.batch)
        if not self.norms:
            self._same(self.expected, actual, self.case.tolerance, "of groups that stay")
            return
        with oracle.Oracle(self.original, converted).acting() as model:
            self._same(oracle.run(model, self.batch), actual, self.case.tolerance)

    def same_class(self):
        """It is what it was to whoever asks, and has the methods that it had."""
        kind = type(self.original)
        require(
            isinstance(self.converted, kind) and type(self.converted).__name__ == kind.__name__,
            f"the {kind.__name__} became a {type(self.converted).__name__}",
        )

    def _convert(self, **arguments):
        given = {"report": None, **self.case.arguments, **arguments}
        # The oracle needs an original that stays what it is.
        model = self._made() if given.get("in_place") else self.original
        converted = tfgn.convert(model, **given)
        require((converted is model) == bool(given.get("in_place")), "in place, or not")
        return converted

    def _keep_report(self, report):
        self.report = report
        (self.folder / "report.txt").write_text(report.table(every_layer=True))

    def kept(self):
        """What is left is what the report says was kept."""
        told = [
            change
            for change in self.report.changes
            if change.action == "kept" and "BatchNormalization" in change.type
        ]
        left = count(self.converted, keras.layers.BatchNormalization)
        require(
            left == len(told) == self.case.kept,
            f"of {self.norms} BatchNormalization layers {self.case.kept} are to be kept, "
            f"{left} are left, and the report says that {len(told)} were kept",
        )
        called = self._called(keras.layers.BatchNormalization)
        require(called <= left, f"{called} BatchNormalization layers run, {left} can be reached")
        stock = sum(
            type(layer) is keras.layers.GroupNormalization for layer in walk.layers(self.converted)
        )
        require(not stock, f"{stock} of {self.stock} stock GroupNormalization layers are left")
        for change in told:
            require(change.reason, f"no reason is given for keeping {change.name}")

    def _called(self, kind):
        """Returns how many layers of a class a call of the converted model runs."""
        inner, seen = kind.call, set()

        def call(layer, *arguments, **keywords):
            seen.add(id(layer))
            return inner(layer, *arguments, **keywords)

        kind.call = call
        try:
            oracle.run(self.converted, self.batch)
        finally:
            kind.call = inner
        return len(seen)

    def weights(self):
        """All weights are there with the values they had, but for moving statistics."""
        wanted = collections.Counter(
            oracle.key(variable)
            for variable in walk.variables(self.original)
            if not variable.name.startswith(("moving_", "seed_generator"))
        )
        there = collections.Counter(map(oracle.key, walk.variables(self.converted)))
        lost = wanted - there
        require(not lost, f"{lost.total()} of {wanted.total()} weights are lost: {shapes(lost)}")

    def values(self):
        """The outputs are those of the original with groups and standardized kernels in it."""
        self.oracle = oracle.Oracle(self.original, self.converted)
        left = count(self.converted, keras.layers.BatchNormalization)
        replaced = len(self.oracle.groups)
        require(
            replaced + left == self.norms,
            f"{self.norms} BatchNormalization layers became {replaced} GroupNormalization layers "
            f"with their weights, and {left} are left",
        )
        require(self.oracle.kernels, "no kernel is standardized")
        with self.oracle.acting() as model:
            expected = oracle.run(model, self.batch)
        self._same(expected, oracle.run(self.converted, self.batch), self.case.tolerance)

    def gradients(self):
        """So are the gradients of all weights."""
        expected = self.oracle.gradients(self.batch)
        weights = [v for v in walk.variables(self.converted) if v.trainable]
        actual = oracle.gradients(self.converted, weights, self.batch)
        missing, wrong = [], []
        largest = max(float(tf.norm(g)) for g in expected.values() if g is not None)
        for weight, gradient in zip(weights, actual, strict=True):
            if (wanted := expected.get(oracle.key(weight))) is None:
                continue
            if gradient is None:
                missing.append(weight.path)
            elif tf.norm(gradient - wanted) > GRADIENT * tf.norm(wanted) + 1e-6 * largest:
                wrong.append(weight.path)
        require(not missing, f"{len(missing)} weights have no gradient: {missing[:3]}")
        require(not wrong, f"{len(wrong)} of {len(weights)} gradients are wrong: {wrong[:3]}")

    def train(self):
        """A step of training is finite and moves every weight that has a gradient."""
        model = self.converted
        weights = [v for v in walk.variables(model) if v.trainable]
        found = oracle.gradients(model, weights, self.batch)
        moving = [
            w for w, g in zip(weights, found, strict=True) if g is not None and tf.norm(g) > 0
        ]
        before = [np.array(weight) for weight in moving]
        # With so small an epsilon each weight moves by the rate, however small its gradient is.
        optimizer = keras.optimizers.Adam(LEARNING_RATE, epsilon=1e-20)
        # A detector's own loss takes boxes, not tensors like its outputs.
        own = type(model).compute_loss is not keras.Model.compute_loss
        loss = (self._step if own else self._fit)(model, optimizer, weights)
        require(np.isfinite(loss), f"the loss is {loss}")
        still = [w.path for w, old in zip(moving, before, strict=True) if np.array_equal(w, old)]
        require(not still, f"{len(still)} of {len(moving)} weights did not move: {still[:3]}")
        require(all(np.isfinite(w).all() for w in weights), "a weight is not finite")

    def _fit(self, model, optimizer, weights):
        outputs = model(self.batch, training=False)
        generator = np.random.default_rng(5)
        targets = keras.tree.map_structure(
            lambda y: np.float32(generator.standard_normal(y.shape)), outputs
        )
        losses = keras.tree.map_structure(
            lambda y: "mse" if tf.as_dtype(y.dtype).is_floating else None, outputs
        )
        # Metrics of an earlier `compile`, such as accuracies, stay where none are given.
        metrics = [losses] if isinstance(losses, str) else losses
        model.compile(optimizer, loss=losses, metrics=metrics)
        size = keras.tree.flatten(self.batch)[0].shape[0]
        history = model.fit(self.batch, targets, batch_size=size, verbose=0)
        return history.history["loss"][0]

    def _step(self, model, optimizer, weights):
        @tf.function
        def step():
            with tf.GradientTape() as tape:
                loss = oracle.objective(oracle.run(model, self.batch, training=True))
            found = tape.gradient(loss, [weight.value for weight in weights])
            pairs = zip(found, weights, strict=True)
            optimizer.apply_gradients([(g, w) for g, w in pairs if g is not None])
            return loss

        optimizer.build(weights)
        return step()

    def save(self):
        self.trained = oracle.run(self.converted, self.batch)
        self.converted.save(self.folder / "model.keras")

    def load(self):
        """A fresh process, which knows the names of the packages alone, computes the same."""
        batch = keras.tree.map_structure(np.asarray, self.batch)
        (self.folder / "batch.pickle").write_bytes(pickle.dumps(batch))
        command = [sys.executable, "-m", f"{__package__}.load", self.case.name, self.folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        require(done.returncode == 0, last_error(done.stderr))
        with np.load(self.folder / "outputs.npz") as outputs:
            self._same(self.trained, [outputs[name] for name in outputs.files], SAME)
        loaded = (self.folder / "loaded.json").read_text()
        require_equal(walk.classes(self.converted), json.loads(loaded))

    def saved_model(self):
        self._export("saved_model", portable=True)

    def tflite(self):
        self._export("tflite", portable=True)

    def onnx(self):
        self._export("onnx", portable=True)

    def _export(self, format, **arguments):
        example = self.batch
        tfgn.export(
            self.converted,
            self.folder / f"exported.{format}",
            format=format,
            example=example,
            overwrite=True,
            **arguments,
        )

    def _same(self, expected, actual, tolerance, what=""):
        found = oracle.difference(expected, actual)
        require(found <= tolerance, f"outputs {what} differ by {found:.2g} of the largest")


def random_batch(model, size=2):
    """Returns random inputs of the model's own shapes and dtypes."""
    generator = np.random.default_rng(3)

    def value(tensor):
        shape = [size, *tensor.shape[1:]]
        require(None not in shape, f"an input has the shape {tensor.shape}")
        if tf.as_dtype(tensor.dtype).is_integer:
            return tf.constant(generator.integers(0, 2, shape), tensor.dtype)
        return tf.constant(generator.standard_normal(shape), tensor.dtype)

    functional = getattr(model, "_functional", None) or model
    return keras.tree.map_structure(value, functional._inputs_struct)


def count(model, kind):
    return sum(isinstance(layer, kind) for layer in walk.layers(model))


def shapes(keys):
    return ", ".join(str(shape) for shape, *_ in list(keys)[:4])


def last_error(text):
    """Returns the last error in what a process wrote, without what led to it."""
    found = re.findall(r"^[\w.]*(?:Error|Exception)\b.*", text, re.MULTILINE | re.DOTALL)
    last = re.split(r"^Traceback", found[-1], flags=re.MULTILINE)[-1] if found else text[-500:]
    return " ".join(last.split())


def require(condition, message):
    # AssertionError of one's own: `assert` says nothing under `python -m`.
    if not condition:
        raise AssertionError(message)


def require_equal(expected, actual):
    lost = collections.Counter(expected) - collections.Counter(actual)
    new = collections.Counter(actual) - collections.Counter(expected)
    require(not lost and not new, f"layers differ: without {dict(lost)}, with {dict(new)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=all_cases(), metavar="NAME")
    parser.add_argument("--folder", help="where to write; a temporary one by default")
    parser.add_argument("--original", action="store_true", help="without converting it")
    parser.add_argument("--no-export", action="store_true", help="leave out the exports")
    parser.add_argument("--traceback", action="store_true", help="of what fails")
    arguments = parser.parse_args()
    case = all_cases()[arguments.name]
    if case.environment.items() - os.environ.items():
        # TensorFlow, which is imported already, reads it once.
        os.execve(sys.executable, sys.orig_argv, os.environ | case.environment)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or temporary
        check = Check(
            all_cases()[arguments.name], folder, arguments.original, not arguments.no_export
        )
        results = check.run(lambda line: print(line, flush=True), arguments.traceback)
        (Path(folder) / "results.json").write_text(json.dumps(results))
    sys.exit(any(result["error"] is not None for result in results.values()))


if __name__ == "__main__":
    main()
