"""keras-vision: FastViT and MobileViT."""

from ..cases import Package

package = Package("keras_vision", "keras_vision.fastvit.fastvit")


@package.model()
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
