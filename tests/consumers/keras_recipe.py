"""The recipe of README.md for a network of Keras, over stand-ins for Keras' layers: they have what it asks of these.

    python keras_recipe.py README

Prints JSON: by network, the largest difference between its own outputs and those of the tensors that the recipe writes, or what the recipe
refuses it with.
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
    def __init__(self, n):
        super().__init__(*numbers.uniform(0.5, 2, size=(4, n)), epsilon=1e-3)

    def __call__(self, x):
        gamma, beta, mean, variance = self.weights
        return gamma * (x - mean) / np.sqrt(variance + self.epsilon) + beta


class ReLU(Layer):
    def __call__(self, x):
        return relu(x)


class InputLayer(Layer):
    pass


class Dropout(Layer):
    pass


class Normalization(Layer):
    pass


class PReLU(Layer):
    pass


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
    "plain": [InputLayer(), Dense(5, 4, relu), Dropout(), Dense(4, 3, use_bias=False)],
    "folded": [Dense(5, 4, use_bias=False), BatchNormalization(4), ReLU(), Dense(4, 3), Dropout(), BatchNormalization(3)],
    "normalised first": [Normalization(np.zeros(5), np.ones(5), 0), Dense(5, 3)],
    "behind its activation": [Dense(5, 4, relu), BatchNormalization(4), Dense(4, 3)],
    "behind another layer": [Dense(5, 4), ReLU(), BatchNormalization(4), Dense(4, 3)],
    "before all layers": [BatchNormalization(5), Dense(5, 3)],
    "another layer": [Dense(5, 4), PReLU(np.ones(4)), Dense(4, 3)],
    "normalised later": [Dense(5, 4), Normalization(np.zeros(4), np.ones(4), 0), Dense(4, 3)],
}
print(json.dumps({name: difference(layers) for name, layers in networks.items()}))
