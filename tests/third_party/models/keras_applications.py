"""keras.applications, which comes with Keras itself: functional models of plain layers."""

from ..cases import Package

package = Package("keras_applications", "keras")


def application(name, size=64, **arguments):
    import keras

    model = getattr(keras.applications, name)
    return model(weights=None, input_shape=(size, size, 3), classes=5, **arguments)


@package.model()
def resnet50_v2():
    return application("ResNet50V2")


@package.model()
def mobilenet_v2():
    return application("MobileNetV2", alpha=0.35)


@package.model()
def efficientnet_v2_b0():
    return application("EfficientNetV2B0")


@package.model()
def xception():
    return application("Xception", 96)


@package.model()
def nasnet_mobile():
    return application("NASNetMobile")
