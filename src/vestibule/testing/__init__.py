"""Doubles for tests, shipped beside the product: a clock that obeys, an authority of one's own."""
