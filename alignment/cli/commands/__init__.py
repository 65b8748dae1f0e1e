"""One module a subcommand of `vidalign`; see `alignment.cli` for what it defines."""
