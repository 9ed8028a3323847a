"""The training step of a network, with any of the normalizations."""

from __future__ import annotations

import keras
import tensorflow as tf
import tensorflow_groupnorm as tfgn

from ..cases import NETWORKS, Step
from . import resnet, unets

_BUILDERS = {
    "resnet50v2": resnet.build,
    "unet3d": unets.build_3d,
    "diffusion": unets.build_diffusion,
}


def build(case: Step) -> keras.Model:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(case.dtype)
    try:
        saving = case.norm == "saving"
        model = _BUILDERS[case.network]("ours" if saving else case.norm, case.side)
        if not saving:
            return model
        # Nothing changes but what is kept for the backward pass. In place, because TensorFlow never
        # gives back the memory that a second model has taken.
        return tfgn.convert(
            model,
            norm=None,
            weight_standardization=None,
            fuse=False,
            in_place=True,
            save_memory=True,
            report=_check_pairs,
        )
    finally:
        keras.config.set_dtype_policy(policy)


def _check_pairs(report: tfgn.ConversionReport):
    if not report.count("paired"):
        raise ValueError(f"save_memory pairs nothing: {report}")


def training_step(case: Step):
    """Returns the step, which takes the inputs and returns the loss."""
    model, network = build(case), NETWORKS[case.network]
    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9)
    optimizer.build(model.trainable_variables)
    if network.classes:
        loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    else:
        loss_of = keras.losses.MeanSquaredError()

    @tf.function(jit_compile=case.jit)
    def step(labels, *inputs):
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(list(inputs), training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    names = ("images", "embedding") if network.embedding else ("images",)
    return lambda inputs: step(inputs["labels"], *(inputs[name] for name in names)).numpy()
