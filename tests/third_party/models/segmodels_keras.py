"""segmodels-keras: functional segmentation models on backbones of its own."""

from ..cases import Package

package = Package("segmodels_keras", "segmodels_keras")


def segmentation(name, backbone, size=64, **arguments):
    import segmodels_keras

    return getattr(segmodels_keras, name)(
        backbone, input_shape=(size, size, 3), encoder_weights=None, classes=2, **arguments
    )


@package.model()
def unet_mobilenet():
    return segmentation("Unet", "mobilenet", decoder_filters=(32, 16, 16, 8, 8))


@package.model()
def fpn_efficientnet():
    return segmentation("FPN", "efficientnetb0", pyramid_block_filters=16)


@package.model()
def pspnet_resnet18():
    return segmentation("PSPNet", "resnet18", 96, psp_conv_filters=32)
