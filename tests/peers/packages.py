"""The packages, through their public classes: torch.func, torch.autograd.functional, BackPACK, curvlinops, laplace-torch.

Their curvature is of the loss sum (f - y)^2, twice the Gauss-Newton matrix of half that; what they give is divided by 2 to compare it. Where
a package knows only its own definition (weights and biases apart), the comparison is with the reference's part that is the same.
"""

import warnings

import numpy as np
import torch
from torch import nn

from problem import JACOBIANS, PRIOR_PRECISION, Row

warnings.filterwarnings("ignore")


def sequential(problem):
    layers = []
    for weight, bias in zip(problem.weights, problem.biases):
        layer = nn.Linear(weight.shape[1], len(weight), dtype=torch.from_numpy(weight).dtype)
        layer.weight.data, layer.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


class Package(Row):
    def __init__(self, problem):
        super().__init__(problem)
        self.model = sequential(problem)
        self.flux, self.sigma, self.labels = (torch.from_numpy(values) for values in (problem.flux, problem.sigma, problem.labels))
        self.loss = nn.MSELoss(reduction="sum")

    def modules(self):
        """The dense layers with their names in the inputs and their places in the Sequential."""
        return [(name, str(2 * layer)) for layer, name in enumerate(self.problem.names)]


class FuncJacobian(Package):
    def __init__(self, problem):
        super().__init__(problem)
        self.model.requires_grad_(False)
        self.kept = torch.empty(len(self.flux), problem.n_labels, self.flux.shape[1])
        self.jacobian = torch.func.vmap(torch.func.jacrev(self.model))

    def batch(self, rows):
        self.kept[rows] = self.jacobian(self.flux[rows])

    def results(self):
        return {"jacobian": self.kept[:JACOBIANS].double().numpy()}


class FunctionalCovariance(Package):
    """The Jacobian of the outputs' sums over the batch, one vectorised backward pass."""

    def __init__(self, problem):
        super().__init__(problem)
        self.model.requires_grad_(False)

    def start(self):
        self.covariance = []

    def batch(self, rows):
        summed = lambda flux: self.model(flux).sum(0)
        jacobian = torch.autograd.functional.jacobian(summed, self.flux[rows], vectorize=True).transpose(0, 1)
        scaled = jacobian * self.sigma[rows][:, None, :]
        self.covariance.append(torch.bmm(scaled, scaled.transpose(1, 2)))

    def results(self):
        return {"flux_covariance": torch.cat(self.covariance).double().numpy()}


class Backpack(Package):
    """What an extension leaves at every parameter, summed over batches."""

    def __init__(self, problem):
        from backpack import backpack, extend

        super().__init__(problem)
        self.backpack, self.model, self.loss = backpack, extend(self.model), extend(self.loss)

    def start(self):
        self.sums = {}

    def backward(self, rows, extension):
        self.model.zero_grad()
        with self.backpack(extension):
            self.loss(self.model(self.flux[rows]), self.labels[rows]).backward()

    def add(self, name, values):
        if name in self.sums:
            self.sums[name] += values
        else:
            self.sums[name] = values.detach()


class BackpackDiagonal(Backpack):
    def batch(self, rows):
        from backpack.extensions import DiagGGNExact

        self.backward(rows, DiagGGNExact())
        for name, parameter in self.model.named_parameters():
            self.add(name, parameter.diag_ggn_exact)
            del parameter.diag_ggn_exact

    def results(self):
        joined = lambda place: torch.cat([self.sums[f"{place}.weight"], self.sums[f"{place}.bias"][:, None]], 1) / 2
        return {f"{name}.diagonal": self.problem.probed(joined(place)) for name, place in self.modules()}


class BackpackKfac(Backpack):
    """KFLR: the exact factors, of weights and biases apart."""

    def batch(self, rows):
        from backpack.extensions import KFLR

        self.backward(rows, KFLR())
        n = rows.stop - rows.start
        for name, parameter in self.model.named_parameters():
            factors = parameter.kflr
            self.add(name + ".g", factors[0])
            if len(factors) > 1:
                self.add(name + ".a", factors[1] * n)
            del parameter.kflr

    def results(self):
        out = {}
        for name, place in self.modules():
            out[f"{name}.g"] = self.problem.probed(self.sums[f"{place}.weight.g"] / 2)
            out[f"{name}.a_without_bias"] = self.problem.probed(self.sums[f"{place}.weight.a"])
        return out


class Curvlinops(Package):
    """An operator over all batches of a pass: it takes its own loop."""

    def start(self):
        self.data = []

    def batch(self, rows):
        self.data.append((self.flux[rows], self.labels[rows]))

    def options(self):
        return {
            "fisher_type": "type-2",
            "check_deterministic": False,
            "num_data": sum(len(flux) for flux, _ in self.data),
            "num_per_example_loss_terms": 1,
            "separate_weight_and_bias": False,
        }


class CurvlinopsKfac(Curvlinops):
    def finish(self):
        from curvlinops import KFACLinearOperator

        self.operator = KFACLinearOperator(self.model, self.loss, list(self.model.parameters()), self.data, **self.options())
        self.operator.compute_kronecker_factors()

    def results(self):
        n = self.options()["num_data"]
        a, g = self.operator._input_covariances, self.operator._gradient_covariances
        out = {f"{name}.a": self.problem.probed(a[place] * n) for name, place in self.modules()}
        return out | {f"{name}.g": self.problem.probed(g[place] / 2) for name, place in self.modules()}


