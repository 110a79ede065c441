"""What is measured: speed (`run.py`), and how many bugs Parity finds (`bugs`)."""
