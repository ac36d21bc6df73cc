"""Image-retrieval evaluation of any timm model: images -> embeddings -> rankings -> metrics.

Each step is a function over plain arrays that can be called alone; `python -m eval.retrieval` chains them.

    images = eval.read_folder("photos")
    loaded = eval.load_model("resnet50.a1_in1k")
    network = eval.embedding_network(loaded.model)
    embeddings = eval.embed_images(network, images, eval.resolve_preprocessing(loaded.model))
    scores = eval.score_retrieval(embeddings.vectors, images.labels)
    print(scores.averages["map"].micro)
"""

from __future__ import annotations

from timm_gam._door import open_door

__getattr__, __dir__, __all__ = open_door(__name__, __file__)
