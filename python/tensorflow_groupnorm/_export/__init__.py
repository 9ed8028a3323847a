"""Models for serving: standardized kernels as constants, and if wished no custom op at all."""

from ._errors import ExportError
from ._export import Exported, export

__all__ = ["ExportError", "Exported", "export"]
