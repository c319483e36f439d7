"""Give a vision encoder a spatial channel, take it off again, and look at it.

Open `boost.py` first: it finds the attention layers (`find`, `select`), refuses what cannot be boosted (`refuse`),
freezes the base (`freeze`) and attaches a channel to each layer (`attach`). `channel.py` holds the weights and the
gate, `views.py` what Attn+ sees of the host. The reference forward is the host's own, run once for each channel;
`joint.py` runs both channels at once, by the kernels of `kernels.py`, and `set_kernel.py` chooses. `fuse.py` makes one
plain attention of both for export, `canonical.py` reads weights under names that no host decides.
"""

from spatialboost.boosting.boost import boost, disabled, unboost
from spatialboost.boosting.fuse import fuse
from spatialboost.boosting.parameters import named_parameters, param_groups
from spatialboost.boosting.set_kernel import set_kernel
from spatialboost.boosting.status import Status, status

__all__ = ["Status", "boost", "disabled", "fuse", "named_parameters", "param_groups", "set_kernel", "status", "unboost"]
