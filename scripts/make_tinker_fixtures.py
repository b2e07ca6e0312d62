#!/usr/bin/env python3
"""Writes spec/fixtures/tinker_wire.json and csrc/fuzz/seeds/tinker/: messages of the Tinker API's protobuf
dialect as the official SDK's own classes and protobuf's Python runtime write them.

    python scripts/make_tinker_fixtures.py

Needs tinker >= 0.25 (its proto package), protobuf and NumPy. Requests are serialised with their map entries in
order, so that the bytes can be compared; answers are given with what the official reader makes of them.
"""
import json
import struct
from pathlib import Path

import numpy as np
from tinker.proto import response_conv
from tinker.proto import tinker_public_pb2 as pb

ROOT = Path(__file__).resolve().parent.parent
FLOAT32, INT64, INT32, BFLOAT16 = 1, 2, 3, 4
NUMPY = {"float32": np.float32, "int64": np.int64}


def request(fields):
    """A ForwardBackwardRequest of a plain table, as the fixtures and the codec's Lua face have it."""
    message = pb.ForwardBackwardRequest(model_id=fields["model_id"], seq_id=fields["seq_id"], loss_fn=fields["loss_fn"])
    message.forward_only = fields.get("forward_only", False)
    for name, value in fields.get("loss_fn_config", {}).items():
        message.loss_fn_config[name] = value
        if hasattr(message, "loss_fn_config_v2"):
            message.loss_fn_config_v2[name].number = value
    for datum in fields["data"]:
        made = message.data.add()
        made.model_input.add().encoded_text.tokens = np.asarray(datum["tokens"], np.int32).tobytes()
        for name, tensor in datum["inputs"].items():
            put = made.loss_fn_inputs[name]
            put.dense = np.asarray(tensor["values"], NUMPY[tensor["dtype"]]).tobytes()
            put.dtype = FLOAT32 if tensor["dtype"] == "float32" else INT64
            put.shape.append(len(tensor["values"]))
    return message.SerializeToString(deterministic=True)


def tensor(dtype, values):
    return {"dtype": dtype, "values": values}


REQUESTS = [
    {"model_id": "model_1", "seq_id": 1, "loss_fn": "cross_entropy", "data": [
        {"tokens": [10, 11, 12], "inputs": {"weights": tensor("float32", [0.0, 1.0, -0.5]),
                                            "target_tokens": tensor("int64", [11, 12, 13])}}]},
    {"model_id": "bd7c", "seq_id": 2147483647, "loss_fn": "cross_entropy", "forward_only": True, "data": [
        {"tokens": list(range(200)), "inputs": {"target_tokens": tensor("int64", list(range(1, 201))),
                                                "weights": tensor("float32", [1.0] * 200)}},
        {"tokens": [7], "inputs": {"target_tokens": tensor("int64", [-1]), "weights": tensor("float32", [0.1])}}]},
    {"model_id": "m\u00e9", "seq_id": 300, "loss_fn": "importance_sampling", "data": [
        {"tokens": [1, 2], "inputs": {"advantages": tensor("float32", [1.5, -2.0]),
                                      "logprobs": tensor("float32", [-0.25, -3.0]),
                                      "target_tokens": tensor("int64", [2, 3])}}]},
    {"model_id": "m", "seq_id": 5, "loss_fn": "cross_entropy", "data": []},
    {"model_id": "m", "seq_id": 6, "loss_fn": "cross_entropy", "data": [{"tokens": [], "inputs": {
        "weights": tensor("float32", [])}}]},
]


def batched(dtype, per_datum, trailing=()):
    """A BatchedTensor of one list of packed values a datum."""
    made = pb.BatchedTensor(dtype=dtype)
    made.trailing_shape.extend(trailing)
    offsets = [0]
    for part in per_datum:
        made.data += part
        offsets.append(offsets[-1] + len(part))
    made.offsets = np.asarray(offsets, np.int64).tobytes()
    return made


def f32(*values):
    return np.asarray(values, np.float32).tobytes()


def output(kind, records, metrics):
    message = pb.ForwardBackwardOutput(loss_fn_output_type=kind)
    for fields, count in records:
        record = message.loss_fn_outputs.add(type_tag=kind, num_datums=count)
        for name, value in fields.items():
            record.fields[name].CopyFrom(value)
    for name, value in metrics.items():
        message.metrics[name] = value
    return message.SerializeToString(deterministic=True)


