"""What every case needs, imported once in the process from which those of the cases are forked."""

import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the gate, which ends what it started

import parity.pipeline  # noqa: E402
import parity.self_test  # noqa: E402, F401
