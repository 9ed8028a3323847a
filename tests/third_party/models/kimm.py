"""kimm: a model zoo of functional subclasses."""

from ..cases import Package, layer_classes

package = Package("kimm", "kimm", custom_objects=lambda: layer_classes("kimm.models"))


def model(name):
    import kimm

    return getattr(kimm.models, name)(input_shape=(64, 64, 3), weights=None, classes=5)


@package.model()
def lcnet():
    return model("LCNet035")


@package.model()
def ghostnet():
    return model("GhostNetW050")


@package.model()
def mobilevit():
    return model("MobileViTXXS")


@package.model()
def repvgg():
    return model("RepVGGA0")
