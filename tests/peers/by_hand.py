"""torch, written by hand: batched products of matrices for all outputs at once, no automatic differentiation.

In float64 the same serves as the reference that every peer and fisherflow are compared with.
"""

import torch

from problem import JACOBIANS, PRIOR_PRECISION, Row

# Four roundings to float32, relative to the sum of a ReLU's argument in absolute values.
KINK = 4 * 2.0**-24


class Network:
    """A ReLU network; gradients of all K outputs are stacked as [K * n, width]."""

    def __init__(self, problem, dtype):
        self.weights = [torch.from_numpy(weight).to(dtype).contiguous() for weight in problem.weights]
        self.biases = [torch.from_numpy(bias).to(dtype) for bias in problem.biases]

    def forward(self, flux):
        """The input of every layer."""
        inputs = [flux]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1]):
            inputs.append(torch.addmm(bias, inputs[-1], weight.T).relu_())
        return inputs

    def near_kinks(self, flux):
        """Of each spectrum, whether some ReLU's argument is within rounding of 0, where two ways of adding up may differ in the derivative."""
        near = torch.zeros(len(flux), dtype=torch.bool)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1]):
            argument = torch.addmm(bias, flux, weight.T)
            near |= (argument.abs() < KINK * (flux.abs() @ weight.abs().T + bias.abs())).any(1)
            flux = argument.relu_()
        return near

    def gradients(self, inputs, first=0):
        """d output_k / d pre-activation of every layer from `first` on, [K, n, out]."""
        n, labels = len(inputs[0]), len(self.weights[-1])
        identity = torch.eye(labels, dtype=self.weights[0].dtype)
        gradients = [None] * len(self.weights)
        gradients[-1] = identity[:, None, :].expand(labels, n, labels)
        for layer in range(len(self.weights) - 1, first, -1):
            weight, active = self.weights[layer], inputs[layer] > 0
            if layer == len(self.weights) - 1:
                gradients[layer - 1] = weight[:, None, :] * active
            else:
                product = gradients[layer].reshape(labels * n, -1) @ weight
                gradients[layer - 1] = product.view(labels, n, -1).mul_(active)
        return gradients


def with_one(inputs):
    return torch.cat([inputs, torch.ones(len(inputs), 1, dtype=inputs.dtype)], 1)


def flat(gradient):
    return gradient.reshape(-1, gradient.shape[-1])


class ByHand(Row):
    """In the inputs' type; where `reduced` names another, network and spectra are converted to it."""

    def __init__(self, problem, reduced=None):
        super().__init__(problem)
        self.flux, self.sigma = torch.from_numpy(problem.flux), torch.from_numpy(problem.sigma)
        self.type = reduced or self.flux.dtype
        self.flux = self.flux.to(self.type)
        self.network = Network(problem, self.type)
        self.shapes = [(len(weight), weight.shape[1] + 1) for weight in self.network.weights]

    def zeros(self, shapes):
        return [torch.zeros(*shape, dtype=self.type) for shape in shapes]

    def bases(self, side):
        return [torch.from_numpy(self.problem.basis(name, side)) for name in self.problem.names]

    def captures(self, rows, first=0):
        inputs = self.network.forward(self.flux[rows])
        return inputs, self.network.gradients(inputs, first)

    def near_kinks(self, batch=512):
        parts = [self.network.near_kinks(self.flux[first : first + batch]) for first in range(0, len(self.flux), batch)]
        return torch.cat(parts).numpy()

    def by_layer(self, **sums):
        probed = self.problem.probed
        return {
            f"{name}.{part}": probed(matrix) for part, matrices in sums.items() for name, matrix in zip(self.problem.names, matrices)
        }


class Jacobian(ByHand):
    """J kept: [K, n, D] of every batch at its place in one array."""

    def __init__(self, problem, reduced=None):
        super().__init__(problem, reduced)
        self.kept = torch.empty(problem.n_labels * len(self.flux), self.flux.shape[1], dtype=self.type)

    def jacobian(self, gradients, rows):
        labels, n = self.problem.n_labels, rows.stop - rows.start
        out = self.kept[labels * rows.start : labels * rows.stop]
        jacobian = torch.mm(flat(gradients[0]), self.network.weights[0], out=out).view(labels, n, -1)
        if rows.start == 0:
            self.first = jacobian
        return jacobian

    def batch(self, rows):
        self.jacobian(self.captures(rows)[1], rows)

    def results(self):
        return {"jacobian": self.first[:, :JACOBIANS].transpose(0, 1).double().numpy()}


class FluxCovariance(ByHand):
    def start(self):
        self.covariance = []

    def covariance_of(self, jacobian, rows):
        scaled = jacobian.transpose(0, 1).to(self.sigma.dtype) * self.sigma[rows][:, None, :]
        self.covariance.append(torch.bmm(scaled, scaled.transpose(1, 2)))

    def batch(self, rows):
        _, gradients = self.captures(rows)
        jacobian = flat(gradients[0]) @ self.network.weights[0]
        self.covariance_of(jacobian.view(self.problem.n_labels, rows.stop - rows.start, -1), rows)

    def results(self):
        return {"flux_covariance": torch.cat(self.covariance).double().numpy()}


class Diagonal(ByHand):
    def start(self):
        self.sums = self.zeros(self.shapes)

    def batch(self, rows):
        inputs, gradients = self.captures(rows)
        for total, given, gradient in zip(self.sums, inputs, gradients):
            total.addmm_(gradient.square().sum(0).T, with_one(given).square())

    def results(self):
        return self.by_layer(diagonal=self.sums)


