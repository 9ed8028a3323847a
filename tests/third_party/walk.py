"""The layers that can be reached from a model, those in plain Python objects included."""

import inspect

import keras

# What leads out of a layer: to the graphs it was called in, and to what Keras keeps of it.
_NOT_PARTS = {
    *("_inbound_nodes", "_outbound_nodes", "_nodes", "_nodes_by_depth", "_tracker"),
    *("_call_signature", "_build_shapes_dict", "_metrics_lock", "optimizer", "_loss_tracker"),
    *("train_function", "test_function", "predict_function", "_compile_loss", "_compile_metrics"),
}
_LEAVES = (str, bytes, int, float, complex, type, type(None), type(inspect))
_STRANGERS = ("tensorflow.", "numpy", "keras.src.backend", "keras.src.dtype_policies", "threading")


def layers(model):
    """Returns all layers that can be reached from a model, itself first, each once.

    Beyond what Keras tracks: through attributes of layers and of plain objects, lists, sets, dicts,
    and what functions close over.
    """
    found, seen, stack = [], set(), [model]
    while stack:
        part = stack.pop()
        if isinstance(part, _LEAVES) or id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, keras.layers.Layer):
            found.append(part)
        stack.extend(reversed(_parts(part)))
    return found


def _parts(part):
    if isinstance(part, dict):
        return [*part.values()]
    if isinstance(part, (list, tuple, set, frozenset)):
        return [*part]
    if inspect.ismethod(part):
        return [part.__self__, part.__func__]
    if inspect.isfunction(part):
        return [cell.cell_contents for cell in part.__closure__ or () if _filled(cell)]
    module = type(part).__module__ or ""
    if not hasattr(part, "__dict__") or module.startswith(_STRANGERS):
        return []
    return [value for name, value in vars(part).items() if name not in _NOT_PARTS]


def _filled(cell):
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def variables(model):
    """Returns the variables of all layers that can be reached, each once."""
    found = {}
    for layer in layers(model):
        for variable in layer.variables:
            found.setdefault(id(variable), variable)
    return list(found.values())


def classes(model):
    """Returns the names of the classes of the layers that have weights, sorted."""
    found = [type(layer) for layer in layers(model) if layer.variables]
    return sorted(f"{kind.__module__}.{kind.__name__}" for kind in found)
