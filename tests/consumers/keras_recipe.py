"""The recipe of README.md for a network of Keras, over stand-ins for Keras' layers: they have what it asks of these.

    python keras_recipe.py README

Prints JSON: by network, the largest difference between its own outputs and those of the file that the recipe writes, or what the recipe
refuses it with; of convolutions the shapes of the tensors and the layers, and of further layers the layers.
"""

import json
import pathlib
import re
import sys
import types

import numpy as np

blocks = re.findall(r"```python\n(.*?)```", pathlib.Path(sys.argv[1]).read_text(), re.DOTALL)
(recipe,) = [block for block in blocks if "model.layers" in block]
numbers = np.random.default_rng(7)


def relu(x):
    return np.maximum(x, 0)


def linear(x):
    return x


def leaky_relu(x):
    return np.where(x > 0, x, 0.2 * x)


def selu(x):
    return x


# By the names that fisherflow gives them.
activations = {
    "relu": relu,
    "tanh": np.tanh,
    "leaky_relu(0.2)": leaky_relu,
    "leaky_relu(0.1)": lambda x: np.where(x > 0, x, 0.1 * x),
    "clipped_relu(6)": lambda x: np.clip(x, 0, 6),
}


class Layer:
    def __init__(self, *weights, **more):
        self.name, self.weights = type(self).__name__.lower(), weights
        vars(self).update(more)

    def get_weights(self):
        return list(self.weights)

    def __call__(self, x):
        return x


class Dense(Layer):
    def __init__(self, inputs, outputs, activation=linear, use_bias=True):
        weights = [numbers.normal(size=(inputs, outputs)), numbers.normal(size=outputs)]
        super().__init__(*weights[: 1 + use_bias], activation=activation, use_bias=use_bias)

    def __call__(self, x):
        return self.activation(x @ self.weights[0] + sum(self.weights[1:]))


class BatchNormalization(Layer):
    def __init__(self, n, scale=True, center=True):
        gamma, beta, mean, variance = self.all = numbers.uniform(0.5, 2, size=(4, n))
        gamma[:], beta[:] = gamma if scale else 1, beta if center else 0
        weights = [gamma] * scale + [beta] * center + [mean, variance]
        super().__init__(*weights, epsilon=1e-3, scale=scale, center=center)

    def __call__(self, x):
        gamma, beta, mean, variance = self.all
        return gamma * (x - mean) / np.sqrt(variance + self.epsilon) + beta


class Normalization(Layer):
    def __init__(self, n, invert=False):
        self.mean, self.variance = numbers.normal(size=(1, n)), numbers.uniform(0.5, 2, size=(1, n))
        super().__init__(self.mean[0], self.variance[0], 0, invert=invert)

    def __call__(self, x):
        return (x - self.mean) / np.sqrt(self.variance)


class Conv1D(Layer):
    def __init__(self, padding="valid", groups=1, dilation_rate=(1,), activation=linear):
        weights = numbers.normal(size=(3, 1, 2)), numbers.normal(size=2)
        settings = {"padding": padding, "groups": groups, "dilation_rate": dilation_rate, "strides": (1,)}
        super().__init__(*weights, use_bias=True, activation=activation, **settings)


class ReLU(Layer):
    def __init__(self, max_value=None, negative_slope=0.0, threshold=0.0):
        super().__init__(max_value=max_value, negative_slope=negative_slope, threshold=threshold)

    def __call__(self, x):
        return np.where(x > 0, np.minimum(x, self.max_value or np.inf), self.negative_slope * x)


def stand_in(kind, *weights, **more):
    """Of a layer that is not called, or does nothing."""
    return type(kind, (Layer,), {})(*weights, **more)


