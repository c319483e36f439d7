"""Give a vision encoder a spatial channel, take it off again, and look at it.

Open `boost.py` first: it finds the attention layers (`find`), refuses what cannot be boosted (`refuse`), freezes the
base (`freeze`) and attaches a channel to each layer (`channel`). The reference forward is the host's own, run once for
each channel; `fused.py` runs both channels at once, by the kernels of `kernels.py`. `fuse.py` folds both into one plain
attention for export.
"""

from spatialboost.boosting.boost import (
    Status,
    boost,
    disabled,
    named_parameters,
    param_groups,
    set_kernel,
    status,
    unboost,
)
from spatialboost.boosting.fuse import fuse

__all__ = ["Status", "boost", "disabled", "fuse", "named_parameters", "param_groups", "set_kernel", "status", "unboost"]
