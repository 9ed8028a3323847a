"""Names that the command knows before it imports the library."""

#: What `tensorflow_groupnorm.export` can write.
FORMATS = ("saved_model", "tflite", "onnx")

#: The file of the op library.
OP_LIBRARY = "_tfgn_ops.so"