OUTPUTS = {
    "one record": output("tinker.types:TorchLossReturn", [
        ({"logprobs": batched(FLOAT32, [f32(-1.5, -2.25), f32(-0.5)])}, 2)], {"loss:sum": 4.25, "count:sum": 3.0}),
    "no number": output("ArrayRecord", [({"logprobs": batched(FLOAT32, [f32(-1.0, float("nan"))])}, 1)], {}),
    "two records": output("R", [
        ({"logprobs": batched(FLOAT32, [f32(-1.0)]), "ids": batched(INT64, [struct.pack("<q", -(2 ** 40))])}, 1),
        ({"logprobs": batched(FLOAT32, [f32(-2.0), f32()]), "ids": batched(INT64, [struct.pack("<q", 5), b""])}, 2)], {}),
    "other types": output("R", [
        ({"half": batched(BFLOAT16, [struct.pack("<HH", 0x3FC0, 0xC000)]), "small": batched(INT32, [struct.pack("<ii", -3, 4)]),
          "grid": batched(FLOAT32, [f32(1, 2, 3, 4)], (2,))}, 1)], {}),
    "uncounted": output("R", [({"logprobs": batched(FLOAT32, [f32(-1.0), f32(-2.0)])}, 0)], {}),
    "without fields": output("R", [({}, 3)], {}),
    "empty": output("ArrayRecord", [], {}),
}
# What a newer writer may add, anywhere.
OUTPUTS["unknown fields"] = (b"\x78\x05" + OUTPUTS["one record"] + b"\x92\x03\x03abc" + b"\x9d\x03\x01\x02\x03\x04")


def sequence(reason, tokens, logprobs):
    made = pb.SampledSequence(stop_reason=reason, tokens=np.asarray(tokens, np.int32).tobytes())
    if logprobs is not None:
        made.logprobs = f32(*logprobs)
    return made


def samples(sequences, prompt_logprobs=None):
    message = pb.SampleResponse(sequences=sequences)
    if prompt_logprobs is not None:
        message.prompt_logprobs = f32(*prompt_logprobs)
    return message.SerializeToString(deterministic=True)


SAMPLES = {
    "two": samples([sequence(1, [212, 394, 362], [-6.5, -6.25, -6.125]), sequence(0, [2], [-0.5])],
                   [float("nan"), -6.0, -5.5]),
    "without logprobs": samples([sequence(0, [1, 2, 3], None)]),
    "nothing": samples([sequence(0, [], None)]),
    "empty": samples([]),
}


def plain(values):
    """JSON knows no NaN: null stands for it."""
    return [None if value != value else value for value in values.tolist()]


def official_output(bytes_):
    found = response_conv.deserialize_forward_backward_output(bytes_)
    return {"type": found.loss_fn_output_type, "metrics": found.metrics,
            "outputs": [{name: plain(np.asarray(data.data)) for name, data in datum.items()} for datum in found.loss_fn_outputs]}


def official_samples(bytes_):
    found, made = response_conv.deserialize_sample_response(bytes_), {}
    made["sequences"] = [
        {"stop_reason": one.stop_reason, "tokens": plain(np.asarray(one.tokens, np.int64)),
         **({} if one.logprobs is None else {"logprobs": plain(np.asarray(one.logprobs, np.float32))})}
        for one in found.sequences]
    if found.prompt_logprobs is not None:
        made["prompt_logprobs"] = [None if v is None or v != v else v for v in found.prompt_logprobs]
    return made


def main():
    fixtures = {
        "requests": [{"table": fields, "bytes": request(fields).hex()} for fields in REQUESTS],
        "outputs": [{"name": name, "bytes": data.hex(), "table": official_output(data)} for name, data in OUTPUTS.items()],
        "samples": [{"name": name, "bytes": data.hex(), "table": official_samples(data)} for name, data in SAMPLES.items()],
    }
    (ROOT / "spec/fixtures/tinker_wire.json").write_text(json.dumps(fixtures, indent=1, ensure_ascii=False) + "\n")
    seeds = ROOT / "csrc/fuzz/seeds/tinker"
    seeds.mkdir(parents=True, exist_ok=True)
    for name, data in OUTPUTS.items():
        (seeds / f"output_{name.replace(' ', '_')}").write_bytes(b"\0" + data)
    for name, data in SAMPLES.items():
        (seeds / f"samples_{name.replace(' ', '_')}").write_bytes(b"\1" + data)
    for number, fields in enumerate(REQUESTS):
        (seeds / f"request_{number}").write_bytes(b"\2" + request(fields))
    one = OUTPUTS["one record"]
    for name, at in {"cut": len(one) - 9, "cut_early": 3}.items():
        (seeds / f"bad_{name}").write_bytes(b"\0" + one[:at])


if __name__ == "__main__":
    main()
