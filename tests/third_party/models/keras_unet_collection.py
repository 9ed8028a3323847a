"""keras-unet-collection: functional models with layers of its own for activations and patches."""

from ..cases import Package, layer_classes


def custom_objects():
    modules = ("activations", "layer_utils", "transformer_layers")
    return layer_classes(*(f"keras_unet_collection.{module}" for module in modules))


package = Package("keras_unet_collection", "keras_unet_collection", custom_objects=custom_objects)
SIZE = (32, 32, 3)


@package.model()
def unet():
    from keras_unet_collection import models

    return models.unet_2d(SIZE, [8, 16, 32], 2, batch_norm=True, activation="GELU", name="unet")


@package.model()
def attention_unet():
    from keras_unet_collection import models

    return models.att_unet_2d(SIZE, [8, 16, 32], 2, batch_norm=True, attention="multiply")


@package.model()
def unet_plus_plus():
    from keras_unet_collection import models

    return models.unet_plus_2d(
        SIZE, [8, 16, 32], 2, batch_norm=True, activation="LeakyReLU", deep_supervision=True
    )


@package.model()
def unet_3_plus():
    from keras_unet_collection import models

    return models.unet_3plus_2d(SIZE, 2, [8, 16, 32], batch_norm=True, unpool=False, pool=False)


@package.model()
def r2_unet():
    from keras_unet_collection import models

    return models.r2_unet_2d(SIZE, [8, 16, 32], 2, batch_norm=True, activation="PReLU")


@package.model()
def u2net():
    from keras_unet_collection import models

    return models.u2net_2d(SIZE, 1, [8, 16, 32], filter_4f_num=[16, 16], batch_norm=True)


@package.model(
    impossible={
        "build": ("has no attribute 'get_shape'", "it is written for the tensors of Keras 2")
    }
)
def resunet_a():
    from keras_unet_collection import models

    return models.resunet_a_2d((32, 32, 3), [8, 16, 32], [1, 3], 2, 16, 8, batch_norm=True)


@package.model(
    impossible={"build": ("A KerasTensor cannot be used", "it calls TensorFlow on Keras' inputs")}
)
def transunet():
    from keras_unet_collection import models

    return models.transunet_2d(
        SIZE,
        [8, 16, 32],
        2,
        embed_dim=16,
        num_mlp=32,
        num_heads=2,
        num_transformer=1,
        batch_norm=True,
    )
