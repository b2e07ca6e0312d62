"""What scripts/bench/bench_tinker_sdk runs: starts the server, then each client in a process of its own.

The mode `client` is the client over the official SDK.
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time

import importlib.metadata


def batch(step, rows, tokens):
    """The same ids as bench_tinker_sdk.lua makes."""
    return [[3 + (31 * row + 17 * place + 7 * step) % 250 for place in range(tokens + 1)] for row in range(rows)]


def client(given):
    import tinker
    from tinker import types

    service = tinker.ServiceClient(base_url=given["base_url"], api_key=given["api_key"])
    trainer = service.create_lora_training_client(base_model=given["remote_model"], rank=4)
    adam = types.AdamParams(learning_rate=1e-3, beta1=0.9, beta2=0.999, eps=1e-8)
    walls, losses = [], []
    for step in range(given["steps"]):
        begun = time.perf_counter()
        data = [types.Datum(
            model_input=types.ModelInput.from_ints(ids[:-1]),
            loss_fn_inputs={"target_tokens": types.TensorData(data=ids[1:], dtype="int64", shape=[len(ids) - 1]),
                            "weights": types.TensorData(data=[1.0] * (len(ids) - 1), dtype="float32", shape=[len(ids) - 1])})
            for ids in batch(step % 5, given["rows"], given["tokens"])]
        passed = trainer.forward_backward(data, "cross_entropy")
        updated = trainer.optim_step(adam)
        outputs = passed.result().loss_fn_outputs
        updated.result()
        logprobs = [value for output in outputs for value in output["logprobs"].tolist()]
        losses.append(-sum(logprobs) / len(logprobs))
        walls.append(time.perf_counter() - begun)
    print(json.dumps({"walls": walls, "losses": losses}), flush=True)


def start_server():
    server = subprocess.Popen(["scripts/tinker_server", "hatchery"], stdout=subprocess.PIPE, text=True)
    fields = {}
    for line in server.stdout:
        if line.strip() == "ready":
            return server, fields
        name, _, value = line.strip().partition(" ")
        fields[name] = value
    raise SystemExit("the server did not start")


def run(command):
    """One client: what it printed last, with its time of processor and peak memory."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{command[0]} ended with {status}")
    found = json.loads(output.strip().splitlines()[-1])
    return {"step": statistics.median(found["walls"]), "processor": usage.ru_utime + usage.ru_stime,
            "memory": usage.ru_maxrss * 1024, "total": time.perf_counter() - begun, "losses": found["losses"]}


def show(name, found):
    print(f"{name:12s} {1e3 * found['step']:9.1f} ms {found['processor']:9.2f} s {found['memory'] / 1e6:9.0f} MB "
          f"{found['total']:9.1f} s", flush=True)


def main():
    if sys.argv[1:2] == ["client"]:
        return client(json.loads(sys.argv[2]))
    parser = argparse.ArgumentParser()
    for name, default in {"steps": 60, "rows": 8, "tokens": 64, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    sizes = vars(parser.parse_args())
    rounds = sizes.pop("rounds")
    server, fields = start_server()
    given = json.dumps({**fields, **sizes})
    commands = {"SDK": [sys.executable, __file__, "client", given],
                "crucible": ["lua5.4", "scripts/bench/bench_tinker_sdk.lua", given]}
    print(f"tinker {importlib.metadata.version('tinker')}, {sizes['rows']} rows of {sizes['tokens']} tokens, "
          f"{sizes['steps']} steps\n{'':12s}      step  processor       memory     whole run")
    results = {name: [] for name in commands}
    try:
        for _ in range(rounds):
            for name, command in commands.items():
                results[name].append(run(command))
                show(name, results[name][-1])
    finally:
        os.kill(server.pid, signal.SIGTERM)
    best = {name: {field: statistics.median(one[field] for one in list_) for field in ("step", "processor", "memory")}
            for name, list_ in results.items()}
    for field in ("step", "processor", "memory"):
        print(f"{field}: SDK / crucible = {best['SDK'][field] / best['crucible'][field]:.2f}")
    first, second = (results[name][0]["losses"] for name in ("SDK", "crucible"))
    print(f"first losses: {first[0]:.5f} and {second[0]:.5f}")


if __name__ == "__main__":
    main()
