"""keras.applications, which comes with Keras itself: functional models of plain layers."""

from ..cases import Package

package = Package("keras_applications", "keras")


def application(name, **arguments):
    import keras

    model = getattr(keras.applications, name)
    return model(weights=None, input_shape=(64, 64, 3), classes=5, **arguments)


@package.model()
def mobilenet():
    return application("MobileNet", alpha=0.25)


@package.model()
def mobilenet_v2():
    return application("MobileNetV2", alpha=0.35)


@package.model()
def mobilenet_v3_small():
    return application("MobileNetV3Small", minimalistic=True, include_preprocessing=False)
