"""Runs `main` of a module in a launched process; started by `tests.alignment.trainers.launching.launched`.

Arguments: the module, and then its own. Nothing that an import makes is garbage, and every training begins with a
collection, which would look through all of it.
"""

import gc
import importlib
import sys

if __name__ == "__main__":
    gc.disable()
    del sys.argv[0]
    module = importlib.import_module(sys.argv[0])
    end_process = importlib.import_module("alignment.cli.command_line").end_process
    gc.freeze()
    gc.enable()
    # Of native threads too, as gloo's.
    importlib.import_module("torch")._C._set_print_stack_traces_on_fatal_signal(True)
    end_process(module.main)
