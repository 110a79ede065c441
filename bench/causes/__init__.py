"""What the pages of docs/causes show: ports with one fault each, and how their reports get into the pages."""
