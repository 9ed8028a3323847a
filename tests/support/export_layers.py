"""One small model per layer or situation in front of a GroupNormalization, to export."""

import functools

import keras
import numpy as np
import tensorflow as tf
import tensorflow_groupnorm as tfgn

layers = keras.layers
GroupNormalization = tfgn.layers.GroupNormalization


def in_a_row(*stack, shape=(8, 8, 4), dtype=None, axis=-1):
    """A model of layers in a row, and a norm behind them."""
    inputs = x = keras.Input(shape, dtype=dtype)
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, GroupNormalization(2, axis=axis)(x))


def row(*makers, **options):
    """A function that makes such a model of the layers that functions make."""
    return lambda: in_a_row(*(make() for make in makers), **options)


def one(kind, *args, shape=(8, 8, 4), axis=-1, dtype=None, **kwargs):
    """The same of a single layer of a kind."""
    return row(functools.partial(kind, *args, **kwargs), shape=shape, axis=axis, dtype=dtype)


def function(call, shape=(8, 8, 4)):
    """The same of a function of TensorFlow."""
    return one(layers.Lambda, call, output_shape=shape, shape=shape)


FIRST = {"data_format": "channels_first", "shape": (4, 8, 8), "axis": 1}
LINE, VOLUME, ANY_SIZE = (8, 4), (4, 4, 4, 4), (None, None, 4)


def _with_itself(attend, shape=LINE):
    def build():
        x = keras.Input(shape)
        return keras.Model(x, GroupNormalization(2)(attend(x)))

    return build


def _activations():
    names = (
        "celu elu exponential gelu hard_sigmoid hard_silu leaky_relu log_softmax mish relu6 selu"
    )
    names += " softmax softplus softsign squareplus tanh"
    x = keras.Input((4, 4, 4))
    return keras.Model(
        x, {name: GroupNormalization(2)(layers.Activation(name)(x)) for name in names.split()}
    )


def _stages():
    """From 8x8 pixels to one: the sizes that tf2onnx notes go wrong at the last."""
    model = keras.Sequential([keras.Input((8, 8, 4))])
    for _ in range(3):
        model.add(layers.Conv2D(8, 3, 2, "same"))
        model.add(GroupNormalization(1, activation="relu"))
    model.add(layers.Conv2D(8, 1))
    return model


def _skips_of_any_size():
    x = keras.Input(ANY_SIZE)
    up = layers.UpSampling2D(2)(layers.Conv2D(4, 3, 2, "same")(x))
    return keras.Model(x, GroupNormalization(1)(layers.Concatenate()([x, up])))


def _modulated():
    x, condition = keras.Input((8, 8, 4)), keras.Input((3,))
    scale, shift = layers.Dense(4)(condition), layers.Dense(4)(condition)
    return keras.Model([x, condition], GroupNormalization(2)(x, scale=scale, shift=shift))


def _masked_images():
    x, mask = keras.Input(ANY_SIZE), keras.Input((None, None), dtype="bool")
    return keras.Model([x, mask], GroupNormalization(2, use_mask=True)(x, mask=mask))


def _asserted(x):
    with tf.control_dependencies([tf.debugging.assert_less(x, 1e9), tf.print("seen", summarize=0)]):
        return tf.identity(x)


@tf.custom_gradient
def _doubled(x):
    return 2 * x, lambda dy: 2 * dy


def _looped(x):
    def step(i, x):
        return i + 1, tf.debugging.check_numerics(1.1 * x, "in a loop")

    return tf.while_loop(lambda i, x: i < 3, step, [0, x])[1]


def _complements_in_a_loop(x):
    def step(i, x):
        return i + 1, tf.math.expm1(tf.math.erfc(x))

    return tf.while_loop(lambda i, x: i < 3, step, [0, x])[1]


def _branched(x):
    return tf.cond(tf.reduce_sum(x) > 0, lambda: tf.ensure_shape(2 * x, [None, 8, 8, 4]), lambda: x)