class CurvlinopsCorrection(Curvlinops):
    """The correction alone, in the bases at hand."""

    def __init__(self, problem):
        super().__init__(problem)
        bases = lambda side: {place: torch.from_numpy(problem.basis(name, side)) for name, place in self.modules()}
        self.a, self.g = bases("a"), bases("g")

    def finish(self):
        from curvlinops import EKFACLinearOperator

        self.operator = EKFACLinearOperator(self.model, self.loss, list(self.model.parameters()), self.data, **self.options())
        self.operator._input_covariances_eigenvectors = self.a
        self.operator._gradient_covariances_eigenvectors = self.g
        self.operator.compute_eigenvalue_correction()

    def results(self):
        corrected = self.operator._corrected_eigenvalues
        return {f"{name}.eigenvalues": self.problem.probed(corrected[place] / 2) for name, place in self.modules()}


class Laplace(Package):
    SUBSET, STRUCTURE = "all", "diag"

    def __init__(self, problem):
        from laplace import Laplace as make
        from laplace.curvature.backpack import BackPackGGN

        super().__init__(problem)
        self.laplace = make(
            self.model,
            "regression",
            subset_of_weights=self.SUBSET,
            hessian_structure=self.STRUCTURE,
            backend=BackPackGGN,
            prior_precision=PRIOR_PRECISION,
            **self.subset(),
        )

    def subset(self):
        return {}

    def start(self):
        self.data = []

    def batch(self, rows):
        self.data.append((self.flux[rows], self.labels[rows]))

    def loader(self):
        dataset = torch.utils.data.TensorDataset(torch.cat([x for x, _ in self.data]), torch.cat([y for _, y in self.data]))
        return torch.utils.data.DataLoader(dataset, batch_size=len(self.data[0][0]))

    def finish(self):
        self.laplace.fit(self.loader())


class LaplaceDiagonal(Laplace):
    def results(self):
        values, out, at = self.laplace.H.detach(), {}, 0
        for name, weight in zip(self.problem.names, self.problem.weights):
            rows, columns = weight.shape
            of_weight = values[at : at + rows * columns].view(rows, columns)
            of_bias = values[at + rows * columns : at + rows * (columns + 1)]
            out[f"{name}.diagonal"] = self.problem.probed(torch.cat([of_weight, of_bias[:, None]], 1))
            at += rows * (columns + 1)
        return out


class LaplaceKfac(Laplace):
    """The factors, without their eigendecomposition."""

    STRUCTURE = "kron"

    def finish(self):
        from laplace.baselaplace import ParametricLaplace

        ParametricLaplace.fit(self.laplace, self.loader())

    def results(self):
        out = {}
        for layer, name in enumerate(self.problem.names):
            g, a = self.laplace.H.kfacs[2 * layer]
            # Their Kronecker product is the curvature; only that is defined.
            scale = float(a.diagonal().sum())
            out[f"{name}.g_times_trace_a"] = self.problem.probed(g.detach() * scale)
        return out


class LaplaceLastTwo(Laplace):
    SUBSET, STRUCTURE = "subnetwork", "full"

    def subset(self):
        sizes = [weight.size + bias.size for weight, bias in zip(self.problem.weights, self.problem.biases)]
        return {"subnetwork_indices": torch.arange(sum(sizes[:-2]), sum(sizes))}

    def results(self):
        """In our order: a layer's weights row by row, each with its bias after it."""
        order, at = [], 0
        for weight in self.problem.weights[-2:]:
            rows, columns = weight.shape
            for row in range(rows):
                order += [at + row * columns + column for column in range(columns)] + [at + rows * columns + row]
            at += rows * (columns + 1)
        block = self.laplace.H.detach()[order][:, order]
        return {"+".join(self.problem.names[-2:]) + ".dense": self.problem.probed(block)}


class LaplaceWeights(Laplace):
    """The predictive of a fitted `kron` posterior, its eigenbases those at hand: of weights, for biases the gradients' bases alone."""

    STRUCTURE = "kron"

    def __init__(self, problem):
        from laplace.utils.matrix import KronDecomposed

        super().__init__(problem)
        self.model.output_size = problem.n_labels  # as `fit` leaves it
        vectors, values = [], []
        for name in problem.names:
            g = torch.from_numpy(problem.posterior[f"{name}.g_eigenvalues"].astype(np.float32))
            a = torch.from_numpy(problem.posterior[f"{name}.a_eigenvalues"].astype(np.float32))
            u, v = torch.from_numpy(problem.basis(name, "g")), torch.from_numpy(problem.basis_of_weights(name))
            vectors += [[u, v], [u]]
            values += [[g, a[:-1]], [g * a[-1]]]
        self.precision = KronDecomposed(vectors, values) + torch.tensor(PRIOR_PRECISION)

    def start(self):
        self.covariance = []

    def batch(self, rows):
        jacobian, _ = self.laplace.backend.jacobians(self.flux[rows])
        self.covariance.append(self.precision.inv_square_form(jacobian).detach())

    def finish(self):
        pass

    def results(self):
        return {"weights_covariance_apart": torch.cat(self.covariance).double().numpy()}


ROWS = {
    "torch.func": {"jacobian": FuncJacobian},
    "torch.autograd": {"flux_covariance": FunctionalCovariance},
    "backpack": {"diagonal": BackpackDiagonal, "kfac": BackpackKfac},
    "curvlinops": {"kfac": CurvlinopsKfac, "correction": CurvlinopsCorrection},
    "laplace-torch": {"diagonal": LaplaceDiagonal, "kfac": LaplaceKfac, "weights": LaplaceWeights, "last_two": LaplaceLastTwo},
}
