"""The recipe of README.md for a network of Keras, over stand-ins for Keras' layers: they have what it asks of these.

    python keras_recipe.py README

Prints JSON: by network, the largest difference between its own outputs and those of the tensors that the recipe writes, or what the recipe
refuses it with; of convolutions the shapes of the tensors.
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


class Conv1D(Layer):
    def __init__(self, padding="valid", groups=1, dilation_rate=(1,)):
        weights = numbers.normal(size=(3, 1, 2)), numbers.normal(size=2)
        super().__init__(*weights, use_bias=True, padding=padding, groups=groups, dilation_rate=dilation_rate)


class ReLU(Layer):
    def __call__(self, x):
        return relu(x)


def stand_in(kind, *weights, **more):
    """Of a layer that is not called, or does nothing."""
    return type(kind, (Layer,), {})(*weights, **more)


def written(layers):
    """What the recipe writes."""
    files = []
    stand_in = types.ModuleType("safetensors.numpy")
    stand_in.save_file = lambda tensors, path: files.append(tensors)
    sys.modules["safetensors"], sys.modules["safetensors.numpy"] = types.ModuleType("safetensors"), stand_in
    exec(recipe, {"model": types.SimpleNamespace(layers=layers)})
    return files[0]


def difference(layers):
    """Between the network and its tensors, with a relu behind every dense layer but the last."""
    try:
        tensors = written(layers)
    except SystemExit as refused:
        return str(refused)
    x = expected = numbers.normal(size=(9, 5))
    for layer in layers:
        expected = layer(expected)
    last = sum(name.endswith(".weight") for name in tensors) - 1
    for number in range(last + 1):
        x = x @ tensors[f"{number}.weight"].T + tensors.get(f"{number}.bias", 0)
        x = relu(x) if number < last else x
    return float(np.abs(x - expected).max())


networks = {
    "plain": [stand_in("InputLayer"), Dense(5, 4, relu), stand_in("Dropout"), Dense(4, 3, use_bias=False)],
    "folded": [Dense(5, 4, use_bias=False), BatchNormalization(4), ReLU(), Dense(4, 3), stand_in("Dropout"), BatchNormalization(3)],
    "without gamma": [Dense(5, 4), BatchNormalization(4, scale=False), ReLU(), Dense(4, 3)],
    "without beta": [Dense(5, 4), BatchNormalization(4, center=False), ReLU(), Dense(4, 3)],
    "with neither": [Dense(5, 4), BatchNormalization(4, scale=False, center=False), ReLU(), Dense(4, 3)],
    "normalised first": [stand_in("Normalization", np.zeros(5), np.ones(5), 0), Dense(5, 3)],
    "behind its activation": [Dense(5, 4, relu), BatchNormalization(4), Dense(4, 3)],
    "behind another layer": [Dense(5, 4), ReLU(), BatchNormalization(4), Dense(4, 3)],
    "before all layers": [BatchNormalization(5), Dense(5, 3)],
    "another layer": [Dense(5, 4), stand_in("PReLU", np.ones(4)), Dense(4, 3)],
    "normalised later": [Dense(5, 4), stand_in("Normalization", np.zeros(4), np.ones(4), 0), Dense(4, 3)],
    # They compute, and have no weights.
    "by numbers": [Dense(5, 4), stand_in("Normalization"), Dense(4, 3)],
    "rescaled": [stand_in("Rescaling"), Dense(5, 3)],
    "added": [Dense(5, 4), stand_in("Add"), Dense(4, 3)],
    "padded pooling": [Conv1D(), stand_in("MaxPooling1D", padding="same")],
    "dilated": [Conv1D("same", dilation_rate=(2,))],
    "causal": [Conv1D("causal")],
    "grouped": [Conv1D(groups=2)],
}
convolutions = [stand_in("Reshape"), Conv1D(), ReLU(), stand_in("AveragePooling1D", padding="valid"), Conv1D("same"), stand_in("Flatten")]
shapes = {name: tensor.shape for name, tensor in written(convolutions).items()}
print(json.dumps({name: difference(layers) for name, layers in networks.items()} | {"convolutions": shapes}))
