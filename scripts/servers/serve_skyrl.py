"""skyrl's Tinker API and its engine without uv, on loopback, with Python 3.11.

    python serve_skyrl.py --base-model FOLDER --port PORT [options of skyrl's EngineConfig]
    python serve_skyrl.py engine …        the engine's own process, which the API starts

The API starts its engine through `uv run`; here it starts this file again. Its records are declared with
typing.TypedDict, which pydantic takes from Python 3.12 on only; typing_extensions has the same for all.
"""
import argparse
import sys
import typing

import typing_extensions

typing.TypedDict = typing_extensions.TypedDict

from skyrl.tinker import config as settings  # noqa: E402


def run_engine():
    from skyrl.tinker import engine
    engine.main()


def run_api():
    import uvicorn
    from skyrl.tinker import api

    def engine_command(_parent, config):
        return [sys.executable, __file__, "engine", *settings.config_to_argv(config)]

    api._build_uv_run_cmd_engine = engine_command
    parser = argparse.ArgumentParser()
    settings.add_model(parser, settings.EngineConfig)
    parser.add_argument("--port", type=int, required=True)
    given = vars(parser.parse_args())
    port = given.pop("port")
    known = {name: value for name, value in given.items() if name in settings.EngineConfig.model_fields}
    api.app.state.engine_config = settings.EngineConfig.model_validate(known)
    uvicorn.run(api.app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    if sys.argv[1:2] == ["engine"]:
        del sys.argv[1]
        run_engine()
    else:
        run_api()
