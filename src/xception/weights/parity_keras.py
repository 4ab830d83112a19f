"""What Keras itself makes of a file and an input; a program of its own, run by `parity`.

    python -m xception.weights.parity_keras FILE < x_nhwc.npy > logits.npz

Apart because Keras fixes its backend when it is first imported, and writes to standard output.
Logits are taken before a last softmax or sigmoid. Keras's safe mode stays on: nothing that a file
says is run as code. Of a failure, the last line on standard error tells the reason.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"
_TO_PROBABILITIES = ("softmax", "sigmoid")


def main(path: str) -> None:
    """Write float32 and float64 logits, and the library's version, as an .npz archive."""
    import numpy as np

    answer, sys.stdout = sys.stdout.buffer, sys.stderr
    x_nhwc = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    import keras

    model = _ending_in_logits(keras, keras.models.load_model(path, compile=False, safe_mode=True))
    _keep_float64()
    results: dict[str, Any] = {"float32": _predicted(model, x_nhwc.astype("float32"))}
    wide = keras.models.clone_model(model, clone_function=_in_float64, recursive=True)
    wide.set_weights(model.get_weights())
    results["float64"] = _predicted(wide, x_nhwc.astype("float64"))
    results["version"] = np.array(str(keras.__version__))
    np.savez(answer, **results)


def _keep_float64() -> None:
    """Keras narrows float64 to float32 in some sums and normalizations, as JAX does by default."""
    dtypes = importlib.import_module("keras.src.backend.common.dtypes")
    table = getattr(dtypes, "BIT64_TO_BIT32_DTYPE", {})
    if "float64" in table:
        table["float64"] = "float64"


def _in_float64(layer: Any) -> Any:
    return type(layer).from_config({**layer.get_config(), "dtype": "float64"})


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
    main(sys.argv[1])
