"""Models for serving: standardized kernels as constants, and if wished no custom op at all."""

from .errors import ExportError
from .export import Exported, export

__all__ = ["ExportError", "Exported", "export"]
