"""Names that the command needs before it imports the library."""

#: The formats of `tensorflow_groupnorm.export`.
FORMATS = ("saved_model", "tflite", "onnx")

#: The file name of the op library.
OP_LIBRARY = "_tfgn_ops.so"
