"""The reference outputs that tests of networks and posteriors compare with: float64, by torch and the packages over it. README.md says what is in them.

    python3 -m venv venv && venv/bin/pip install -r ../peers/requirements.txt
    venv/bin/python make.py                  # writes networks.npz, posteriors.npz and peers.npz beside this script

Every input of the first two is drawn here. Another version of torch, or another CPU, changes the last digits.
"""

import pathlib
import warnings

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

HERE = pathlib.Path(__file__).resolve().parent
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
warnings.filterwarnings("ignore")


class ChannelsLast(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2).flatten(1)


class Clip(nn.Module):
    def forward(self, x):
        return torch.clamp(x, 0.0, 1.5)


class Softplus(nn.Module):
    """ln(1 + exp(x)) everywhere; nn.Softplus is x itself above its threshold."""

    def forward(self, x):
        return torch.logaddexp(x, torch.zeros_like(x))


class Same(nn.Conv1d):
    """Padded so that every position has an output, the odd zero at the end."""

    def __init__(self, *sizes):
        super().__init__(*sizes, padding="same")


ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": Softplus,
    "elu": lambda: nn.ELU(0.7),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "clipped_relu": Clip,
    "linear": nn.Identity,
}


def has_weights(layer):
    return isinstance(layer, (nn.Linear, nn.Conv1d))


def draw(model, random):
    """Normal weights of variance 2 / inputs, and biases of 0.3."""
    for layer in filter(has_weights, model):
        inputs = layer.weight[0].numel()
        layer.weight.data = torch.from_numpy(random.standard_normal(layer.weight.shape) * np.sqrt(2 / inputs))
        if layer.bias is not None:
            layer.bias.data = torch.from_numpy(0.3 * random.standard_normal(layer.bias.shape))
    return model.eval()


def weights(model):
    arrays = {}
    for at, layer in enumerate(filter(has_weights, model)):
        arrays[f"W_{at}"] = layer.weight.detach()
        if layer.bias is not None:
            arrays[f"b_{at}"] = layer.bias.detach()
    return arrays


def weight_jacobian(model, x):
    """[n, K, p]: parameter after parameter, as torch orders them."""
    parameters = dict(model.named_parameters())
    by_parameter = vmap(jacrev(lambda p, x: functional_call(model, p, x[None])[0]), in_dims=(None, 0))(parameters, x)
    return torch.cat([j.flatten(2) for j in by_parameter.values()], 2).detach()


