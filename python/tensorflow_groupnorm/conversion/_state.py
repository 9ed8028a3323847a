"""The layers inside a layer, and how weights go from one layer to another."""

from __future__ import annotations

import tempfile

import keras

#: Where Keras lists the layers that it found in the other attributes.
_BOOKKEEPING = ("_layers",)


def children(layer) -> dict[tuple, keras.Layer]:
    """Returns the layers that a layer holds, by the attribute and the keys that lead to them."""
    found = {}
    for name, value in vars(layer).items():
        if name not in _BOOKKEEPING:
            found.update(_inside(value, (name,)))
    return found


def _inside(value, path: tuple) -> dict[tuple, keras.Layer]:
    if isinstance(value, keras.Layer):
        return {path: value}
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return {}
    return {p: child for key, item in items for p, child in _inside(item, (*path, key)).items()}


def set_children(layer, replacements: dict[tuple, keras.Layer]):
    """Puts other layers in the place of those that `children` returns, under the same paths."""
    tracker = layer._tracker
    locked, tracker.locked = tracker.locked, False
    for path, child in children(layer).items():
        if path in replacements:
            tracker.untrack(child)
    for name in {path[0] for path in replacements}:
        setattr(layer, name, _substituted(getattr(layer, name), (name,), replacements))
    tracker.locked = locked


def _substituted(value, path: tuple, replacements: dict[tuple, keras.Layer]):
    if path in replacements:
        return replacements[path]
    if isinstance(value, dict):
        return {k: _substituted(item, (*path, k), replacements) for k, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_substituted(item, (*path, i), replacements) for i, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    return value


def copy_all(old, new):
    """Copies the state of a layer and of all layers inside to a layer made from its config."""
    if not old.built:
        return
    _build_like(old, new)
    if old._layers:
        new.set_weights(old.get_weights())
        return
    copy_own(old, new)
    if hasattr(old, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)


def copy_own(old, new):
    """Copies the variables of a layer, without those of layers inside."""
    if not old.built:
        return
    _build_like(old, new)
    store = {}
    old.save_own_variables(store)
    if store:
        new.load_own_variables(store)


def copy_rest(old, new, replaced: dict[tuple, keras.Layer]):
    """Copies the state of a layer without that of the layers inside that were replaced."""
    copy_own(old, new)
    new_children = children(new)
    for path, child in children(old).items():
        if path not in replaced and path in new_children:
            copy_all(child, new_children[path])


def copy_norm(old, new):
    """Copies `gamma` and `beta` of a normalization layer, as far as it has them."""
    for name in ("gamma", "beta"):
        if getattr(new, name) is not None:
            getattr(new, name).assign(getattr(old, name))


def copy_kernels(old, new):
    """Copies the variables of a layer to its standardized counterpart, which may have gains."""
    if isinstance(new, keras.layers.Wrapper):
        new = new.layer
    for variable in old.weights:
        getattr(new, variable.name).assign(variable)


def _build_like(old, new):
    if not new.built:
        new.build_from_config(old.get_build_config())
