"""Names that the command needs before it imports the library."""

#: What `tensorflow_groupnorm.export` writes for, by name: the format of the file.
TARGETS = {
    "saved_model": "saved_model",
    "saved_model_portable": "saved_model",
    "litert": "tflite",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "openvino": "onnx",
    "tensorrt": "onnx",
}

#: The targets whose files can be int8.
INT8_TARGETS = ("litert", "onnx", "onnxruntime")

#: The formats of `tensorflow_groupnorm.export`.
FORMATS = ("saved_model", "tflite", "onnx")

#: The file name of the op library.
OP_LIBRARY = "_tfgn_ops.so"
