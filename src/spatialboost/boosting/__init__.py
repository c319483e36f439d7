"""Give a vision encoder a spatial channel, take it off again, and look at it.

Open `boost.py` first: it finds the attention layers (`find`, `select`), refuses what cannot be boosted (`refuse`),
freezes the base (`freeze`) and attaches a channel to each layer (`attach`). `channel.py` holds the weights and the
gate; `views.py` lets the host's own forward run with the weights of Attn+. The reference forward runs the host's own
forward once for each channel. `joint.py` runs both channels at once, with the kernels of `kernels.py`; `set_kernel.py`
chooses between the two. `fuse.py` turns both channels into one plain attention for export. `canonical.py` reads weights
under names that are the same for every host. `status.py` reads what is set; `verify.py` runs the model and looks.
"""

from spatialboost.boosting.boost import boost, disabled, reset, unboost
from spatialboost.boosting.fuse import fuse
from spatialboost.boosting.parameters import named_parameters, param_groups
from spatialboost.boosting.set_kernel import set_kernel
from spatialboost.boosting.status import Status, status
from spatialboost.boosting.verify import Verification, verify

__all__ = [
    "Status",
    "Verification",
    "boost",
    "disabled",
    "fuse",
    "named_parameters",
    "param_groups",
    "reset",
    "set_kernel",
    "status",
    "unboost",
    "verify",
]
