"""A network in the formats of other runtimes: ONNX and OpenVINO, in float32 and in int8."""

from xception._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "folding": ["fold_batch_norm"],
        "onnx": ["to_onnx"],
        "openvino": ["to_openvino"],
        "outputs": ["Output"],
        "quantize": ["quantize_onnx", "quantize_openvino"],
    },
)
