"""Search in a folder of photographs: what is in it, its embeddings, and the photographs most like others."""
