"""`python -m tests.clients.with_netket`: a run of NetKet's, with Optax and with its face."""

import netket
import numpy as np

from tests.clients.comparing import STEPS, compare


def vmc(optax):
    """VMC of an Ising chain with a complex RBM, over all states, so that nothing is drawn."""
    hilbert = netket.hilbert.Spin(0.5, 4)
    energy = netket.operator.IsingJax(hilbert, netket.graph.Chain(4), h=0.7)
    psi = netket.vqs.FullSumState(hilbert, netket.models.RBM(param_dtype=complex), seed=1)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.05, momentum=0.9))
    driver = netket.driver.VMC(energy, tx, variational_state=psi)
    log = netket.logging.RuntimeLog()
    driver.run(STEPS, out=log, show_progress=False)
    return list(np.asarray(log.data["Energy"]["Mean"]).real), psi.parameters


if __name__ == "__main__":
    compare(vmc, (), 1e-6)
