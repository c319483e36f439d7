from __future__ import annotations

from training_rows import one_thread, parquet, parts, quiet, rows

__all__ = ["one_thread", "parquet", "parts", "quiet", "rows"]
