"""What Keras itself makes of a model and an input; a program of its own, started by `parity`.

Its folder, the working one, holds model.json (a configuration that `keras_plain` has cleaned),
weights.weights.h5 or weights.h5, and x_nhwc.npy; it leaves logits.npz there. The module folders of
the parent come as arguments: started by `python -I`, it finds no others.

Apart because Keras fixes its backend when it is first imported. Logits are taken before a last
softmax or sigmoid. Of a failure, the last line on standard error tells the reason.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CPU_SECONDS = 3600

_TO_PROBABILITIES = ("softmax", "sigmoid")


def main() -> None:
    """Write float32 and float64 logits, and the library's version, as an .npz archive."""
    sys.path += sys.argv[1:]
    _limit()
    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    import numpy as np

    x_nhwc = np.load("x_nhwc.npy", allow_pickle=False)
    results = {"float32": _predicted(_built(keras), x_nhwc.astype("float32"))}
    _take_float64(keras)
    results["float64"] = _predicted(_built(keras), x_nhwc)
    np.savez("logits.npz", version=np.array(str(keras.__version__)), **results)


def _limit() -> None:
    try:
        import resource
    except ModuleNotFoundError:  # Windows; the parent's clock is left
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


def _built(keras: Any) -> Any:
    """The model, up to its logits, in the type that is Keras's own at the time.

    Not a copy of another: the input layers of models in models would keep the type they have.
    """
    config = json.loads(Path("model.json").read_text("utf-8"))
    if "module" in config:
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    else:  # Keras 2
        saving = importlib.import_module("keras.src.legacy.saving.saving_utils")
        model = saving.model_from_config(config)
    weights = next(path for path in Path().glob("weights.*"))
    model.load_weights(str(weights))
    return _ending_in_logits(keras, model)


def _take_float64(keras: Any) -> None:
    """From now on for every layer; its configuration names no type, see `keras_plain`.

    Keras narrows float64 to float32 in some sums and normalizations, as JAX does by default.
    """
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    dtypes = importlib.import_module("keras.src.backend.common.dtypes")
    table = getattr(dtypes, "BIT64_TO_BIT32_DTYPE", {})
    if "float64" in table:
        table["float64"] = "float64"


def _ending_in_logits(keras: Any, model: Any) -> Any:
    """The model, in which what turns its logits into probabilities does nothing."""
    for layer in reversed(list(_flat(model))):
        if type(layer).__name__ == "Softmax":
            layer.call = lambda inputs, mask=None: inputs
        elif getattr(getattr(layer, "activation", None), "__name__", "") in _TO_PROBABILITIES:
            layer.activation = keras.activations.linear
        elif type(layer).__name__ == "Dropout":
            continue
        break
    return model


def _flat(model: Any) -> Iterator[Any]:
    """Its layers, those of the models in it at their places."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _flat(layer)
        else:
            yield layer


def _predicted(model: Any, x_nhwc: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(x_nhwc), training=False).detach().cpu().numpy()


if __name__ == "__main__":
    main()
