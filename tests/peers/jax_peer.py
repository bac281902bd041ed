"""JAX on the CPU: one compiled function a batch, in which XLA may fuse what it likes."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from problem import JACOBIANS, Row


def network(parameters, flux):
    for layer, (weight, bias) in enumerate(parameters):
        flux = flux @ weight.T + bias
        if layer + 1 < len(parameters):
            flux = jax.nn.relu(flux)
    return flux


class Jax(Row):
    def __init__(self, problem):
        super().__init__(problem)
        self.parameters = [(jnp.asarray(weight), jnp.asarray(bias)) for weight, bias in zip(problem.weights, problem.biases)]
        self.flux, self.sigma = jnp.asarray(problem.flux), jnp.asarray(problem.sigma)
        self.compiled = jax.jit(self.compute)

    @staticmethod
    def jacobian(parameters, flux):
        """[n, K, D] by one pull-back of the K seeds."""
        _, pull = jax.vjp(lambda flux: network(parameters, flux), flux)
        labels = parameters[-1][0].shape[0]
        seeds = jnp.broadcast_to(jnp.eye(labels)[:, None, :], (labels, len(flux), labels))
        return jax.vmap(lambda seed: pull(seed)[0], out_axes=1)(seeds)

    def batch(self, rows):
        self.kept[rows] = np.asarray(self.compiled(self.parameters, self.flux[rows], self.sigma[rows]))


class Jacobian(Jax):
    def __init__(self, problem):
        super().__init__(problem)
        self.kept = np.empty((len(problem.flux), problem.n_labels, problem.widths[0]), np.float32)

    def compute(self, parameters, flux, sigma):
        return self.jacobian(parameters, flux)

    def results(self):
        return {"jacobian": self.kept[:JACOBIANS].astype(np.float64)}


class PerSpectrumJacobian(Jacobian):
    """As the documentation has it: vmap(jacrev)."""

    def compute(self, parameters, flux, sigma):
        return jax.vmap(jax.jacrev(network, argnums=1), in_axes=(None, 0))(parameters, flux)


class FluxCovariance(Jax):
    def __init__(self, problem):
        super().__init__(problem)
        self.kept = np.empty((len(problem.flux), problem.n_labels, problem.n_labels), np.float32)

    def compute(self, parameters, flux, sigma):
        scaled = self.jacobian(parameters, flux) * sigma[:, None, :]
        return jnp.einsum("nkd,nld->nkl", scaled, scaled)

    def results(self):
        return {"flux_covariance": self.kept.astype(np.float64)}


ROWS = {
    "jax": {"jacobian": Jacobian, "flux_covariance": FluxCovariance},
    "jax vmap": {"jacobian": PerSpectrumJacobian},
}
