"""keras-hub: backbones and tasks, most of them of layers in layers that are made in `build`."""

import numpy as np

from ..cases import Package

package = Package("keras_hub", "keras_hub")


def resnet(image_shape=(64, 64, 3), **arguments):
    import keras_hub

    given = {
        "input_conv_filters": [16],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 64, 64],
        "stackwise_num_blocks": [1, 1, 1],
        "stackwise_num_strides": [1, 2, 2],
        "block_type": "bottleneck_block",
        "use_pre_activation": False,
    }
    return keras_hub.models.ResNetBackbone(image_shape=image_shape, **{**given, **arguments})


@package.model()
def resnet_classifier():
    import keras_hub

    return keras_hub.models.ResNetImageClassifier(resnet(), num_classes=5)


@package.model()
def resnet_vd():
    return resnet(
        input_conv_filters=[16, 16, 32],
        input_conv_kernel_sizes=[3, 3, 3],
        block_type="bottleneck_block_vd",
    )


@package.model()
def densenet():
    import keras_hub

    return keras_hub.models.DenseNetBackbone([2, 2, 2], image_shape=(64, 64, 3), growth_rate=16)


def cspnet(block_type, **arguments):
    import keras_hub

    return keras_hub.models.CSPNetBackbone(
        stem_filters=16,
        stem_kernel_size=3,
        stem_strides=1,
        stackwise_depth=[1, 2],
        stackwise_strides=[1, 2],
        stackwise_num_filters=[16, 32],
        image_shape=(32, 32, 3),
        block_type=block_type,
        block_ratio=[0.5],
        **arguments,
    )


@package.model()
def cspnet_dark():
    return cspnet("dark_block", stage_type="csp")


@package.model()
def xception():
    import keras_hub

    return keras_hub.models.XceptionBackbone(
        stackwise_conv_filters=[[16, 32], [32, 64], [64, 64]],
        stackwise_pooling=[True, True, False],
        image_shape=(64, 64, 3),
    )


def efficientnet(block_types, **arguments):
    import keras_hub

    return keras_hub.models.EfficientNetBackbone(
        stackwise_kernel_sizes=[3, 3, 5],
        stackwise_num_repeats=[1, 2, 1],
        stackwise_input_filters=[16, 8, 16],
        stackwise_output_filters=[8, 16, 24],
        stackwise_expansion_ratios=[1, 4, 4],
        stackwise_squeeze_and_excite_ratios=[0.25, 0.25, 0.25],
        stackwise_strides=[1, 2, 2],
        stackwise_block_types=block_types,
        stackwise_force_input_filters=[0, 0, 0],
        stackwise_nores_option=[False, False, False],
        stackwise_width_coefficients=[1.0, 1.0, 1.0],
        stackwise_depth_coefficients=[1.0, 1.0, 1.0],
        input_shape=(64, 64, 3),
        **arguments,
    )


@package.model()
def efficientnet_v1():
    return efficientnet(["v1", "v1", "v1"])


@package.model()
def efficientnet_v2():
    return efficientnet(["fused", "fused", "unfused"])


