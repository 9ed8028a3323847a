"""What is to be changed in a model, and how layers are built."""

from __future__ import annotations

import dataclasses

import keras

from .._keras import build_by_run, is_default, name_scopes
from .walk import Path


@dataclasses.dataclass(frozen=True)
class Build:
    """How a layer was built.

    Attributes:
        config: the build config of the layer; None if it was not built.
        scope: the name scope of the layer, which is in the paths of its variables.
    """

    config: dict | None
    scope: str

    @classmethod
    def of(cls, layer: keras.Layer) -> Build:
        """Returns how a layer was built."""
        config = layer.get_build_config() if layer.built else None
        return cls(config, (layer.path or "").rpartition("/")[0])

    def apply(self, layer: keras.Layer):
        """Builds another layer in the same way; if it has no `build`, by a trace of its `call`."""
        if layer.built or not self.config:
            return
        with name_scopes(self.scope):
            if not is_default(layer.build):
                layer.build_from_config(self.config)
            else:
                build_by_run(layer, self.config)


@dataclasses.dataclass(frozen=True)
class Change:
    """A layer that another takes the place of. All paths are from the model that is converted.

    Attributes:
        path: to the layer.
        layer: the other, not built yet.
        replaces: the name of the layer's class.
        build: how the layer was built, and the other is to be.
        addition: the path to the addition that it does as well, or None.
        norm_input: which of the two inputs of the addition comes from the layer.
        activation: the path to the activation that it does as well, or None.
    """

    path: Path
    layer: keras.Layer
    replaces: str
    build: Build
    addition: Path | None = None
    norm_input: int = 0
    activation: Path | None = None

    def below(self, start: Path) -> Change:
        """Returns the change with paths from the layer at `start`."""

        def cut(path):
            return None if path is None else path[len(start) :]

        return dataclasses.replace(
            self,
            path=cut(self.path),
            addition=cut(self.addition),
            activation=cut(self.activation),
        )