def sides(model, x):
    """Of every layer with weights what comes in, [n, positions, inputs] with a 1 where it has a bias, and the gradient of every output by what goes
    out, [n, K, positions, outputs]."""
    found = []
    for at, layer in enumerate(model):
        if not has_weights(layer):
            continue
        before, after = model[:at](x), model[at + 1 :]
        out = layer(before)
        gradient = vmap(jacrev(lambda z: after(z[None])[0]))(out)
        if isinstance(layer, nn.Conv1d):
            kernel, stride = layer.kernel_size[0], layer.stride[0]
            if isinstance(layer, Same):
                before = nn.functional.pad(before, ((kernel - 1) // 2, kernel // 2))
            windows = before.unfold(2, kernel, stride)  # [n, channels, positions, kernel]
            before, gradient = windows.transpose(1, 2).flatten(2), gradient.transpose(2, 3)
        else:
            before, gradient = before[:, None, :], gradient[:, :, None, :]
        if layer.bias is not None:
            before = torch.cat([before, torch.ones(*before.shape[:2], 1)], 2)
        found.append((before.detach(), gradient.detach()))
    return found


def network(model, pixels, random, normalised=False, factors=True):
    """Outputs and derivatives of a network at three spectra; the first is far out, where activations are flat or straight."""
    draw(model, random)
    x = torch.from_numpy(random.standard_normal((3, pixels)))
    x[0] *= 6
    sigma = torch.from_numpy(random.uniform(0.05, 0.5, (3, pixels)))
    channels = (lambda x: x[:, None, :]) if isinstance(model[0], nn.Conv1d) else (lambda x: x)
    arrays = weights(model) | {"X": x, "S": sigma}
    if normalised:
        arrays["input_mean"] = torch.from_numpy(random.uniform(0.5, 1.5, pixels))
        arrays["input_scale"] = torch.from_numpy(random.uniform(0.2, 3.0, pixels))
        arrays["label_mean"], arrays["label_scale"] = torch.tensor([5000.0, -0.2]), torch.tensor([600.0, 0.3])
        into = lambda x: channels((x - arrays["input_mean"]) / arrays["input_scale"])
        labels = lambda x: model(into(x)) * arrays["label_scale"] + arrays["label_mean"]
        arrays["labels"] = labels(x)
    else:
        into, labels = channels, lambda x: model(channels(x))
    jacobian = vmap(jacrev(lambda x: labels(x[None])[0]))(x)
    arrays |= {"f": model(into(x)), "J": jacobian}
    arrays["P"] = (jacobian * sigma[:, None, :] ** 2) @ jacobian.transpose(1, 2)
    arrays["Jw"] = weight_jacobian(model, into(x))
    for at, (before, gradient) in enumerate(sides(model, into(x)) if factors else []):
        before, gradient = before.flatten(0, 1), gradient.flatten(0, 2)
        arrays[f"A_{at}"], arrays[f"G_{at}"] = before.T @ before, gradient.T @ gradient
    return arrays


def networks():
    random = np.random.default_rng(1)
    dense = lambda activation: nn.Sequential(nn.Linear(6, 5), activation(), nn.Linear(5, 4), activation(), nn.Linear(4, 2))
    cases = {}
    for name, activation in ACTIVATIONS.items():
        # One network and its spectra under every activation, kept once.
        arrays = network(dense(activation), 6, np.random.default_rng(0), factors=False)
        cases["activations"] = {array: values for array, values in arrays.items() if array[0] in "WbXS"}
        cases[name] = {array: values for array, values in arrays.items() if array[0] not in "WbXS"}
    cases["normalised"] = network(dense(nn.Tanh), 6, random, normalised=True)
    cases["channels_first"] = network(
        nn.Sequential(
            Same(1, 2, 4), nn.Tanh(), nn.MaxPool1d(3, 2), nn.Conv1d(2, 3, 3, stride=2), nn.SiLU(), nn.Flatten(), nn.Linear(9, 2)
        ),
        16,
        random,
    )
    cases["channels_last"] = network(
        nn.Sequential(
            nn.Conv1d(1, 3, 5, stride=2, bias=False),
            Softplus(),
            nn.AvgPool1d(2),
            ChannelsLast(),
            nn.Linear(9, 4, bias=False),
            nn.Tanh(),
            nn.Linear(4, 2),
        ),
        17,
        random,
        normalised=True,
    )
    return cases


PRIOR = 0.3
NOISE = 0.5


def predictive(jacobian, covariance):
    return jacobian @ covariance @ jacobian.transpose(1, 2)


def blocks(model):
    """For every layer the places of its weights in torch's order of all, in ours: the row [W | b] of an output after another's."""
    found, first = [], 0
    for layer in filter(has_weights, model):
        outputs, inputs = len(layer.weight), layer.weight[0].numel()
        at = first + torch.arange(outputs * inputs).view(outputs, inputs)
        first += outputs * inputs
        if layer.bias is not None:
            at = torch.cat([at, first + torch.arange(outputs)[:, None]], 1)
            first += outputs
        found.append(at.flatten())
    return found


def by_autograd(model, x, x_test):
    """Predictive covariances by torch's Jacobians and its linear algebra alone."""
    jacobian, test = weight_jacobian(model, x), weight_jacobian(model, x_test)
    precision = torch.tensor([[2.0, 0.5, -0.3], [0.5, 1.0, 0.2], [-0.3, 0.2, 0.7]])
    identity = lambda matrix: torch.eye(len(matrix))
    arrays = {"label_precision": precision}
    for name, between in (("", torch.eye(3)), ("_precision", precision)):
        h = torch.einsum("nki,kl,nlj->ij", jacobian, between, jacobian)
        arrays[f"V_full{name}"] = predictive(test, torch.linalg.inv(h + PRIOR * identity(h)))
        arrays[f"V_diagonal{name}"] = predictive(test, torch.diag(1 / (h.diagonal() + PRIOR)))
        of_blocks = torch.zeros(len(x_test), 3, 3)
        kfac = {"expand": torch.zeros_like(of_blocks), "reduce": torch.zeros_like(of_blocks)}
        ekfac = torch.zeros_like(of_blocks)
        for at, (before, gradient) in zip(blocks(model), sides(model, x)):
            block, of_layer = h[at][:, at], test[:, :, at]
            of_blocks += predictive(of_layer, torch.linalg.inv(block + PRIOR * identity(block)))
            positions = before.shape[1]
            sums = {
                "expand": (before.flatten(0, 1), gradient, len(x) * positions),
                "reduce": (before.mean(1), gradient.sum(2, keepdim=True), len(x)),
            }
            for sharing, (inputs, gradients, terms) in sums.items():
                a, g = inputs.T @ inputs, torch.einsum("nktg,kl,nlth->gh", gradients, between, gradients)
                block = torch.kron(g.contiguous(), a.contiguous()) / terms
                kfac[sharing] += predictive(of_layer, torch.linalg.inv(block + PRIOR * identity(block)))
                if sharing == "expand":
                    basis = torch.kron(torch.linalg.eigh(g)[1].contiguous(), torch.linalg.eigh(a)[1].contiguous())
                    eigenvalues = (basis.T @ h[at][:, at] @ basis).diagonal()
                    ekfac += predictive(of_layer, basis @ torch.diag(1 / (eigenvalues + PRIOR)) @ basis.T)
        arrays |= {f"V_block{name}": of_blocks, f"V_ekfac{name}": ekfac}
        arrays |= {f"V_kfac_{sharing}{name}": v for sharing, v in kfac.items()}
    last = blocks(model)[-1]
    h = torch.einsum("nki,nkj->ij", jacobian, jacobian)[last][:, last]
    arrays["V_last"] = predictive(test[:, :, last], torch.linalg.inv(h + PRIOR * identity(h)))
    return arrays


def by_laplace(model, x, y, x_test):
    """Predictive covariances of laplace-torch; its Kronecker-factored one has weights and biases apart."""
    from laplace import Laplace
    from laplace.curvature.backpack import BackPackGGN

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=7)
    arrays = {}
    for name, subset, structure, noise in (
        ("full", "all", "full", 1.0),
        ("full_noise", "all", "full", NOISE),
        ("diagonal", "all", "diag", 1.0),
        ("kfac_split_bias", "all", "kron", 1.0),
        ("last", "last_layer", "full", 1.0),
    ):
        fitted = Laplace(
            model,
            "regression",
            subset_of_weights=subset,
            hessian_structure=structure,
            backend=BackPackGGN,
            sigma_noise=torch.tensor(noise),
            prior_precision=torch.tensor(PRIOR),
        )
        fitted.fit(loader)
        mean, covariance = fitted._glm_predictive_distribution(x_test)
        torch.testing.assert_close(mean, model(x_test))
        arrays[f"laplace_{name}"] = covariance.detach()
    return arrays


def of_rows(model):
    """The same network over images of one row: curvlinops knows convolutions over two dimensions alone."""
    layers = []
    for layer in model:
        if isinstance(layer, nn.Conv1d):
            image = nn.Conv2d(layer.in_channels, layer.out_channels, (1, *layer.kernel_size), (1, *layer.stride))
            image.weight.data, image.bias.data = layer.weight.data[:, :, None, :], layer.bias.data
            layer = image
        layers.append(layer)
    return nn.Sequential(*layers).eval()


def of_curvlinops(kind, model, reduction, data, **options):
    """A curvature of curvlinops, weights and biases joint."""
    return kind(
        model,
        nn.MSELoss(reduction=reduction),
        list(model.parameters()),
        data,
        fisher_type="type-2",
        separate_weight_and_bias=False,
        num_data=sum(len(x) for x, _ in data),
        num_per_example_loss_terms=1,
        check_deterministic=False,
        **options,
    )


def by_curvlinops(model, x, y, x_test):
    """Predictive covariances of curvlinops' KFAC and EKFAC, weights and bias joint. Its loss, the sum of squares, has twice our curvature: so twice the
    damping, and its inverse twice over."""
    from curvlinops import EKFACLinearOperator, KFACLinearOperator

    test = weight_jacobian(model, x_test)
    if x.dim() == 3:
        model, x = of_rows(model), x[:, :, None, :]
    data = [(x[:9], y[:9]), (x[9:], y[9:])]
    arrays = {}
    for name, kind, sharing in (
        ("kfac_expand", KFACLinearOperator, "expand"),
        ("kfac_reduce", KFACLinearOperator, "reduce"),
        ("ekfac", EKFACLinearOperator, "expand"),
    ):
        operator = of_curvlinops(kind, model, "sum", data, kfac_approx=sharing)
        matrix = operator @ torch.eye(operator.shape[1])
        inverse = torch.linalg.inv(matrix + 2 * PRIOR * torch.eye(len(matrix)))
        arrays[f"curvlinops_{name}"] = predictive(test, 2 * inverse.detach())
    return arrays


def posterior(model, pixels, random):
    draw(model, random)
    x, x_test = (torch.from_numpy(random.standard_normal((n, pixels))) for n in (20, 4))
    y = torch.from_numpy(random.standard_normal((20, 3)))
    arrays = weights(model) | {"X": x, "X_test": x_test, "prior": torch.tensor([PRIOR]), "noise": torch.tensor([NOISE])}
    if isinstance(model[0], nn.Conv1d):
        x, x_test = x[:, None, :], x_test[:, None, :]
    arrays |= by_autograd(model, x, x_test) | by_curvlinops(model, x, y, x_test)
    if not isinstance(model[0], nn.Conv1d):
        arrays |= by_laplace(model, x, y, x_test)
    return arrays


def posteriors():
    random = np.random.default_rng(2)
    return {
        "dense": posterior(nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), 7, random),
        "convolution": posterior(
            nn.Sequential(
                nn.Conv1d(1, 2, 4, stride=2), nn.Tanh(), nn.Conv1d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(9, 3)
            ),
            10,
            random,
        ),
    }