@package.model()
def mobilenet():
    import keras_hub

    backbone = keras_hub.models.MobileNetBackbone(
        stackwise_expansion=[[16], [16, 32], [32, 32]],
        stackwise_num_blocks=[1, 2, 2],
        stackwise_num_filters=[[8], [16, 16], [24, 24]],
        stackwise_kernel_size=[[3], [3, 3], [5, 5]],
        stackwise_num_strides=[[2], [2, 1], [1, 1]],
        stackwise_se_ratio=[[None], [None, None], [0.25, 0.25]],
        stackwise_activation=[["relu"], ["relu", "relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1], [1, 1], [2, 2]],
        output_num_filters=64,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        squeeze_and_excite=0.5,
        last_layer_filter=64,
        image_shape=(64, 64, 3),
    )
    return keras_hub.models.MobileNetImageClassifier(backbone, num_classes=5, num_features=32)


@package.model()
def mobilenet_v5():
    import keras_hub

    return keras_hub.models.MobileNetV5Backbone(
        stackwise_block_types=[["er"], ["uir", "uir"], ["uir", "mqa"]],
        stackwise_num_blocks=[1, 2, 2],
        stackwise_num_filters=[[16], [24, 24], [32, 32]],
        stackwise_strides=[[2], [2, 1], [2, 1]],
        stackwise_act_layers=[["relu"], ["relu", "relu"], ["relu", "relu"]],
        stackwise_exp_ratios=[[4.0], [4.0, 4.0], [4.0, 1.0]],
        stackwise_se_ratios=[[0.0], [0.0, 0.0], [0.0, 0.0]],
        stackwise_dw_kernel_sizes=[[0], [5, 5], [3, 3]],
        stackwise_dw_start_kernel_sizes=[[0], [3, 0], [0, 0]],
        stackwise_dw_end_kernel_sizes=[[0], [0, 0], [0, 0]],
        stackwise_exp_kernel_sizes=[[3], [0, 0], [0, 0]],
        stackwise_pw_kernel_sizes=[[1], [0, 0], [0, 0]],
        stackwise_num_heads=[[0], [0, 0], [0, 2]],
        stackwise_key_dims=[[0], [0, 0], [0, 16]],
        stackwise_value_dims=[[0], [0, 0], [0, 16]],
        stackwise_kv_strides=[[0], [0, 0], [0, 1]],
        stackwise_use_cpe=[[False], [False, False], [False, False]],
        use_msfa=False,
        norm_layer="batch_norm",
        act_layer="relu",
        image_shape=(64, 64, 3),
    )


def hgnetv2(**arguments):
    import keras_hub

    given = {
        "depths": [1, 1, 2],
        "embedding_size": 16,
        "hidden_sizes": [16, 32, 48],
        "stem_channels": [3, 8, 16],
        "hidden_act": "relu",
        "use_learnable_affine_block": True,
        "stackwise_stage_filters": [
            (16, 8, 16, 1, 2, 3),
            (16, 16, 32, 1, 2, 3),
            (32, 16, 48, 2, 2, 5),
        ],
        "apply_downsample": [False, True, True],
        "use_lightweight_conv_block": [False, False, True],
        "image_shape": (64, 64, 3),
    }
    return keras_hub.models.HGNetV2Backbone(**{**given, **arguments})


@package.model()
def hgnetv2_classifier():
    import keras_hub

    return keras_hub.models.HGNetV2ImageClassifier(
        hgnetv2(), preprocessor=None, num_classes=5, head_filters=32
    )


@package.model()
def d_fine():
    import keras_hub

    backbone = hgnetv2(out_features=["stage2", "stage3"])
    return keras_hub.models.DFineBackbone(
        backbone=backbone,
        decoder_in_channels=[32, 32],
        encoder_hidden_dim=32,
        num_denoising=0,
        num_labels=4,
        hidden_dim=32,
        learn_initial_query=False,
        num_queries=20,
        anchor_image_size=(64, 64),
        feat_strides=[8, 16],
        num_feature_levels=2,
        encoder_in_channels=[32, 48],
        encode_proj_layers=[1],
        num_attention_heads=2,
        encoder_ffn_dim=32,
        num_encoder_layers=1,
        hidden_expansion=0.5,
        depth_multiplier=0.34,
        eval_idx=-1,
        num_decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        decoder_method="default",
        decoder_n_points=[2, 2],
        lqe_hidden_dim=16,
        num_lqe_layers=2,
        image_shape=(64, 64, 3),
        seed=0,
    )


@package.model()
def deeplabv3():
    import keras_hub

    backbone = keras_hub.models.DeepLabV3Backbone(
        image_encoder=resnet((64, 64, 3)),
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P4",
        dilation_rates=[1, 2, 3],
        upsampling_size=4,
        image_shape=(64, 64, 3),
    )
    return keras_hub.models.DeepLabV3ImageSegmenter(backbone, num_classes=3)


def retinanet(**arguments):
    import keras_hub

    encoder = resnet(
        (128, 128, 3),
        stackwise_num_filters=[64, 64, 64, 64],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
    )
    return keras_hub.models.RetinaNetBackbone(
        encoder, min_level=3, max_level=5, use_p5=False, image_shape=(128, 128, 3), **arguments
    )


@package.model()
def retinanet_detector():
    import keras_hub

    return keras_hub.models.RetinaNetObjectDetector(
        retinanet(use_fpn_batch_norm=True),
        num_classes=4,
        use_prediction_head_norm=True,
        pre_logits_num_conv_layers=2,
    )


@package.model()
def segformer():
    import keras_hub

    encoder = keras_hub.models.MiTBackbone(
        layerwise_depths=[1, 1, 1, 1],
        num_layers=4,
        layerwise_num_heads=[1, 1, 2, 3],
        layerwise_sr_ratios=[8, 4, 2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        image_shape=(64, 64, 3),
        hidden_dims=[16, 24, 32, 48],
    )
    backbone = keras_hub.models.SegFormerBackbone(image_encoder=encoder, projection_filters=16)
    return keras_hub.models.SegFormerImageSegmenter(backbone=backbone, num_classes=4)


def vae_backbone():
    import keras_hub
    from keras_hub.src.models.vae.vae_backbone import VAEBackbone

    assert keras_hub
    return VAEBackbone(
        encoder_num_filters=[32, 32, 64],
        encoder_num_blocks=[1, 1, 1],
        decoder_num_filters=[64, 32, 32],
        decoder_num_blocks=[1, 1, 1],
        sampler_method="mode",
    )


def images(size):
    def batch(model):
        values = np.random.default_rng(3).standard_normal((2, size, size, 3))
        return np.float32(values)

    return batch


UNKNOWN_CHANNELS = (
    "it has none for Conv2D",
    "its attention reshapes images of no known size, which loses the channels that TFLite "
    "needs of a convolution's input; with an Input of a fixed size it is possible",
)


@package.model(batch=images(32), impossible={"tflite": UNKNOWN_CHANNELS})
def vae():
    return vae_backbone()


def prompts(model):
    generator = np.random.default_rng(3)
    tokens = ("clip_l", "clip_g")
    return {
        "images": np.float32(generator.standard_normal((2, 32, 32, 3))),
        "latents": np.float32(generator.standard_normal((2, 4, 4, 16))),
        **{f"{name}_token_ids": generator.integers(0, 20, (2, 5)) for name in tokens},
        **{f"{name}_negative_token_ids": generator.integers(0, 20, (2, 5)) for name in tokens},
        "num_steps": np.ones((2,), "int32"),
        "guidance_scale": np.ones((2,), "float32"),
    }


@package.model(
    batch=prompts,
    impossible={
        "tflite": UNKNOWN_CHANNELS,
        "onnx": (
            "names both an input and an output",
            "its images and latents are inputs and outputs, and ONNX has one name for one tensor",
        ),
    },
)
def stable_diffusion_3():
    import keras_hub
    from keras_hub.src.models.clip.clip_text_encoder import CLIPTextEncoder

    def clip(name):
        return CLIPTextEncoder(20, 32, 32, 2, 2, 64, intermediate_output_index=0, name=name)

    return keras_hub.models.StableDiffusion3Backbone(
        mmdit_patch_size=2,
        mmdit_hidden_dim=32,
        mmdit_num_layers=1,
        mmdit_num_heads=2,
        mmdit_position_size=192,
        mmdit_qk_norm=None,
        mmdit_dual_attention_indices=None,
        vae=vae_backbone(),
        clip_l=clip("clip_l"),
        clip_g=clip("clip_g"),
        image_shape=(32, 32, 3),
    )
