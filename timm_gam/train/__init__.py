"""Training: fine-tune any timm model on labelled images, validated by retrieval. `python -m timm_gam.train --help`."""
