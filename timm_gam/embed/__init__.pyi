from timm_gam.embed.cache import EmbeddingCache as EmbeddingCache
from timm_gam.embed.collection import collect_embeddings as collect_embeddings
from timm_gam.embed.embedder import Embedder as Embedder
from timm_gam.embed.embedding import EmbeddedBatch as EmbeddedBatch
from timm_gam.embed.embedding import Embeddings as Embeddings
from timm_gam.embed.embedding import embed_images as embed_images
from timm_gam.embed.network import embedding_network as embedding_network
from timm_gam.embed.settings import EmbedSettings as EmbedSettings