def by_backends(model, x, y):
    """Curvatures of laplace-torch by its three backends."""
    from laplace import Laplace
    from laplace.curvature.asdl import AsdlGGN
    from laplace.curvature.backpack import BackPackGGN
    from laplace.curvature.curvlinops import CurvlinopsGGN

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=len(x))
    arrays = {}
    for name, backend in (("backpack", BackPackGGN), ("curvlinops", CurvlinopsGGN), ("asdl", AsdlGGN)):
        for subset, structure in (("all", "diag"), ("last_layer", "full"), ("all", "kron")):
            fitted = Laplace(model(), "regression", subset_of_weights=subset, hessian_structure=structure, backend=backend)
            fitted.fit(loader)
            prefix = f"laplace_{name}_{subset}_{structure}"
            if structure != "kron":
                arrays[f"{prefix}_H"] = fitted.H
                continue
            # Of each layer those of the weights, then of the bias.
            factors = fitted.H_facs.kfacs
            for layer, ((g, a), (bias,)) in enumerate(zip(factors[::2], factors[1::2])):
                arrays |= {f"{prefix}_G_{layer}": g, f"{prefix}_A_{layer}": a, f"{prefix}_bias_{layer}": bias}
    return arrays


def by_backpack(model, x, y):
    from backpack import backpack, extend
    from backpack.extensions import KFLR, DiagGGNExact

    model, loss = extend(model()), extend(nn.MSELoss(reduction="sum"))
    with backpack(KFLR(), DiagGGNExact()):
        loss(model(x), y).backward()
    arrays = {"backpack_diag_ggn_exact": torch.cat([weight.diag_ggn_exact.flatten() for weight in model.parameters()])}
    for at, layer in enumerate(filter(has_weights, model)):
        (g, a), (bias,) = layer.weight.kflr, layer.bias.kflr
        arrays |= {f"backpack_kflr_G_{at}": g, f"backpack_kflr_A_{at}": a, f"backpack_kflr_bias_{at}": bias}
    return arrays


