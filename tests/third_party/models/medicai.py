"""medicai: medical models in 2D and 3D, functional subclasses."""

from ..cases import Package, layer_classes


def custom_objects():
    modules = ("attention", "conv", "drop_path", "mlp", "pooling", "resize")
    return layer_classes("medicai.models", *(f"medicai.layers.{module}" for module in modules))


package = Package("medicai", "medicai.models", custom_objects=custom_objects)


def densenet(shape=(64, 64, 3)):
    from medicai.models import DenseNetBackbone

    # Without a name its name is None, which no export can take.
    return DenseNetBackbone(blocks=[2, 2, 2, 2], input_shape=shape, growth_rate=8, name="densenet")


@package.model()
def unet():
    from medicai.models import UNet

    return UNet(encoder=densenet(), decoder_filters=(32, 16, 16, 16, 8), num_classes=2)


@package.model(
    impossible={"tflite": ("it has none for AvgPool3D, MaxPool3D", "TFLite does not pool volumes")}
)
def unet_3d():
    from medicai.models import UNet

    encoder = densenet((32, 32, 32, 1))
    return UNet(encoder=encoder, decoder_filters=(16, 16, 8, 8, 8), num_classes=2)


@package.model()
def deeplabv3_plus():
    from medicai.models import DeepLabV3Plus

    return DeepLabV3Plus(
        encoder=densenet(),
        decoder_channels=16,
        decoder_dilation_rates=(1, 2, 3),
        num_classes=2,
        head_upsample=1,
    )


@package.model()
def upernet():
    from medicai.models import UPerNet

    return UPerNet(encoder=densenet(), decoder_filters=16, num_classes=2, head_upsample=1)


@package.model()
def unetr():
    from medicai.models import UNETR, ViTBackbone

    encoder = ViTBackbone(
        input_shape=(32, 32, 32, 1),
        patch_size=16,
        num_layers=12,
        num_heads=2,
        hidden_dim=24,
        mlp_dim=32,
        use_class_token=False,
    )
    return UNETR(encoder=encoder, num_classes=2, feature_size=8, norm_name="batch")


@package.model(
    impossible={
        "tflite": (
            "it has none for Transpose",
            "TFLite transposes up to six axes, and windows of a volume have eight",
        )
    }
)
def swin_unetr():
    from medicai.models import SwinBackbone, SwinUNETR

    encoder = SwinBackbone(
        input_shape=(32, 32, 32, 1),
        embed_dim=12,
        patch_size=2,
        window_size=4,
        depths=[1, 1, 1, 1],
        num_heads=[2, 2, 2, 2],
        downsampling_strategy="swin_unetr_like",
    )
    return SwinUNETR(encoder=encoder, num_classes=2, feature_size=12, norm_name="batch")


@package.model()
def efficientnet():
    from medicai.models import EfficientNetBackbone

    return EfficientNetBackbone(0.35, 0.2, (64, 64, 3), name="efficientnet")


@package.model()
def senet():
    from medicai.models import ResNetBackbone

    return ResNetBackbone(
        input_shape=(64, 64, 3),
        num_blocks=[1, 1, 1, 1],
        num_filters=[64, 64, 64, 64],
        block_type="basic_block",
        use_pre_activation=True,
        se_block=True,
    )
