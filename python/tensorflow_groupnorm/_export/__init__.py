"""Exports models for serving: standardized kernels as constants, optionally no custom ops."""

from .errors import ExportError
from .export import Exported, export

__all__ = ["ExportError", "Exported", "export"]