def factors_by_curvlinops(model, x, y, prior):
    """KFAC and EKFAC, weights and bias joint: factors, corrected eigenvalues and, times their factor 2 on H, inverses with the prior."""
    from curvlinops import EKFACLinearOperator, KFACInverseLinearOperator, KFACLinearOperator

    arrays = {}
    for reduction in ("sum", "mean"):
        net = model()
        names = [name for name, layer in net.named_children() if has_weights(layer)]
        kfac, ekfac = (
            of_curvlinops(kind, net, reduction, [(x, y)])
            for kind in (KFACLinearOperator, EKFACLinearOperator)
        )
        kfac.compute_kronecker_factors()
        ekfac.compute_kronecker_factors()
        ekfac.compute_eigenvalue_correction()
        for at, name in enumerate(names):
            arrays[f"curvlinops_{reduction}_A_{at}"] = kfac._input_covariances[name]
            arrays[f"curvlinops_{reduction}_G_{at}"] = kfac._gradient_covariances[name]
            arrays[f"curvlinops_{reduction}_ekfac_{at}"] = ekfac._corrected_eigenvalues[name]
        if reduction == "mean":
            continue
        whole = torch.eye(kfac.shape[1])
        of_kfac, of_ekfac = (
            2 * (KFACInverseLinearOperator(operator, damping=2 * prior, use_exact_damping=True) @ whole)
            for operator in (kfac, ekfac)
        )
        first = 0
        for at, name in enumerate(names):
            layer = net.get_submodule(name)
            # A row of weights and its bias side by side.
            n = layer.weight.numel()
            joint = torch.cat([torch.arange(n).view_as(layer.weight), n + torch.arange(len(layer.bias))[:, None]], 1)
            joint = first + joint.flatten()
            first += len(joint)
            arrays[f"curvlinops_ekfac_inv_{at}"] = of_ekfac[joint][:, joint]
            if at == 1:
                arrays["curvlinops_kfac_inv_exact_1"] = of_kfac[joint][:, joint]
    return arrays


