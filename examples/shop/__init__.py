"""A shop of two services and a worker that talk to each other: `python -m examples.shop`."""
