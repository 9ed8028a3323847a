"""The changes to make in a model, and how layers are built."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from .._keras import build_by_run, is_default, name_scopes
from .walk import Path


@dataclasses.dataclass(frozen=True)
class Build:
    """How a layer was built.

    Attributes:
        config: the build config of the layer, or None if it was not built.
        scope: the name scope of the layer, which is part of the paths of its variables.
    """

    config: dict[str, Any] | None
    scope: str

    @classmethod
    def of(cls, layer: keras.Layer) -> Build:
        """Returns how a layer was built."""
        config = layer.get_build_config() if layer.built else None
        return cls(config, (layer.path or "").rpartition("/")[0])

    def apply(self, layer: keras.Layer) -> None:
        """Builds another layer in the same way, or traces its `call` if it has no `build`."""
        if layer.built or not self.config:
            return
        with name_scopes(self.scope):
            if not is_default(layer.build):
                layer.build_from_config(self.config)
            else:
                build_by_run(layer, self.config)


@dataclasses.dataclass(frozen=True)
class Change:
    """The replacement of a layer. All paths start at the model that is converted.

    Attributes:
        path: the path to the layer to replace.
        layer: the replacement, which is not built yet.
        replaces: the class name of the layer to replace.
        build: how the layer was built and its replacement is to be built.
        addition: the path to the addition that the replacement absorbs, or None.
        norm_input: the input of the addition, 0 or 1, that comes from the layer.
        activation: the path to the activation that the replacement absorbs, or None.
    """

    path: Path
    layer: keras.Layer
    replaces: str
    build: Build
    addition: Path | None = None
    norm_input: int = 0
    activation: Path | None = None

    def below(self, start: Path) -> Change:
        """Returns the change with paths that start at the layer at `start`."""
        n = len(start)
        return dataclasses.replace(
            self,
            path=self.path[n:],
            addition=self.addition and self.addition[n:],
            activation=self.activation and self.activation[n:],
        )


@dataclasses.dataclass(frozen=True)
class Pair:
    """A normalization and what reads its output, which become one `RecomputedNormalization`.

    All paths start at the model that is converted. The layers stay as they are.

    Attributes:
        path: the path to the normalization.
        readers: for each output of the new layer, the paths to the layers that are applied to the
            normalized tensor, one after the other; none for the normalized tensor itself.
    """

    path: Path
    readers: tuple[tuple[Path, ...], ...]

    def below(self, start: Path) -> Pair:
        """Returns the pair with paths that start at the layer at `start`."""
        n = len(start)
        readers = tuple(tuple(path[n:] for path in reader) for reader in self.readers)
        return Pair(self.path[n:], readers)
