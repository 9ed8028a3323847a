"""keras-vision: FastViT and MobileViT."""

from ..cases import Package, layer_classes


def custom_objects():
    modules = ("base_layers", "conv_ffn", "fastvit", "mobileone", "multihead_self_attention")
    modules += ("rep_cpe", "replknet", "squeeze_excite")
    return layer_classes(*(f"keras_vision.fastvit.{module}" for module in modules))


package = Package("keras_vision", "keras_vision.fastvit.fastvit", custom_objects=custom_objects)


# TensorFlow 2.21 ends the process in a step of training of the model as it is: oneDNN.
@package.model(environment={"TF_ENABLE_ONEDNN_OPTS": "0"})
def fastvit():
    from keras_vision.fastvit.fastvit import build_fastvit

    return build_fastvit(
        layers=[1, 1, 1, 1],
        token_mixers=("repmixer", "repmixer", "repmixer", "attention"),
        embed_dims=[16, 16, 32, 32],
        mlp_ratios=[2, 2, 2, 2],
        downsamples=[True, True, True, True],
        input_shape=(64, 64, 3),
        num_classes=5,
    )