def written(layers):
    """The tensors that the recipe writes, and the layers that it says."""
    files = []
    keras, safetensors = types.ModuleType("keras"), types.ModuleType("safetensors.numpy")
    model = types.SimpleNamespace(layers=layers, input_shape=(None, 5))
    keras.saving = types.SimpleNamespace(load_model=lambda path, compile: model)
    safetensors.save_file = lambda tensors, path, metadata: files.append((tensors, metadata))
    sys.modules.update({"keras": keras, "safetensors": types.ModuleType("safetensors"), "safetensors.numpy": safetensors})
    exec(recipe, {})
    ((tensors, metadata),) = files
    said = json.loads(metadata["fisherflow.network"])
    assert said["version"] == 1 and set(said) == {"version", "layers"}, said
    return tensors, [layer["kind"] for layer in said["layers"]]


def difference(layers):
    """Between the network and what its file says."""
    try:
        tensors, said = written(layers)
    except SystemExit as refused:
        return str(refused)
    x = expected = numbers.normal(size=(9, 5))
    for layer in layers:
        expected = layer(expected)
    x = (x - tensors.pop("normalisation.input_mean", 0)) / tensors.pop("normalisation.input_scale", 1)
    assert said.pop(0) == "input(5)"
    dense = 0
    for kind in said:
        if kind == "dense":
            x = x @ tensors.pop(f"{dense}.weight").T + tensors.pop(f"{dense}.bias", 0)
            dense += 1
        else:
            x = activations[kind](x)
    assert not tensors, tensors
    return float(np.abs(x - expected).max())


networks = {
    "plain": [stand_in("InputLayer"), Dense(5, 4, relu), stand_in("Dropout"), Dense(4, 3, use_bias=False)],
    "folded": [Dense(5, 4, use_bias=False), BatchNormalization(4), ReLU(), Dense(4, 3), stand_in("Dropout"), BatchNormalization(3)],
    "without gamma": [Dense(5, 4), BatchNormalization(4, scale=False), ReLU(), Dense(4, 3)],
    "without beta": [Dense(5, 4), BatchNormalization(4, center=False), ReLU(), Dense(4, 3)],
    "with neither": [Dense(5, 4), BatchNormalization(4, scale=False, center=False), ReLU(), Dense(4, 3)],
    "normalised first": [Normalization(5), Dense(5, 4, np.tanh), Dense(4, 3)],
    "of several kinds": [Dense(5, 4, leaky_relu), Dense(4, 4), ReLU(max_value=6), Dense(4, 4), ReLU(negative_slope=0.1), Dense(4, 3)],
    "behind its activation": [Dense(5, 4, relu), BatchNormalization(4), Dense(4, 3)],
    "behind another layer": [Dense(5, 4), ReLU(), BatchNormalization(4), Dense(4, 3)],
    "before all layers": [BatchNormalization(5), Dense(5, 3)],
    "another layer": [Dense(5, 4), stand_in("PReLU", np.ones(4)), Dense(4, 3)],
    "normalised later": [Dense(5, 4), Normalization(4), Dense(4, 3)],
    "normalised twice": [Normalization(5), Normalization(5), Dense(5, 3)],
    "normalised back": [Normalization(5, invert=True), Dense(5, 3)],
    "with a threshold": [Dense(5, 4), ReLU(threshold=1.0), Dense(4, 3)],
    # They compute, and have no weights.
    "rescaled": [stand_in("Rescaling"), Dense(5, 3)],
    "added": [Dense(5, 4), stand_in("Add"), Dense(4, 3)],
    "padded pooling": [Conv1D(), stand_in("MaxPooling1D", padding="same")],
    "dilated": [Conv1D("same", dilation_rate=(2,))],
    "causal": [Conv1D("causal")],
    "grouped": [Conv1D(groups=2)],
}
pool = stand_in("AveragePooling1D", padding="valid", pool_size=(4,), strides=(2,))
convolutions = [stand_in("Reshape"), Conv1D(), ReLU(), pool, Conv1D("same", activation=relu), stand_in("Flatten")]
tensors, layers = written(convolutions)
shapes = {name: tensor.shape for name, tensor in tensors.items()}
further = [stand_in("ELU", alpha=0.5), stand_in("LeakyReLU", negative_slope=0.3), stand_in("Activation", activation=selu)]
others = {"convolutions": [shapes, layers], "further": written(further)[1]}
print(json.dumps({name: difference(layers) for name, layers in networks.items()} | others))
