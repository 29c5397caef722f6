"""The verbs of the command line that need more than one layer: each module has ``main(argv) -> exit status``."""
