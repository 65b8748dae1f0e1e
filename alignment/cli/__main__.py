"""`python -m alignment.cli` runs the `vidalign` command line."""

from alignment.cli.command_line import end_process, main

if __name__ == "__main__":
    end_process(main)