BUILD = {
    # Sizes
    "UpSampling1D": one(layers.UpSampling1D, shape=LINE),
    "UpSampling2D": row(
        layers.UpSampling2D, functools.partial(layers.Conv2D, 4, 3, activation="relu")
    ),
    "UpSampling2D, channels_first": one(layers.UpSampling2D, **FIRST),
    "UpSampling2D, any size": one(layers.UpSampling2D, shape=ANY_SIZE),
    "UpSampling2D, bilinear": one(layers.UpSampling2D, interpolation="bilinear"),
    "UpSampling2D, bicubic": one(layers.UpSampling2D, interpolation="bicubic"),
    "UpSampling2D, lanczos3": one(layers.UpSampling2D, interpolation="lanczos3"),
    "UpSampling3D": one(layers.UpSampling3D, shape=VOLUME),
    "UpSampling3D, convolved": row(
        layers.UpSampling3D, functools.partial(layers.Conv3D, 4, 2), shape=VOLUME
    ),
    "ZeroPadding and Cropping": row(
        functools.partial(layers.ZeroPadding2D, ((1, 2), (0, 1))),
        functools.partial(layers.Cropping2D, ((0, 1), (1, 0))),
    ),
    "ZeroPadding3D": one(layers.ZeroPadding3D, 1, shape=VOLUME),
    "Resizing": one(layers.Resizing, 5, 7),
    "Resizing, nearest, crop": one(
        layers.Resizing, 5, 7, interpolation="nearest", crop_to_aspect_ratio=True
    ),
    "CenterCrop": one(layers.CenterCrop, 4, 4),
    "Flatten, Dense, Reshape, Permute": row(
        layers.Flatten,
        functools.partial(layers.Dense, 64),
        functools.partial(layers.Reshape, (4, 4, -1)),
        functools.partial(layers.Permute, (2, 1, 3)),
    ),
    "skips of any size": _skips_of_any_size,
    # Convolutions
    "Conv2D, groups": one(layers.Conv2D, 8, 3, groups=2, strides=2, padding="same"),
    "Conv2D, groups, dilated": one(layers.Conv2D, 8, 3, groups=4, dilation_rate=2),
    "Conv2D, groups, channels_first": one(layers.Conv2D, 8, 3, groups=2, **FIRST),
    "Conv2D, groups, any size": one(layers.Conv2D, 8, 3, groups=2, shape=ANY_SIZE),
    "StandardizedConv2D, groups": one(tfgn.layers.StandardizedConv2D, 8, 3, groups=2),
    "Conv2D, dilated": one(layers.Conv2D, 8, 3, dilation_rate=2, padding="same"),
    "Conv2D, channels_first": one(layers.Conv2D, 8, 3, **FIRST),
    "Conv1D, groups": one(layers.Conv1D, 8, 3, groups=2, shape=LINE),
    "Conv1D, causal": one(layers.Conv1D, 8, 3, padding="causal", dilation_rate=2, shape=LINE),
    "Conv3D": one(layers.Conv3D, 8, 2, shape=VOLUME),
    "Conv3D, groups": one(layers.Conv3D, 8, 2, groups=2, shape=VOLUME),
    "DepthwiseConv2D": one(
        layers.DepthwiseConv2D, 3, strides=2, padding="same", depth_multiplier=2
    ),
    "DepthwiseConv2D, channels_first": one(layers.DepthwiseConv2D, 3, **FIRST),
    "StandardizedDepthwiseConv2D": one(
        tfgn.layers.StandardizedDepthwiseConv2D, 3, depth_multiplier=2
    ),
    "DepthwiseConv1D": one(layers.DepthwiseConv1D, 3, depth_multiplier=2, shape=LINE),
    "SeparableConv2D": one(layers.SeparableConv2D, 8, 3, depth_multiplier=2),
    "SeparableConv1D": one(layers.SeparableConv1D, 8, 3, shape=LINE),
    "Conv2DTranspose, valid": one(layers.Conv2DTranspose, 4, 3, strides=2),
    "Conv2DTranspose, valid, output_padding": one(
        layers.Conv2DTranspose, 4, 3, strides=2, output_padding=1
    ),
    "Conv2DTranspose, same": one(layers.Conv2DTranspose, 4, 3, strides=2, padding="same"),
    "Conv2DTranspose, same, output_padding": one(
        layers.Conv2DTranspose, 4, 3, strides=2, padding="same", output_padding=1
    ),
    "Conv2DTranspose, any size": one(
        layers.Conv2DTranspose, 4, 3, strides=2, padding="same", shape=ANY_SIZE
    ),
    "Conv2DTranspose, dilated": one(layers.Conv2DTranspose, 4, 3, dilation_rate=2, padding="same"),
    "Conv2DTranspose, channels_first": one(layers.Conv2DTranspose, 4, 3, strides=2, **FIRST),
    "StandardizedConv2DTranspose": one(
        tfgn.layers.StandardizedConv2DTranspose, 4, 3, strides=2, padding="same"
    ),
    "Conv1DTranspose": one(layers.Conv1DTranspose, 4, 3, strides=2, shape=LINE),
    "Conv3DTranspose": one(layers.Conv3DTranspose, 4, 3, strides=2, padding="same", shape=VOLUME),
    # Pooling
    "MaxPooling2D, AveragePooling2D": row(
        layers.MaxPooling2D, functools.partial(layers.AveragePooling2D, 3, 2, "same")
    ),
    "MaxPooling3D": one(layers.MaxPooling3D, shape=VOLUME),
    "GlobalAveragePooling2D": one(layers.GlobalAveragePooling2D),
    "GlobalAveragePooling1D, masked": row(
        functools.partial(layers.Embedding, 10, 4, mask_zero=True),
        layers.GlobalAveragePooling1D,
        shape=(6,),
        dtype="int32",
    ),
    # Norms, attention, masks
    "one pixel": one(layers.GlobalAveragePooling2D, keepdims=True),
    "one pixel, channels_first": one(layers.MaxPooling2D, 8, **FIRST),
    "stages down to one pixel": _stages,
    "scale and shift": _modulated,
    "other norms": row(
        layers.LayerNormalization,
        layers.BatchNormalization,
        layers.UnitNormalization,
        layers.RMSNormalization,
        lambda: layers.GroupNormalization(2),
        lambda: layers.SpectralNormalization(layers.Conv2D(4, 3)),
    ),
    "MultiHeadAttention": _with_itself(lambda x: layers.MultiHeadAttention(2, 4)(x, x)),
    "MultiHeadAttention, causal, any size": _with_itself(
        lambda x: layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True), (None, 4)
    ),
    "standardized MultiHeadAttention": _with_itself(
        lambda x: tfgn.layers.WeightStandardization(layers.MultiHeadAttention(2, 4))(x, x)
    ),
    "Attention": _with_itself(lambda x: layers.Attention()([x, x])),
    "Embedding, masked": one(layers.Embedding, 10, 4, mask_zero=True, shape=(None,), dtype="int32"),
    "use_mask, any size": row(
        lambda: layers.Embedding(10, 4, mask_zero=True),
        lambda: GroupNormalization(2, use_mask=True),
        shape=(None,),
        dtype="int32",
    ),
    "use_mask, images": _masked_images,
    "Masking": one(layers.Masking, shape=LINE),
    "LSTM": one(layers.LSTM, 4, return_sequences=True, shape=(6, 4)),
    "standardized LSTM": one(
        tfgn.layers.WeightStandardization, layers.LSTM(4, return_sequences=True), shape=(6, 4)
    ),
    "LSTM, unrolled": one(layers.LSTM, 4, return_sequences=True, unroll=True, shape=(6, 4)),
    "GRU, both ways, masked": row(
        layers.Masking, lambda: layers.Bidirectional(layers.GRU(4)), shape=(6, 4)
    ),
    "ConvLSTM2D": one(layers.ConvLSTM2D, 4, 3, shape=(3, 6, 6, 4)),
    "TimeDistributed": one(layers.TimeDistributed, layers.Conv2D(4, 3), shape=(3, 8, 8, 4)),
    # What does something in training, or to the inputs
    "activations": _activations,
    "noise": row(
        lambda: layers.Dropout(0.5),
        lambda: layers.SpatialDropout2D(0.5),
        lambda: layers.GaussianNoise(0.5),
        lambda: layers.GaussianDropout(0.5),
        lambda: layers.RandomFlip(),
        lambda: layers.RandomRotation(0.5),
        lambda: layers.RandomZoom(0.5),
    ),
    "Rescaling of uint8": one(layers.Rescaling, 1 / 255, dtype="uint8"),
    "uint8": row(dtype="uint8"),
    "Normalization": one(layers.Normalization, mean=0.5, variance=2.0),
    "Discretization": row(
        lambda: layers.Discretization([0.0, 1.0]), lambda: layers.Embedding(3, 4), shape=(6,)
    ),
    "CategoryEncoding": one(
        layers.CategoryEncoding, 4, output_mode="multi_hot", shape=(3,), dtype="int64"
    ),
    "Hashing": row(
        lambda: layers.Hashing(5), lambda: layers.Embedding(5, 4), shape=(6,), dtype="int64"
    ),
    "IntegerLookup": row(
        lambda: layers.IntegerLookup(vocabulary=[0, 1]),
        lambda: layers.Embedding(3, 4),
        shape=(6,),
        dtype="int64",
    ),
    # Functions of TensorFlow
    "tf.ensure_shape": function(lambda x: 2 * tf.ensure_shape(x, [None, 8, 8, 4])),
    "tf.debugging.check_numerics": function(lambda x: tf.debugging.check_numerics(x, "a message")),
    "tf.debugging.assert_less, tf.print": function(_asserted),
    "tf.stop_gradient": function(lambda x: 2 * tf.stop_gradient(x)),
    "tf.custom_gradient": function(_doubled),
    "tf.function(jit_compile=True)": function(tf.function(lambda x: 2 * x, jit_compile=True)),
    "PreventGradient": function(lambda x: 2 * tf.raw_ops.PreventGradient(input=x)),
    "Snapshot, DeepCopy": function(lambda x: tf.raw_ops.DeepCopy(x=tf.raw_ops.Snapshot(input=x))),
    "IdentityN": function(lambda x: tf.raw_ops.IdentityN(input=[2 * x, x])[0]),
    "PlaceholderWithDefault": function(
        lambda x: tf.compat.v1.placeholder_with_default(2.0, []) * x
    ),
    "tf.while_loop": function(_looped),
    "tf.math.erfc, tf.math.expm1 in a loop": function(_complements_in_a_loop),
    "tf.cond": function(_branched),
}

