"""Which images these are: digests, the fingerprint of a set, the same bytes twice, nearly the same picture."""
