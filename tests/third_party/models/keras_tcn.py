"""keras-tcn: a layer that makes its blocks, and they their layers, in `build`."""

from ..cases import Package

package = Package("keras_tcn", "tcn")


def tcn(**arguments):
    import keras
    from tcn import TCN

    inputs = keras.Input((24, 6))
    x = TCN(nb_filters=32, dilations=(1, 2, 4), **arguments)(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


@package.model()
def batch_norm():
    return tcn(use_batch_norm=True)


@package.model()
def batch_norm_sequences():
    return tcn(use_batch_norm=True, return_sequences=True, padding="same", nb_stacks=2)
