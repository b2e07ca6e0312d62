"""hatchery-core's gateway with its real worker on the processor in float32, on loopback, everything in memory.

    TINKER_API_KEY=KEY [CRUCIBLE_ADAPTERS=FOLDER] python serve_hatchery.py MODEL_FOLDER PORT

Its own development server answers from a script where there is no GPU; here the worker that would run on one is
given the processor.
"""
import asyncio
import os
import sys

import torch
import uvicorn
from hatchery.core.gateway import create_app, set_config
from hatchery.core.local_dev import _build_config
from hatchery.core.session_store import LocalSessionStateStore
from hatchery.core.worker import GPUWorker


async def work(worker, queue, model):
    """Takes jobs for ever."""
    while True:
        job = await queue.dequeue(worker_id=worker.worker_id, model_filter=model, visibility_timeout=300)
        if job is None:
            await asyncio.sleep(0.01)
        else:
            await worker._process_one(job)


def keep_adapters(worker, folder):
    """Writes each new model's adapter there as PEFT has it: what a comparison starts from, since no request gives it."""
    initialise = worker._handle_init_session

    async def initialise_and_keep(session_id, payload):
        result = await initialise(session_id, payload)
        worker._peft.save_pretrained(folder, selected_adapters=[worker._adapter_name(session_id)])
        return result

    worker._handle_init_session = initialise_and_keep


def keep_states_together(config):
    """Has the worker write where checkpoints are copied from.

    The store that comes with the core mirrors nothing, and a checkpoint copies a part only if it is not there yet:
    every later checkpoint of a model would hold the state of its first.
    """
    config.build_session_store = lambda *, local, worker=None: LocalSessionStateStore(
        local=config.objects, remote=config.objects)


async def main(model, port):
    config = _build_config(os.environ["TINKER_API_KEY"])
    set_config(config)
    keep_states_together(config)
    await config.metadata.initialize()
    await config.queue.initialize()
    worker = GPUWorker(worker_id="processor", base_model_name=model, config=config, device="cpu", dtype=torch.float32)
    if "CRUCIBLE_ADAPTERS" in os.environ:
        keep_adapters(worker, os.environ["CRUCIBLE_ADAPTERS"])
    await worker.register()
    working = asyncio.create_task(work(worker, config.queue, model))
    server = uvicorn.Server(uvicorn.Config(create_app(config=config), host="127.0.0.1", port=port, log_level="warning",
                                           lifespan="off"))
    await server.serve()
    working.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
