"""Starting a port: the nearest one that there is, adapted to another config, with a mark at each place that differs."""
