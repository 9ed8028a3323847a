"""Batch normalization: renormalized, or with statistics that can be frozen."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from . import channels

#: As in the GroupNorm paper. The 0.99 of Keras forgets its initial values only after 500 steps,
#: more than a short training at a large batch has.
MOMENTUM = 0.9

#: The largest r and d of batch renormalization, and when they are reached, as fractions of the
#: 130,000 steps of the paper's training (arXiv 1702.03275, section 4): r and d are 1 and 0 for
#: 5,000 steps, and grow until r is 3 after 40,000 and d is 5 after 25,000.
LARGEST_R, LARGEST_D = 3.0, 5.0
BEGIN, END_OF_R, END_OF_D = 5 / 130, 40 / 130, 25 / 130

#: Momentum of the moving statistics of batch renormalization, as in the paper.
RENORM_MOMENTUM = 0.99


class BatchRenormalization(keras.layers.BatchNormalization):
    """`BatchNormalization(renorm=True)` whose limits of r and d grow during the training.

    Training and validation use the same moving statistics. Step t updates them with a momentum of
    `min(0.99, (1 + t) / (10 + t))`, so that they soon forget their initial values.

    Attributes:
        steps: number of steps of the training.
    """

    def __init__(self, **options: Any):
        """See the class."""
        super().__init__(renorm=True, **options)
        self.steps = 1

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Makes the weights."""
        super().build(input_shape)
        self.done = self._number("done", "zeros")
        self.rmin, self.rmax = self._number("rmin", "ones"), self._number("rmax", "ones")
        self.dmax = self._number("dmax", "zeros")
        self.renorm_clipping = {"rmin": self.rmin, "rmax": self.rmax, "dmax": self.dmax}
        self.momentum = self.renorm_momentum = self._number("momentum", "zeros")

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        """Sets the limits and the momentum for this step, and normalizes."""
        if training and self.trainable:
            part = self.done / self.steps
            self.rmax.assign(1 + (LARGEST_R - 1) * _grown(part, END_OF_R))
            self.rmin.assign(1 / self.rmax)
            self.dmax.assign(LARGEST_D * _grown(part, END_OF_D))
            self.momentum.assign(ops.minimum(RENORM_MOMENTUM, (1 + self.done) / (10 + self.done)))
            self.done.assign_add(1)
        return super().call(inputs, training=training, mask=mask)

    def _number(self, name: str, initializer: str) -> Any:
        return self.add_weight(
            name=name, shape=(), initializer=initializer, trainable=False, autocast=False
        )


def _grown(done: Any, end: float) -> Any:
    """Returns 0 until `BEGIN`, 1 after `end`, and linear values in between."""
    return ops.clip((done - BEGIN) / (end - BEGIN), 0.0, 1.0)


class FreezableBatchNormalization(keras.layers.BatchNormalization):
    """`BatchNormalization` that can normalize by its moving statistics in training, too.

    `trainable = False` would freeze gamma and beta as well.

    Attributes:
        frozen: whether it does; a graph that is traced takes the value.
    """

    def __init__(self, **options: Any):
        """See the class."""
        super().__init__(**options)
        self.frozen = False

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        """Normalizes by the statistics of the batch, if it is to be trained and not frozen."""
        return super().call(inputs, training=training and not self.frozen, mask=mask)


class BatchNorm:
    """Batch normalization by a given layer, the addition and the activation.

    Args:
        layer: class of the layer.
    """

    use_bias = False

    def __init__(self, layer: type[keras.layers.BatchNormalization]):
        """See the class."""
        self._layer = layer

    def __call__(
        self,
        x: keras.KerasTensor,
        *,
        name: str,
        activation: str | None,
        residual: keras.KerasTensor | None,
        **options: Any,
    ) -> keras.KerasTensor:
        """Returns the normalized images; see `tensorflow_groupnorm.models`."""
        x = channels.add(self._layer(name=name, **options)(x), residual, name)
        return channels.relu(x, activation, name)
