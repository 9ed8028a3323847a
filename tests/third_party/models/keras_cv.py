"""keras-cv, whose Stable Diffusion has stock GroupNormalization in layers of layers."""

import numpy as np

from ..cases import Package

package = Package("keras_cv", "keras_cv")


def resnet_v2(shape=(64, 64, 3)):
    import keras_cv

    return keras_cv.models.ResNetV2Backbone(
        stackwise_filters=[16, 32, 32],
        stackwise_blocks=[2, 2, 2],
        stackwise_strides=[1, 2, 2],
        include_rescaling=False,
        input_shape=shape,
    )


@package.model()
def resnet_v2_classifier():
    import keras_cv

    return keras_cv.models.ImageClassifier(resnet_v2(), num_classes=5)


@package.model()
def csp_darknet():
    import keras_cv

    return keras_cv.models.CSPDarkNetBackbone(
        stackwise_channels=[16, 32, 32, 48],
        stackwise_depth=[1, 1, 1, 1],
        include_rescaling=False,
        use_depthwise=True,
        input_shape=(64, 64, 3),
    )


@package.model()
def yolo_v8():
    import keras_cv

    backbone = keras_cv.models.YOLOV8Backbone(
        stackwise_channels=[16, 32, 32, 48],
        stackwise_depth=[1, 1, 1, 1],
        include_rescaling=False,
        input_shape=(64, 64, 3),
    )
    return keras_cv.models.YOLOV8Detector(
        backbone, num_classes=4, bounding_box_format="xywh", fpn_depth=1
    )


@package.model()
def efficientnet_lite():
    import keras_cv

    return keras_cv.models.EfficientNetLiteBackbone(
        include_rescaling=False,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        stackwise_kernel_sizes=[3, 3],
        stackwise_num_repeats=[1, 2],
        stackwise_input_filters=[32, 16],
        stackwise_output_filters=[16, 24],
        stackwise_expansion_ratios=[1, 6],
        stackwise_strides=[1, 2],
        input_shape=(32, 32, 3),
    )


@package.model()
def mobilenet_v3():
    import keras_cv

    return keras_cv.models.MobileNetV3Backbone(
        stackwise_expansion=[1, 3, 4],
        stackwise_filters=[16, 24, 32],
        stackwise_kernel_size=[3, 3, 5],
        stackwise_stride=[2, 2, 1],
        stackwise_se_ratio=[0.25, None, 0.25],
        stackwise_activation=["relu", "relu", "hard_swish"],
        include_rescaling=True,
        input_shape=(64, 64, 3),
    )


@package.model()
def deeplabv3_plus():
    import keras_cv

    backbone = keras_cv.models.ResNetV2Backbone(
        stackwise_filters=[16, 32, 32, 32],
        stackwise_blocks=[2, 2, 2, 2],
        stackwise_strides=[1, 2, 2, 2],
        include_rescaling=False,
        input_shape=(64, 64, 3),
    )
    return keras_cv.models.DeepLabV3Plus(backbone, num_classes=3)


@package.model()
def resnet_block():
    """The block of the Stable Diffusion decoder, whose shortcut is made in `build`."""
    import keras
    from keras_cv.src.models.stable_diffusion.attention_block import AttentionBlock
    from keras_cv.src.models.stable_diffusion.padded_conv2d import PaddedConv2D
    from keras_cv.src.models.stable_diffusion.resnet_block import ResnetBlock

    return keras.Sequential(
        [
            keras.Input((16, 16, 4)),
            PaddedConv2D(32, 3, padding=1),
            ResnetBlock(32),
            AttentionBlock(32),
            keras.layers.UpSampling2D(2),
            ResnetBlock(64),
            keras.layers.GroupNormalization(epsilon=1e-5),
            keras.layers.Activation("swish"),
            PaddedConv2D(3, 3, padding=1),
        ]
    )


@package.model()
def res_block():
    """The blocks of the Stable Diffusion U-Net: layers in lists, two inputs, made in `build`."""
    import keras
    from keras_cv.src.models.stable_diffusion.diffusion_model import (
        ResBlock,
        SpatialTransformer,
        Upsample,
    )

    latent = keras.Input((8, 8, 32), name="latent")
    step = keras.Input((64,), name="timestep_embedding")
    context = keras.Input((5, 48), name="context")
    x = ResBlock(32)([latent, step])
    x = SpatialTransformer(2, 16, fully_connected=False)([x, context])
    x = Upsample(32)(x)
    x = ResBlock(64)([x, step])
    x = SpatialTransformer(2, 32, fully_connected=True)([x, context])
    return keras.Model([latent, step, context], x)


def images(model):
    return np.float32(np.random.default_rng(3).standard_normal((1, 32, 32, 3)))


@package.model(batch=images, safe_mode=False)
def stable_diffusion_encoder():
    """The image encoder as it is, a subclass of Sequential."""
    from keras_cv.src.models.stable_diffusion.image_encoder import ImageEncoder

    return ImageEncoder(download_weights=False)
