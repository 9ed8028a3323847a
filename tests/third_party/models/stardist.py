"""stardist and csbdeep: functional U-Nets and residual networks of plain layers."""

from ..cases import Package

package = Package("stardist", "stardist", "csbdeep")
NO_POOLING = ("it has none for MaxPool3D", "TFLite does not pool volumes")


@package.model()
def stardist_2d():
    from stardist.models import Config2D, StarDist2D

    config = Config2D(
        n_rays=8,
        n_channel_in=1,
        grid=(2, 2),
        unet_n_depth=2,
        unet_n_filter_base=8,
        unet_batch_norm=True,
        net_conv_after_unet=16,
        net_input_shape=(32, 32, 1),
    )
    return StarDist2D(config, name=None, basedir=None).keras_model


@package.model()
def stardist_3d():
    from stardist.models import Config3D, StarDist3D

    config = Config3D(
        rays=8,
        n_channel_in=1,
        grid=(1, 2, 2),
        backbone="resnet",
        resnet_n_blocks=2,
        resnet_n_filter_base=8,
        resnet_batch_norm=True,
        net_conv_after_resnet=16,
        net_input_shape=(8, 16, 16, 1),
    )
    return StarDist3D(config, name=None, basedir=None).keras_model


@package.model()
def csbdeep_unet():
    from csbdeep.internals.nets import custom_unet

    return custom_unet(
        (32, 32, 1), "linear", 2, 8, (3, 3), pool_size=(2, 2), batch_norm=True, residual=True
    )


@package.model(
    safe_mode=False,
    impossible={
        "load": (
            "automatically infer the shape of the Lambda",
            "its Lambda layer calls a lambda that reads names of its module, which no file has",
        ),
        "tflite": NO_POOLING,
    },
)
def csbdeep_unet_probabilistic():
    from csbdeep.internals.nets import custom_unet

    return custom_unet(
        (8, 16, 16, 1), "linear", 1, 8, (3, 3, 3), batch_norm=True, residual=True, prob_out=True
    )
