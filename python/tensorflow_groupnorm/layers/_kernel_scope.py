"""Replaces what a layer reads from its kernel variables, for the time of a call."""

import keras


class KernelScope(keras.StatelessScope):
    """Within it, and in this thread only, some variables read as other tensors.

    Everything else is as outside of it: other variables keep their values (also those that an
    enclosing scope gives them), assignments and losses are handed on at the exit.

    Args:
        layer: the layer that losses added within the scope belong to.
        replacements: list of `(keras.Variable, tensor)`.
    """

    def __init__(self, layer, replacements):
        super().__init__(collect_losses=True)
        self._layer = layer
        self._replacements = replacements
        self._assigned = {}

    def get_current_value(self, variable):
        """Returns the tensor that `variable` reads as, or None for its own value."""
        for replaced, tensor in self._replacements:
            if replaced is variable:
                return keras.ops.cast(tensor, variable.dtype)
        value = super().get_current_value(variable)
        if value is None and self.original_scope is not None:
            value = self.original_scope.get_current_value(variable)
        return value

    def add_update(self, update):
        """Notes an assignment `(variable, value)`; later reads in the scope see it."""
        super().add_update(update)
        self._assigned[id(update[0])] = update

    def __exit__(self, *exception):
        super().__exit__(*exception)
        if exception[0] is None:
            for variable, value in self._assigned.values():
                variable.assign(value)
            for loss in self.losses:
                self._layer.add_loss(loss)