def peers():
    """What each package returns, in its own convention, of the network, spectra and labels in peers.npz. kronfluence, whose requirements are not among
    ours, is not run again: what it returned is kept."""
    with np.load(HERE / "peers.npz") as kept:
        kept = {name.removeprefix("mlp/"): torch.from_numpy(values) for name, values in kept.items()}

    def model():
        net = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
        for at, layer in enumerate(filter(has_weights, net)):
            layer.weight.data, layer.bias.data = kept[f"W_{at}"].clone(), kept[f"b_{at}"].clone()
        return net

    x, y = kept["X"], kept["Y"]
    made = by_backends(model, x, y) | by_backpack(model, x, y) | factors_by_curvlinops(model, x, y, kept["lam"].item())
    made["f"] = model()(x)
    for name, values in made.items():
        torch.testing.assert_close(values.detach(), kept[name], rtol=1e-12, atol=1e-12, msg=lambda said: f"{name}: {said}")
    return {"mlp": kept | made}


def save(name, cases):
    arrays = {f"{case}/{array}": values.detach().numpy() for case, arrays in cases.items() for array, values in arrays.items()}
    np.savez_compressed(HERE / name, **arrays)


if __name__ == "__main__":
    save("networks.npz", networks())
    save("posteriors.npz", posteriors())
    save("peers.npz", peers())
