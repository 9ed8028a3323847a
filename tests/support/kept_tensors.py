"""Which tensors of the forward pass a training step keeps for its backward pass, from the graph."""

import collections

import keras
import tensorflow as tf

_OF_SHAPES = {"Shape", "ShapeN", "Size", "Rank", "BroadcastGradientArgs"}
_OF_THE_SAME_MEMORY = {"Identity", "IdentityN", "Reshape", "StopGradient"}
_NOT_COMPUTED = {"ReadVariableOp", "Const", "Placeholder", "Arg"}


def kept_bytes(model, batch):
    """Returns the bytes of kept tensors by the type of the op that computed them.

    Args:
        model: a classifier.
        batch: number of images in a step.
    """
    operations = operations_for(_training_graph(model, batch).outputs)
    backward = _backward(operations)
    kept = {}
    for operation in operations:
        if operation.name not in backward or operation.type in _OF_SHAPES:
            continue
        if operation.type in _OF_THE_SAME_MEMORY and not _is_read(operation):
            continue
        for tensor in operation.inputs:
            if tensor.op.name not in backward and tensor.dtype.is_floating:
                tensor = _computed(tensor)
                kept[tensor.ref()] = tensor
    total = collections.Counter()
    for tensor in kept.values():
        if tensor.op.type not in _NOT_COMPUTED:
            total[tensor.op.type] += tensor.shape.num_elements() * tensor.dtype.size
    return total


def operations_for(tensors):
    """Returns the operations that tensors of a graph need, in the order of the graph."""
    pending, found = [x.op for x in tensors], set()
    while pending:
        operation = pending.pop()
        if operation.name not in found:
            found.add(operation.name)
            pending += [*(x.op for x in operation.inputs), *operation.control_inputs]
    return [op for op in tensors[0].graph.get_operations() if op.name in found]


def _training_graph(model, batch):
    values = [v.value for v in model.trainable_variables]

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = keras.losses.sparse_categorical_crossentropy(y, model(x, training=True))
            loss = tf.reduce_mean(loss)
        return tape.gradient(loss, values)

    shape = (batch, *model.inputs[0].shape[1:])
    return step.get_concrete_function(tf.TensorSpec(shape), tf.TensorSpec([batch], tf.int32)).graph


def _backward(operations):
    """Returns the names of the operations that come after the gradient of the loss."""
    found = {op.name for op in operations if op.name.startswith("gradient_tape")}
    before = -1
    while len(found) > before:
        before = len(found)
        for op in operations:
            sources = [*(x.op for x in op.inputs), *op.control_inputs]
            if any(source.name in found for source in sources):
                found.add(op.name)
    return found


def _is_read(operation):
    return any(reader.type not in _OF_SHAPES for reader in operation.outputs[0].consumers())


def _computed(tensor):
    while tensor.op.type in _OF_THE_SAME_MEMORY:
        tensor = tensor.op.inputs[tensor.value_index if tensor.op.type == "IdentityN" else 0]
    return tensor
