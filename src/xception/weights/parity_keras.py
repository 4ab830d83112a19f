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
    model = _ending_in_logits(keras, _built(keras))
    results = {"float32": _predicted(model, x_nhwc.astype("float32"))}
    wide = keras.models.clone_model(model, clone_function=_in_float64, recursive=True)
    wide.set_weights(model.get_weights())
    _keep_float64()
    results["float64"] = _predicted(wide, x_nhwc)
    np.savez("logits.npz", version=np.array(str(keras.__version__)), **results)


def _limit() -> None:
    try:
        import resource
    except ModuleNotFoundError:  # Windows; the parent's clock is left
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


def _built(keras: Any) -> Any:
    config = json.loads(Path("model.json").read_text("utf-8"))
    if "module" in config:
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    else:  # Keras 2
        saving = importlib.import_module("keras.src.legacy.saving.saving_utils")
        model = saving.model_from_config(config)
    weights = next(path for path in Path().glob("weights.*"))
    model.load_weights(str(weights))
    return model


def _in_float64(layer: Any) -> Any:
    return type(layer).from_config({**layer.get_config(), "dtype": "float64"})


def _keep_float64() -> None:
    """Keras narrows float64 to float32 in some sums and normalizations, as JAX does by default."""
    dtypes = importlib.import_module("keras.src.backend.common.dtypes")
    table = getattr(dtypes, "BIT64_TO_BIT32_DTYPE", {})
    if "float64" in table:
        table["float64"] = "float64"


def _ending_in_logits(keras: Any, model: Any) -> Any:
    """The model without what turns its logits into probabilities."""
    last = model.layers[-1]
    name = getattr(getattr(last, "activation", None), "__name__", "")
    if name not in _TO_PROBABILITIES and type(last).__name__ != "Softmax":
        return model
    if hasattr(last, "kernel"):
        last.activation = keras.activations.linear
        return model
    return keras.Model(model.inputs, last.input)


def _predicted(model: Any, x_nhwc: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(x_nhwc), training=False).detach().cpu().numpy()


if __name__ == "__main__":
    main()
