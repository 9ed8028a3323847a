"""segmentation-models-3D and classification-models-3D: functional models over volumes."""

from ..cases import Package, layer_classes


def custom_objects():
    from classification_models_3D.models._common_blocks import expand_dims

    layers = layer_classes("classification_models_3D.models._DepthwiseConv3D")
    return layers | {"expand_dims": expand_dims}


package = Package(
    "segmentation_3d",
    "segmentation_models_3D",
    "classification_models_3D",
    custom_objects=custom_objects,
)
NO_POOLING = ("it has none for MaxPool3D", "TFLite does not pool volumes")
VOLUME = (32, 32, 32, 1)


def segmentation(name, backbone, **arguments):
    import segmentation_models_3D

    return getattr(segmentation_models_3D, name)(
        backbone, input_shape=VOLUME, encoder_weights=None, classes=2, **arguments
    )


@package.model(impossible={"tflite": NO_POOLING})
def unet_resnet18():
    return segmentation("Unet", "resnet18", decoder_filters=(32, 16, 16, 8, 8))


@package.model(impossible={"tflite": NO_POOLING})
def linknet_resnet18():
    return segmentation("Linknet", "resnet18", decoder_block_type="transpose")


def classification(name, **arguments):
    from classification_models_3D.kkeras import Classifiers

    model, _ = Classifiers.get(name)
    return model(input_shape=VOLUME, weights=None, include_top=False, **arguments)


@package.model(impossible={"tflite": NO_POOLING})
def seresnet18():
    return classification("seresnet18")


@package.model()
def mobilenet():
    return classification("mobilenet", alpha=0.25)