#: What a runtime lacks, by model and format; "openvino" is the target.
REFUSED = {
    ("UpSampling2D, bicubic", "openvino"): "The export differs from the model .* difference is 0.0",
    ("GRU, both ways, masked", "openvino"): "OpenVINO .*does not read Loop .*unroll recurrent",
    ("ConvLSTM2D", "openvino"): "OpenVINO .*does not read Loop .*unroll recurrent layers, or take",
    ("UpSampling2D, bicubic", "tflite"): "it has none for ResizeBicubic$",
    ("UpSampling2D, lanczos3", "tflite"): "it has none for ScaleAndTranslate$",
    ("UpSampling2D, lanczos3", "onnx"): "ONNX has no operator for ScaleAndTranslate",
    ("Conv3D, groups", "tflite"): r"does not run: .*\(CONV_3D\)",
    ("Conv2DTranspose, dilated", "tflite"): "it has none for Conv2DBackpropInput$",
    ("Conv2DTranspose, channels_first", "tflite"): "it has none for DataFormatVecPermute$",
    ("MaxPooling3D", "tflite"): "it has none for MaxPool3D$",
    ("MultiHeadAttention, causal, any size", "tflite"): "it has none for StridedSlice$",
    ("LSTM", "tflite"): "'tf.TensorListReserve' op .* need a fixed batch size: pass input_signat",
    ("standardized LSTM", "tflite"): "'tf.TensorListReserve' op .* need a fixed batch size",
    ("GRU, both ways, masked", "tflite"): "'tf.TensorListReserve' op .* need a fixed batch size",
    ("ConvLSTM2D", "tflite"): "'tf.TensorListReserve' op .* need a fixed batch size",
    ("Discretization", "onnx"): "ONNX has no operator for Bucketize",
    ("CategoryEncoding", "tflite"): "it has none for DenseBincount$",
    ("Hashing", "tflite"): "it has none for AsString, StringToHashBucketFast .*look strings and in",
    ("Hashing", "onnx"): "ONNX has no operator for StringToHashBucketFast",
    ("IntegerLookup", "tflite"): "it has none for HashTableV2, .*look strings and integers up befo",
    ("tf.math.erfc, tf.math.expm1 in a loop", "tflite"): "it has none for Erfc$",
    ("IntegerLookup", "onnx"): "ONNX has no operator for HashTableV2, .*look strings and integers",
}


def built(name):
    """The model of that name, with random weights."""
    model = BUILD[name]()
    generator = np.random.default_rng(1)
    for weight in model.weights:
        if keras.backend.is_float_dtype(weight.dtype):
            value = generator.standard_normal(weight.shape)
            weight.assign(np.abs(value) if "variance" in weight.name else value)
    return model