class Kfac(ByHand):
    def start(self):
        self.a, self.g = self.zeros([(a, a) for _, a in self.shapes]), self.zeros([(g, g) for g, _ in self.shapes])

    def add(self, inputs, gradients):
        for a, g, given, gradient in zip(self.a, self.g, inputs, gradients):
            given, gradient = with_one(given), flat(gradient)
            a.addmm_(given.T, given)
            g.addmm_(gradient.T, gradient)

    def batch(self, rows):
        self.add(*self.captures(rows))

    def results(self):
        apart = {}
        for name, a, g in zip(self.problem.names, self.a, self.g):
            apart[f"{name}.a_without_bias"] = self.problem.probed(a[:-1, :-1])
            apart[f"{name}.g_times_trace_a"] = self.problem.probed(g) * float(a[:-1, :-1].trace()) / len(self.flux)
        return self.by_layer(a=self.a, g=self.g) | apart


class Correction(ByHand):
    def __init__(self, problem):
        super().__init__(problem)
        self.v, self.u = self.bases("a"), self.bases("g")

    def start(self):
        self.sums = self.zeros(self.shapes)

    def batch(self, rows):
        inputs, gradients = self.captures(rows)
        for total, v, u, given, gradient in zip(self.sums, self.v, self.u, inputs, gradients):
            rotated = (flat(gradient) @ u).view(gradient.shape).square_().sum(0)
            total.addmm_(rotated.T, (with_one(given) @ v).square_())

    def results(self):
        return self.by_layer(eigenvalues=self.sums)


class Weights(ByHand):
    def __init__(self, problem):
        super().__init__(problem)
        self.v, self.u = self.bases("a"), self.bases("g")
        inverse = lambda name: (1 / (problem.eigenvalues(name) + PRIOR_PRECISION)).astype(problem.dtype)
        self.inverse = [torch.from_numpy(inverse(name)) for name in problem.names]

    def start(self):
        self.covariance = []

    def covariance_of(self, inputs, gradients):
        total = 0
        for v, u, inverse, given, gradient in zip(self.v, self.u, self.inverse, inputs, gradients):
            weight = (with_one(given) @ v).square_() @ inverse.T
            rotated = (flat(gradient) @ u).view(gradient.shape)
            total = total + torch.bmm((rotated * weight).transpose(0, 1), rotated.permute(1, 2, 0))
        self.covariance.append(total)

    def batch(self, rows):
        self.covariance_of(*self.captures(rows))

    def results(self):
        return {"weights_covariance": torch.cat(self.covariance).double().numpy()}


class WeightsApart(Weights):
    """With weights and biases as blocks of their own, as laplace-torch has them: only to compare with."""

    def covariance_of(self, inputs, gradients):
        total = 0
        for name, u, given, gradient in zip(self.problem.names, self.u, inputs, gradients):
            eigenvalues = torch.from_numpy(self.problem.eigenvalues(name).astype(self.problem.dtype))
            inverse = 1 / (eigenvalues + PRIOR_PRECISION)
            v = torch.from_numpy(self.problem.basis_of_weights(name))
            weight = (given @ v).square() @ inverse[:, :-1].T + inverse[:, -1]
            rotated = (flat(gradient) @ u).view(gradient.shape)
            total = total + torch.bmm((rotated * weight).transpose(0, 1), rotated.permute(1, 2, 0))
        self.covariance.append(total)

    def results(self):
        return {"weights_covariance_apart": torch.cat(self.covariance).double().numpy()}


class LastTwo(ByHand):
    def start(self):
        self.first = len(self.shapes) - 2
        size = sum(g * a for g, a in self.shapes[self.first :])
        self.sum = torch.zeros(size, size, dtype=self.type)

    def batch(self, rows):
        inputs, gradients = self.captures(rows, self.first)
        parts = []
        for given, gradient in zip(inputs[self.first :], gradients[self.first :]):
            parts.append((gradient[..., None] * with_one(given)[None, :, None, :]).reshape(flat(gradient).shape[0], -1))
        jacobian = torch.cat(parts, 1)
        self.sum.addmm_(jacobian.T, jacobian)

    def results(self):
        return {"+".join(self.problem.names[-2:]) + ".dense": self.problem.probed(self.sum)}


class Fit(Jacobian, Kfac, FluxCovariance):
    """J kept, its covariance and the Kronecker factors from one forward and one backward pass."""

    def start(self):
        Kfac.start(self)
        FluxCovariance.start(self)

    def batch(self, rows):
        inputs, gradients = self.captures(rows)
        self.add(inputs, gradients)
        self.covariance_of(self.jacobian(gradients, rows), rows)
        return inputs, gradients

    def results(self):
        return Jacobian.results(self) | Kfac.results(self) | FluxCovariance.results(self)


class All(Fit):
    """The same, and the weights' covariance."""

    def __init__(self, problem):
        super().__init__(problem)
        self.weights = Weights(problem)

    def start(self):
        super().start()
        self.weights.start()

    def batch(self, rows):
        self.weights.covariance_of(*super().batch(rows))

    def results(self):
        return super().results() | self.weights.results()


def reduced(row):
    return lambda problem: row(problem, torch.bfloat16)


def medium(row):
    """float32 outside, the products as bfloat16 where torch has them."""

    def make(problem):
        torch.set_float32_matmul_precision("medium")
        return row(problem)

    return make


ROWS = {
    "jacobian": Jacobian,
    "flux_covariance": FluxCovariance,
    "diagonal": Diagonal,
    "kfac": Kfac,
    "correction": Correction,
    "weights": Weights,
    "weights_apart": WeightsApart,
    "last_two": LastTwo,
    "fit": Fit,
    "all": All,
}

# Faster and less exact than 1e-4: shown apart.
LESS_EXACT = {
    "torch bf16": {"jacobian": reduced(Jacobian), "flux_covariance": reduced(FluxCovariance)},
    "torch medium": {name: medium(row) for name, row in ROWS.items()},
}
