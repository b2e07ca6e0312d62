#!/usr/bin/env python3
"""Writes spec/fixtures/tensorboard/events.bin with TensorBoard's own writer and messages.

    pip install tensorboard && scripts/make_tensorboard_fixture.py

spec/views/tensorboard_spec.lua makes the same events and compares bytes.
"""
import pathlib

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

WALL_TIME = 1700000000.25
OUT = pathlib.Path(__file__).resolve().parent.parent / "spec/fixtures/tensorboard/events.bin"


def summary(step, *values):
    return event_pb2.Event(wall_time=WALL_TIME, step=step, summary=summary_pb2.Summary(value=values))


def text(tag, lines, is_list):
    dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=len(lines))] if is_list else []
    tensor = tensor_pb2.TensorProto(dtype="DT_STRING", string_val=[line.encode() for line in lines],
                                    tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=dims))
    metadata = summary_pb2.SummaryMetadata(plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name="text"))
    return summary_pb2.Summary.Value(tag=tag, tensor=tensor, metadata=metadata)


HISTOGRAM = summary_pb2.HistogramProto(min=-3, max=1, num=7, sum=-8.5, sum_squares=20.25,
                                       bucket_limit=[-2, -1, 0, 1], bucket=[1, 2, 3, 1])
EVENTS = [
    event_pb2.Event(wall_time=WALL_TIME, file_version="brain.Event:2"),
    event_pb2.Event(wall_time=WALL_TIME, step=301, session_log=event_pb2.SessionLog(status="START")),
    summary(301, summary_pb2.Summary.Value(tag="loss/ä", simple_value=float("nan")),
            summary_pb2.Summary.Value(tag="train/loss", simple_value=0.1)),
    summary(70000, summary_pb2.Summary.Value(tag="gradients", histo=HISTOGRAM)),
    summary(0, text("config", ["a\nb"], False)),
    summary(2**40, text("samples", ["", "x" * 300], True)),
]

with open(OUT, "wb") as file:
    writer = RecordWriter(file)
    for event in EVENTS:
        writer.write(event.SerializeToString(deterministic=True))
print(f"{OUT.name}: {OUT.stat().st_size} bytes")
